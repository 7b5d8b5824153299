"""Fetching: the real Hub client against the server of hub_server.py.  No test needs the internet."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants
from PIL import Image

from conftest import tiny_graph, write_checkpoint
from hub_server import HubServer
from skipae import ModelError, cli, from_pretrained
from skipae.checkpoints import client, hub, resolve
from skipae.checkpoints.hub import Access
from skipae.checkpoints.resolve import find_folder
from skipae.console import one_line, redact, to_json
from skipae.engine.onnx_subgraph import has_external_data
from skipae.files import PART
from skipae_zoo import CHECKPOINTS, MAX_TEXT, NamedCheckpoint, Published, sha256

CONFIG, MODEL, FEATURES = "config.json", "onnx/model.onnx", "onnx/features.onnx"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with all that is published."""
    folder = tmp_path_factory.mktemp("published") / "tiny"
    contents = {FEATURES: b"features" * 999, "model.safetensors": b"weights" * 999}
    write_checkpoint(folder, tiny_graph(), name="skipae-imagenet")
    config = json.loads((folder / CONFIG).read_text())
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        config["files"][name] = sha256(folder / name)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


@pytest.fixture(autouse=True)
def only_the_default_is_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Named checkpoints are fetched, whichever of them the repository has by now."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / resolve.DEFAULT).symlink_to(resolve.BUNDLED / resolve.DEFAULT)
    monkeypatch.setattr(resolve, "BUNDLED", folder)


def publish(monkeypatch: pytest.MonkeyPatch, server: HubServer, folder: Path) -> str:
    """Put a folder on the server as skipae-imagenet, and pin it."""
    sha = server.add("skipae/skipae-imagenet", folder)
    entry = NamedCheckpoint(
        "skipae-imagenet",
        "restoration",
        "for features",
        "imagenet",
        published=Published(sha, sha256(folder / CONFIG), 123_456, "apache-2.0"),
    )
    entries = tuple(entry if e.name == entry.name else e for e in CHECKPOINTS)
    for module in ("skipae_zoo", "skipae_zoo.checkpoints", "skipae.checkpoints.resolve"):
        monkeypatch.setattr(f"{module}.CHECKPOINTS", entries)
    return sha


def same(found: Path, folder: Path, *files: str) -> None:
    for file in files:
        assert (found / file).read_bytes() == (folder / file).read_bytes()


def requests_for(sha: str, *files: str, repo: str = "skipae/skipae-imagenet") -> list[str]:
    return [f"{method} /{repo}/resolve/{sha}/{file}" for file in files for method in ("HEAD", "GET")]


def test_every_command_says_what_it_fetches(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path, tmp_path: Path
) -> None:
    publish(monkeypatch, server, whole)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 8), "gray").save("a.png")
    words = ["features", "a.png", "-o", "out", "--model", "skipae-imagenet", "--dry-run"]
    shown = CliRunner().invoke(cli.main, words)
    assert "skipae: fetching skipae/skipae-imagenet on " in shown.stderr, shown.stderr
    assert shown.exit_code == 0, shown.stderr


def test_requests_of_a_first_and_of_a_cached_load(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path
) -> None:
    sha = publish(monkeypatch, server, whole)
    said: list[str] = []
    model = from_pretrained("skipae-imagenet", device="cpu", notify=said.append)
    assert model.denoise(np.zeros((4, 4), np.uint8)).shape == (4, 4)
    assert server.take_requests() == requests_for(sha, CONFIG, MODEL, FEATURES)
    (line,) = said
    assert line.startswith(f"fetching skipae/skipae-imagenet on {server.url}, revision {sha[:12]}, into ")
    same(model.folder, whole, CONFIG, MODEL, FEATURES)

    assert from_pretrained("skipae-imagenet", device="cpu", notify=said.append).folder == model.folder
    assert find_folder("skipae-imagenet", revision=sha) == model.folder
    assert server.take_requests() == [] and len(said) == 1

    # For training, the rest of the files is fetched then.
    same(find_folder("skipae-imagenet", files="model.safetensors"), whole, "model.safetensors")
    assert server.take_requests() == requests_for(sha, "model.safetensors")


def test_a_repository_of_one_s_own_asks_for_its_config_alone(server: HubServer, whole: Path) -> None:
    first = server.add("someone/net", whole)
    folder = find_folder("someone/net")
    assert folder.name == first
    assert len(server.take_requests()) == 6
    assert find_folder("someone/net") == folder
    assert server.take_requests() == ["HEAD /someone/net/resolve/main/config.json"]
    server.repositories["someone/net"].commit({"README.md": b"new"})
    assert find_folder("someone/net").name != first
    # The same content under another commit is linked, not fetched again.
    assert [r for r in server.take_requests() if r.startswith("GET")] == []
    assert find_folder("someone/net", revision=first) == folder


