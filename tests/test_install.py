"""The pip command in messages, by the way in which skipae was installed."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from skipae import install


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """What pip wrote down, for a package that is in no checkout."""
    found: dict[str, object] = {}
    monkeypatch.setattr(install, "_CHECKOUT", tmp_path / "none")
    reader = SimpleNamespace(read_text=lambda name: json.dumps(found) if found and name == "direct_url.json" else None)
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: reader)
    return found


def test_in_a_clone_it_names_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    monkeypatch.chdir(tmp_path)
    assert install.install_command("gpu") == f'pip install "{root}[gpu]"'
    monkeypatch.chdir(root)
    assert install.install_command("gpu") == 'pip install ".[gpu]"'


def test_from_an_index_it_names_the_package(origin: dict[str, object]) -> None:
    assert install.install_command("gpu") == 'pip install "skipae[gpu]"'
    assert install.requirement() == "skipae"


def test_a_folder_wheel_or_repository_is_named_as_pip_wrote_it_down(origin: dict[str, object], tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    origin |= {"url": clone.as_uri(), "dir_info": {}}
    assert install.install_command("16bit") == f'pip install "{clone}[16bit]"'
    origin |= {"url": (tmp_path / "gone").as_uri()}
    assert install.install_command("16bit") == 'pip install "skipae[16bit]"'
    origin.clear()
    origin |= {"url": "https://example.org/skipae-0.1.0-py3-none-any.whl", "archive_info": {}}
    assert install.requirement("cpu") == "skipae[cpu] @ https://example.org/skipae-0.1.0-py3-none-any.whl"
    origin.clear()
    origin |= {"url": "https://example.org/skipae.git", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}
    assert install.requirement("cpu") == "skipae[cpu] @ git+https://example.org/skipae.git"
