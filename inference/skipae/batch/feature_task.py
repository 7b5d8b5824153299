"""Extract features of many images into a store, shard by shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from skipae import images
from skipae.batch.feature_store import Entry, Store
from skipae.batch.identity import identify
from skipae.batch.job import Job
from skipae.batch.pipeline import BatchTask, Ready
from skipae.batch.sinks import Written
from skipae.errors import ImageError
from skipae.tasks.features import Features, SizeBatcher
from skipae.tasks.pixels import Progress

SHARD_IMAGES = 10_000
"""Maximum number of images in a shard; a shard also ends at :data:`SHARD_BYTES`."""

SHARD_BYTES = 128 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """An image on its way into a store."""

    job: Job
    entry: Entry
    """Its line in the manifest."""
    notes: list[str]
    """Changes and losses, one line each."""


class Shards:
    """Collects rows into shards; the values in a shard all have the same shapes."""

    def __init__(self, size: int | None = None) -> None:
        """Start empty.

        Args:
            size: images in a shard; by default :data:`SHARD_IMAGES` or :data:`SHARD_BYTES`, whichever comes first.
        """
        self._size = size
        self._rows: defaultdict[tuple[Any, ...], list[tuple[Any, Features]]] = defaultdict(list)
        self._count = self._bytes = 0

    def add(self, key: Any, features: Features) -> None:
        """Add a row; :meth:`take` returns it with its ``key``."""
        self._rows[tuple(values.shape for values in features.values())].append((key, features))
        self._count += 1
        self._bytes += sum(values.nbytes for values in features.values())

    @property
    def is_full(self) -> bool:
        """True if the rows fill a shard and :meth:`take` should be called."""
        if self._size is not None:
            return self._count >= self._size
        return self._count >= SHARD_IMAGES or self._bytes >= SHARD_BYTES

    def take(self) -> list[list[tuple[Any, Features]]]:
        """Remove and return the rows of each shard."""
        shards = list(self._rows.values())
        self._rows.clear()
        self._count = self._bytes = 0
        return shards


class FeatureTask(BatchTask):
    """Extracts features of images and writes them to a store."""

    per_file = False

    def __init__(
        self,
        load: Callable[[], tuple[SizeBatcher[Taken], dict[str, str]]],
        store: Store,
        shard_size: int | None = None,
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            load: returns the batcher and the versions of programs for the manifest.
            store: where features are written.
            shard_size: images in a file.
        """
        self._load = load
        self._store = store
        self._shards = Shards(shard_size)
        self._failures: list[tuple[Taken, ImageError]] = []
        self._known: dict[str, dict[str, Any]] = {}
        """What :func:`identify` returned for each image that is being read, by name."""

    def load(self) -> None:
        """Load the model."""
        self._batcher, versions = self._load()
        self._store.begin(versions)

    def prepare(self, job: Job) -> None:
        """Identify the file before it is decoded: if it changes meanwhile, a resumed run notices."""
        with suppress(ImageError):  # reading says what is wrong
            self._known[job.name] = {"sha256": None} if job.source is None else identify(job.source)

    def process(self, job: Job, picture: images.Picture, advance: Progress) -> Ready | None:
        """Add an image; it is run when a batch of its size is full."""
        if job.name not in self._known:
            raise ImageError("changed while it was read")
        entry = {"file": job.name} | self._known.pop(job.name)
        shards = self._add(self._batcher.push(Taken(job, entry, picture.remarks), picture.rgb()))
        advance(1)
        return self._ready(shards)

    def flush(self) -> Ready | None:
        """Run the waiting images and return everything that is ready."""
        shards = self._add(self._batcher.flush())
        return self._ready(shards + self._shards.take())

    def failed(self, name: str, reason: str) -> None:
        """Record the failure in the manifest."""
        self._known.pop(name, None)
        self._store.fail(name, reason)

    def trim(self) -> None:
        """Free the memory kept from the last image."""
        self._batcher.extractor.session.trim()

    def _add(self, rows: list[tuple[Taken, Features | ImageError]]) -> list[list[tuple[Taken, Features]]]:
        """Sort rows into shards, and return those that are complete."""
        complete: list[list[tuple[Taken, Features]]] = []
        for taken, features in rows:
            if isinstance(features, ImageError):
                self._failures.append((taken, features))
                continue
            self._shards.add(taken, features)
            if self._shards.is_full:
                complete += self._shards.take()
        return complete

    def _ready(self, shards: list[list[tuple[Taken, Features]]]) -> Ready | None:
        failures, self._failures = self._failures, []
        if not shards and not failures:
            return None
        jobs = [taken.job for shard in shards for taken, _ in shard] + [taken.job for taken, _ in failures]

        def write() -> list[Written | ImageError]:
            found: list[Written | ImageError] = []
            for shard in shards:
                found += self._write(shard)
            return found + [error for _, error in failures]

        return Ready(jobs, write)

    def _write(self, shard: list[tuple[Taken, Features]]) -> Iterator[Written | ImageError]:
        try:
            name = self._store.add([taken.entry for taken, _ in shard], [features for _, features in shard])
        except ImageError as error:
            return iter([error] * len(shard))
        return (Written(taken.notes, {"shard": name, "row": row}) for row, (taken, _) in enumerate(shard))