def test_without_requests(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path) -> None:
    sha = publish(monkeypatch, server, whole)
    only = Access(local_files_only=True)
    with pytest.raises(ModelError, match=r"config\.json .*is not in the cache .*skipae models pull"):
        find_folder("skipae-imagenet", access=only)
    with pytest.raises(ModelError, match="is not in the cache"):
        from_pretrained("someone/net", local_files_only=True)
    assert server.take_requests() == []
    server.add("someone/net", whole)
    folder = find_folder("skipae-imagenet")
    other = find_folder("someone/net")
    server.take_requests()
    assert find_folder("skipae-imagenet", access=only) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_folder("skipae-imagenet") == folder
    assert find_folder("skipae-imagenet", revision=sha) == folder
    assert find_folder("someone/net") == other
    assert server.take_requests() == []


def test_private_and_gated(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path) -> None:
    server.add("someone/net", whole)
    server.repositories["someone/net"].token = "secret"
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ModelError, match=r"someone/net .* does not exist, or is private.*hf auth login"):
        find_folder("someone/net")
    same(find_folder("someone/net", access=Access(token="secret")), whole, MODEL)
    server.add("someone/gated", whole)
    server.repositories["someone/gated"].gated = True
    with pytest.raises(ModelError, match=r"is gated: accept its terms on http.*/someone/gated"):
        find_folder("someone/gated")


@pytest.mark.parametrize(
    ("what", "method", "path", "times", "headers", "message"),
    [
        (401, "HEAD", CONFIG, 9, {"X_Error_Message": "Invalid credentials in Authorization header"}, r"access \(401\)"),
        (403, "HEAD", CONFIG, 9, {}, r"refuses access \(403\): the token"),
        (404, "HEAD", CONFIG, 9, {"X_Error_Code": "EntryNotFound"}, r"does not contain config\.json: it is not"),
        (404, "HEAD", CONFIG, 9, {"X_Error_Code": "RevisionNotFound"}, "has no revision"),
        (407, "HEAD", CONFIG, 9, {}, "proxy refuses"),
        (429, "HEAD", CONFIG, 99, {"ratelimit": '"api";r=0;t=55'}, r"\(429\), retry in 55 s: try again later"),
        (429, "GET", MODEL, 99, {"Retry_After": "7"}, r"\(429\), retry in 7 s"),
        (503, "HEAD", CONFIG, 99, {}, "answers 503 for config.json: try again later"),
        (502, "GET", MODEL, 99, {}, "answers 502 for onnx/model.onnx"),
        ("drop", "GET", MODEL, 99, {}, "cannot be reached|arrived incomplete"),
        ("stall", "GET", MODEL, 99, {}, "cannot be reached"),
        ("flip", "GET", MODEL, 99, {}, "onnx/model.onnx from .* is damaged .* and was removed"),
        ("flip", "GET", CONFIG, 99, {}, "config.json from .* is damaged"),
    ],
)
def test_faults_that_stay(
    monkeypatch: pytest.MonkeyPatch,
    server: HubServer,
    whole: Path,
    what: int | str,
    method: str,
    path: str,
    times: int,
    headers: dict[str, str],
    message: str,
) -> None:
    publish(monkeypatch, server, whole)
    if what == "stall":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    server.fault(what, path, method, times, **headers)
    with pytest.raises(ModelError, match=message) as caught:
        find_folder("skipae-imagenet")
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    if path == MODEL:  # nothing damaged or half is left to be used
        assert not list(Path(constants.HF_HUB_CACHE).rglob("model.onnx"))
    server.faults.clear()
    same(find_folder("skipae-imagenet"), whole, CONFIG, MODEL)


@pytest.mark.parametrize("what", ["drop", "flip", "stall", 429, 503])
def test_faults_that_pass(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path, what: int | str) -> None:
    sha = publish(monkeypatch, server, whole)
    if what == "stall":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.fault(what, MODEL)
    said: list[str] = []
    same(find_folder("skipae-imagenet", access=Access(notify=said.append)), whole, MODEL)
    assert server.take_requests().count(f"GET /skipae/skipae-imagenet/resolve/{sha}/{MODEL}") == 2
    assert [text for text in said if "removed" in text] == ([] if what != "flip" else said[1:])
    assert len(said) == 1 + (what == "flip")


