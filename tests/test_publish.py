"""Publishing, and what is published fetched again, against the server of hub_server.py."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import skipae_train
from hub_server import HubServer, Repository
from skipae.checkpoints import resolve
from skipae.checkpoints.resolve import find_folder
from skipae_train import publish as publishing
from skipae_train.card import CardError, make_card, measure_speed, write_card
from skipae_train.cli import main
from skipae_train.export import session
from skipae_train.publish import PublishError, publish
from skipae_train.recipe import to_json
from skipae_train.recipes import finetune_recipe, on_set, pretrain_recipe
from skipae_zoo import ConfigError, sha256
from test_heads import exported

# The client's upload of large files without hf-xet calls its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parent.parent
NOTES = """---
license: cc-by-4.0
datasets:
- someone/camvid
---
A net for tests.

## What it is for

Tests.

## What it is not for

Use.

## Data and terms

None.
"""


OTHER = "license: other\nlicense_name: mine\n"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation checkpoint with all that is published."""
    folder = tmp_path_factory.mktemp("made") / "decoder"
    training = folder / "training"
    _, _, parity = exported("decoder", folder)
    training.mkdir()
    (training / "notes.md").write_text(NOTES)
    recipe = {"name": "camvid-seg", "phases": [], "lr": 0.001, "loss": "cross-entropy", "seed": 0, "ema_decay": 0}
    recipe |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    score = {"set": "CamVid", "metric": "mean IoU", "mean": 0.5123, "std": 0.0141, "seeds": 3, "images": 233}
    facts = {"recipe": recipe, "environment": {"torch": "2", "steps": 8, "steps done": 8}, "metrics": [score]}
    facts["parity"] = {"storage": parity.storage, "output": parity.output, "features": parity.features}
    for name, value in facts.items():
        (training / f"{name}.json").write_text(json.dumps(value))
    (folder / "assets").mkdir()
    (folder / "assets" / "before-and-after.png").write_bytes(b"picture")
    (folder / "state.pt").write_bytes(b"never published")
    measure_speed(folder)
    write_card(folder, "me/decoder")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "decoder"))


@pytest.fixture(autouse=True)
def logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "write")


def writes(server: HubServer) -> list[str]:
    return [r for r in server.take_requests() if r.startswith("POST") and "commit" in r]


