"""Extract features on the machines of a Ray cluster; only this module needs Ray.

Workers read images and run the network with the code of ``skipae features``; the calling process writes the features
like that command: the same files, the same manifest, and each can resume a run of the other.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from skipae import images
from skipae.batch import feature_store
from skipae.batch.feature_store import Entry
from skipae.batch.feature_task import Shards
from skipae.batch.identity import identify
from skipae.batch.pipeline import Outcome
from skipae.batch.sources import find
from skipae.checkpoints.resolve import DEFAULT_OF_FEATURES, expanded, find_folder, load_config
from skipae.engine.net import Net
from skipae.errors import ImageError, ModelError, SkipaeError, UsageError
from skipae.options import FeatureKeywords, FeatureSpec, check_max_pixels, check_whole, combine
from skipae.tasks.features import BATCH_SIZE, Features, SizeBatcher
from skipae_zoo import FEATURES

try:
    import pyarrow as pa
    import ray.data
    from ray.data.dataset import MaterializedDataset
except ImportError as error:
    from skipae.install import install_command

    raise ImportError(f"skipae.integrations.ray needs Ray Data ({error}): {install_command('ray')}") from error

if TYPE_CHECKING:
    from ray.data import Dataset

BLOCKS = 2000
"""Number of pieces that a long list of paths is split into; the pieces of a lost machine are repeated."""

Answer = tuple[dict[str, str], list[tuple[Entry, Features | ImageError]], int]
"""A worker's versions of programs; for each image its entry in the manifest (without ``sha256`` if it could not be
read), and its features or the reason for failure; the number of images skipped because they were done."""


def extract(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Dataset,
    output: str | os.PathLike[str],
    model: str = DEFAULT_OF_FEATURES,
    *,
    spec: FeatureSpec | None = None,
    batch_size: int | None = None,
    max_pixels: int = images.MAX_PIXELS,
    format: str | None = None,
    shard_size: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    **keywords: Unpack[FeatureKeywords],
) -> Outcome:
    """Extract encoder features to files on a Ray cluster.

    The cluster is the one passed to ``ray.init`` or named by ``RAY_ADDRESS``, otherwise this machine.  The files and
    their manifest are those of ``skipae features``, except for the order of the images, which is that of the answers.

    Args:
        sources: files, folders and patterns with the same path on all machines; or a Ray data set with the columns
            ``path`` and ``bytes``, as returned by ``ray.data.read_binary_files(..., include_paths=True)``.
        output: a folder, or a file whose extension names the format; written here, not by the workers.
        model: a checkpoint's name, or a folder with the same path on all machines.
        spec: the keyword arguments as one value.
        batch_size: maximum number of images of one size in one run; by default 16, fewer if memory is short.
        max_pixels: the largest image file to decode, in pixels.
        format: npz (default), npy, safetensors, parquet or hdf5.
        shard_size: images in a file; by default 10,000, or as many as have 128 MiB of features.
        overwrite: whether what an earlier run wrote to ``output`` may be replaced.
        resume: whether to add to it the images that it has no features of.
        workers: how many processes compute; by default as many as the cluster has room for.  With a data set of Ray's,
            one of the cores that the cluster has now must be left to read it.
        cpus: cores of a worker, and the threads that its net runs on.
        gpus: GPUs of a worker, also a part of one: 0.25 lets four workers, which decode one image at a time, share a
            GPU.  0 computes on the CPU.
        **keywords: ``layers``, ``pool``, ``l2``, ``dtype``, ``resize`` and ``crop`` of :class:`skipae.FeatureSpec`.

    Returns:
        The number of images that succeeded, including those that were done before.  The manifest lists the failures.

    Raises:
        UsageError: an argument cannot be used.
        ModelError: the checkpoint is unavailable, here or on a worker, or differs there.
        DeviceError: a worker has no runtime, or its GPU does not work.
        ImageError: the features cannot be written.
    """
    numbers = {"shard_size": shard_size, "workers": workers, "batch_size": batch_size, "cpus": cpus}
    check_whole(**numbers)
    check_max_pixels(max_pixels)
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} must be at least 1, not {number}")
    if not isinstance(gpus, int | float) or not gpus >= 0:
        raise UsageError(f"gpus must be a number of at least 0, not {gpus!r}")
    if isinstance(sources, ray.data.Dataset):
        _leave_a_core(sources, workers or 1, cpus)
    here = find_folder(model)
    if here == expanded(model):
        model = str(here.absolute())
    config = load_config(here)
    spec = combine(FeatureSpec(), spec, keywords).resolve(config)
    checkpoint = config.files.get(FEATURES, "")
    run = feature_store.describe(spec, config.name, checkpoint)
    store = feature_store.Store(os.fspath(output), run, format=format, overwrite=overwrite, resume=resume)
    outcome = Outcome()
    rows = batch_size or BATCH_SIZE
    if isinstance(sources, ray.data.Dataset):
        dataset = sources
    else:
        paths = _find(sources, Path(output), store, outcome)
        if resume:
            store.check(map(Path, paths))
        left = [path for path in paths if path not in store.done]
        outcome.done += len(paths) - len(left)
        if not left:
            return outcome
        dataset = _deal(left, rows)
    answers = dataset.map_batches(
        _Worker,
        fn_constructor_args=(
            model,
            checkpoint,
            spec,
            batch_size,
            "cuda" if gpus else "cpu",
            cpus,
            Path.cwd(),
            set(store.done),
            max_pixels,
        ),
        batch_size=rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers) if workers else ray.data.ActorPoolStrategy(min_size=1),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    _write((pickle.loads(row["answer"]) for row in answers.iter_rows()), store, outcome, shard_size)
    return outcome


def _leave_a_core(dataset: Dataset, workers: int, cpus: int) -> None:
    """Refuse workers that take every core: Ray would start them, and wait without end for a core to read with."""
    if isinstance(dataset, MaterializedDataset):
        return  # it is read already
    cores, taken = int(ray.cluster_resources().get("CPU", 0)), workers * cpus
    if taken >= cores:
        most = (cores - 1) // cpus
        fewer = f"workers={most} or fewer" if most > 0 else "fewer cpus" if cores > 1 else "paths instead"
        raise UsageError(
            f"workers={workers} with cpus={cpus} take all {cores} cores of the cluster, and reading the data set needs "
            f"one; use {fewer}, or sources.materialize()"
        )


def _find(sources: Any, output: Path, store: feature_store.Store, outcome: Outcome) -> list[str]:
    """Return the paths of images, found as on the command line; missing ones are recorded."""
    named = [sources] if isinstance(sources, str | os.PathLike) else sources
    if not isinstance(named, Iterable):
        raise UsageError(f"sources must be paths or a Ray data set, not {type(sources).__name__}")
    found = find([os.fspath(source) for source in named], results=output)
    paths = [*found.single, *(path for _, files in found.trees for path in files)]
    if None in paths:
        raise UsageError("a cluster cannot see - (standard input); use files, folders or patterns")
    for failure in found.failed:
        store.fail(failure.name, str(failure.error))
    outcome.failed += len(found.failed)
    outcome.unread += len(found.failed)
    return list(dict.fromkeys(map(str, paths)))


def _deal(paths: list[str], batch_size: int) -> Dataset:
    """Return a data set of paths, as bytes, because file names may not be text."""
    size = max(batch_size, len(paths) // BLOCKS)
    encoded = [os.fsencode(path) for path in paths]
    return ray.data.from_arrow(
        [pa.table({"path": pa.array(encoded[k : k + size], pa.binary())}) for k in range(0, len(encoded), size)]
    )


def _write(
    answers: Iterable[Answer | SkipaeError],
    store: feature_store.Store,
    outcome: Outcome,
    shard_size: int | None,
) -> None:
    """Write answers as they arrive, shard by shard; if the run is interrupted, also those received so far."""
    shards = Shards(shard_size)

    def flush() -> None:
        for shard in shards.take():
            store.add([entry for entry, _ in shard], [values for _, values in shard])
            outcome.done += len(shard)

    begun = False
    try:
        for answer in answers:
            if isinstance(answer, SkipaeError):
                raise answer
            versions, rows, left_out = answer
            outcome.done += left_out
            if rows and not begun:
                store.begin(versions)
                begun = True
            for entry, values in rows:
                if isinstance(values, ImageError):
                    store.fail(entry["file"], str(values))
                    outcome.failed += 1
                    outcome.unread += "sha256" not in entry
                    continue
                shards.add(entry, values)
                if shards.is_full:
                    flush()
    finally:
        flush()
        store.end()


@dataclass
class _Worker:
    """Runs the encoder in a process of the cluster."""

    model: str
    checkpoint: str
    """sha256 that the model's graph must have."""
    spec: FeatureSpec
    batch_size: int | None
    device: str
    threads: int
    folder: Path
    """The folder that paths are relative to."""
    done: set[str]
    """Images to skip."""
    max_pixels: int
    net: Net | None = None
    """The network, loaded with the first image."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return a pickled :data:`Answer`, or the error that ends the run, which Ray would wrap or retry."""
        answer: Answer | SkipaeError
        try:
            answer = self._answer(table)
        except SkipaeError as error:
            answer = error
        return pa.table({"answer": pa.array([pickle.dumps(answer)], pa.large_binary())})

    def _answer(self, table: pa.Table) -> Answer:
        names = table.column_names
        if "path" not in names:
            raise UsageError(
                f"sources has the columns {', '.join(names)}, but needs path and bytes, as returned by "
                "ray.data.read_binary_files(..., include_paths=True)"
            )
        paths = [os.fsdecode(path) for path in table.column("path").to_pylist()]
        contents = table.column("bytes").to_pylist() if "bytes" in names else [None] * len(paths)
        net = self._load()
        batcher = SizeBatcher[Entry](net, self.spec, self.batch_size)
        rows: list[tuple[Entry, Features | ImageError]] = []
        for path, content in zip(paths, contents, strict=True):
            if path in self.done:
                continue
            entry: Entry = {"file": path}
            source = self.folder / path if content is None else content
            try:
                with images.read_header(source, max_pixels=self.max_pixels) as opened:
                    known = identify(source)  # first: a change meanwhile is noticed by resume
                    pixels = opened.decode().rgb()
                entry |= known
                rows += batcher.push(entry, pixels)
            except ImageError as error:
                rows.append((entry, error))
        rows += batcher.flush()
        return feature_store.versions(net.device), rows, len(paths) - len(rows)

    def _load(self) -> Net:
        if self.net is None:
            folder = find_folder(self.model)
            net = Net.load(folder, device=self.device, threads=self.threads)
            if net.config.files.get(FEATURES, "") != self.checkpoint:
                raise ModelError(
                    f"model {self.model} of a worker, in {folder}, differs from the one where the run was started; "
                    "use the same on all machines"
                )
            self.net = net
        return self.net
