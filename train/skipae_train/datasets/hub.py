"""Image sets of the Hugging Face Hub, or in its formats on disk, through the library ``datasets``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from skipae.install import install_command
from skipae_train.data import DataError, open_rgb
from skipae_train.datasets.sets import StreamedSet
from skipae_train.rng import uniforms


class HubSet(StreamedSet):
    """Rows of a ``datasets.Dataset``; images are decoded when they are drawn."""

    def __init__(self, source: str, rows: Any, image: str | None, label: str | None, *, short_side: int) -> None:
        import datasets

        if not len(rows):
            raise DataError(f"{source} has no rows: it is damaged, or empty")
        self.source, self.column = source, _column(source, rows, image, datasets.Image, "image")
        if self.column is None:
            raise DataError(f"{source} has no image column: its columns are {', '.join(rows.column_names)}")
        label = _column(source, rows, label, datasets.ClassLabel, "class")
        labels, classes = None, ()
        if label is not None:
            values, classes = rows[label][:], tuple(rows.features[label].names)
            if None in values:
                raise DataError(
                    f"{source} has no label in row {values.index(None)} of {label!r}: fill it, or drop the row"
                )
            labels = torch.tensor(values, dtype=torch.int64)
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(classes):
                raise DataError(f"{source} has labels outside 0..{len(classes) - 1} in {label!r}: -1 marks hidden ones")
        super().__init__(labels, classes, len(rows), short_side=short_side)
        cache = datasets.config
        own = [source, cache.HF_DATASETS_CACHE, cache.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE]
        # Of a set on the Hub its files in the cache; a row may name any file of this machine.
        self._folders = [Path(folder).resolve() for folder in own if Path(folder).is_dir()]
        self.rows = rows.select_columns([self.column]).cast_column(self.column, datasets.Image(decode=False))

    def _name(self, row: int) -> str:
        return f"{self.source}, row {row}"

    def _open(self, row: int) -> Image.Image:
        stored = self.rows[row][self.column]
        if stored is None:
            raise DataError(f"{self._name(row)} has no image: drop the row")
        if stored["bytes"] is not None:
            return open_rgb(io.BytesIO(stored["bytes"]), self._name(row), self.short_side)
        path = Path(stored["path"] or "").resolve()
        if not any(path.is_relative_to(folder) for folder in self._folders):
            raise DataError(
                f"{self._name(row)} names the file {stored['path']!r} for its image, which is not part of the set: "
                "include the images in the set (the library datasets does so with push_to_hub and save_to_disk)"
            )
        return open_rgb(path, self._name(row), self.short_side)


def _column(source: str, rows: Any, name: str | None, kind: type, what: str) -> str | None:
    """Return the column ``name``, which must be of a kind; without a name the only one of that kind, None
    if there is none.
    """
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if name is None and len(found) > 1:
        raise DataError(f"{source} has several {what} columns, {', '.join(found)}: name one of them")
    if name is not None and name not in found:
        raise DataError(
            f"{source} has no {what} column {name!r}; its {what} columns: {', '.join(found) or 'none'} (the library "
            "datasets makes numbers or words one by class_encode_column)"
        )
    return name or (found[0] if found else None)


def _tells_classes(rows: Any) -> bool:
    """Return whether rows have classes, and they are not -1, as where a test is kept secret."""
    import datasets

    found = [column for column, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    return any(value is not None and value >= 0 for column in found for value in rows[column][:100])


def hub(
    source: str,
    split: str,
    *,
    image: str | None = None,
    label: str | None = None,
    revision: str | None = None,
    short_side: int = 256,
) -> HubSet:
    """Return a split of a Hub data set ``org/name``, of a folder written by ``save_to_disk``, or of
    Parquet or image files.

    ``org/name/configuration`` chooses one where the set has several.
    Where there is no split ``test``, or only one whose classes are hidden, ``validation`` stands for it; where there is
    neither, about one row in ten of ``train`` does, and is missing there.  ``image`` and ``label`` name columns; None
    takes the only one of its kind, and no labels where no column has classes.  :class:`DataError` when the set, the
    split or a column does not exist.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(f"Hub data sets need the library datasets: {install_command('train')}") from None

    if not source:
        raise DataError("hub: does not name a set; use hub:ORG/NAME or hub:FOLDER")
    folder = Path(source)
    try:
        if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(source)
            for part in [found] if isinstance(found, datasets.Dataset) else found.values():
                part.data.validate(full=True)  # offsets that a stranger wrote are followed without a look at them
        else:
            name, configuration = source, None
            if source.count("/") == 2 and not folder.exists():
                name, _, configuration = source.rpartition("/")
            found = datasets.load_dataset(name, configuration, revision=revision)
    except Exception as error:  # untrusted files can make the library raise nearly anything
        raise DataError(f"{source} cannot be used ({type(error).__name__}: {' '.join(str(error).split())})") from error
    splits = {"train": found} if isinstance(found, datasets.Dataset) else dict(found)
    known, hidden = splits.get("validation"), splits.get("test")
    if known is not None and (hidden is None or (_tells_classes(known) and not _tells_classes(hidden))):
        splits["test"] = known
    elif hidden is None and "train" in splits:
        rows = splits["train"]
        apart = uniforms(0, 0, torch.arange(len(rows)), 1)[:, 0] < 0.1
        if not apart.any():
            raise DataError(f"{source} has {len(rows)} rows and no split to test on: too few to keep one in ten apart")
        for name, part in (("test", apart), ("train", ~apart)):
            splits[name] = rows.select(part.nonzero().flatten().tolist())
    if split not in splits:
        raise DataError(f"{source} has no split {split!r}: it has {', '.join(splits)}")
    return HubSet(source, splits[split], image, label, short_side=short_side)