def test_a_segmenter_goes_there_and_back(server: HubServer, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_words = ["publish", str(made), "--repo", "me/decoder", "--private"]
    dry = CliRunner().invoke(skipae_train.cli.cli, [*main_words, "--dry-run"])
    assert dry.exit_code == 0 and dry.stderr.splitlines()[-1] == "all checks passed, nothing was sent"
    assert server.take_requests() == []
    done = CliRunner().invoke(skipae_train.cli.cli, main_words)
    assert done.exit_code == 0, done.output
    assert len(writes(server)) == 1 and server.created[0]["visibility"] == "private"
    repository = server.repositories["me/decoder"]
    assert f"published=Published(revision='{repository.main}', config='{sha256(made / 'config.json')}'" in done.stdout
    assert "license='cc-by-4.0'" in done.stdout and "are identical" in done.stderr

    sent = repository.commits[repository.main]
    expected = {p.relative_to(made).as_posix(): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    assert sent == {path: content for path, content in expected.items() if path != "state.pt"}
    folder = find_folder("me/decoder", files="", extra=("README.md",))
    assert folder.name == repository.main and resolve.problems(folder, "") == []
    for file in ("README.md", "config.json", *resolve.load_config(folder).files):
        assert (folder / file).read_bytes() == expected[file]

    image = torch.rand(1, 3, 29, 31, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = skipae_train.load("me/decoder")(image).numpy()
    found = session(folder / "onnx" / "model.onnx").run(["logits"], {"pixel_values": image.numpy()})[0]
    np.testing.assert_allclose(found, logits, atol=2e-3 * np.abs(logits).max())


def test_the_bundled_one_goes_there_and_back(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, tmp_path: Path
) -> None:
    monkeypatch.setattr(publishing, "STAGED", ROOT / "model_cards")
    published = publish("skipae-natural", "skipae/skipae-natural")
    assert published is not None
    assert len(writes(server)) == 1
    folder = find_folder("skipae/skipae-natural", files="", revision=published.revision)
    assert resolve.problems(folder, "") == []
    for file in ("onnx/model.onnx", "onnx/features.onnx"):
        assert (folder / file).read_bytes() == (resolve.BUNDLED / "skipae-natural" / file).read_bytes()
    staged = ROOT / "model_cards" / "skipae-natural" / "model.safetensors"
    assert (folder / "model.safetensors").read_bytes() == staged.read_bytes()
    assert published.size == sum(file.stat().st_size for file in (folder / "onnx").iterdir())


def test_pull_requests(server: HubServer, made: Path) -> None:
    server.repositories["me/decoder"] = Repository()
    said: list[str] = []
    published = publish(str(made), "me/decoder", pull_request=True, notify=said.append)
    assert published is not None and server.created == [] and server.repositories["me/decoder"].main == ""
    assert any(text.startswith("sent: ") and text.endswith("/discussions/1") for text in said)


def test_what_arrives_otherwise_than_it_was_sent(server: HubServer, made: Path) -> None:
    server.fault("flip", "onnx/features.onnx")
    with pytest.raises(PublishError, match=r"onnx/features\.onnx of me/decoder .* differs from the file that was sent"):
        publish(str(made), "me/decoder")


def test_a_token_that_may_not_write(
    monkeypatch: pytest.MonkeyPatch, server: HubServer, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "read")
    with pytest.raises(SystemExit) as caught:
        main(["publish", str(made), "--repo", "me/decoder"])
    assert caught.value.code == 4
    assert "refuses access (401): the token is wrong" in capsys.readouterr().err.splitlines()[-1]


def change_weights(folder: Path) -> None:
    """Weights that are not those of the ONNX files, though every sha256 is right."""
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(path).items()}, path)
    config = json.loads((folder / "config.json").read_text())
    config["files"]["model.safetensors"] = sha256(path)
    (folder / "config.json").write_text(json.dumps(config))


def drop(folder: Path, *files: str) -> None:
    """Leave files out, as ``skipae-train export --without`` does."""
    config = json.loads((folder / "config.json").read_text())
    for file in files:
        del config["files"][file]
        (folder / file).unlink()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("file", ["model.safetensors", "onnx/model.onnx", "onnx/features.onnx"])
def test_a_folder_that_lacks_a_weight_file_is_published(server: HubServer, copy: Path, file: str) -> None:
    drop(copy, file)
    (copy / "training" / "speed.json").unlink()
    write_card(copy, "me/decoder")
    said: list[str] = []
    assert publish(str(copy), "me/decoder", dry_run=True, notify=said.append) is None
    assert said[-1] == "all checks passed, nothing was sent" and not any(text.startswith(file) for text in said[1:])


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "model_cards").iterdir()))
def test_every_staged_folder_passes_the_checks(name: str) -> None:
    said: list[str] = []
    publish(str(ROOT / "model_cards" / name), f"skipae/{name}", dry_run=True, notify=said.append)
    assert said[-1] == "all checks passed, nothing was sent"


def link_out(folder: Path) -> None:
    """A file that only seems to be in the folder."""
    (folder.parent / "secret").write_text("key")
    (folder / "training" / "more.txt").symlink_to(folder.parent / "secret")


def link_folder_out(folder: Path) -> None:
    """The same of a folder."""
    (folder / "assets").rename(folder.parent / "private")
    (folder / "assets").symlink_to(folder.parent / "private")


def replace_notes(old: str, new: str):
    def change(folder: Path) -> None:
        assert old in NOTES
        (folder / "training" / "notes.md").write_text(NOTES.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "onnx" / "model.onnx").write_bytes(b"x"), r"model\.onnx does not match its config"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors cannot be read"),
        (change_weights, r"the ONNX files and model\.safetensors differ"),
        (lambda f: (f / "README.md").unlink(), "the card of decoder is missing or outdated: run 'skipae-train card"),
        (lambda f: (f / "README.md").write_text("mine"), "missing or outdated"),
        (
            lambda f: write_card(f),
            "the card of decoder does not name me/decoder: run 'skipae-train card .* --repo me/de",
        ),
        (
            lambda f: drop(f, "onnx/model.onnx", "onnx/features.onnx"),
            "has neither onnx/model.onnx nor onnx/features.onnx",
        ),
        (
            lambda f: (f / "onnx" / "old.onnx").write_bytes(b"x"),
            r"old\.onnx is not listed in .*json: remove it",
        ),
        (lambda f: (f / "training" / "notes.md").unlink(), r"notes\.md is missing"),
        (
            lambda f: (f / "training" / "metrics.json").unlink(),
            r"metrics\.json is missing: create it with skipae-train evaluate",
        ),
        (lambda f: (f / "training" / "metrics.json").write_text("[]"), "it has no scores"),
        (
            link_out,
            r"training/more\.txt points outside the folder, to .*secret: replace the link with a copy",
        ),
        (link_folder_out, r"assets/before-and-after\.png points outside the folder"),
        (replace_notes("license: cc-by-4.0", "tags: [a]"), "the head has no 'license'"),
        (replace_notes("license: cc-by-4.0", "license: other"), "needs a 'license_name'"),
        (
            replace_notes("license: cc-by-4.0", OTHER),
            "needs a 'license_link' in the head: LICENSE or LICENSE.md for a file",
        ),
        (replace_notes("license: cc-by-4.0", f"{OTHER}license_link: ../x"), "or an https URL, not '../x'"),
        (replace_notes("license: cc-by-4.0", f"{OTHER}license_link: LICENSE"), "LICENSE is missing: write the terms"),
        (replace_notes("license: cc-by-4.0", "license: [}"), "is not YAML"),
        (replace_notes("license: cc-by-4.0\ndatasets:\n", ""), "must be fields"),
        (replace_notes("## Data and terms", "## Data"), "the section '## Data and terms' is missing"),
    ],
)
def test_what_is_not_published(server: HubServer, copy: Path, change, message: str) -> None:
    change(copy)
    with pytest.raises((PublishError, CardError), match=message) as caught:
        publish(str(copy), "me/decoder")
    assert "\n" not in str(caught.value).replace(": while", "")[:100]
    assert server.take_requests() == []


