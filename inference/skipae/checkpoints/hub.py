"""Remote checkpoints: the Hugging Face Hub, its cache, and HTTP mirrors.

Only this module uses huggingface_hub (client.py covers its versions), and it is loaded only if a checkpoint is not
available locally.  That client handles requests, retries, resuming, the cache and progress bars.  It does not check
content, so every file that ``config.json`` lists is checked here by its sha256, after each download and each time it
is taken from the cache.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from skipae import __version__
from skipae.checkpoints import client
from skipae.console import first_line, redact
from skipae.errors import ModelError
from skipae.files import remove_parts, replace_file
from skipae_zoo import MAX_TEXT, ConfigError, read_config, sha256

log = logging.getLogger("skipae")

CONFIG = "config.json"
SHA = re.compile(r"[0-9a-f]{40}")
SERVER_ERRORS = 500
OFFLINE = (
    "and requests are forbidden (local_files_only or HF_HUB_OFFLINE): run 'skipae models pull' where there is a network"
)
USE_A_MIRROR = "set SKIPAE_MIRROR to a copy ('skipae models pull --to DIR' makes one)"
WAITS = (1, 4)
"""Seconds before each retry after a server error in response to a file's body, which the client does not retry."""

RETRIES = 5
"""Retries of a mirror's file, each after a second, that may bring no data."""

MAX_WEIGHTS = 16 << 30
"""Maximum size of a weight file, in bytes."""

ABANDONED = 3600.0
"""Seconds without a change after which nobody writes a half-downloaded file."""

GRACE = 2.0
"""Seconds that a download which is ended may take to remove the file that it writes."""

PERIOD, LEAST = 30.0, 16 << 10
"""A mirror is too slow where a period of this many seconds brings fewer bytes than this."""

PATIENCE = 180.0
"""A download that brings fewer than ``LEAST`` bytes in this many seconds is given up, also one of single bytes, each of
which extends the client's own limit.  It is longer than all of the client's retries together."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to access the Hub and mirrors."""

    cache_dir: str | os.PathLike[str] | None = None
    """Folder of the Hub's cache; None takes the Hub client's own (``HF_HUB_CACHE``, ``HF_HOME``)."""
    token: str | bool | None = None
    """For private and gated repositories; None uses that of ``hf auth login`` or ``HF_TOKEN``, False none."""
    local_files_only: bool = False
    """Make no request, as with ``HF_HUB_OFFLINE=1``."""
    notify: Callable[[str], None] | None = None
    """Called with a line about each download; by default it goes to the log "skipae"."""

    @property
    def offline(self) -> bool:
        """Whether requests are forbidden."""
        from huggingface_hub import constants

        return self.local_files_only or bool(constants.HF_HUB_OFFLINE)

    def say(self, text: str) -> None:
        """Pass on a remark."""
        (self.notify or log.info)(text)


class _AbandonedError(BaseException):
    """Ends a thread."""


