"""A loaded checkpoint: :func:`from_pretrained` and :class:`Model`, which has a method for each task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from skipae import images
from skipae.checkpoints import resolve
from skipae.checkpoints.hub import Access
from skipae.engine.device import Device
from skipae.engine.net import Net
from skipae.errors import UsageError
from skipae.options import (
    DenoiseKeywords,
    DenoiseOptions,
    DrawKeywords,
    DrawOptions,
    FeatureKeywords,
    FeatureSpec,
    TileKeywords,
    TileOptions,
    check_max_pixels,
    combine,
)
from skipae.tasks import feature_maps, inpaint, labels
from skipae.tasks.features import Features, SizeBatcher, extract, iterate
from skipae.tasks.pixels import Progress, load, restored
from skipae_zoo import CheckpointConfig, Task

if TYPE_CHECKING:
    from PIL.Image import Image

    AnyImage = NDArray[Any] | Image | images.Picture | images.Source

ImageT = TypeVar("ImageT", NDArray[Any], "Image", images.Picture)
"""An image in memory: methods return the kind that they receive."""


class Layer(NamedTuple):
    """A layer of the encoder.

    >>> first = from_pretrained("skipae-natural").layers[0]
    >>> first.name, first.stride, first.receptive_field
    ('enc1', 1, 3)
    """

    name: str
    channels: int
    stride: int
    """Distance between two neighboring values, in input pixels."""
    receptive_field: int
    """Side of the square that one value depends on, in input pixels."""


class Model:
    """A checkpoint, ready to use.  It can be pickled, shared by threads, and used after a fork.

    >>> model = from_pretrained("skipae-natural")
    >>> model.denoise(open_image("photo.jpg"), strength=0.8)
    <skipae.Picture 48 x 32, 8-bit rgb, from JPEG>
    """

    def __init__(self, net: Net) -> None:
        """Use :func:`from_pretrained` instead."""
        self.net = net
        """The checkpoint on its device, used by all methods."""

    def __repr__(self) -> str:
        """Name and device."""
        return f"<skipae.Model {self.name} on {self.device}>"

    @property
    def name(self) -> str:
        """The checkpoint's name, for example ``skipae-natural``."""
        return self.config.name

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self.net.folder

    @property
    def config(self) -> CheckpointConfig:
        """The checkpoint's ``config.json``."""
        return self.net.config

    @property
    def device(self) -> Device:
        """The device that it runs on."""
        return self.net.device

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The encoder's layers, first layer first."""
        found = self.config.architecture.layers
        return tuple(Layer(layer.name, layer.channels, layer.total_stride, layer.receptive_field) for layer in found)

    @overload
    def denoise(
        self,
        image: ImageT,
        options: DenoiseOptions | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
        **keywords: Unpack[DenoiseKeywords],
    ) -> ImageT: ...

    @overload
    def denoise(
        self,
        image: images.Source,
        options: DenoiseOptions | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
        **keywords: Unpack[DenoiseKeywords],
    ) -> images.Picture: ...

    def denoise(
        self,
        image: AnyImage,
        options: DenoiseOptions | None = None,
        *,
        max_pixels: int = images.MAX_PIXELS,
        progress: Progress | None = None,
        **keywords: Unpack[DenoiseKeywords],
    ) -> NDArray[Any] | Image | images.Picture:
        """Remove noise from an image.

        Args:
            image: a :class:`skipae.Picture` (see :func:`skipae.open_image`); the path or the bytes of an image file,
                which is opened; a ``PIL.Image``; or an array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGB and
                alpha) of uint8, uint16, or float in [0, 1].  Gray stays gray, three equal channels stay equal, alpha
                is unchanged.  A file's EXIF orientation is applied.
            options: the keyword arguments as one value.
            max_pixels: the largest image file to decode, in pixels.
            progress: called with the finished share, in (0, 1], after each tile.
            **keywords: ``strength``, ``luma``, ``chroma``, ``tile`` and ``halo`` of :class:`skipae.DenoiseOptions`.

        Returns:
            An image of the same class, size, dtype, range and channels as ``image``; for a path or bytes, a
            ``Picture``, whose ``save`` keeps all metadata of the file.

        Raises:
            UsageError: an argument has the wrong type or is out of range.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not restore images.
        """
        self._require("restoration", "denoise")
        chosen = combine(DenoiseOptions(), options, keywords)
        check_max_pixels(max_pixels)

        def restore(pixels: NDArray[Any], share: Progress | None) -> NDArray[Any]:
            return self.net.restore(pixels, chosen, share)

        return restored(image, restore, max_pixels=max_pixels, progress=progress)

    @overload
    def inpaint(
        self,
        image: ImageT,
        mask: AnyImage | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
    ) -> ImageT: ...

    @overload
    def inpaint(
        self,
        image: images.Source,
        mask: AnyImage | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
    ) -> images.Picture: ...

    def inpaint(
        self,
        image: AnyImage,
        mask: AnyImage | None = None,
        *,
        max_pixels: int = images.MAX_PIXELS,
        progress: Progress | None = None,
    ) -> NDArray[Any] | Image | images.Picture:
        """Fill masked pixels from their surroundings; all others are unchanged, bit for bit.

        Args:
            image: any image that :meth:`denoise` takes.
            mask: the pixels to fill, those that are not zero: an array, a ``PIL.Image``, or the path or bytes of an
                image file, of the (upright) image's size; in a color mask, pixels that are not black.  The image's
                alpha is unchanged.  None fills the image's pixels that are not opaque, blends partly transparent ones
                over the filled ones, and makes all opaque.
            max_pixels: the largest image file to decode, in pixels.
            progress: called with the finished share, in (0, 1].

        Returns:
            An image like ``image``, as from :meth:`denoise`; unchanged if nothing is masked.

        Raises:
            UsageError: an argument has the wrong type or is out of range, or the mask has another size.
            ImageError: a file cannot be decoded, every pixel is masked, or memory runs out.
            ModelError: this checkpoint does not restore images.
        """
        self._require("restoration", "inpaint")
        check_max_pixels(max_pixels)
        return inpaint.inpaint(self.net, image, mask, max_pixels=max_pixels, progress=progress)

    def features(
        self,
        images: Any,
        spec: FeatureSpec | None = None,
        *,
        batch_size: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        **keywords: Unpack[FeatureKeywords],
    ) -> dict[str, Any]:
        """Extract encoder features of images, after ReLU.

        Images are scaled and cropped according to the checkpoint's ``config.json``.  Alpha is ignored, gray becomes
        three equal channels.  Only the part of the network up to the deepest layer is run, and features do not depend
        on the batch.

        Args:
            images: an image (of any kind that :meth:`denoise` accepts), several of them, or an array [N, H, W, C].
            spec: the keyword arguments as one value.
            batch_size: maximum number of images of one size in one run; by default 16, fewer if memory is short.
            max_pixels: the largest image file to decode, in pixels.
            **keywords: ``layers``, ``pool``, ``l2``, ``dtype``, ``resize`` and ``crop`` of
                :class:`skipae.FeatureSpec`.

        Returns:
            Layer name to array: [N, C] for ``avg`` and ``max``, [N, C, n, n] for ``spatial:n``, [N, C, h, w] for
            ``none``, or, for images of several sizes, a list of N arrays [C, h, w].

        Raises:
            UsageError: an argument has the wrong type or is out of range.
            ImageError: a file cannot be decoded, an image is smaller than the crop, or memory runs out.
            ModelError: the checkpoint has no features.
        """
        check_max_pixels(max_pixels)
        return extract(self._batcher(spec, batch_size, keywords), images, max_pixels)

    def iter_features(
        self,
        images: Iterable[Any],
        spec: FeatureSpec | None = None,
        *,
        batch_size: int | None = None,
        max_pixels: int = images.MAX_PIXELS,
        **keywords: Unpack[FeatureKeywords],
    ) -> Iterator[Features]:
        """Extract encoder features of images one at a time, in order, for more images than fit in memory.

        Arguments and errors are those of :meth:`features`.  At most one batch of images is read ahead.

        Returns:
            An iterator over one dict per image, layer name to array: [C] for ``avg`` and ``max``, [C, n, n] for
            ``spatial:n``, [C, h, w] for ``none``.
        """
        check_max_pixels(max_pixels)
        return iterate(self._batcher(spec, batch_size, keywords), images, max_pixels)

    def classify(self, image: AnyImage, top: int = 5, *, max_pixels: int = images.MAX_PIXELS) -> list[labels.Score]:
        """Predict the classes of an image.

        It is scaled and cropped according to the checkpoint's ``config.json``; alpha is ignored.

        Args:
            image: any image that :meth:`denoise` accepts.
            top: maximum number of classes to return.
            max_pixels: the largest image file to decode, in pixels.

        Returns:
            (label, score) of the most likely classes, in order; scores are in [0, 1].

        Raises:
            UsageError: an argument has the wrong type or is out of range.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not classify images.
        """
        self._require("classification", "classify")
        check_max_pixels(max_pixels)
        pixels = load(image, max_pixels)
        return labels.classify(self.net, pixels, top)

    @overload
    def segment(
        self,
        image: NDArray[Any],
        options: TileOptions | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
        **keywords: Unpack[TileKeywords],
    ) -> labels.LabelMap: ...

    @overload
    def segment(
        self,
        image: Image | images.Picture | images.Source,
        options: TileOptions | None = ...,
        *,
        max_pixels: int = ...,
        progress: Progress | None = ...,
        **keywords: Unpack[TileKeywords],
    ) -> Image: ...

    def segment(
        self,
        image: AnyImage,
        options: TileOptions | None = None,
        *,
        max_pixels: int = images.MAX_PIXELS,
        progress: Progress | None = None,
        **keywords: Unpack[TileKeywords],
    ) -> labels.LabelMap | Image:
        """Label every pixel with a class, a number from 0 that ``config.labels`` names.

        Args:
            image: any image that :meth:`denoise` accepts; alpha is ignored.
            options: the keyword arguments as one value.
            max_pixels: the largest image file to decode, in pixels.
            progress: called with the finished share, in (0, 1], after each tile.
            **keywords: ``tile`` and ``halo``, as for :meth:`denoise`.

        Returns:
            For an array, an array uint8 [H, W]; otherwise a ``PIL.Image`` of mode P and the image's size, whose
            indices are the class numbers, in the colors of the data set that the checkpoint was trained on.

        Raises:
            UsageError: an argument has the wrong type or is out of range.
            ImageError: the file cannot be decoded, or memory runs out.
            ModelError: this checkpoint does not segment images.
        """
        self._require("segmentation", "segment")
        chosen = combine(TileOptions(), options, keywords)
        check_max_pixels(max_pixels)
        pixels = load(image, max_pixels)
        found = labels.segment(self.net, pixels, chosen, progress)
        return found if isinstance(image, np.ndarray) else labels.to_pil(found, self.config.colors)

    def draw_features(
        self,
        image: AnyImage,
        layer: str,
        options: DrawOptions | None = None,
        *,
        max_pixels: int = images.MAX_PIXELS,
        **keywords: Unpack[DrawKeywords],
    ) -> Image:
        """Draw the feature maps of a layer with the most energy, for an image as it is and corrupted, side by side.

        Args:
            image: any image that :meth:`denoise` accepts; alpha is ignored.
            layer: its name, see :attr:`layers`.
            options: the keyword arguments as one value.
            max_pixels: the largest image file to decode, in pixels.
            **keywords: ``maps``, ``blocks``, ``sigma``, ``seed``, ``resize`` and ``crop`` of
                :class:`skipae.DrawOptions`.

        Returns:
            The figure.

        Raises:
            UsageError: an argument has the wrong type or is out of range.
            ImageError: the file cannot be decoded, the image is too narrow for a figure, or memory runs out.
            ModelError: the checkpoint has no features.
        """
        chosen = combine(DrawOptions(), options, keywords)
        check_max_pixels(max_pixels)
        pixels = load(image, max_pixels)
        return feature_maps.figure(self.net, pixels, layer, chosen)

    def trim(self) -> None:
        """Free the memory kept from the last image; the next one allocates it again."""
        self.net.trim()

    def _batcher(self, spec: FeatureSpec | None, batch_size: int | None, keywords: FeatureKeywords) -> SizeBatcher[int]:
        return SizeBatcher(self.net, combine(FeatureSpec(), spec, keywords), batch_size)

    def _require(self, task: Task, verb: str) -> None:
        resolve.require_task(self.config, task, verb)


