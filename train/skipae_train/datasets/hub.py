"""Image sets of the Hugging Face Hub, or in its formats on disk, through the library ``datasets``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from skipae_train.data import DataError, open_rgb
from skipae_train.datasets.sets import StreamedSet


class HubSet(StreamedSet):
    """Rows of a ``datasets.Dataset``; images are decoded when they are drawn."""

    def __init__(self, source: str, rows: Any, image: str, label: str | None, *, short_side: int) -> None:
        import datasets

        self.source, self.column = source, image
        if image not in rows.column_names or not isinstance(rows.features[image], datasets.Image):
            found = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
            raise DataError(f"{source} has no image column {image!r}; its image columns: {', '.join(found) or 'none'}")
        labels, classes = None, ()
        if label is not None:
            feature = rows.features.get(label)
            if not isinstance(feature, datasets.ClassLabel):
                known = [name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
                raise DataError(f"{source} has no class column {label!r}; it has: {', '.join(known) or 'none'}")
            labels, classes = torch.tensor(rows[label][:], dtype=torch.int64), tuple(feature.names)
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
                raise DataError(f"{source} has labels outside 0..{len(classes) - 1} in {label!r}: -1 marks hidden ones")
        super().__init__(labels, classes, len(rows), short_side=short_side)
        self.rows = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def _name(self, row: int) -> str:
        return f"{self.source}, row {row}"

    def _open(self, row: int) -> Image.Image:
        stored = self.rows[row][self.column]
        file = io.BytesIO(stored["bytes"]) if stored["bytes"] is not None else Path(stored["path"])
        return open_rgb(file, self._name(row), self.short_side)


def hub(
    source: str,
    split: str,
    *,
    image: str = "image",
    label: str | None = "label",
    revision: str | None = None,
    short_side: int = 256,
) -> HubSet:
    """A split of a Hub data set ``org/name``, of a folder written by ``save_to_disk``, or of Parquet or image files.

    ``label`` None reads no labels.  :class:`DataError` when the set, the split or a column does not exist.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError('Hub data sets need the library datasets: pip install "skipae[train]"') from None

    folder = Path(source)
    try:
        if (folder / "state.json").exists():
            rows = datasets.load_from_disk(source)
        elif (folder / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(source)[split]
        else:
            rows = datasets.load_dataset(source, split=split, revision=revision)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{source} has no usable split {split!r} ({type(error).__name__}: {reason})") from error
    return HubSet(source, rows, image, label, short_side=short_side)