def test_a_file_of_the_cache_that_was_damaged_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path
) -> None:
    publish(monkeypatch, server, whole)
    path = find_folder("skipae-imagenet") / MODEL
    blob = path.resolve()
    blob.write_bytes(b"damaged" + blob.read_bytes()[7:])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said: list[str] = []
    with pytest.raises(ModelError, match=r"model\.onnx .* is not in the cache"):
        from_pretrained("skipae-imagenet", notify=said.append)
    assert not path.exists() and not blob.exists() and "and was removed" in said[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.take_requests()
    same(find_folder("skipae-imagenet"), whole, MODEL)
    assert len(server.take_requests()) == 2


def test_a_damaged_file_of_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path
) -> None:
    publish(monkeypatch, server, whole)
    path = find_folder("skipae-imagenet") / MODEL
    path.resolve().write_bytes(b"damaged")
    monkeypatch.setattr(hub, "_remove", raising(PermissionError(13, "Permission denied", str(path))))
    with pytest.raises(ModelError, match=r"model\.onnx cannot be written \(Permission denied\): set HF_HOME"):
        find_folder("skipae-imagenet")


def test_no_network_and_proxies(monkeypatch: pytest.MonkeyPatch, server: HubServer) -> None:
    with pytest.raises(ModelError, match=r"'some\.\.one/net' cannot be the name of a repository"):
        find_folder("some..one/net")
    refused = "http://127.0.0.1:1"
    monkeypatch.setenv("HF_ENDPOINT", refused)
    with pytest.raises(ModelError, match=rf"someone/net on {refused} cannot be reached .*HTTPS_PROXY"):
        find_folder("someone/net")
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/mirror")  # a web server that is not a Hub
    server.mirror["someone/net/resolve/main/config.json"] = b"login page"
    with pytest.raises(ModelError, match="is not a Hub: check HF_ENDPOINT"):
        find_folder("someone/net")
    for error, message in (
        (client.proxy_error()("407 Proxy Authentication Required"), "the proxy refuses to reach .*407"),
        (
            client.broken_connections()[0]("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
            "is not trusted: set SSL_CERT_FILE",
        ),
        (OSError(28, "No space left on device"), "the disk is full: free space"),
        (PermissionError(13, "Permission denied", "/cache"), r"/cache cannot be written \(Permission denied\): set HF"),
    ):
        monkeypatch.setattr("huggingface_hub.hf_hub_download", raising(error))
        with pytest.raises(ModelError, match=message):
            find_folder("someone/net")


def raising(error: Exception) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path) -> None:
    """A real one: a file system of 64 KiB, where this process may mount one."""
    server.add("someone/net", whole)
    server.repositories["someone/net"].commit({MODEL: bytes(1 << 20)})
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", cache], capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    try:
        with pytest.raises(ModelError, match="the disk is full"), pytest.warns(UserWarning, match="disk space"):
            find_folder("someone/net")
    finally:
        subprocess.run(["umount", cache], check=True)


def test_mirror_by_http(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path) -> None:
    for file in (CONFIG, MODEL, FEATURES):
        server.mirror[f"models/skipae-imagenet/{file}"] = (whole / file).read_bytes()
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url.replace('//', '//me:secret@')}/mirror/models/")
    server.fault("drop", MODEL)
    server.fault("flip", FEATURES)
    folder = find_folder("skipae-imagenet")
    same(folder, whole, CONFIG, MODEL, FEATURES)
    assert len(server.take_requests()) == 5
    assert find_folder("skipae-imagenet") == folder
    assert server.take_requests() == ["GET /mirror/models/skipae-imagenet/config.json"]

    with pytest.raises(ModelError, match=r"skipae-stl10 are not published yet; SKIPAE_MIRROR=.* does not contain it"):
        find_folder("skipae-stl10")
    server.fault(500, CONFIG)
    with pytest.raises(ModelError, match=r"^http://\S*127\.0\.0\.1:\d+/\S* answers 500") as caught:
        find_folder("skipae-imagenet")
    assert "secret" not in str(caught.value)
    server.take_requests()
    assert find_folder("skipae-imagenet", access=Access(local_files_only=True)) == folder
    assert server.take_requests() == []
    monkeypatch.setattr(hub.Mirror, "_receive", raising(client.broken_connections()[0]("refused")))
    assert find_folder("skipae-imagenet") == folder  # the copy, since the mirror cannot be reached
    with pytest.raises(ModelError, match="cannot be reached"):
        find_folder("skipae-stl10")


