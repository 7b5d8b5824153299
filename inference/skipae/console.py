"""The one place where text reaches a terminal, and the one where passwords are taken out of it."""

from __future__ import annotations

import json
import re
import sys
from typing import Any
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def clean(text: str) -> str:
    """Text without what would command a terminal, turn its direction or break its line."""
    from skipae_zoo import UNSAFE

    return UNSAFE.sub(" ", text.encode(errors="backslashreplace").decode())  # a file name may hold half characters


def one_line(text: str) -> str:
    """A message as it is shown: on one line, whatever characters a file name holds, and without passwords."""
    return clean(redact(text)).strip()


def echo(*lines: object, err: bool = False) -> None:
    """Write lines to standard output, or to standard error; the one way to write text that is not ours alone.

    Characters that the stream's encoding lacks are written as escapes.
    """
    import click

    text = "\n".join(clean(redact(str(line))) for line in lines)
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def to_json(value: Any) -> str:
    """JSON on one line; legible, but for what would command a terminal, which is escaped."""
    from skipae_zoo import UNSAFE

    def escape(match: re.Match[str]) -> str:
        return "".join(f"\\u{ord(character):04x}" for character in match[0])

    return UNSAFE.sub(escape, json.dumps(value, ensure_ascii=False))


def redact(text: str) -> str:
    """Text whose URLs have no user names and passwords."""
    return _URL.sub(lambda match: _without_user(match[0]), text)


def _without_user(url: str) -> str:
    scheme, _, rest = url.partition("://")
    try:
        parts = urlsplit(url)
        authority = parts.netloc
        if "@" not in authority:
            _ = parts.port  # a password with a slash makes the host end too early, inside the password
            return url
    except ValueError:
        authority = rest
    return f"{scheme}://{authority.rpartition('@')[2]}{rest[len(authority) :]}"
