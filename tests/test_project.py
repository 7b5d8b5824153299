"""The files around the code: what is packaged, and what the project says of itself."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder

from skipae import __version__
from skipae_zoo import CHECKPOINTS

ROOT = Path(__file__).parent.parent


def test_sdist_contains_every_tracked_file() -> None:
    """So the tests of an unpacked sdist find what they read."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    packaged = {file.distribution_path for file in SdistBuilder(str(ROOT)).recurse_included_files()}
    assert tracked
    assert sorted(tracked - packaged) == []


def test_license_of_every_staged_checkpoint_is_stated() -> None:
    """The wheel's license expression names the weights; the file behind it has a row for each checkpoint."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-skipae-weights"
    assert "LICENSE-WEIGHTS.md" in project["license-files"]
    terms = (ROOT / "LICENSE-WEIGHTS.md").read_text(encoding="utf-8")
    staged = {folder.name for folder in (ROOT / "model_cards").iterdir() if (folder / "config.json").is_file()}
    assert staged <= {entry.name for entry in CHECKPOINTS}
    assert [name for name in sorted(staged) if f"| `{name}` |" not in terms] == []


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {*re.findall(r"`([\w.-]+(?:/[\w.-]+)+)`", text), *re.findall(r"\]\(([^)#:]+)\)", text)}
    invented = {"inference/skipae/commands/NAME.py", "training/notes.md"}
    assert len(named - invented) > 15
    assert [name for name in sorted(named - invented) if not (ROOT / name).exists()] == []


def test_readme_is_short_and_its_links_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    links = [link for link in re.findall(r"\]\(([^)#]+)[)#]", text) if not link.startswith("https:")]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_commands_and_options_exist() -> None:
    """Every `skipae ...` line of the README parses; the programs that it measures with are there."""
    from skipae.cli import main as skipae
    from skipae_train.cli import cli as skipae_train

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    lines = re.findall(r"(?:^|bin/)(skipae(?:-train)? [a-z][^\n#]*)", blocks, re.MULTILINE)
    assert len(lines) > 12
    programs = {"skipae": skipae, "skipae-train": skipae_train}
    for line in lines:
        program, name, *words = shlex.split(line)
        group = programs[program]
        command = group.get_command(click.Context(group), name)
        assert command is not None, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert [word for word in words if word.startswith("-") and word not in known] == [], line
    measured = re.findall(r"`python ([\w/.]+)", text)
    assert [path for path in measured if not (ROOT / path).is_file()] == []


def test_citation_has_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    names = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert names == ["Dong", "Mao", "Shen", "Yang"]


def test_pre_commit_runs_commands_of_ci() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert entries
    assert [entry for entry in entries if entry not in lines] == []


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_keep_to_least_privilege(path: Path) -> None:
    """A token that reads only, a time limit on each job, and no text of an event inside a shell command."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert [command for command in commands if "${{" in command] == []


def test_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(skipae(?:_\w+)?\.[\w.]+)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def test_the_library_speaks_python_and_not_options() -> None:
    """Options come in by errors.py alone; what is in quotes and begins with skipae is a whole command to type."""
    package = ROOT / "inference" / "skipae"
    above = {package / "cli.py", package / "errors.py", *(package / "commands").iterdir()}
    found = []
    for path in sorted(set(package.rglob("*.py")) - above):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        templates = {part: node for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            parts = node.values if isinstance(node, ast.JoinedStr) else [] if node in templates else [node]
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
            option = re.search(r"(?<![\w-])(--[a-z]|-o\b)", re.sub(r"'skipae[^']*'", "", text))
            if option is not None:
                found.append(f"{path.relative_to(package)}: {text[option.start() :][:60]}")
    assert found == []


def test_no_file_of_inference_is_long() -> None:
    long = {path.name for path in (ROOT / "inference").rglob("*.py") if len(path.read_text().splitlines()) > 500}
    assert not long, "split them: one file, one purpose"