@pytest.mark.parametrize("missing", ["README.md", "LICENSE.md"])
@pytest.mark.parametrize("kind", ["mirror", "hub"])
def test_pull_takes_the_card_and_the_license_where_there_are_any(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path, tmp_path: Path, kind: str, missing: str
) -> None:
    name, (there,) = "someone/net", {"README.md", "LICENSE.md"} - {missing}
    net = shutil.copytree(whole, tmp_path / "net")
    (net / "README.md").write_text("the card")
    (net / "LICENSE.md").write_text("the terms")
    (net / missing).unlink()
    if kind == "hub":
        server.add(name, net)
    else:
        monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
        server.mirror = {f"{name}/{file}": (net / file).read_bytes() for file in (CONFIG, MODEL, FEATURES, there)}

    def pull(to: str) -> None:
        pulled = run("models", "pull", name, "--to", to, "--quiet")
        assert (pulled.exit_code, pulled.stderr) == (0, "")
        same(tmp_path / to / name, net, CONFIG, MODEL, FEATURES, there)
        assert not (tmp_path / to / name / missing).exists()

    pull("first")
    pull("again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.take_requests()
    pull("offline")
    assert server.take_requests() == []
    if kind == "mirror":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub.Mirror, "_receive", raising(client.broken_connections()[0]("refused")))
        pull("unreachable")


def test_weights_that_are_missing_without_a_network(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path
) -> None:
    server.mirror = {f"someone/net/{file}": (whole / file).read_bytes() for file in (CONFIG, MODEL)}
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    with pytest.raises(ModelError, match=rf"does not contain {FEATURES}"):
        find_folder("someone/net")
    with pytest.raises(ModelError, match=rf"{FEATURES} of http.* is not in .*, and requests are forbidden"):
        find_folder("someone/net", access=Access(local_files_only=True))


def test_parts_of_killed_downloads_are_removed(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path, tmp_path: Path
) -> None:
    """Of this program at once, of the Hub's client when nobody can be at work on them."""
    for file in (CONFIG, MODEL, FEATURES, "README.md"):
        server.mirror[f"skipae-imagenet/{file}"] = (whole / file).read_bytes()
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    folder, to = find_folder("skipae-imagenet"), tmp_path / "to" / "skipae-imagenet"
    (to / "onnx").mkdir(parents=True)
    for parent in (folder, to, to / "onnx"):
        (parent / ".skipae-0123456789abcdef.part").write_bytes(b"half")
    result = CliRunner().invoke(cli.main, ["models", "pull", "skipae-imagenet", "--to", "to"])
    assert result.exit_code == 0, result.output
    same(to, whole, CONFIG, MODEL, FEATURES, "README.md")
    assert not list(tmp_path.rglob("*.part"))

    server.add("someone/net", whole)
    blob = find_folder("someone/net") / MODEL
    parts = [blob.resolve().with_name(f"{blob.resolve().name}{end}.incomplete") for end in (".0123abcd", ".4567abcd")]
    refs = blob.parents[3] / "refs"
    parts += [refs / "main.0123abcd.tmp", refs / "main.4567abcd.tmp"]
    for part in parts:
        part.write_bytes(b"half")
    for part in parts[::2]:
        os.utime(part, (1e9, 1e9))
    blob.write_bytes(b"damaged")  # so that it is fetched again
    same(find_folder("someone/net"), whole, MODEL)
    assert [part.exists() for part in parts] == [False, True, False, True]


def environment(tmp_path: Path, server: HubServer) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }


def skipae(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "skipae", *map(str, words)], capture_output=True, text=True, timeout=120, **options
    )


def test_eight_processes_at_once(server: HubServer, whole: Path, tmp_path: Path) -> None:
    sha = server.add("someone/net", whole)
    server.fault("flip", MODEL)  # the first one to come gets a damaged file
    start = """
import sys
from skipae.checkpoints.resolve import find_folder
from skipae.console import one_line, redact, to_json
sys.stdin.readline()
print(find_folder("someone/net"))
"""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", start]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment(tmp_path, server)
                )
            )
            for _ in range(8)
        ]
        outputs = [process.communicate("\n", timeout=120) for process in processes]
    folders = {output.strip() for output, _ in outputs}
    assert [process.returncode for process in processes] == [0] * 8, outputs
    assert len(folders) == 1
    same(Path(folders.pop()), whole, CONFIG, MODEL, FEATURES)
    requests = server.take_requests()
    assert requests.count(f"GET /someone/net/resolve/{sha}/{MODEL}") == 2
    assert requests.count(f"GET /someone/net/resolve/{sha}/{FEATURES}") == 1


