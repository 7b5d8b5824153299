"""Model cards: the README.md of a checkpoint folder, generated from the records of its run and its measurements.

Inputs in the folder: ``config.json``; ``training/recipe.json``, ``training/environment.json`` and
``training/parity.json`` (written by ``skipae-train export``); the scores ``training/metrics.json`` (written by
``skipae-train evaluate --record``) and ``training/result.json`` (by a fine-tuning run); ``training/speed.json``
(by ``skipae-train card --speed``); the pictures in ``assets/``; and ``training/notes.md``, the only part written by
hand: the license and further metadata of the Hub between ``---`` lines, what the checkpoint is for, its data and terms.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from skipae.errors import SkipaeError
from skipae_train.datasets import VOC_CLASSES
from skipae_train.recipes import identity_of
from skipae_train.run_folder import (
    RANDOM,
    damage_of,
    read_environment,
    read_json,
    read_recipe,
    read_result,
    write_bytes,
    write_json,
)
from skipae_zoo import (
    INPUT,
    QUANTIZED,
    QUANTIZED_FEATURES,
    CheckpointConfig,
    find_checkpoint,
    read_config,
    verified_file,
)
from skipae_zoo.checkpoints import OWNER

PIPELINE_TAG = {
    "restoration": "image-to-image",
    "classification": "image-classification",
    "segmentation": "image-segmentation",
}
TAGS = {"restoration": ["denoising", "image-restoration"], "classification": [], "segmentation": []}
ARXIV = "1611.09119"
SECTIONS = ("## What it is for", "## What it is not for", "## Data and terms", "## Measured", "## Files")
"""Sections that a card needs to be published."""


LICENSES = ("LICENSE", "LICENSE.md")
"""Files of a checkpoint folder that the Hub lets ``license_link`` name."""


class CardError(SkipaeError, ValueError):
    """A part of a card is missing; the message says how to add it."""


def write_card(folder: Path, repo: str | None = None) -> Path:
    """Write ``README.md`` into a checkpoint folder; see :func:`make_card`."""
    path = folder / "README.md"
    text = make_card(folder, repo).encode()
    write_bytes(path, text)
    return path


def make_card(folder: Path, repo: str | None = None) -> str:
    """Return the card of a checkpoint folder.

    Args:
        folder: the checkpoint folder.
        repo: repository on the Hub (``org/name``) for the example, if the checkpoint is not in the zoo.

    Raises:
        CardError: a part is missing or wrong.
    """
    config = read_config(folder)
    notes = folder / "training" / "notes.md"
    if not notes.exists():
        raise CardError(f"{notes} is missing: describe in it what the checkpoint is for, its data and its terms")
    head, text = _split_notes(notes)
    scores = _scores(folder)
    pictures = sorted(path.name for path in (folder / "assets").glob("*.png"))
    card = "\n".join(
        [
            _front_matter(config, head, scores),
            f"# {config.name}\n",
            text.strip() + "\n",
            *(f"![{name.removesuffix('.png').replace('-', ' ')}](assets/{name})\n" for name in pictures),
            _metrics(scores),
            _use(config, repo or f"ORG/{config.name}"),
            _architecture(config),
            _training(folder / "training", config.labels),
            _files(folder, config),
        ]
    )
    check_card(card, folder, str(notes))
    return card


def check_card(card: str, folder: Path, source: str) -> None:
    """Check the card of a checkpoint folder without any request; ``source`` is named as the place of a mistake.

    Raises:
        CardError: the Hub would reject the card, or a part that users need is missing.
    """
    try:
        data = ModelCard(card, ignore_metadata_errors=False).data
    except ValueError as error:
        raise CardError(f"{source}: the Hub cannot read the head of the card: {error}") from error
    if not data.get("license"):
        raise CardError(f"{source}: the head has no 'license': add one, with 'license_name' if it is 'other'")
    if data.get("license") == "other" and not data.get("license_name"):
        raise CardError(f"{source}: the license 'other' needs a 'license_name' in the head")
    if data.get("license") == "other":
        _check_link(data.get("license_link"), folder, source)
    if not data.get("eval_results"):
        raise CardError(f"{source}: it has no scores: record some with skipae-train evaluate --record")
    for section in SECTIONS:
        if f"\n{section}\n" not in card:
            raise CardError(f"{source}: the section '{section}' is missing")


def _check_link(link: object, folder: Path, source: str) -> None:
    """Check the link to the text of a license that the Hub does not know."""
    if link in LICENSES:
        if not (folder / str(link)).is_file():
            raise CardError(
                f"{source}: the 'license_link' is {link}, but {folder / str(link)} is missing: write the terms in it"
            )
    elif not str(link).startswith("https://"):
        raise CardError(
            f"{source}: the license 'other' needs a 'license_link' in the head: {' or '.join(LICENSES)} for a file of "
            f"the folder, or an https URL, not {link!r}"
        )


def measure_speed(folder: Path) -> None:
    """Write ``training/speed.json``: seconds per image with ONNX Runtime on this machine's CPU, the median of three."""
    import numpy as np
    import onnxruntime

    config = read_config(folder)
    model = verified_file(folder, config, "onnx/model.onnx")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    side = config.preprocessing.crop or 1024
    image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        session.run(None, {INPUT: image})
        seconds.append(time.perf_counter() - start)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "seconds": round(statistics.median(seconds[1:]), 4),
        "size": [side, side],
        "hardware": f"{platform.processor() or platform.machine()}, {threads} threads",
        "onnxruntime": onnxruntime.__version__,
    }
    write_json(folder / "training" / "speed.json", facts)


