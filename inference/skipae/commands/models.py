"""``skipae models``."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skipae.cli import UncutGroup
from skipae.commands import options
from skipae.console import Console, echo
from skipae.errors import ModelError

if TYPE_CHECKING:
    from skipae_zoo import CheckpointConfig, NamedCheckpoint

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=UncutGroup)
def command() -> None:
    """List, fetch and check models.

    A name is looked up among the bundled checkpoints, in SKIPAE_MIRROR (a folder of checkpoint folders, or its
    URL), in the Hugging Face cache, and on the Hub, in this order.  Anything else is the path of a folder; put
    ./ before the path of a folder that has the name of a checkpoint.
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the named models: task, size, license, and whether they are available locally."""
    from skipae_zoo import CHECKPOINTS

    rows = [_facts(entry) for entry in CHECKPOINTS]
    for row in rows:
        if row["problem"]:
            echo(f"skipae: {row['problem']}", err=True)
    if as_json:
        echo(*json.dumps(rows, indent=2).split("\n"))
        return
    table = [("name", "task", "size", "license", "state", "recipe")]
    table += [(r["name"], r["task"], _size(r["size"]), r["license"] or "-", r["state"], r["recipe"]) for r in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


@command.command()
@click.argument("name", metavar="NAME|DIR")
@json_option
def info(name: str, as_json: bool) -> None:
    """Show a model's network, layers, files and their sha256.  Makes no request."""
    from skipae.checkpoints import resolve
    from skipae_zoo import find_checkpoint

    entry = find_checkpoint(name)
    facts = _facts(entry) if entry else {}
    folder = _local(name)
    if folder is None and entry is None:
        resolve.find_folder(name, access=_no_requests())  # reports why it is missing
    if folder is not None:
        facts |= {"folder": str(folder), "size": _bytes(folder)} | _license(folder)
        facts |= resolve.load_config(folder).to_dict()
    if as_json:
        echo(*json.dumps(facts, indent=2).split("\n"))
        return
    if folder is not None:
        config = resolve.load_config(folder)
        shown = ("name", "task", "summary", "state", "size", "license", "problem", "folder", "command")
        facts = {key: facts[key] for key in shown if key in facts} | _described(config)
    for key, value in facts.items():
        if value is not None:
            name = key if "/" in key or "." in key else key.replace("_", " ")  # files keep their names
            echo(f"{name}: {_size(value) if key == 'size' else value}")


@command.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--to",
    "target",
    metavar="DIR",
    help="Copy each model to DIR/NAME, for SKIPAE_MIRROR=DIR elsewhere.",
)
@click.option("--revision", help="Commit sha, branch or tag on the Hub.  [default: the one this release pins, or main]")
@click.option("--safetensors", is_flag=True, help="Also fetch the weights for training frameworks.")
@options.console_options
def pull(names: tuple[str, ...], target: str | None, revision: str | None, safetensors: bool, console: Console) -> int:
    """Fetch models into the cache, check them, and print their folders.

    NAME is a named model, or org/name of a repository on the Hub.  A damaged file of the cache is fetched again.
    """
    from skipae.checkpoints import resolve
    from skipae.checkpoints.hub import Access

    options.refuse_empty("--to", target)
    code = 0
    for name in names:
        try:
            folder = resolve.find_folder(
                name,
                files="" if safetensors else resolve.INFERENCE,
                extra=("README.md", "LICENSE.md"),
                revision=revision,
                access=Access(notify=console.remark),
            )
            if safetensors and "model.safetensors" not in resolve.load_config(folder).files:
                console.say(f"{name} has no model.safetensors, only ONNX files")
            for problem in resolve.problems(folder, "" if safetensors else resolve.INFERENCE):
                raise ModelError(problem)
            if target is not None:
                folder = _copy(folder, Path(target) / _asked(name), safetensors)
            echo(folder)
        except ModelError as error:
            console.error(str(error))
            code = ModelError.exit_code
    return code


@command.command()
@click.argument("names", metavar="[NAME|DIR]...", nargs=-1)
@options.console_options
def verify(names: tuple[str, ...], console: Console) -> int:
    """Check the files of models by their sha256.  [default: all named models that are available locally]

    DIR is a model's folder, or a folder of models as written by 'models pull --to'.  Makes no request.
    """
    from skipae.checkpoints import resolve
    from skipae_zoo import CHECKPOINTS, find_checkpoint

    folders: dict[str, Path] = {}
    for name in names or [entry.name for entry in CHECKPOINTS]:
        here = Path(name).is_dir() and find_checkpoint(name) is None
        inside = sorted(file.parent for file in Path(name).glob("**/config.json")) if here else []
        if inside and inside[0] != Path(name):
            folders |= {str(folder): folder for folder in inside}
        elif (found := _local(name)) is not None:
            folders[name] = found
        elif names:
            resolve.find_folder(name, access=_no_requests())  # reports why it is missing
    code = 0
    for name, folder in folders.items():
        found_problems = resolve.problems(folder, "onnx/")
        for problem in found_problems:
            console.error(problem)
            code = ModelError.exit_code
        if not found_problems:
            echo(f"{name}: OK")
    return code