def test_a_bundle_works_without_a_network(server: HubServer, whole: Path, tmp_path: Path) -> None:
    server.add("someone/net", whole)
    bundle = tmp_path / "bundle"
    env = environment(tmp_path, server)
    pulled = skipae("models", "pull", "someone/net", "skipae-natural", "--to", bundle, "--quiet", env=env)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.splitlines() == [str(bundle / "someone/net"), str(bundle / "skipae-natural")]
    assert pulled.stderr == ""
    same(bundle / "someone/net", whole, CONFIG, MODEL, FEATURES, "README.md")
    server.take_requests()

    image = tmp_path / "photo.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(image)
    # Away from every network where the system lets us; elsewhere away from the Hub, which counts its requests.
    away = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*away, "true"], capture_output=True).returncode:
        away = []
    env |= {"SKIPAE_MIRROR": str(bundle), "HF_HOME": str(tmp_path / "nothing")}
    for words in (
        ["denoise", image, "--model", "someone/net", "--device", "cpu"],
        ["models", "verify", bundle],
    ):
        command = [*away, sys.executable, "-m", "skipae", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{bundle}/skipae-natural: OK", f"{bundle}/someone/net: OK"]
    assert (tmp_path / "photo.denoised.png").is_file()
    assert server.take_requests() == []


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.main, [str(word) for word in words])


def test_list_and_info(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path) -> None:
    sha = publish(monkeypatch, server, whole)
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").output)}
    assert len(rows) == len(CHECKPOINTS)
    assert rows["skipae-natural"]["state"] == "bundled" and rows["skipae-natural"]["size"] > 5e6
    assert rows["skipae-stl10"] | {
        "state": "not published", "size": None, "license": None, "command": "skipae-train finetune stl10"
    } == rows["skipae-stl10"]  # fmt: skip
    expected = {"state": "not installed", "size": 123_456, "license": "apache-2.0", "revision": sha, "folder": None}
    assert rows["skipae-imagenet"] | expected == rows["skipae-imagenet"]
    assert json.loads(run("models", "info", "skipae-imagenet", "--json").output) == rows["skipae-imagenet"]
    assert "size: 0.1 MB" in run("models", "info", "skipae-imagenet").output
    assert server.take_requests() == []

    assert run("models", "pull", "skipae-imagenet").exit_code == 0
    server.take_requests()
    lines = [line.split() for line in run("models", "list").output.splitlines()]
    assert ["skipae-imagenet", "restoration", "0.0", "MB", "apache-2.0", "here", "imagenet"] in lines
    facts = json.loads(run("models", "info", "skipae-imagenet", "--json").output)
    assert facts["files"][MODEL] == sha256(whole / MODEL) and facts["license"] == "apache-2.0"
    assert f"{MODEL}: sha256 {sha256(whole / MODEL)}" in run("models", "info", "skipae-imagenet").output
    assert run("models", "path", "skipae-imagenet").output.strip() == facts["folder"]
    assert run("models", "path").output.strip() == constants.HF_HUB_CACHE
    assert server.take_requests() == []


def test_verify_and_pull(monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path, tmp_path: Path) -> None:
    publish(monkeypatch, server, whole)
    pulled = run("models", "pull", "skipae-imagenet", "--safetensors", "--to", tmp_path / "bundle")
    assert pulled.exit_code == 0
    copy = tmp_path / "bundle" / "skipae-imagenet"
    same(copy, whole, CONFIG, MODEL, FEATURES, "model.safetensors", "README.md")
    assert "has no" not in pulled.stderr
    less = shutil.copytree(whole, tmp_path / "less")
    config = json.loads((less / CONFIG).read_text())
    del config["files"]["model.safetensors"]
    (less / CONFIG).write_text(json.dumps(config))
    pulled = run("models", "pull", less, "--safetensors")
    assert pulled.exit_code == 0 and f"{less} has no model.safetensors, only ONNX files" in pulled.stderr
    assert run("models", "verify").output.splitlines() == ["skipae-natural: OK", "skipae-imagenet: OK"]
    (copy / FEATURES).unlink()
    (copy / "model.safetensors").write_bytes(b"damaged")
    assert "[NAME|DIR]..." in run("models", "verify", "--help").output
    checked = run("models", "verify", tmp_path / "bundle")
    assert checked.exit_code == 4 and checked.stdout == ""
    errors = checked.stderr.splitlines()
    assert len(errors) == 2 and all(line.startswith("skipae: error: ") for line in errors)
    assert "features.onnx cannot be read" in checked.stderr
    assert "model.safetensors does not match its config.json" in checked.stderr
    # A copy elsewhere is its owner's: it is refused, not changed.
    assert run("models", "pull", copy).exit_code == 4
    assert (copy / "model.safetensors").read_bytes() == b"damaged"
    for words, message in (
        (("verify", "skipae-stl10"), "not published yet"),
        (("path", "someone/net"), "is not in the cache"),
        (("info", "nothing"), "unknown model 'nothing'"),
        (("pull", "someone/net", "skipae-stl10"), "does not exist, or is private"),
        (("pull", "skipae-natural", "--to", whole / CONFIG), "cannot be written"),
    ):
        refused = run("models", *words)
        assert refused.exit_code == 4 and message in refused.stderr


