"""``skipae export``."""

from __future__ import annotations

import click

from skipae.commands import options


@click.command()
@options.model_option()
@click.option(
    "--size",
    callback=options.parse_size,
    metavar="PX|HxW",
    help="Write an ONNX file for this image size only, with weights in float32, for runtimes without dynamic "
    "shapes (OpenCV 4, many phones and boards).",
)
@click.option("--darktable", is_flag=True, help="Write a package that darktable 5.6 imports as a denoising model.")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="File to write.  [default: MODEL-HxW.onnx, or denoise-MODEL.dtmodel]",
    shell_complete=options.complete_files,
)
@options.overwrite_option
@click.option("--debug", is_flag=True, help="Show tracebacks of errors, and what native libraries print.")
def command(
    model: str, size: tuple[int, int] | None, darktable: bool, output: str | None, overwrite: bool, debug: bool
) -> None:
    """Export a model for other programs.

    Use either --size or --darktable.  Programs that support dynamic shapes can load onnx/model.onnx in the
    checkpoint's folder directly (see skipae models path).

    Exit codes: 0 done, 1 the file cannot be written, 2 wrong usage, 4 model unavailable.
    """
    from pathlib import Path

    from skipae.checkpoints import resolve
    from skipae.console import echo
    from skipae.engine import export
    from skipae.errors import UsageError
    from skipae.files import ExistsError

    options.refuse_empty("-o", output)
    if (size is None) != darktable:
        raise UsageError("use either --size HxW or --darktable")
    folder = resolve.find_folder(model)
    config = resolve.load_config(folder)
    if size is None:
        target = Path(output or f"denoise-{config.name}.dtmodel")
    else:
        target = Path(output or f"{config.name}-{size[0]}x{size[1]}.onnx")
    suffix = ".dtmodel" if size is None else ".onnx"
    if target.suffix != suffix:
        raise UsageError(f"-o {target} must end in {suffix}")
    if target.exists() and not overwrite:
        raise ExistsError.of(target)
    if size is None:
        export.write_darktable(folder, config, target, overwrite=overwrite)
        echo(f"{target}: import it in darktable under preferences, AI, 'import from file...'")
    else:
        worst = export.write_fixed_size(folder, config, target, *size, overwrite=overwrite)
        echo(f"{target}: float32 [1, 3, {size[0]}, {size[1]}]; differs from {config.name} by at most {worst:.2g}")