@command.command()
@click.argument("name", metavar="[NAME]", required=False)
def path(name: str | None) -> None:
    """Print the folder of a model that is available locally; without NAME, the folder of the cache."""
    from skipae.checkpoints import resolve

    if name is None:
        from huggingface_hub import constants

        echo(constants.HF_HUB_CACHE)
        return
    echo(resolve.find_folder(name, access=_no_requests()))


def _no_requests() -> Any:
    from skipae.checkpoints.hub import Access

    return Access(local_files_only=True)


def _local(name: str) -> Path | None:
    """Return its folder on this machine."""
    from skipae.checkpoints import resolve

    with suppress(ModelError):
        return resolve.find_folder(name, access=_no_requests())
    return None


def _facts(entry: NamedCheckpoint) -> dict[str, Any]:
    """Describe a named model, without a request."""
    from skipae.checkpoints import resolve

    folder, published = _local(entry.name), entry.published
    if folder is not None:
        state = "bundled" if folder.parent == resolve.BUNDLED else "here"
    else:
        state = "not installed" if published else "not published"
    return {
        "name": entry.name,
        "task": entry.task,
        "summary": entry.summary,
        "size": _bytes(folder) if folder else published.size if published else None,
        "license": published.license if published else None,
        "problem": None,
        "state": state,
        "revision": published.revision if published else None,
        "recipe": entry.recipe,
        "command": entry.command,
        "base_model": entry.base_model,
        "folder": str(folder) if folder else None,
    } | (_license(folder) if folder else {})


def _bytes(folder: Path) -> int:
    """Return the size of the ONNX files."""
    return sum(file.stat().st_size for file in (folder / "onnx").glob("*.onnx") if file.is_file())


def _license(folder: Path) -> dict[str, str | None]:
    """Return the ``license`` from the head of the card, and the ``problem`` with the folder, if any."""
    from skipae.checkpoints import resolve
    from skipae_zoo import read_text_file

    card = folder / "README.md"
    try:
        resolve.load_config(folder)
        head = read_text_file(card).split("\n---", 1)[0]
    except ModelError as error:
        return {"license": None, "problem": str(error)}
    except FileNotFoundError:
        return {"license": None, "problem": None}
    except OSError as error:
        return {"license": None, "problem": f"{card} cannot be read: {error.strerror}"}
    except UnicodeDecodeError:
        return {"license": None, "problem": f"{card} is not UTF-8 text: fetch the checkpoint again"}
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    license = fields.get("license")
    return {"license": fields.get("license_name", license) if license == "other" else license, "problem": None}


def _described(config: CheckpointConfig) -> dict[str, str]:
    """Return the contents of ``config.json`` as text."""
    network = config.architecture
    shape = f", m = {network.m}" if network.m else ""
    last = network.layers[-1]
    facts = {
        "network": f"{network.network}{shape}, n = {network.n}, shortcuts {network.shortcuts}",
        "layers": f"{len(network.layers)}, the last with {last.channels} channels, stride {last.total_stride}, "
        f"receptive field {last.receptive_field}",
    }
    if config.default_layer:
        facts["features"] = f"of {config.default_layer} by default"
    if config.labels:
        facts["classes"] = f"{len(config.labels)}: {', '.join(config.labels)}"
    return facts | {file: f"sha256 {digest}" for file, digest in config.files.items()}


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"


def _asked(name: str) -> Path:
    """Return where to copy it: only the requested name decides, not the name in the checkpoint."""
    from skipae.checkpoints import resolve

    path = resolve.expanded(name)
    if resolve.HUB_ID.fullmatch(name):
        return path
    return Path(path.resolve().name if path.name in ("", "..") else path.name)


def _copy(folder: Path, target: Path, safetensors: bool) -> Path:
    """Copy the files of a checkpoint folder; each is written completely or not at all, ``config.json`` last."""
    from skipae.checkpoints import resolve
    from skipae.files import remove_parts, replace_file

    wanted = re.compile(r"onnx/[^/]+\.onnx|model\.safetensors" if safetensors else r"onnx/[^/]+\.onnx")
    weights = [file for file in resolve.load_config(folder).files if wanted.fullmatch(file)]
    try:
        for file in (*weights, "README.md", "LICENSE.md", "preprocessor_config.json", "config.json"):
            if not (folder / file).is_file() or (target / file).resolve() == (folder / file).resolve():
                continue
            remove_parts((target / file).parent)
            with (folder / file).open("rb") as source:
                replace_file(target / file, partial(shutil.copyfileobj, source))
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror}; use --to with another folder") from error
    return target