def rewrite_config(folder: Path, **changes: object) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "name", ["../home/.ssh", "/absolute", "..", "a\\b", "C:x", "a\0b", "\x1b[31m", "\ud800", "n" * 97, ""]
)
def test_a_checkpoint_does_not_say_where_it_is_copied_to(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path, name: str
) -> None:
    mirror, home = tmp_path / "mirror", tmp_path / "home" / ".ssh"
    home.mkdir(parents=True)
    (home / "authorized_keys").write_text("my own key")
    evil = shutil.copytree(whole, mirror / "skipae-stl10")
    (evil / "authorized_keys").write_text("another key")
    files = json.loads((evil / CONFIG).read_text())["files"]
    rewrite_config(evil, name=name, files=files | {"authorized_keys": sha256(evil / "authorized_keys")})
    monkeypatch.setenv("SKIPAE_MIRROR", str(mirror))
    for model in ("skipae-stl10", evil):
        pulled = run("models", "pull", model, "--to", tmp_path / "to", "--safetensors")
        assert pulled.exit_code == 4 and "config.json: name, " in pulled.stderr, pulled.output
        assert not {"\0", "\x1b"} & set(pulled.stderr)
    assert (home / "authorized_keys").read_text() == "my own key"
    assert not (tmp_path / "to").exists()


def test_pull_copies_the_files_of_a_checkpoint_under_the_name_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole, tmp_path / "mine")
    others = ("authorized_keys", "onnx/.bashrc", "onnx/deep/model.onnx", "training/run.sh")
    for file in others:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(file)
    files = json.loads((folder / CONFIG).read_text())["files"]
    rewrite_config(folder, name="another", files=files | {file: sha256(folder / file) for file in others})
    (folder / "preprocessor_config.json").write_text("{}")
    monkeypatch.chdir(folder)
    for model in (folder, ".", f"{folder}/onnx/.."):
        shutil.rmtree(tmp_path / "to", ignore_errors=True)
        pulled = run("models", "pull", model, "--to", tmp_path / "to", "--safetensors")
        assert pulled.exit_code == 0 and pulled.stdout.strip() == str(tmp_path / "to" / "mine")
        copied = {path.relative_to(tmp_path / "to" / "mine").as_posix() for path in (tmp_path / "to").rglob("*.*")}
        expected = {CONFIG, MODEL, FEATURES, "model.safetensors", "README.md", "preprocessor_config.json"}
        assert copied == expected


@pytest.mark.parametrize("file", [CONFIG, MODEL])
def test_a_download_from_the_hub_ends_where_a_file_is_larger_than_a_checkpoint_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: HubServer, whole: Path, file: str
) -> None:
    shutil.copytree(whole, tmp_path / "net")
    server.add("someone/net", tmp_path / "net")
    if file == CONFIG:
        monkeypatch.setattr(hub, "MAX_TEXT", 100)
    else:
        monkeypatch.setattr(hub, "MAX_WEIGHTS", 100)
    with pytest.raises(ModelError, match=rf"{re.escape(file)} of someone/net .* is larger than the 0 MiB allowed"):
        from_pretrained("someone/net", device="cpu")


@pytest.mark.parametrize(
    ("what", "file", "size", "message"),
    [
        (None, CONFIG, MAX_TEXT + 1, r"config\.json of .* is larger than the 4 MiB allowed"),
        ("gzip", CONFIG, MAX_TEXT + 1, r"config\.json of .* is larger than the 4 MiB allowed"),
        (None, MODEL, 0, r"onnx/model\.onnx of .* is larger than the 0 MiB allowed"),
        ("drip", CONFIG, 0, r"skipae-imagenet is too slow for config\.json: try again later"),
        ("drip", MODEL, 0, r"skipae-imagenet is too slow for onnx/model\.onnx"),
    ],
)
def test_a_mirror_sends_no_more_and_no_slower_than_a_checkpoint_needs(
    monkeypatch: pytest.MonkeyPatch,
    server: HubServer,
    whole: Path,
    what: str | None,
    file: str,
    size: int,
    message: str,
) -> None:
    for name in (CONFIG, MODEL, FEATURES):
        server.mirror[f"skipae-imagenet/{name}"] = (whole / name).read_bytes()
    server.mirror[f"skipae-imagenet/{file}"] += b" " * size
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    if what:
        monkeypatch.setattr(hub, "PERIOD", 1.5)  # config.json arrives within it on a busy machine too
        server.fault(what, file)
    if file == MODEL and what is None:
        monkeypatch.setattr(hub, "MAX_WEIGHTS", 100)
    cache = Path(constants.HF_HUB_CACHE)
    with pytest.raises(ModelError, match=message):
        find_folder("skipae-imagenet", access=Access(cache_dir=cache))
    assert list(cache.rglob("*imagenet"))
    assert not [path for path in cache.rglob(f"{Path(file).name}*") if path.is_file()]


