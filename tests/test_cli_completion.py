"""Shell completion, as the shells ask for it: by the environment variable ``_SKIPAE_COMPLETE``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from skipae.cli import COMMANDS, main
from skipae.commands import options


def complete(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    patch.setenv("_SKIPAE_COMPLETE", "bash_complete")
    patch.setenv("COMP_WORDS", " ".join(["skipae", *words]))
    patch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    return capsys.readouterr().out.split()


def test_commands_options_models_devices_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*words: str) -> list[str]:
        return complete(monkeypatch, capsys, *words)

    assert ask("") == [f"plain,{name}" for name in COMMANDS]
    assert ask("den") == ["plain,denoise"]
    assert ask("denoise", "--mo") == ["plain,--model"]
    assert ask("denoise", "--model", "skipae-nat") == ["plain,skipae-natural"]
    assert ask("denoise", "--model", "./mod") == ["dir,./mod"]
    assert ask("denoise", "--device", "o") == ["plain,openvino"]
    assert ask("denoise", "pho") == ["file,pho"]
    assert ask("denoise", "photo.png", "-o", "res") == ["file,res"]
    assert ask("completion", "z") == ["plain,zsh"]


def test_layers_of_the_model_that_is_named(checkpoint: Path) -> None:
    option = click.Option(["--layers"])
    context = click.Context(click.Command("features"))
    context.params["model"] = str(checkpoint)
    assert [item.value for item in options.complete_layers(context, option, "enc")] == ["enc1", "enc2"]
    assert [item.value for item in options.complete_layers(context, option, "enc1,enc2")] == ["enc1,enc2"]
    context.params["model"] = "no-such-model"
    assert options.complete_layers(context, option, "enc") == []


def test_nothing_large_is_loaded() -> None:
    code = (
        "import os, sys\n"
        "os.environ.update(_SKIPAE_COMPLETE='bash_complete', COMP_WORDS='skipae denoise --model ', COMP_CWORD='3')\n"
        "from skipae.cli import main\n"
        "try:\n    main([])\n"
        "finally:\n    print(*sorted({'numpy', 'PIL', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "plain,skipae-natural" in done.stdout and done.stderr.strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["completion", shell])
    script = capsys.readouterr().out
    assert caught.value.code == 0 and f"_SKIPAE_COMPLETE={shell}_complete" in script


def test_the_bash_script_in_bash(tmp_path: Path) -> None:
    script = subprocess.run([sys.executable, "-m", "skipae", "completion", "bash"], capture_output=True, check=True)
    tool = tmp_path / "skipae"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m skipae "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "s.bash").write_bytes(script.stdout)
    ask = (
        f"PATH={tmp_path}:$PATH; source {tmp_path}/s.bash; COMP_WORDS=(skipae doc); COMP_CWORD=1; "
        f"_skipae_completion {tool}; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "doctor", done.stderr