def test_the_card_says_what_users_ask(made: Path) -> None:
    from huggingface_hub import ModelCard

    card = make_card(made)
    data: Any = ModelCard(card, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("skipae", "image-segmentation", "cc-by-4.0")
    assert data.datasets == ["someone/camvid"] and "onnx" in data.tags
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("CamVid", "mean IoU", 0.5123)
    assert result.metric_args == {"images": 233, "seeds": 3, "std": 0.0141}
    assert "| CamVid | mean IoU | 3 | 233 | **0.5123** | 0.0141 |" in card
    assert "![before and after](assets/before-and-after.png)" in card
    assert "1024 x 1024 pixels take" in card and 'from_pretrained("ORG/decoder")' in card
    assert 'from_pretrained("me/decoder")' in make_card(made, "me/decoder")
    for digest in resolve.load_config(made).files.values():
        assert digest in card


def test_the_card_states_the_command_that_was_run(made: Path, tmp_path: Path) -> None:
    training = shutil.copytree(made, tmp_path / "made") / "training"
    sgd = pretrain_recipe("cifar100", variant="sgd", budget="smoke")
    random = finetune_recipe("cifar10-4k", variant="random", budget="cpu")
    for recipe, start, told in (
        (
            sgd,
            "random weights",
            "-sgd` (`skipae-train pretrain cifar100 --variant sgd --budget smoke --data DATA --out",
        ),
        (sgd, "natural", "--variant sgd --budget smoke --start CHECKPOINT --data DATA --out RUN`): 1 epochs"),
        (sgd, "natural", "; SGD with momentum at\n0.1"),
        (random, "random weights", "finetune cifar10-4k --variant random --budget cpu --data DATA --out RUN`)"),
        (replace(random, start="cifar10-4k", name="mine"), "", "Recipe `mine`: 120 epochs of cifar10"),
    ):
        (training / "recipe.json").write_text(json.dumps(to_json(recipe)))
        (training / "environment.json").write_text(
            json.dumps({"torch": "2", "start": start, "steps": 8, "steps done": 8})
        )
        assert told in make_card(training.parent)
    (training / "result.json").write_text(json.dumps({"metric": "accuracy", "images": 9, "value": 50.0}))
    for data, name in (("classes", "own images"), ("hub:me/birds#kind", "me/birds#kind"), ("cifar10", "cifar10")):
        recipe = on_set(random, data)
        (training / "recipe.json").write_text(json.dumps(to_json(recipe)))
        card = make_card(training.parent)
        assert f"| {name} | accuracy | 1 | 9 |" in card and f"epochs of {name}, batches" in card
        assert data == "cifar10" or f"`skipae-train finetune cifar10-4k --set {data} --variant random" in card


def test_the_weights_in_numpy_alone(made: Path) -> None:
    """Run the example of docs/checkpoints.md."""
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- runs in tests/test_publish.py -->\n```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    image = np.random.default_rng(0).random((3, 21, 30), np.float32)
    expected = skipae_train.load(made).features(torch.from_numpy(image)[None])
    found = names["features"](made, image)
    assert list(found) == list(expected)
    for name, values in expected.items():
        want = values[0].detach().numpy()
        np.testing.assert_allclose(found[name], want, atol=1e-4 * want.max())


def test_speed_is_not_measured_without_the_graph(copy: Path) -> None:
    (copy / "onnx" / "model.onnx").unlink()
    with pytest.raises(ConfigError, match="onnx cannot be read"):
        measure_speed(copy)