@pytest.mark.parametrize("kind", ["mirror", "Hub"])
def test_a_server_that_sends_its_headers_byte_by_byte_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: HubServer, whole: Path, kind: str
) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    if kind == "mirror":
        server.mirror[f"skipae-imagenet/{CONFIG}"] = (whole / CONFIG).read_bytes()
        monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    else:
        server.add("someone/net", whole)
    for method in ("GET", "HEAD"):
        server.fault("dribble", CONFIG, method, times=9)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"is too slow for config\.json: try again later"):
        find_folder(
            "skipae-imagenet" if kind == "mirror" else "someone/net", access=Access(cache_dir=tmp_path / "cache")
        )
    assert time.monotonic() - started < 8  # the headers take 10 s


def test_a_download_that_is_interrupted_removes_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: HubServer, whole: Path
) -> None:
    server.mirror[f"skipae-imagenet/{CONFIG}"] = (whole / CONFIG).read_bytes()
    server.fault("drip", CONFIG)
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    cache, seen = tmp_path / "cache", []

    def interrupt(*_: object, **__: object) -> None:
        while not (parts := list(cache.rglob(PART))):
            time.sleep(0.01)
        seen.extend(parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "wait_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_folder("skipae-imagenet", access=Access(cache_dir=cache))
    assert seen and not list(cache.rglob(PART))


def test_a_download_that_brings_enough_bytes_in_each_period_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: HubServer, whole: Path
) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    monkeypatch.setattr(hub, "LEAST", 1)
    server.mirror[f"skipae-imagenet/{CONFIG}"] = b" " * 200  # 4 s, and then it is not JSON
    server.fault("drip", CONFIG)
    monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url}/mirror")
    with pytest.raises(ModelError, match="not JSON"):
        find_folder("skipae-imagenet", access=Access(cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://me:s3cret@host:80/a", "http://host:80/a"),
        ("http://me:s3@cret@host/a", "http://host/a"),
        ("http://me:s3/cret@host/a", "http://host/a"),
        ("http://me:s3#cret@host/a", "http://host/a"),
        ("HTTPS://s3cret@host", "HTTPS://host"),
        ("see http://me:s3cret@host/a and http://me:s3cret@[::1]/b: x@y", "see http://host/a and http://[::1]/b: x@y"),
        ("http://me:s3cret@[bad", "http://[bad"),
        ("http://host/@scope/a?b=c@d", "http://host/@scope/a?b=c@d"),
        ("/folder/me@host", "/folder/me@host"),
    ],
)
def test_passwords_are_taken_out_of_urls(url: str, expected: str) -> None:
    assert redact(url) == expected


def test_the_password_of_a_mirror_is_used_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, whole: Path
) -> None:
    for name in (CONFIG, MODEL, FEATURES, "README.md"):
        server.mirror[f"skipae-imagenet/{name}"] = (whole / name).read_bytes()
    for password in ("hiddencret", "hidden@cret"):
        monkeypatch.setenv("SKIPAE_MIRROR", f"{server.url.replace('//', f'//me:{password}@')}/mirror")
        shown = [run("models", "pull", "skipae-imagenet"), run("models", "info", "skipae-stl10"), run("doctor")]
        assert [result.exit_code for result in shown[:2]] == [0, 0]
        server.fault(500, CONFIG)
        shown += [run("models", "pull", "skipae-imagenet", "--debug"), run("models", "pull", "skipae-stl10", "--debug")]
        assert [result.exit_code for result in shown[3:]] == [4, 4]
        text = "".join(result.output for result in shown)
        assert server.url in text and "hidden" not in text and "cret" not in text
        assert Path(shown[0].stdout.strip()).is_dir()  # a folder of the cache, named after the mirror
    credentials = base64.b64encode(b"me:hidden@cret").decode()
    assert server.authorizations[-1] == f"Basic {credentials}"


