"""Layer features as a scikit-learn transformer; only this module needs scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from skipae.checkpoints.resolve import DEFAULT_OF_FEATURES, find_folder, load_config
from skipae.errors import UsageError
from skipae.images import MAX_PIXELS
from skipae.model import Model, from_pretrained
from skipae.options import FeatureSpec, check_max_pixels
from skipae_zoo import CheckpointConfig


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Transforms images to rows of features, for scikit-learn's pipelines.

    ``fit`` learns nothing and only checks the parameters; ``transform`` works without it.  The model is loaded at
    the first ``transform`` in each process, so that this object can be cloned, pickled and used with ``n_jobs``.

    >>> from skipae import FeatureExtractor
    >>> rows = FeatureExtractor("skipae-natural", layers=["enc6"]).fit_transform(["a.png", "b.png"])
    """

    def __init__(
        self,
        model: str = DEFAULT_OF_FEATURES,
        *,
        layers: str | Sequence[str] | None = None,
        pool: str = "avg",
        l2: bool = False,
        dtype: str = "float32",
        resize: int | None = None,
        crop: int | None = None,
        batch_size: int | None = None,
        max_pixels: int = MAX_PIXELS,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Store the parameters, as scikit-learn requires; ``fit`` checks them.

        Args:
            model: a checkpoint's name or folder.
            layers: layer names; None uses the checkpoint's default layer.
            pool: ``avg``, ``max`` or ``spatial:N``.
            l2: whether to scale each feature vector to Euclidean length 1.
            dtype: ``float32`` or ``float16``.
            resize: length of the short side after scaling, in pixels; None uses the checkpoint's, 0 keeps the size.
            crop: side of the center crop, in pixels; None uses the checkpoint's, 0 takes the whole image.
            batch_size: maximum number of images of one size in one run; None uses 16, fewer if memory is short.
            max_pixels: the largest image file to decode, in pixels.
            device: see :func:`skipae.from_pretrained`.
            threads: number of CPU threads; None uses all cores that this process may use.
        """
        self.model = model
        self.layers = layers
        self.pool = pool
        self.l2 = l2
        self.dtype = dtype
        self.resize = resize
        self.crop = crop
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.device = device
        self.threads = threads

    def fit(self, X: Any = None, y: Any = None) -> FeatureExtractor:
        """Check the parameters; the images are not used.

        Raises:
            UsageError: a parameter cannot be used.
            ModelError: the checkpoint is unavailable.
        """
        self._spec()
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Return features [N, F], layer after layer, each flattened in the order [C, n, n].

        Args:
            X: a list of images (see :meth:`skipae.Model.features`), an array [N, H, W, C] or [N, H, W], or a column
                [N, 1] of paths.

        Raises:
            UsageError: a parameter cannot be used, or ``X`` is not several images.
            ImageError: a file cannot be decoded, an image is smaller than the crop, or memory runs out.
            ModelError: the checkpoint is unavailable or has no features.
            DeviceError: the device does not work.
        """
        spec = self._spec()
        if isinstance(X, str | bytes) or not isinstance(X, Iterable):
            raise UsageError(f"X must be a list or an array of images, not {type(X).__name__}")
        shape: tuple[int, ...] = getattr(X, "shape", ())
        if len(shape) == 3 and shape[2] in (1, 3, 4) and _is_number(X):  # its rows are not gray images
            raise UsageError("X is one image [H, W, C]; pass [X] for one, or an array [N, H, W, C]")
        images = np.asarray(X, object).ravel() if getattr(X, "ndim", 0) == 2 and not _is_number(X) else X
        found = self._loaded().features(list(images), spec, batch_size=self.batch_size, max_pixels=self.max_pixels)
        rows = [values.reshape(len(values), math.prod(values.shape[1:])) for values in found.values()]
        return np.concatenate(rows, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return a name for each column: ``enc6_0``, ``enc6_1``, ..., with row and column for ``spatial:n``."""
        spec = self._spec()
        channels = {layer.name: layer.channels for layer in self._config().architecture.layers}
        names = [
            "_".join(map(str, (layer, *place)))
            for layer in spec.names
            for place in np.ndindex(*spec.shape(channels[layer]))
        ]
        return np.array(names, object)

    def __sklearn_is_fitted__(self) -> bool:
        """Return True, because nothing is learned."""
        return True

    def __sklearn_tags__(self) -> Any:
        """Declare that no fit is needed, and that inputs are images and paths."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters, without the loaded model."""
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_model"}

    def _config(self) -> CheckpointConfig:
        return load_config(find_folder(self.model))

    def _spec(self) -> FeatureSpec:
        if self.pool == "none":
            raise UsageError("with pool none, rows differ in length; use avg, max or spatial:N")
        check_max_pixels(self.max_pixels)
        spec = FeatureSpec(self.layers, self.pool, self.l2, self.dtype, self.resize, self.crop)
        return spec.resolve(self._config())

    def _loaded(self) -> Model:
        wanted = (self.model, self.device, self.threads)
        cached: tuple[Any, Model] | None = getattr(self, "_model", None)
        if cached is None or cached[0] != wanted:
            self._model = cached = wanted, from_pretrained(self.model, device=self.device, threads=self.threads)
        return cached[1]


def _is_number(array: Any) -> bool:
    return getattr(getattr(array, "dtype", None), "kind", "O") in "uif"
