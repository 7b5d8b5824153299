# syntax=docker/dockerfile:1
# docker build -t skipae .                                 CPU
# docker build -t skipae:cuda --build-arg RUNTIME=gpu .   NVIDIA GPU; CUDA and cuDNN come from PyPI
# docker run --rm -v "$PWD:/work" skipae denoise photo.jpg
# docker run --rm --gpus all -v "$PWD:/work" skipae:cuda denoise photo.jpg --device cuda
# Add --user "$(id -u):$(id -g)" where your user id is not 1000. The bundled checkpoints need no network (--network none).
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
ARG RUNTIME=cpu
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir -c /constraints.txt "$(echo /dist/*.whl)[${RUNTIME},16bit]" \
    && useradd --uid 1000 --create-home skipae \
    && chmod 1777 /home/skipae
# The home folder is writable for every user id, because the Hub's cache is there.
ENV HOME=/home/skipae \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["skipae"]
CMD ["--help"]