class DownloadSource(ABC):
    """A place from which checkpoint folders are downloaded."""

    where: str
    """Its name in messages."""

    def __init__(self, access: Access) -> None:
        """Keep ``access``, which says how to access the source."""
        self.access = access
        self.received = 0
        """Bytes of the bodies of all files."""
        self.abandoned = False

    def count(self, size: int) -> None:
        """Add to the bytes received; ends an abandoned download, which nobody waits for."""
        self.received += size
        if self.abandoned:
            raise _AbandonedError

    def progress(self) -> int:
        """Return a number that changes as files arrive, by the bytes that do."""
        return self.received

    @abstractmethod
    def find(self, file: str) -> Path | None:
        """Return the local copy of a file, without a request; None if it is missing or may be outdated."""

    @abstractmethod
    def download(self, file: str) -> Path:
        """Download a file; errors: see :meth:`fetch`."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[object]:
        """Held by the process that replaces damaged files."""

    def pin(self, folder: Path) -> None:  # noqa: B027 - a mirror has nothing to pin
        """Take further files from the same commit as those in ``folder``."""

    def fetch(self, prefix: str, *, config_digest: str | None = None, extra: tuple[str, ...] = ()) -> Path:
        """Return the local folder of a checkpoint, after downloading what is missing.

        Args:
            prefix: the weight files whose path starts with it are included.
            config_digest: sha256 that ``config.json`` must have.
            extra: further files to include where the source has them.

        Raises:
            ModelError: ``config.json`` or a weight file is unavailable; the message says why and what to do.
        """
        folder = self.get(CONFIG, config_digest).parent
        self.pin(folder)
        try:
            config = read_config(folder)
        except ConfigError as error:
            raise ModelError(f"{self.where}: {error}") from error
        for file, digest in config.files.items():
            if file.startswith(prefix):
                self.get(file, digest)
        for file in extra:
            try:
                self.get(file)
            except ModelError as error:  # the checkpoint works without it
                if not isinstance(error, client.MissingError):
                    self.access.say(str(error))
        return folder

    def get(self, file: str, digest: str | None = None) -> Path:
        """Return a file with this sha256, local or downloaded; a damaged one is removed and downloaded once more."""
        path = self.find(file) or self._download(file)
        if digest is None:
            return path
        with suppress(FileNotFoundError):  # another process has just removed it as damaged
            if sha256(path) == digest:
                return path
        try:
            with self.lock():
                for _ in range(2):
                    path = self.find(file) or self._download(file)  # another process may have replaced it
                    found = sha256(path)
                    if found == digest:
                        return path
                    _remove(path)
                    self.access.say(f"{path} had the sha256 {found[:12]}..., not {digest[:12]}..., and was removed")
        except OSError as error:
            if error.errno is None:  # not the system's
                raise
            raise ModelError(reason(error, self, file)) from error
        raise ModelError(
            f"{file} from {self.where} is damaged (sha256 {found[:12]}..., expected {digest[:12]}...) and was removed: "
            f"try again later, or from another network or mirror"
        )

    def _download(self, file: str) -> Path:
        """Download a file within a limit of time, in another thread, which ends with this one."""
        outcome: Future[Path] = Future()

        def download() -> None:
            try:
                outcome.set_result(self.download(file))
            except BaseException as error:
                outcome.set_exception(error)

        thread = Thread(target=download, name="skipae-download", daemon=True)
        try:
            thread.start()
            while True:
                before = self.progress()
                if wait_for([outcome], timeout=PATIENCE).done:
                    return outcome.result()
                if abs(self.progress() - before) < LEAST:
                    raise ModelError(f"{self.where} is too slow for {file}: try again later, or {USE_A_MIRROR}")
        except BaseException:
            self.abandoned = not outcome.done()
            if thread.ident is not None:
                thread.join(GRACE)  # it removes the file that it writes
            raise


class Hub(DownloadSource):
    """A repository on the Hub, accessed through its cache."""

    def __init__(self, repo: str, revision: str, access: Access) -> None:
        """Name a repository.

        Args:
            repo: ``org/name``.
            revision: commit sha, branch or tag.
            access: how to access the Hub.

        Raises:
            ModelError: ``repo`` is not a valid name.
        """
        from huggingface_hub import constants
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        super().__init__(access)
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ModelError(f"{repo!r} cannot be the name of a repository on the Hub: {first_line(error)}") from error
        self.repo = repo
        self.revision = revision
        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self.where = f"{repo} on {redact(self.endpoint)}"
        self.cache = Path(access.cache_dir or constants.HF_HUB_CACHE)

    def fetch(self, prefix: str, *, config_digest: str | None = None, extra: tuple[str, ...] = ()) -> Path:
        """Fetch, and remove what killed runs of the client left: each run writes under a name of its own."""
        folder = super().fetch(prefix, config_digest=config_digest, extra=extra)
        for part in (*folder.parents[1].glob("blobs/*.incomplete"), *folder.parents[1].glob("refs/**/*.tmp")):
            with suppress(OSError):  # another process was faster, or the cache is read-only
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
        return folder

    def pin(self, folder: Path) -> None:
        """The cache's folders are named by their commit."""
        self.revision = folder.name

    def progress(self) -> int:
        """Include files that other processes are downloading, because the client waits for them."""
        size = 0
        for part in (self.cache / f"models--{self.repo.replace('/', '--')}" / "blobs").glob("*.incomplete"):
            with suppress(OSError):  # it has just become whole
                size += part.stat().st_size
        return self.received + size

    def find(self, file: str) -> Path | None:
        """Look in the cache; a branch or tag may have moved, so it is used from there only when offline."""
        from huggingface_hub import try_to_load_from_cache

        if not SHA.fullmatch(self.revision) and not self.access.offline:
            return None
        found = try_to_load_from_cache(self.repo, file, cache_dir=self.cache, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def download(self, file: str) -> Path:
        """Download into the cache; for a branch or tag, fall back to the cache if the Hub cannot be reached."""
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.utils import tqdm

        class Bounded(tqdm):
            """The client's progress bar, which counts every chunk before it is written."""

            received = 0

            def update(self, n: float | None = 1) -> bool | None:
                self.received += int(n or 0)
                source.count(int(n or 0))
                if self.received > most_bytes(file):
                    raise _too_large(source, file)
                return super().update(n)  # type: ignore[no-any-return]

        source = self
        takes_bar = "tqdm_class" in signature(hf_hub_download).parameters
        bounded: dict[str, Any] = {"tqdm_class": Bounded} if takes_bar else {}
        if self.access.offline:
            raise client.MissingError(
                f"{file} of {self.repo} (revision {self.revision}) is not in the cache {self.cache}, {OFFLINE}"
            )
        if file == CONFIG and try_to_load_from_cache(self.repo, file, self.cache, self.revision) is None:
            self.access.say(f"fetching {self.where}, revision {self.revision[:12]}, into {self.cache}")
        for wait in (*WAITS, None):
            try:
                # Clients before 1.2 do not use the bar above.
                place = self.repo, file, self.revision, self.endpoint, self.access.token
                if not bounded and client.size(*place) > most_bytes(file):
                    raise _too_large(self, file)
                path = hf_hub_download(
                    self.repo,
                    file,
                    revision=self.revision,
                    cache_dir=self.cache,
                    token=self.access.token,
                    endpoint=self.endpoint,
                    library_name="skipae",
                    library_version=__version__,
                    **bounded,
                )
                return Path(path)
            except ModelError:
                raise
            except Exception as error:  # the client's exceptions have no common base class
                passes = not bounded and isinstance(error, client.broken_connections())  # as later clients do
                if wait is not None and (passes or client.status(error) >= SERVER_ERRORS):
                    time.sleep(wait)
                    continue
                raise client.failure(error, reason(error, self, file)) from error
        raise AssertionError

    def lock(self) -> AbstractContextManager[object]:
        """Lock a file next to the client's own locks."""
        from huggingface_hub.utils import WeakFileLock

        path = self.cache / ".locks" / f"skipae--{self.repo.replace('/', '--')}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return WeakFileLock(path)


class Mirror(DownloadSource):
    """A folder on a web server, copied to the Hub client's folder for other assets."""

    def __init__(self, url: str, name: str, access: Access) -> None:
        """Name a checkpoint on a mirror.

        Args:
            url: URL of the folder of checkpoint folders.
            name: the checkpoint's name there.
            access: how to access the mirror.

        Raises:
            ModelError: ``url`` is not a URL.
        """
        from huggingface_hub import cached_assets_path

        super().__init__(access)
        self.url = self.where = f"{redact(url).rstrip('/')}/{name}"
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise ModelError(f"{redact(url)} is not a URL ({error}): correct SKIPAE_MIRROR") from None
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        self._auth = (user, password) if parts.username is not None else None
        assets = Path(access.cache_dir) if access.cache_dir else None
        self.folder = cached_assets_path("skipae", "mirror", quote(self.where, safe=""), assets_dir=assets)

    def find(self, file: str) -> Path | None:
        """Return the copy; that of ``config.json`` may be outdated, others are checked against ``config.json``."""
        path = self.folder / file
        return path if path.is_file() and (file != CONFIG or self.access.offline) else None

    def download(self, file: str) -> Path:
        """Download from the mirror; :class:`FileNotFoundError` if the mirror lacks the checkpoint."""
        path = self.folder / file
        if self.access.offline and file == CONFIG:
            raise FileNotFoundError(path)
        if self.access.offline:
            raise client.MissingError(f"{file} of {self.where} is not in {self.folder}, {OFFLINE}")
        try:
            remove_parts(path.parent)
            replace_file(path, partial(self._receive, file))
        except ModelError:
            raise
        except Exception as error:
            if file == CONFIG and client.status(error) == 404:
                raise FileNotFoundError(path) from error
            if file == CONFIG and path.is_file() and isinstance(error, client.transport_errors()):
                return path
            raise client.failure(error, reason(error, self, file)) from error
        return path

    def _receive(self, file: str, target: BinaryIO) -> None:
        """Download a file of the mirror to ``target``, resuming after failures, within limits of size and time."""
        from huggingface_hub import constants
        from huggingface_hub.utils import tqdm

        most = most_bytes(file)
        since, before, left = time.monotonic(), 0, RETRIES
        with tqdm(unit="B", unit_scale=True, desc=file, disable=None) as bar:  # type: ignore[no-untyped-call]
            while True:
                start = target.tell()
                headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
                try:
                    with client.stream(
                        f"{self.url}/{quote(file)}", headers, self._auth, constants.HF_HUB_DOWNLOAD_TIMEOUT
                    ) as (response, chunks):
                        response.raise_for_status()
                        if start and response.status_code != 206:  # the server ignored the range: start over
                            target.seek(0)
                            target.truncate()
                            before = 0
                        bar.total = target.tell() + int(response.headers.get("content-length", 0)) or None
                        for chunk in chunks:
                            target.write(chunk)
                            self.count(len(chunk))
                            bar.update(len(chunk))
                            size, now = target.tell(), time.monotonic()
                            if size > most:
                                raise _too_large(self, file)
                            if now - since > PERIOD:
                                if size - before < LEAST:
                                    raise ModelError(
                                        f"{self.where} is too slow for {file}: try again later or use another mirror"
                                    )
                                since, before = now, size
                    return
                except client.broken_connections():
                    left = RETRIES if target.tell() > start else left - 1
                    if left < 0:
                        raise
                    time.sleep(1)

    def lock(self) -> AbstractContextManager[object]:
        """Lock a file next to the copy."""
        from huggingface_hub.utils import WeakFileLock

        return WeakFileLock(self.folder.with_name(f"{self.folder.name}.lock"))


def most_bytes(file: str) -> int:
    """Return the maximum size of a file of a checkpoint, in bytes."""
    return MAX_WEIGHTS if file.endswith((".onnx", ".safetensors")) else MAX_TEXT


def _too_large(source: DownloadSource, file: str) -> ModelError:
    limit = most_bytes(file) >> 20
    return ModelError(f"{file} of {source.where} is larger than the {limit} MiB allowed: use another checkpoint")


def _remove(path: Path) -> None:
    """Delete a file of the cache: the link in the snapshot and the blob that it points to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink(missing_ok=True)
        path = target
    path.unlink(missing_ok=True)


def reason(error: Exception, source: DownloadSource, file: str) -> str:
    """Explain in one line why a request for a file failed, and what to do; takes any exception of the Hub's client."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError | RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the cause
    where, status = source.where, client.status(error)
    log_in = "log in with 'hf auth login' or set HF_TOKEN"
    if isinstance(source, Hub):
        if isinstance(error, errors.GatedRepoError):
            page = f"{redact(source.endpoint)}/{source.repo}"
            return f"{where} is gated: accept its terms on {page}, then {log_in}"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"{where} does not exist, or is private, and is not a checkpoint here: check the name, or {log_in}"
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{where} has no revision {source.revision}; use one of its commits, branches or tags"
    if status == 404:
        return f"{where} does not contain {file}: it is not a complete skipae checkpoint"
    if status in (401, 403):
        return f"{where} refuses access ({status}): the token is wrong, has expired or may not read it; {log_in}"
    if status == 407 or isinstance(error, client.proxy_error()):
        return f"the proxy refuses to reach {where} ({first_line(error)}): check HTTPS_PROXY and NO_PROXY"
    if status == 429:
        wait = client.retry_advice(error)
        return f"{where} refuses more requests (429){wait}: try again later, {log_in} for more, or {USE_A_MIRROR}"
    if status:
        return f"{where} answers {status} for {file}: try again later, or {USE_A_MIRROR}"
    if isinstance(error, client.transport_errors()):
        if "CERTIFICATE" in str(error).upper():
            return f"the certificate of {where} is not trusted: set SSL_CERT_FILE to your network's CA file"
        return (
            f"{where} cannot be reached ({first_line(error)}): check the network, set HTTPS_PROXY behind a proxy, "
            f"or {USE_A_MIRROR}"
        )
    if isinstance(error, errors.FileMetadataError):
        return f"the server of {where} is not a Hub: check HF_ENDPOINT, and for a login page or proxy in between"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full: free space for {file} of {where}, or set HF_HOME to a folder on another disk"
        if error.errno is None:  # the client's own error: the body ended early
            return f"{file} of {where} arrived incomplete: try again"
        name = error.filename or "the cache"
        return f"{name} cannot be written ({error.strerror}): set HF_HOME to a writable folder"
    return f"{file} of {where} failed: {first_line(error)}"
