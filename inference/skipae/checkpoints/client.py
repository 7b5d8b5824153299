"""What differs between versions of the Hub's client: 0.34 to 0.36 use ``requests``, later ones ``httpx``.

Other packages hold the client back (transformers 4 needs one below 1.0), so that one version is not enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def http() -> Any:
    """The library by which the client makes requests: ``requests``, ``httpx`` or, from 1.31 on, what replaced it."""
    from huggingface_hub import get_session

    return import_module(type(get_session()).__module__.partition(".")[0])


def transport_errors() -> tuple[type[Exception], ...]:
    """Exceptions where no whole response came."""
    library = http()
    if hasattr(library, "TransportError"):
        return (library.TransportError,)
    errors = library.exceptions
    return (errors.ConnectionError, errors.Timeout, errors.ChunkedEncodingError)


def broken_connections() -> tuple[type[Exception], ...]:
    """Exceptions after which another try may help."""
    library = http()
    if hasattr(library, "TransportError"):
        return (library.ConnectError, library.TimeoutException, library.RemoteProtocolError)
    return transport_errors()


def proxy_error() -> type[Exception]:
    """The exception where a proxy refuses."""
    library = http()
    found: type[Exception] = getattr(library, "ProxyError", None) or library.exceptions.ProxyError
    return found


@contextmanager
def stream(
    url: str, headers: dict[str, str], auth: tuple[str, str] | None, timeout: float
) -> Iterator[tuple[Any, Any]]:
    """A response, and an iterator over the bytes of its body, which are not kept."""
    from huggingface_hub import get_session

    session: Any = get_session()
    if hasattr(session, "stream") and callable(session.stream):
        with session.stream("GET", url, headers=headers, auth=auth, timeout=timeout) as response:
            yield response, response.iter_bytes()
    else:
        with session.get(url, headers=headers, auth=auth, timeout=timeout, stream=True) as response:
            yield response, response.iter_content(1 << 16)
