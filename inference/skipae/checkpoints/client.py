"""The Hub client's errors, and differences between its versions: 0.34 to 0.36 use ``requests``, later ones ``httpx``.

Several versions are supported because other packages limit the client (transformers 4 needs one below 1.0).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from skipae.errors import ModelError


class MissingError(ModelError):
    """The source does not contain a file, or no request is allowed and there is no local copy."""


def failure(error: Exception, text: str) -> ModelError:
    """Return the error of a request for a file that failed, with this message."""
    return MissingError(text) if status(error) == 404 else ModelError(text)


def http() -> Any:
    """Return the library by which the client makes requests: ``requests``, ``httpx`` or, from 1.31
    on, what replaced it.
    """
    from huggingface_hub import get_session

    return import_module(type(get_session()).__module__.partition(".")[0])


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions for requests without a complete response."""
    library = http()
    if hasattr(library, "TransportError"):
        return (library.TransportError,)
    errors = library.exceptions
    return (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError)


def broken_connections() -> tuple[type[Exception], ...]:
    """Return the exceptions after which a retry may help."""
    library = http()
    if hasattr(library, "TransportError"):
        return (library.ConnectError, library.TimeoutException, library.RemoteProtocolError)
    return transport_errors()


def proxy_error() -> type[Exception]:
    """Return the exception for a request that a proxy refused."""
    library = http()
    found: type[Exception] = getattr(library, "ProxyError", None) or library.exceptions.ProxyError
    return found


def size(repo: str, file: str, revision: str, endpoint: str, token: str | bool | None) -> int:
    """Ask the Hub for the size of a file in bytes; 0 where it does not say, or cannot be reached."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
    with suppress(*transport_errors()):  # the client tries again
        return get_hf_file_metadata(url, token=token).size or 0
    return 0


@contextmanager
def stream(
    url: str, headers: dict[str, str], auth: tuple[str, str] | None, timeout: float
) -> Iterator[tuple[Any, Any]]:
    """Return a response and an iterator over the bytes of its body, which are not kept."""
    from huggingface_hub import get_session

    session: Any = get_session()
    if hasattr(session, "stream") and callable(session.stream):
        with session.stream("GET", url, headers=headers, auth=auth, timeout=timeout) as response:
            yield response, response.iter_bytes()
    else:
        with session.get(url, headers=headers, auth=auth, timeout=timeout, stream=True) as response:
            yield response, response.iter_content(1 << 16)


def status(error: Exception) -> int:
    """Return the status of the response that caused an error, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def retry_advice(error: Exception) -> str:
    """Return the server's advice on when to retry."""
    with suppress(AttributeError):
        headers = error.response.headers  # type: ignore[attr-defined]
        limit = re.search(r"\bt=(\d+)", headers.get("ratelimit", ""))
        seconds = limit[1] if limit else headers.get("retry-after")
        return f", retry in {seconds} s" if seconds else ""
    return ""
