"""A small Hugging Face Hub on the loopback interface, for the real client: files, uploads, and faults to order.

Files under ``/mirror/`` are served plainly, as any web server would.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".onnx", ".safetensors", ".png")


@dataclass
class Repository:
    """Commits, oldest first, each a mapping from path to content; ``main`` is the last, others are pull requests."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    token: str | None = None
    """Needed to see it."""
    gated: bool = False

    def commit(self, changes: dict[str, bytes], *, to_main: bool = True) -> str:
        files = {**self.commits.get(self.main, {}), **changes}
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files.items())}".encode()).hexdigest()
        self.commits[sha] = files
        if to_main:
            self.main = sha
        return sha


@dataclass
class Fault:
    """What happens to the next ``times`` requests of this kind."""

    method: str
    path: str
    """Regular expression."""
    what: int | str
    """A status, ``drop`` (half the body, then the connection closes), ``flip`` (one bit), ``stall``, ``drip`` (a byte
    every 20 ms), ``dribble`` (the same of the headers, for 10 s) or ``gzip`` (the body is packed, though it was asked
    for as it is)."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class HubServer(ThreadingHTTPServer):
    """Use as a context manager; ``url`` is what HF_ENDPOINT must be."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.mirror: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.faults: list[Fault] = []
        self.large: dict[str, bytes] = {}
        self.created: list[dict[str, object]] = []
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def add(self, repo: str, folder: Path) -> str:
        """Commit a folder; the sha."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.repositories.setdefault(repo, Repository()).commit(files)

    def fault(self, what: int | str, path: str = "", method: str = "GET", times: int = 1, **headers: str) -> None:
        self.faults.append(Fault(method, path, what, times, headers))

    def take_requests(self) -> list[str]:
        """Method and path of the requests since the last call."""
        taken, self.requests[:] = list(self.requests), []
        return taken


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.handle_one()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_one(self) -> None:
        hub = self.server
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        with hub.lock:
            hub.requests.append(f"{self.command} {path}")
            hub.authorizations.append(self.headers["authorization"])
            fault = next(
                (f for f in hub.faults if f.times > 0 and f.method == self.command and re.search(f.path, path)), None
            )
            if fault:
                fault.times -= 1
        self.what = fault.what if fault else None
        if fault and isinstance(fault.what, int):
            self.send(fault.what, b"", {k.replace("_", "-"): v for k, v in fault.headers.items()})
        elif match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*match.groups())
        elif path.startswith("/mirror/"):
            content = hub.mirror.get(path.removeprefix("/mirror/"))
            self.send(404 if content is None else 200, content or b"")
        elif self.command == "PUT":
            hub.large[path.removeprefix("/large/")] = body
            self.send(200, b"")
        elif self.command == "POST":
            self.upload(path, body)
        else:
            self.send_json({} if path == "/api/agent-harnesses" else {"error": path}, 404)

    def resolve(self, name: str, revision: str, file: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.token and self.headers["authorization"] != f"Bearer {repository.token}"):
            return self.send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if repository.gated:
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        sha = repository.main if revision == "main" else revision
        if sha not in repository.commits:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        content = repository.commits[sha].get(file)
        if content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob}"'}
        if file.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
        return self.send(200, content, headers)

    def upload(self, path: str, body: bytes) -> None:
        hub = self.server
        if self.headers["authorization"] != "Bearer write":
            return self.send_json({"error": "Invalid credentials"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                return self.send_json({"url": f"{hub.url}/{name}"}, 409)
            hub.repositories[name] = Repository()
            return self.send_json({"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self.send_json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.send_json({"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", path)
        if match is None or match[1] not in hub.repositories:
            return self.send_json({"error": path}, 404)
        repository = hub.repositories[match[1]]
        if match[2] == "preupload":
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in json.loads(body)["files"]
            ]
            return self.send_json({"files": files})
        changes = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = hub.large[value["oid"]]
        pull_request = "create_pr" in self.path
        sha = repository.commit(changes, to_main=not pull_request)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{match[1]}/commit/{sha}"}
        if pull_request:
            answer["pullRequestUrl"] = f"{hub.url}/{match[1]}/discussions/1"
        return self.send_json(answer)

    def send_json(self, data: object, status: int = 200) -> None:
        self.send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        headers = dict(headers or {})
        start = 0
        if status == 200 and (asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.what == "stall":
            time.sleep(3)
            self.close_connection = True
            return
        if self.what == "dribble":
            with suppress(OSError):  # it is not waited for
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                for _ in range(200):
                    self.wfile.write(b"a")
                    time.sleep(0.05)
            self.close_connection = True
            return
        if self.what == "flip" and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        content = content[start:]
        if self.what == "gzip":
            content = gzip.compress(content)
            headers["Content-Encoding"] = "gzip"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.what == "drop":
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.what == "drip":
            with suppress(OSError):  # it is not waited for
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
            return
        self.wfile.write(content)