def from_pretrained(
    name: str | os.PathLike[str] = resolve.DEFAULT,
    *,
    device: str = "auto",
    precision: str = "auto",
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    threads: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> Model:
    """Load a checkpoint: a bundled one, a folder, or one of ``SKIPAE_MIRROR``, the Hub's cache or the Hub.

    Args:
        name: name of a checkpoint, ``org/name`` of a repository on the Hub, or the path of a folder.
        device: ``auto`` (a GPU that works, else the CPU), ``cpu``, ``cuda``, ``cuda:N``, ``openvino``, or another
            provider of the installed ONNX Runtime: ``tensorrt``, ``directml``, ``coreml``, ``webgpu``, ...
        precision: ``auto`` (int8 on CPUs that are faster with it, if the checkpoint has an int8 graph, else fp32),
            ``fp32``, ``int8``, or ``fp16`` on GPUs that support it.  Features are computed in fp32 unless ``int8`` is
            requested.
        revision: commit sha, branch or tag of the repository on the Hub; by default the sha that this release of
            skipae pins, or ``main``.
        cache_dir: folder of the Hub's cache; by default the Hub client's own (``HF_HUB_CACHE``, ``HF_HOME``).
        token: for private and gated repositories; by default that of ``hf auth login`` or ``HF_TOKEN``.
        local_files_only: make no request, as with ``HF_HUB_OFFLINE=1``.
        threads: number of CPU threads; None uses all cores that this process may use.
        notify: called with a line about each download, and one if ``auto`` chose an unexpected device; by default
            they go to the log "skipae".

    Raises:
        ModelError: the checkpoint is unavailable or damaged.
        DeviceError: the requested device does not work, no runtime is installed, or the requested precision is not
            available.
        UsageError: an argument has the wrong type or is out of range.

    >>> from_pretrained("skipae-natural", device="cpu", threads=1)
    <skipae.Model skipae-natural on cpu (1 thread)>
    """
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"name must be a checkpoint's name or folder, not {type(name).__name__}")
    folder = resolve.find_folder(
        name if isinstance(name, str) else Path(name),
        revision=revision,
        access=Access(cache_dir, token, local_files_only, notify),
    )
    # Graphs are loaded at their first use, perhaps in another working folder or process.
    net = Net.load(folder.absolute(), device=device, precision=precision, threads=threads, notify=notify)
    net.open()
    return Model(net)
