"""``skipae features``."""

from __future__ import annotations

import click

from skipae.commands import options
from skipae.console import Console


@click.command()
@click.argument("inputs", metavar="INPUT...", nargs=-1, shell_complete=options.complete_files)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    shell_complete=options.complete_files,
    required=True,
    help="Folder to write to, or a file whose extension sets the format (.npz, .npy, .safetensors, .parquet, .h5).",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME[,NAME...]",
    shell_complete=options.complete_layers,
    help="Layers (see skipae layers).  [default: the checkpoint's default layer, else the last]",
)
@click.option(
    "--pool",
    default="avg",
    show_default=True,
    metavar="none|avg|max|spatial:N",
    help="Pooling over a layer's height and width; spatial:N averages in a grid of N x N.",
)
@click.option("--l2", is_flag=True, help="Scale each feature vector to Euclidean length 1.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the written values.",
)
@options.resize_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Maximum batch size (images of equal size); results do not depend on it.  [default: 16, lower if memory is "
    "short]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["npz", "npy", "safetensors", "parquet", "hdf5"]),
    help="Format of the files in the folder OUT.  [default: npz]",
)
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of images per file.  [default: 10000, or 128 MiB of features]",
)
@options.model_options("features")
@options.result_options
@options.batch_options
@options.console_options
def command(
    inputs: tuple[str, ...],
    output: str,
    layers: tuple[str, ...],
    pool: str,
    l2: bool,
    dtype: str,
    resize: int | None,
    crop: int | None,
    batch_size: int | None,
    kind: str | None,
    shard_size: int | None,
    checkpoint: options.CheckpointOptions,
    writing: options.WritingOptions,
    batch: options.BatchOptions,
    console: Console,
) -> int:
    """Extract encoder features to files.

    INPUT is an image, a folder (recursive), a glob pattern, or - for stdin.  OUT gets files of many
    images each, and a manifest (JSON lines) with the sha256, file and row of each image and all settings.
    Only the part of the network up to the deepest layer is computed.

    Exit codes: 0 all done, 1 some inputs failed, 2 wrong usage, 3 device not available, 4 model unavailable,
    5 no readable input, 130 interrupted.
    """
    from pathlib import Path

    from skipae.batch import feature_store
    from skipae.batch.feature_task import FeatureTask, Taken
    from skipae.batch.job import STREAM, Job, Work
    from skipae.batch.sources import find
    from skipae.checkpoints import resolve
    from skipae.engine.net import Net
    from skipae.engine.precision import features_file
    from skipae.errors import UsageError
    from skipae.options import FeatureSpec
    from skipae.tasks.features import SizeBatcher

    options.refuse_empty("-o", output)
    if output == STREAM:
        raise UsageError("-o - (standard output) cannot hold features; use a folder or a file")
    if checkpoint.precision == "fp16":
        raise UsageError("--precision fp16: features are computed in fp32 or int8; use one of them, or omit it")
    folder = checkpoint.find(console)
    config = resolve.load_config(folder)
    graph = features_file(checkpoint.precision, config)
    names = [name for text in layers for name in text.split(",")]
    spec = FeatureSpec(names or None, pool, l2, dtype, resize, crop).resolve(config)
    run = feature_store.describe(spec, config.name, config.files.get(graph, ""))
    overwrite, resume = writing.overwrite, writing.resume
    store = feature_store.Store(output, run, format=kind, overwrite=overwrite, resume=resume)
    found = find(inputs, batch.lists, results=Path(output))
    if resume and None in found.single:
        raise UsageError(
            "--resume identifies images by name, and - (standard input) has none; use a file, or omit --resume"
        )
    paths = dict.fromkeys([*found.single, *(path for _, files in found.trees for path in files)])
    if resume:
        store.check(path for path in paths if path is not None)
    for note in store.notes:
        console.say(note)
    work = Work(failed=found.failed, resumable=not overwrite)
    for path in paths:
        job = Job(path, store.output)
        (work.skipped if job.name in store.done else work.jobs).append(job)
    if writing.dry_run:
        return options.show(work, console)

    def load() -> tuple[SizeBatcher[Taken], dict[str, str]]:
        net = Net.load(
            folder,
            device=checkpoint.device,
            precision=checkpoint.precision,
            threads=checkpoint.threads,
            notify=console.remark,
        )
        batcher = SizeBatcher[Taken](net, spec, batch_size)
        batcher.extractor.session.open()
        return batcher, feature_store.versions(net.device)

    try:
        return batch.run(FeatureTask(load, store, shard_size), work, console)
    finally:
        store.end()