def test_a_folder_named_like_a_checkpoint_does_not_replace_it(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, "skipae-natural")
    shutil.copytree(checkpoint, "mine")
    said: list[str] = []
    access = Access(notify=said.append)
    assert find_folder("skipae-natural", access=access) == resolve.BUNDLED / "skipae-natural"
    assert said == [
        "skipae-natural is the checkpoint of that name, not the local folder; for the folder pass ./skipae-natural"
    ]
    for name in ("./skipae-natural", Path("skipae-natural"), "mine", str(tmp_path / "skipae-natural")):
        assert resolve.load_config(find_folder(name, access=access)).name == "tiny"
    assert len(said) == 1
    (Path("skipae-natural") / MODEL).write_bytes(b"damaged")
    assert run("models", "verify", "skipae-natural").exit_code == 0
    assert run("models", "verify", "./skipae-natural").exit_code == 4


def test_one_bad_folder_of_a_mirror_does_not_end_the_list(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path
) -> None:
    for name in ("imagenet", "stl10", "cifar100", "voc07-cls"):
        shutil.copytree(whole, tmp_path / f"skipae-{name}")
    (tmp_path / "skipae-imagenet" / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    (tmp_path / "skipae-stl10" / CONFIG).write_text('{"version": 1, "name": "\\u001b[31m"}' + "[" * 99_999)
    (tmp_path / "skipae-cifar100" / "README.md").unlink()
    (tmp_path / "skipae-cifar100" / "README.md").symlink_to("/dev/zero")
    (tmp_path / "skipae-voc07-cls" / "README.md").write_text("---\nlicense: \x1b[31mred\x9b\u202e\n---\n")
    monkeypatch.setenv("SKIPAE_MIRROR", str(tmp_path))
    listed = run("models", "list")
    assert listed.exit_code == 0 and len(listed.stdout.splitlines()) == len(CHECKPOINTS) + 1
    assert "skipae-imagenet/README.md is not UTF-8 text" in listed.stderr
    assert "skipae-stl10/config.json is not JSON" in listed.stderr
    assert "skipae-cifar100/README.md cannot be read: not a regular file" in listed.stderr
    assert len(listed.stderr.splitlines()) == 3
    assert "red" in listed.stdout and not {"\x1b", "\x9b", "\u202e"} & set(listed.output)
    assert json.loads(run("models", "list", "--json").stdout)[1]["problem"]
    assert run("models", "info", "skipae-stl10").exit_code == 4
    shown = run("models", "info", "skipae-imagenet")
    assert shown.exit_code == 0 and "README.md is not UTF-8 text" in shown.stdout


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    graph = tiny_graph()
    folder = tmp_path / "tiny"
    (folder / "onnx").mkdir(parents=True)
    onnx.external_data_helper.convert_model_to_external_data(graph, location="weights.bin", size_threshold=0)
    shutil.rmtree(folder)
    write_checkpoint(folder, graph)
    assert (folder / "onnx" / "weights.bin").is_file()
    with pytest.raises(ModelError, match=r"model\.onnx keeps weights in other files: export the checkpoint"):
        from_pretrained(folder, device="cpu")


def test_external_data_is_found_wherever_tensors_are() -> None:
    outside = onnx.TensorProto(name="w", data_location=onnx.TensorProto.EXTERNAL)
    inside = onnx.TensorProto(name="w", raw_data=b"1234")
    for tensor, expected in ((outside, True), (inside, False)):
        inner = onnx.GraphProto(initializer=[tensor])
        attributes = [
            onnx.AttributeProto(t=tensor),
            onnx.AttributeProto(tensors=[tensor]),
            onnx.AttributeProto(g=inner),
            onnx.AttributeProto(graphs=[inner]),
            onnx.AttributeProto(sparse_tensor=onnx.SparseTensorProto(values=tensor)),
        ]
        graphs = [inner, *(onnx.GraphProto(node=[onnx.NodeProto(attribute=[one])]) for one in attributes)]
        models = [onnx.ModelProto(graph=graph) for graph in graphs]
        models.append(onnx.ModelProto(functions=[onnx.FunctionProto(node=[onnx.NodeProto(attribute=attributes[:1])])]))
        assert [has_external_data(model.SerializeToString()) for model in models] == [expected] * 7
    with pytest.raises(ValueError, match="not an ONNX file"):
        has_external_data(b"\x3a\xff\xff")


def test_what_is_printed_commands_no_terminal() -> None:
    assert one_line("a\x1b]0;b\x07\nc\x9b31m\u202ed\u2066e\u2028f\udcff") == "a ]0;b c 31m d e f\\udcff"
    assert to_json({"é": "a\x1b\x9b\u202e\n\udcff"}) == '{"é": "a\\u001b\\u009b\\u202e\\n\\udcff"}'
    assert json.loads(to_json({"a": "\x9b\x7f"})) == {"a": "\x9b\x7f"}
