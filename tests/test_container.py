"""The container image; where docker runs, it is built and used as its first lines say."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IMAGE = "skipae-test"


def docker(*words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)


def has_docker() -> bool:
    return shutil.which("docker") is not None and docker("info", timeout=30).returncode == 0


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if not has_docker():
        pytest.skip("docker does not run here")
    built = docker("build", "--quiet", "--tag", IMAGE, str(ROOT))
    assert built.returncode == 0, built.stderr
    yield IMAGE
    docker("image", "rm", "--force", IMAGE)


def test_denoises_without_network_as_an_ordinary_user(image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    shutil.copy(ROOT / "docs" / "images" / "chelsea-noisy.png", tmp_path / "photo.png")
    run = ("run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/work")
    done = docker(*run, image, "denoise", "photo.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "photo.png") as before, Image.open(tmp_path / "photo.denoised.png") as after:
        assert before.size == after.size
    assert docker(*run, "--entrypoint", "id", image, "-u").stdout.strip() == "1000"


def test_small(image: str) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
    assert size < 600e6


def test_extras_of_the_image_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"\.whl\)\[(.*?)\]", DOCKERFILE)
    (default,) = re.findall(r"^ARG RUNTIME=(\w+)$", DOCKERFILE, re.MULTILINE)
    named = {*extras.replace("${RUNTIME}", default).split(","), *re.findall(r"RUNTIME=(\w+)", DOCKERFILE)}
    assert named <= set(project["optional-dependencies"])
    assert {"cpu", "gpu"} <= named


def test_context_holds_what_the_wheel_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wheel = config["project"], config["tool"]["hatch"]["build"]["targets"]["wheel"]
    sources = {path.split("/")[0] for path in wheel["only-include"]}
    assert kept >= {*sources, *project["license-files"], project["readme"], "pyproject.toml"}
    assert [path for path in sorted(kept) if not (ROOT / path).exists()] == []
