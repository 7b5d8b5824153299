"""Write a page per command from its ``--help``: ``python docs/make_command_pages.py``.

With ``--check`` nothing is written; pages that are not what ``--help`` says are named, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

PAGES = Path(__file__).parent / "commands"
WIDTH = 100


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Each command's full name and its help, those of a group after the group's own."""
    context = click.Context(
        command,
        parent,
        info_name=name,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from helps(found, child, context)


def pages() -> dict[str, str]:
    """Text of each page by file name."""
    from skipae.cli import main
    from skipae_train.cli import cli

    texts: dict[str, str] = {}
    index = ["# Commands", "", "Written by `python docs/make_command_pages.py` from `--help`.", ""]
    for program, group in (("skipae", main), ("skipae-train", cli)):
        for path, text in helps(group, program):
            words = path.split()
            file = "-".join(words[:2]) + ".md"
            if len(words) == 2:
                first = " ".join(text.split("\n\n")[1].split())
                index.append(f"- [`{path}`]({file}): {first}")
            if len(words) > 1:
                texts[file] = texts.get(file, "") + f"{'#' * (len(words) - 1)} {path}\n\n```text\n{text}\n```\n\n"
    texts = {file: text.rstrip() + "\n" for file, text in texts.items()}
    return texts | {"README.md": "\n".join(index) + "\n"}


def main() -> int:
    """Write or check the pages."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in PAGES.glob("*.md")}
    wrong = sorted(name for name in {*wanted, *there} if wanted.get(name) != there.get(name))
    if "--check" in sys.argv[1:]:
        for name in wrong:
            sys.stderr.write(f"{PAGES / name} is not what --help says: run python docs/make_command_pages.py\n")
        return 1 if wrong else 0
    PAGES.mkdir(exist_ok=True)
    for name in wrong:
        if name in wanted:
            (PAGES / name).write_text(wanted[name], encoding="utf-8")
        else:
            (PAGES / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