def _split_notes(path: Path) -> tuple[dict[str, Any], str]:
    """Return metadata and text of ``notes.md``."""
    text = path.read_text(encoding="utf-8")
    if not text.startswith("---\n"):
        return {}, text
    head, _, body = text[4:].partition("\n---\n")
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise CardError(f"{path}: the text between the --- lines is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"{path}: the text between the --- lines must be fields, for example 'license: apache-2.0'")
    return data, body


def _scores(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.json`` and that of ``result.json``."""
    training = folder / "training"
    rows: list[dict[str, Any]] = []
    result = read_result(training)
    if result is not None:
        with damage_of(training / "recipe.json"):
            name = _set_name(read_recipe(training)["epochs"])
        with damage_of(training / "result.json"):
            score = {"set": name, "metric": result["metric"], "images": result["images"], "mean": result["value"]}
        rows.append(score | {"classes": result.get("classes", {})})
    path = training / "metrics.json"
    if path.exists() or not rows:
        recorded = read_json(_written(path, "skipae-train evaluate --record"), list)
        with damage_of(path):
            for row in recorded:
                numbers = [row["images"], *((row["before"], row["after"]) if "after" in row else (row["mean"],))]
                if not all(isinstance(number, int | float) for number in numbers):
                    raise TypeError(f"a score has {numbers!r}")
                if not isinstance(row["set"], str) or not isinstance(row.get("label", row.get("metric")), str):
                    raise TypeError("a score does not name what it measures")
        rows += recorded
    return rows


def _set_name(epochs: dict[str, Any]) -> str:
    data = str(epochs["data"])
    return "own images" if data in ("folder", "classes", "masks") else data.removeprefix("hub:")


def _written(path: Path, command: str) -> Path:
    if not path.exists():
        raise CardError(f"{path} is missing: create it with {command}")
    return path


def _front_matter(config: CheckpointConfig, head: dict[str, Any], scores: Sequence[dict[str, Any]]) -> str:
    entry = find_checkpoint(config.name)
    base = f"{OWNER}/{entry.base_model}" if entry and entry.base_model else None
    fields: dict[str, Any] = {
        "library_name": "skipae",
        "pipeline_tag": PIPELINE_TAG[config.task],
        "tags": ["onnx", "safetensors", *TAGS[config.task], "autoencoder", f"arxiv:{ARXIV}"],
        "base_model": base,
        **head,
    }
    results = [
        EvalResult(
            task_type=fields["pipeline_tag"],
            dataset_name=score["set"],
            dataset_type=score["set"].lower().replace(",", "").replace(" ", "-"),
            metric_type=score.get("metric", "psnr").split(",")[0],
            metric_name=f"PSNR in dB; {score['label']}" if "label" in score else score["metric"],
            metric_value=round(score["after"] if "after" in score else score["mean"], 4),
            metric_args={"images": score["images"], "seeds": score.get("seeds", 1), "std": score.get("std")},
        )
        for score in scores
    ]
    data = ModelCardData(model_name=config.name, eval_results=results, **fields)
    return f"---\n{data.to_yaml().strip()}\n---\n"


def _metrics(scores: Sequence[dict[str, Any]]) -> str:
    lines = ["## Measured", ""]
    restored = [score for score in scores if "after" in score]
    if restored:
        lines += [
            "Mean RGB PSNR in dB over the images of a set, and its standard deviation between them if it was",
            "recorded; the model never knows the noise level.",
            "",
            "| set | damage | images | before | after | std | command |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
    for score in restored:
        lines.append(
            f"| {score['set']} | {score['label']} | {score['images']} | {score['before']:.2f} | "
            f"**{score['after']:.2f}** | {_std(score, 2)} | `{score['command']}` |"
        )
    others = [score for score in scores if "after" not in score]
    if others:
        lines += [
            "Mean over runs with different seeds, and its standard deviation between them.",
            "",
            "| set | metric | runs | images | mean | std |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for score in others:
        lines.append(
            f"| {score['set']} | {score['metric']} | {score.get('seeds', 1)} | {score['images']} | "
            f"**{score['mean']:.4f}** | {_std(score, 4)} |"
        )
    for score in others:
        if score.get("classes"):
            found = {name: value for name, value in score["classes"].items() if value is not None}
            each = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
            lines += ["", f"By class: {each}."]
            absent = [name for name in score["classes"] if name not in found]
            if absent:
                lines += [f"No test image contains {', '.join(absent)}."]
    return "\n".join([*lines, ""])


def _std(score: dict[str, Any], digits: int) -> str:
    return "-" if score.get("std") is None else f"{score['std']:.{digits}f}"


USE = {
    "restoration": (
        'model.denoise(Image.open("photo.jpg")).save("photo.denoised.png")',
        "`reconstruction`, float32 [N, 3, H, W] like the input, not clamped",
        'restored = session.run(["reconstruction"], {"pixel_values": pixels})[0][0].transpose(1, 2, 0)\n'
        'Image.fromarray((restored.clip(0, 1) * 255).round().astype(np.uint8)).save("photo.denoised.png")',
    ),
    "classification": (
        'print(model.classify(Image.open("photo.jpg")))',
        "`logits`, float32 [N, K]",
        'logits = session.run(["logits"], {"pixel_values": pixels})[0][0]\nprint(logits.argmax())',
    ),
    "segmentation": (
        'mask = model.segment(Image.open("photo.jpg"))',
        "`logits`, float32 [N, K, H, W]",
        'logits = session.run(["logits"], {"pixel_values": pixels})[0][0]\n'
        'Image.fromarray(logits.argmax(0).astype(np.uint8)).save("photo.classes.png")',
    ),
    "features": (
        'values = model.features(Image.open("photo.jpg"))  # layer name to float32 [1, channels]',
        "every encoder layer after ReLU, float32 [N, C, h, w]",
        'values = session.run(["{layer}"], {{"pixel_values": pixels}})[0].mean((2, 3))  # float32 [N, C]',
    ),
}
"""For each task, or for features alone: the call in skipae, the output of the graph, and how to use it."""


def _use(config: CheckpointConfig, repo: str) -> str:
    graph = "onnx/model.onnx" if "onnx/model.onnx" in config.files else "onnx/features.onnx"
    call, output, then = USE[config.task if graph == "onnx/model.onnx" else "features"]
    last = config.architecture.layers[-1].name
    name = config.name if find_checkpoint(config.name) else repo
    resize, crop = config.preprocessing.resize, config.preprocessing.crop
    steps = ([f"scaled to a short side of {resize} pixels"] if resize else []) + (
        [f"cropped to the central {crop} x {crop} pixels"] if crop else []
    )
    picture = f",\nfrom images {', then '.join(steps)}" if steps else ", any N, H and W"
    text = f"""## Use

```python
from PIL import Image
from skipae import from_pretrained

model = from_pretrained("{name}")
{call}
```

Without skipae, `{graph}` is enough. Input: `pixel_values`, float32 [N, 3, H, W], RGB in [0, 1]{picture}.
Output: {output}{"." if graph == "onnx/model.onnx" else f", `enc1` to `{last}`."}
"""
    if graph == "onnx/model.onnx" and "onnx/features.onnx" in config.files:
        text = (
            text.rstrip()
            + f""" `onnx/features.onnx` returns every encoder layer after ReLU,
`enc1` to `{last}`.
"""
        )
    text += f"""
```python
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{graph}")
image = Image.open("photo.jpg").convert("RGB")
{_fitted(resize, crop)}pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
{then if graph == "onnx/model.onnx" else then.format(layer=config.default_layer or last)}
```
"""
    if "model.safetensors" in config.files:
        text += f"""
In torch, with the training package or with the plain weights in `model.safetensors`:

```python
import skipae_train
from safetensors.torch import load_file

network = skipae_train.load("{name}")  # a torch.nn.Module, RGB [N, 3, H, W] in [0, 1]
weights = load_file("model.safetensors")  # "encoder.enc1.conv.weight", ...
```
"""
    if config.task == "restoration" and graph == "onnx/model.onnx":
        text += f"""
To fill holes, first set their pixels to the color {tuple(config.preprocessing.fill)} (RGB in [0, 1]): the model
was trained on holes of that color.
"""
    return text


def _fitted(resize: int | None, crop: int | None) -> str:
    """Return the lines that scale and crop ``image`` to a checkpoint's size."""
    lines = ""
    if resize:
        lines += (
            f"scale = {resize} / min(image.size)\n"
            "image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)\n"
        )
    if crop:
        lines += (
            f"left, top = (image.width - {crop}) // 2, (image.height - {crop}) // 2\n"
            f"image = image.crop((left, top, left + {crop}, top + {crop}))\n"
        )
    return lines


def _architecture(config: CheckpointConfig) -> str:
    network = config.architecture
    shape = f", m = {network.m}" if network.m else ""
    tiles = f"; the halo of tiles is {config.halo} pixels, beyond which no change above 1e-4 was measured"
    lines = [
        "## Architecture",
        "",
        f"{network.network}{shape}, n = {network.n} of Dong et al., supplement A; shortcuts: {network.shortcuts}, "
        f"`{network.topology}`. One changed pixel affects at most {network.reach} pixels around it"
        f"{'' if config.task == 'classification' else tiles}.",
        "",
        "| layer | channels | stride | receptive field |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {x.name} | {x.channels} | {x.total_stride} | {x.receptive_field} |" for x in network.layers]
    return "\n".join([*lines, ""])


def _training(training: Path, labels: Sequence[str]) -> str:
    for name in ("recipe", "environment"):
        _written(training / f"{name}.json", "skipae-train export")
    recipe, environment = read_recipe(training), read_environment(training)
    with damage_of(training / "recipe.json"):
        return _describe_run(recipe, environment, labels)


def _describe_run(recipe: dict[str, Any], environment: dict[str, Any], labels: Sequence[str]) -> str:
    phases = ", ".join(
        f"{p['steps']:,} steps of {p['batch']} crops of {p['crop']} pixels" for p in recipe.get("phases", ())
    )
    if epochs := recipe.get("epochs"):
        seen = f"{epochs['count']} epochs of {_set_name(epochs)}"
        phases = f"{seen}, batches of {epochs['batch']}, {epochs['crop']} pixels"
    identity = identity_of(recipe)
    command = identity.command if identity else ""
    if command and recipe.get("start"):
        command += " --start RUN"
    elif command and environment.get("start", RANDOM["start"]) != RANDOM["start"]:
        command += " --start CHECKPOINT"
    if command and environment.get("pairs", "none") != "none":
        command += " --pairs PAIRS"
    told = f" (`skipae-train {command} --data {'DATA' if epochs else 'PHOTOS'} --out RUN`)" if command else ""
    optimizer = {"adam": "ADAM", "sgd": "SGD with momentum"}[recipe.get("optimizer", "adam")]
    loss = f", loss {recipe['loss']}" if "loss" in recipe else ""
    muon = f" and Muon at {recipe['muon_lr']:g} for inner kernels" if recipe.get("muon_lr") else ""
    done, steps = (environment.get(key, 0) for key in ("steps done", "steps"))
    stopped = f" The run stopped at step {done} of {steps}: these are not its final weights." if done < steps else ""
    if (recipe.get("epochs") or {}).get("data") == "voc07":
        lacking = [name for name in VOC_CLASSES if name not in labels]
        if lacking:
            stopped += f"\n\nClasses of VOC without images in the set are omitted: {', '.join(lacking)}."
    if recipe.get("start") == "imagenet-labels":
        stopped += (
            "\n\nThe encoder was taken from a classifier (recipe `imagenet-labels`): unlike the paper's networks, it "
            "was\ntrained with the labels of ImageNet."
        )
    facts = "\n".join(f"- {key}: {value}" for key, value in environment.items())
    return f"""## Training

Recipe `{recipe["name"]}`{told}: {phases}; {optimizer} at
{recipe["lr"]:g}{muon}{loss}, seed {recipe["seed"]}. All settings are in `training/recipe.json`, the log is in
`training/log.csv`.{stopped}

{facts}
"""


def _files(folder: Path, config: CheckpointConfig) -> str:
    path = _written(folder / "training" / "parity.json", "skipae-train export")
    parity = read_json(path)
    with damage_of(path):
        stored, output, features = parity["storage"], f"{parity['output']:.1g}", f"{parity['features']:.1g}"
    path = folder / "training" / "speed.json"
    speed = ""
    if path.exists():
        facts = read_json(path)
        with damage_of(path):
            height, width = facts["size"]
            speed = (
                f"\n{height} x {width} pixels take {facts['seconds']:g} s with ONNX Runtime {facts['onnxruntime']} on "
                f"{facts['hardware']}.\n"
            )
    int8 = ""
    if quantized := [name for name in (QUANTIZED, QUANTIZED_FEATURES) if name in config.files]:
        path = _written(folder / "training" / "quantization.json", "skipae-train quantize")
        records = read_json(path)
        with damage_of(path):
            int8 = "\n" + "".join(
                f"`{name}` computes in 8-bit integers. Beside float32: {records[name]['summary']}.\n"
                for name in quantized
            )
    rows = "\n".join(f"| {name} | `{digest}` |" for name, digest in config.files.items())
    return f"""## Files

Convolution weights are stored as {stored}; the computation is in float32. ONNX Runtime and torch differ by at most
{output} of the output's range and by {features} of a layer's largest value.
{int8}{speed}
| file | sha256 |
| --- | --- |
{rows}
"""
