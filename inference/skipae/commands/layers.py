"""``skipae layers``."""

from __future__ import annotations

import json

import click
from click.core import ParameterSource

from skipae.commands import options

HEADINGS = ("layer", "channels", "stride", "receptive field", "output")


@click.command()
@click.argument("name", metavar="[MODEL]", required=False, shell_complete=options.complete_models)
@options.model_option("features")
@click.option(
    "--size",
    callback=options.parse_size,
    metavar="PX|HxW",
    help="Image size for the listed output sizes.  [default: the checkpoint's crop, else 224]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors, and what native libraries print.")
def command(name: str | None, model: str, size: tuple[int, int] | None, as_json: bool, debug: bool) -> None:
    """List the layers of a checkpoint.

    MODEL is a checkpoint's name or folder, the same as --model.  The stride is the distance in pixels between
    two neighboring outputs; the receptive field is the side of the square of pixels that one output depends
    on; the output is channels x height x width for an image of --size.  The last line names the default
    layer of features.
    """
    from skipae.checkpoints import resolve
    from skipae.console import echo

    source = click.get_current_context().get_parameter_source("model")
    if name is not None and source is not ParameterSource.DEFAULT:
        raise click.UsageError(f"{name} and --model {model} both name a checkpoint; use only one")
    config = resolve.load_config(resolve.find_folder(name or model))
    default = config.default_layer or config.architecture.layers[-1].name
    height, width = size or (config.preprocessing.crop or 224,) * 2
    rows = [
        (layer.name, layer.channels, layer.total_stride, layer.receptive_field, layer.output_size(height, width))
        for layer in config.architecture.layers
    ]
    if as_json:
        layers = [
            {
                "name": name,
                "channels": channels,
                "stride": stride,
                "receptive_field": field,
                "output": [channels, *output],
            }
            for name, channels, stride, field, output in rows
        ]
        facts = {"model": config.name, "image": [height, width], "default_layer": default, "layers": layers}
        echo(json.dumps(facts, indent=2))
        return
    table = [HEADINGS] + [
        (name, str(channels), str(stride), str(field), f"{channels} x {output[0]} x {output[1]}")
        for name, channels, stride, field, output in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    echo(f"{config.name}, image of {height} x {width}")
    for row in table:
        echo("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    echo(f"default layer of skipae features: {default}")
