"""The pip command that adds an extra, depending on how skipae was installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_CHECKOUT = Path(__file__).parents[2]


def install_command(extra: str) -> str:
    """Return ``pip install`` with an extra, from the clone, wheel, repository or index that skipae came from."""
    return f'pip install "{requirement(extra)}"'


def requirement(extra: str = "") -> str:
    """Return pip's requirement for this skipae, with an extra."""
    extras = f"[{extra}]" if extra else ""
    if (_CHECKOUT / "pyproject.toml").is_file():  # an editable install, or not installed
        return f"{_shown(_CHECKOUT)}{extras}"
    origin = _origin()
    url = str(origin.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme == "file" and "vcs_info" not in origin and Path(unquote(parts.path)).exists():
        return f"{_shown(Path(unquote(parts.path)))}{extras}"
    if parts.scheme in ("http", "https") or "vcs_info" in origin:
        kind = origin.get("vcs_info", {}).get("vcs")
        return f"skipae{extras} @ {f'{kind}+' if kind else ''}{url}"
    return f"skipae{extras}"


def _origin() -> dict[str, Any]:
    """Return pip's record of an install that did not come from an index (PEP 610)."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution("skipae").read_text("direct_url.json")
        origin = json.loads(text) if text else {}
    except (PackageNotFoundError, ValueError, OSError):
        return {}
    return origin if isinstance(origin, dict) else {}


def _shown(path: Path) -> str:
    try:
        return "." if path.samefile(Path.cwd()) else str(path)
    except OSError:
        return str(path)
