"""A loaded checkpoint: :func:`from_pretrained` and :class:`Model`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.checkpoints import resolve
from skipae.checkpoints.hub import Access
from skipae.engine import device as runtime
from skipae.engine import tiling
from skipae.errors import ImageError, UsageError
from skipae.tasks import features, inpaint
from skipae.tasks import labels as labelling
from skipae_zoo import CheckpointConfig

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("skipae")

MEMORY = {"cpu": 1280 << 20, "openvino": 1280 << 20, "cuda": 3 << 30}
"""Bytes that the layers' outputs of one window may take, by kind of device.  A large image and its result take from
it, down to :data:`LEAST_MEMORY`, so that a picture of 100 megapixels peaks below 1.5 GB."""

LEAST_MEMORY = 512 << 20
"""What a window may take whatever the size of the image."""


class Layer(NamedTuple):
    """A layer of the encoder."""

    name: str
    channels: int
    stride: int
    """Input pixels from one value to the next."""
    receptive_field: int
    """Side in input pixels of the square that one value sees."""


class Model:
    """A checkpoint, ready to use.  It can be pickled, shared by threads, and used after a fork."""

    def __init__(self, folder: Path, config: CheckpointConfig, device: runtime.Device) -> None:
        """Use :func:`from_pretrained` instead."""
        self.folder = folder
        self.config = config
        self.device = device
        """Where it runs."""
        self._restoration = runtime.Session(folder, config, "onnx/model.onnx", device)
        self._area = MEMORY[device.kind] // _bytes_per_pixel(config)
        self._encoders: dict[tuple[str, ...], runtime.Session] = {}

    def __repr__(self) -> str:
        """Name and device."""
        return f"<skipae.Model {self.name} on {self.device}>"

    @property
    def name(self) -> str:
        """The checkpoint's name, for example ``skipae-natural``."""
        return self.config.name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The encoder's layers, first layer first."""
        found = self.config.architecture.layers
        return tuple(Layer(layer.name, layer.channels, layer.total_stride, layer.receptive_field) for layer in found)

    @overload
    def denoise(
        self,
        image: NDArray[Any],
        *,
        strength: float = ...,
        luma: float | None = ...,
        chroma: float | None = ...,
        tile: int | None = ...,
        halo: int | None = ...,
        max_pixels: int = ...,
    ) -> NDArray[Any]: ...

    @overload
    def denoise(
        self,
        image: Image,
        *,
        strength: float = ...,
        luma: float | None = ...,
        chroma: float | None = ...,
        tile: int | None = ...,
        halo: int | None = ...,
        max_pixels: int = ...,
    ) -> Image: ...

    @overload
    def denoise(
        self,
        image: images.Picture | images.Source,
        *,
        strength: float = ...,
        luma: float | None = ...,
        chroma: float | None = ...,
        tile: int | None = ...,
        halo: int | None = ...,
        max_pixels: int = ...,
    ) -> images.Picture: ...

    def denoise(
        self,
        image: NDArray[Any] | Image | images.Picture | images.Source,
        *,
        strength: float = 1.0,
        luma: float | None = None,
        chroma: float | None = None,
        tile: int | None = None,
        halo: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
    ) -> NDArray[Any] | Image | images.Picture:
        """Remove noise from an image.

        Args:
            image: a :class:`skipae.Picture` (see :func:`skipae.open_image`); the path or the bytes of an image file,
                which is opened; a ``PIL.Image``; or an array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGB and
                alpha) of uint8, uint16, or float in [0, 1].  Gray stays gray, three equal channels stay equal, alpha
                is not touched.  A file's EXIF
                orientation is applied.
            strength: 0 leaves the image as it is, 1 is the net's result, linear in between.
            luma: ``strength`` for brightness alone; by default the same.
            chroma: ``strength`` for colour alone; by default the same.
            tile: longest side in pixels of the windows that a large image is restored in; by default what fits
                in memory.
            halo: pixels around each window that are computed and dropped; by default what keeps the result
                within 1e-4 of the whole image's.
            max_pixels: the largest image file to decode, in pixels.

        Returns:
            An image like the one given: the same class, size, dtype, range and channels; a ``Picture`` for a path
            or bytes, whose ``save`` keeps everything that the file held.

        Raises:
            UsageError: an argument is none of these.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not restore images.
        """
        resolve.require_task(self.config, "restoration", "denoise")
        check_options(strength, luma, chroma, tile, halo, max_pixels)

        def restore(pixels: NDArray[Any]) -> NDArray[Any]:
            return self.restore(pixels, strength=strength, luma=luma, chroma=chroma, tile=tile, halo=halo)

        if isinstance(image, np.ndarray):
            return _restore_array(image, restore)
        with _named(image):
            picture = images.to_picture(image, max_pixels=max_pixels)
        picture.restore(restore)
        return picture.to_pil() if images.is_pil(image) else picture

    @overload
    def inpaint(
        self,
        image: NDArray[Any],
        mask: NDArray[Any] | Image | images.Picture | images.Source | None = ...,
        *,
        max_pixels: int = ...,
    ) -> NDArray[Any]: ...

    @overload
    def inpaint(
        self,
        image: Image,
        mask: NDArray[Any] | Image | images.Picture | images.Source | None = ...,
        *,
        max_pixels: int = ...,
    ) -> Image: ...

    @overload
    def inpaint(
        self,
        image: images.Picture | images.Source,
        mask: NDArray[Any] | Image | images.Picture | images.Source | None = ...,
        *,
        max_pixels: int = ...,
    ) -> images.Picture: ...

    def inpaint(
        self,
        image: NDArray[Any] | Image | images.Picture | images.Source,
        mask: NDArray[Any] | Image | images.Picture | images.Source | None = None,
        *,
        max_pixels: int = images.MAX_PIXELS,
    ) -> NDArray[Any] | Image | images.Picture:
        """Fill masked pixels from their surroundings; all others stay as they are, bit for bit.

        Args:
            image: see :meth:`denoise`.
            mask: where it is not zero, the image is filled: an array, a ``PIL.Image``, or the path or bytes of an
                image file, of the (upright) image's size; in colour, what is not black.  Alpha of the image is not
                touched.  None fills the image's own pixels that are not opaque, lays partly transparent ones over
                what was filled, and makes all opaque.
            max_pixels: the largest image file to decode, in pixels.

        Returns:
            An image like the one given, see :meth:`denoise`; unchanged where nothing is masked.

        Raises:
            UsageError: an argument is none of these, or the mask has another size.
            ImageError: a file cannot be decoded, every pixel is masked, or memory runs out.
            ModelError: this checkpoint does not restore images.
        """
        resolve.require_task(self.config, "restoration", "inpaint")
        check_options(1.0, None, None, None, None, max_pixels)
        with _named(mask, "mask"):
            holes, said = (None, None) if mask is None else inpaint.load_mask(mask, max_pixels=max_pixels)
        if not isinstance(image, np.ndarray):
            with _named(image):
                picture = images.to_picture(image, max_pixels=max_pixels)
            inpaint.inpaint_picture(self, picture, holes, said and f"mask: {said}")
            return picture.to_pil() if images.is_pil(image) else picture
        clear = holes is None and image.ndim == 3 and image.shape[2] == 4
        if holes is None:
            holes = inpaint.transparent(image[..., 3]) if clear else np.zeros(image.shape[:2], bool)

        def fill(pixels: NDArray[Any]) -> NDArray[Any]:
            inpaint.check_mask(holes, pixels.shape[1::-1], said and f"mask: {said}")
            filled = inpaint.fill(self, pixels, holes)
            if clear:
                inpaint.lay_over(filled, pixels, image[..., 3], holes)
            return filled

        result = _restore_array(image, fill)
        if clear:
            result[holes, 3] = np.iinfo(image.dtype).max if image.dtype.kind == "u" else 1
        return result

    def restore(
        self,
        pixels: NDArray[Any],
        *,
        strength: float = 1.0,
        luma: float | None = None,
        chroma: float | None = None,
        tile: int | None = None,
        halo: int | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> NDArray[Any]:
        """Restore pixels [H, W] (grey) or [H, W, 3] (RGB) of uint8, uint16 or float in [0, 1], in bounded memory.

        ``progress`` is called with the share done, in (0, 1], after each window.  Other arguments, result and
        errors: see :meth:`denoise`.
        """
        architecture = self.config.architecture
        left = max(LEAST_MEMORY, MEMORY[self.device.kind] - 2 * pixels.nbytes)
        return tiling.restore(
            self._restoration.run,
            pixels,
            stride=architecture.total_stride,
            halo=self.config.halo if halo is None else halo,
            area=min(self._area, left // _bytes_per_pixel(self.config)),
            tile=tile,
            luma=strength if luma is None else luma,
            chroma=strength if chroma is None else chroma,
            progress=progress,
            shrunk=self._shrink,
        )

    def _shrink(self, windows: tiling.Plan) -> None:
        self._area = windows.area  # the next images start with it
        log.warning(
            "%s is out of memory: going on with windows of %d x %d pixels",
            self.device,
            windows.columns.size,
            windows.rows.size,
        )

    @overload
    def features(
        self,
        images: Iterator[Any],
        *,
        layers: str | Sequence[str] | None = ...,
        pool: str = ...,
        l2: bool = ...,
        dtype: str = ...,
        resize: int | None = ...,
        crop: int | None = ...,
        batch_size: int | None = ...,
        max_pixels: int = ...,
    ) -> Iterator[features.Features]: ...

    @overload
    def features(
        self,
        images: Any,
        *,
        layers: str | Sequence[str] | None = ...,
        pool: str = ...,
        l2: bool = ...,
        dtype: str = ...,
        resize: int | None = ...,
        crop: int | None = ...,
        batch_size: int | None = ...,
        max_pixels: int = ...,
    ) -> dict[str, Any]: ...

    def features(
        self,
        images: Any,
        *,
        layers: str | Sequence[str] | None = None,
        pool: str = "avg",
        l2: bool = False,
        dtype: str = "float32",
        resize: int | None = None,
        crop: int | None = None,
        batch_size: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
    ) -> dict[str, Any] | Iterator[features.Features]:
        """What layers of the encoder give for images, after ReLU.

        Images are scaled and cropped as the checkpoint's ``config.json`` says.  Alpha is left out, grey becomes
        three equal channels.  Only the part of the net up to the deepest layer is run, and results do not depend on
        the batch.

        Args:
            images: an image (see :meth:`denoise`), a list of images, or an array [N, H, W, C].  For an iterator an
                iterator comes back, which gives a dict for each image and reads ahead by no more than a batch.
            layers: names of layers, see :attr:`layers`; by default the one that ``config.json`` names, else the last.
            pool: over the layer's height and width: ``avg``, ``max``, ``spatial:N`` (averages in a grid of N x N),
                or ``none``.
            l2: whether to scale each image's values of a layer to Euclidean length 1.
            dtype: of the results, ``float32`` or ``float16``.
            resize: short side in pixels to scale to instead of the checkpoint's; 0 leaves the size.
            crop: side in pixels of the centre crop instead of the checkpoint's; 0 takes the whole.
            batch_size: most images of one size in one run; by default 16, fewer where memory asks for it.
            max_pixels: the largest image file to decode, in pixels.

        Returns:
            Layer name to array: [N, C] for ``avg`` and ``max``, [N, C, n, n] for ``spatial:n``, [N, C, h, w] for
            ``none``, or, for images of several sizes, a list of N arrays [C, h, w].

        Raises:
            UsageError: an argument is none of these.
            ImageError: a file cannot be decoded, an image is smaller than the crop, or memory runs out.
            ModelError: the checkpoint has no features.
        """
        settings = features.Settings.check(self.config, layers, pool, l2, dtype, resize, crop)
        check_options(1.0, None, None, None, None, max_pixels)
        return features.extract(features.Extractor(self, settings, batch_size), images, max_pixels)

    def classify(
        self,
        image: NDArray[Any] | Image | images.Picture | images.Source,
        top: int = 5,
        *,
        max_pixels: int = images.MAX_PIXELS,
    ) -> list[labelling.Score]:
        """What an image shows.

        It is scaled and cropped as the checkpoint's ``config.json`` says; alpha is left out.

        Args:
            image: see :meth:`denoise`.
            top: how many classes to give, at most.
            max_pixels: the largest image file to decode, in pixels.

        Returns:
            (label, score) of the likeliest classes, in order; scores are in [0, 1].

        Raises:
            UsageError: an argument is none of these.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not classify images.
        """
        resolve.require_task(self.config, "classification", "classify")
        check_options(1.0, None, None, None, None, max_pixels)
        with _named(image):
            pixels = features.load(image, max_pixels)
        return labelling.classify(self._restoration.run, self.config, pixels, top)

    @overload
    def segment(
        self,
        image: NDArray[Any],
        *,
        tile: int | None = ...,
        halo: int | None = ...,
        max_pixels: int = ...,
        progress: Callable[[float], None] | None = ...,
    ) -> labelling.LabelMap: ...

    @overload
    def segment(
        self,
        image: Image | images.Picture | images.Source,
        *,
        tile: int | None = ...,
        halo: int | None = ...,
        max_pixels: int = ...,
        progress: Callable[[float], None] | None = ...,
    ) -> Image: ...

    def segment(
        self,
        image: NDArray[Any] | Image | images.Picture | images.Source,
        *,
        tile: int | None = None,
        halo: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        progress: Callable[[float], None] | None = None,
    ) -> labelling.LabelMap | Image:
        """The class of each pixel, a number from 0 that ``config.labels`` names.

        Args:
            image: see :meth:`denoise`; alpha is left out.
            tile: as ``halo`` and ``max_pixels``, see :meth:`denoise`.
            halo: see ``tile``.
            max_pixels: see ``tile``.
            progress: is called with the share done, in (0, 1], after each window.

        Returns:
            Of the image's height and width: for an array uint8 [H, W], else a ``PIL.Image`` of mode P whose indices
            are the numbers, in the colors of the data set that the checkpoint was trained on.

        Raises:
            UsageError: an argument is none of these.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not segment images.
        """
        resolve.require_task(self.config, "segmentation", "segment")
        check_options(1.0, None, None, tile, halo, max_pixels)
        with _named(image):
            pixels = features.load(image, max_pixels)
        labels = labelling.segment(
            self._restoration.run,
            self.config,
            pixels,
            area=self._area,
            tile=tile,
            halo=halo,
            progress=progress,
            shrunk=self._shrink,
        )
        return labels if isinstance(image, np.ndarray) else labelling.to_pil(labels, self.config.colors)

    def encoder(self, layers: tuple[str, ...]) -> runtime.Session:
        """The net up to these layers, each an output; ``layers`` are in the net's order."""
        session = runtime.Session(self.folder, self.config, features.FILE, self.device, layers)
        return self._encoders.setdefault(layers, session)

    def trim(self) -> None:
        """Give back the memory kept from the last image; the next one takes it anew."""
        self._restoration.trim()

    def open(self) -> None:
        """Load the task graph now instead of at the first image; errors: see :func:`from_pretrained`."""
        if self._restoration.file in self.config.files:  # else it gives features alone
            self._restoration.open()


def from_pretrained(
    name: str | os.PathLike[str] = resolve.DEFAULT,
    *,
    device: str = "auto",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    threads: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> Model:
    """Load a checkpoint: a bundled one, a folder, or one of ``SKIPAE_MIRROR``, the Hub's cache or the Hub.

    Args:
        name: of a checkpoint, ``org/name`` of a repository on the Hub, or the path of a folder.
        device: ``auto`` (a GPU that works, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``openvino``.
        revision: commit sha, branch or tag of the repository on the Hub; by default the sha that this release of
            skipae pins, or ``main``.
        cache_dir: folder of the Hub's cache; by default the Hub client's own (``HF_HUB_CACHE``, ``HF_HOME``).
        token: for private and gated repositories; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        local_files_only: make no request, as with ``HF_HUB_OFFLINE=1``.
        threads: CPU threads; None takes the cores that this process may use.
        notify: is told in one line what is fetched, and why ``auto`` took an unexpected device; by default the log
            "skipae" is.

    Raises:
        ModelError: the checkpoint cannot be had or is damaged.
        DeviceError: the device asked for does not work, or no runtime is installed.
        UsageError: an argument is none of these.
    """
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"name must be a checkpoint's name or folder, not {type(name).__name__}")
    folder = resolve.find_folder(
        name if isinstance(name, str) else Path(name),
        revision=revision,
        access=Access(cache_dir, token, local_files_only, notify),
    )
    config = resolve.load_config(folder)
    model = Model(folder, config, runtime.choose_device(device, threads, notify))
    model.open()
    return model


def check_options(
    strength: float, luma: float | None, chroma: float | None, tile: int | None, halo: int | None, max_pixels: int
) -> None:
    """Refuse options outside their range with a :class:`UsageError` that names them."""
    for name, amount in (("strength", strength), ("luma", luma), ("chroma", chroma)):
        if amount is not None and not 0 <= amount <= 1:
            raise UsageError(f"{name} must be from 0 to 1, not {amount}")
    if tile is not None and tile < 1:
        raise UsageError(f"tile must be a number of pixels, at least 1, not {tile}")
    if halo is not None and halo < 0:
        raise UsageError(f"halo must be a number of pixels, at least 0, not {halo}")
    if max_pixels < 1:
        raise UsageError(f"max_pixels must be at least 1, not {max_pixels}")


@contextmanager
def _named(source: object, what: str = "image") -> Iterator[None]:
    """Say of which file an error is."""
    try:
        yield
    except ImageError as error:
        if not isinstance(source, str | os.PathLike):
            raise
        raise ImageError(f"{what} {os.fspath(source)}: {error}") from error


def _restore_array(array: NDArray[Any], restore: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    images.check_array(array)
    if array.ndim == 2 or array.shape[2] == 3:
        return restore(array)
    if array.shape[2] == 1:
        return restore(array[..., 0])[..., None]
    result = np.empty_like(array, order="C")
    result[..., :3] = restore(array[..., :3])
    result[..., 3] = array[..., 3]
    return result


def _bytes_per_pixel(config: CheckpointConfig) -> int:
    """Estimate of what one run takes: the encoder's and the decoder's layers alive together, the image, the result."""
    encoder = sum(layer.channels / layer.total_stride**2 for layer in config.architecture.layers)
    return round(
        4 * (2.2 * encoder + 3 + 2 * (len(config.labels) or 3))
    )  # 2.2 as measured on several networks, 2 without copies
