"""Check text from a checkpoint (names, labels, file paths), which is untrusted."""

from __future__ import annotations

import re

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters; ESC and U+009B begin a terminal's commands
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text around them
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff]+"  # halves of a pair: not text
)
"""Characters that are not allowed in names and never sent to a terminal."""

MAX_NAME = 96
"""Maximum length of a checkpoint's name, as on the Hub."""

MAX_LABEL = 200
"""Maximum length of a class name."""

MAX_PATH = 200
"""Maximum length of a file's path in a checkpoint folder."""


def flaw_of_text(text: str, longest: int) -> str | None:
    """Return what is wrong with one line of text, or None."""
    if not text.strip():
        return "is empty"
    if len(text) > longest:
        return f"has {len(text)} characters; at most {longest} are allowed"
    return "has characters that cannot be printed" if UNSAFE.search(text) else None


def flaw_of_name(name: str) -> str | None:
    """Return what is wrong with a checkpoint's name, or None; a name without a flaw is safe as a folder name."""
    if re.search(r"[/\\:]", name) or name in (".", ".."):
        return "is a path; a name has no '/', '\\' or ':'"
    return flaw_of_text(name, MAX_NAME)


def flaw_of_path(path: str) -> str | None:
    """Return what is wrong with a file's path, or None; a path without a flaw stays in the folder it is relative to."""
    if re.search(r"[\\:]", path) or {"", ".", ".."} & set(path.split("/")):
        return "does not name a file inside the folder"
    return flaw_of_text(path, MAX_PATH)


def shown(value: object) -> str:
    """Return an untrusted value for a message: escaped and shortened."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
