"""Layer features as a scikit-learn transformer; scikit-learn is needed for this module alone."""

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
    """Images to rows of features, for scikit-learn's pipelines.

    Nothing is learnt: ``fit`` checks the parameters, and ``transform`` works without it.  The model is loaded at
    the first ``transform`` in each process, so that this can be cloned, pickled and used by ``n_jobs``.

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
        """Only keep the parameters, as scikit-learn wants it; they are checked by ``fit``.

        Args:
            model: a checkpoint's name or folder.
            layers: see :meth:`skipae.Model.features`.
            pool: the same, without ``none``, whose rows would have no common length.
            l2: the same.
            dtype: the same.
            resize: the same.
            crop: the same.
            batch_size: the same.
            max_pixels: the same.
            device: see :func:`skipae.from_pretrained`.
            threads: the same.
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
        """Check the parameters; the images are not looked at.

        Raises:
            UsageError: a parameter cannot be used.
            ModelError: the checkpoint is unavailable.
        """
        self._spec()
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Features [N, F], layer after layer, each flattened in the order [C, n, n].

        Args:
            X: images, see :meth:`skipae.Model.features`; a column [N, 1] of paths too.
        """
        spec = self._spec()
        if isinstance(X, str | bytes) or not isinstance(X, Iterable):
            raise UsageError(f"X must be a list or an array of images, not {type(X).__name__}")
        images = np.asarray(X, object).ravel() if getattr(X, "ndim", 0) == 2 and not _is_number(X) else X
        found = self._loaded().features(list(images), spec, batch_size=self.batch_size, max_pixels=self.max_pixels)
        rows = [values.reshape(len(values), math.prod(values.shape[1:])) for values in found.values()]
        return np.concatenate(rows, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """A name for each column: ``enc6_0``, ``enc6_1``, ..., with row and column for ``spatial:n``."""
        spec = self._spec()
        channels = {layer.name: layer.channels for layer in self._config().architecture.layers}
        names = [
            "_".join(map(str, (layer, *place)))
            for layer in spec.names
            for place in np.ndindex(*spec.shape(channels[layer]))
        ]
        return np.array(names, object)

    def __sklearn_is_fitted__(self) -> bool:
        """Always: nothing is learnt."""
        return True

    def __sklearn_tags__(self) -> Any:
        """It needs no fit, and takes images and paths."""
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The parameters, without the model that was loaded."""
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
