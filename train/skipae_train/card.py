"""Model cards: the README.md of a checkpoint folder, made from what its run and its measurements left there.

Read from the folder: ``config.json``; ``training/recipe.json``, ``training/environment.json`` and
``training/parity.json`` (written by ``skipae-train export``); ``training/metrics.json`` (written by
``skipae-train evaluate --record``); and ``training/notes.md``, the only part written by hand: what the
checkpoint is for, its training data and its terms.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skipae_zoo import CheckpointConfig, read_config

PIPELINE_TAG = {
    "restoration": "image-to-image",
    "classification": "image-classification",
    "segmentation": "image-segmentation",
}
ARXIV = "1611.09119"


class CardError(ValueError):
    """Something that a card must say is missing; the message says what writes it."""


def write_card(folder: Path) -> Path:
    """Write ``README.md`` into a checkpoint folder; :class:`CardError` if a part is missing."""
    config = read_config(folder)
    notes = folder / "training" / "notes.md"
    if not notes.exists():
        raise CardError(f"{notes} is missing: write there what the checkpoint is for, its data and its terms")
    text = "\n".join(
        [
            _front_matter(config),
            f"# {config.name}\n",
            notes.read_text(encoding="utf-8").strip() + "\n",
            _metrics(_read(folder, "metrics", "skipae-train evaluate --record")),
            _use(config),
            _architecture(config),
            _training(
                _read(folder, "recipe", "skipae-train export"), _read(folder, "environment", "skipae-train export")
            ),
            _files(config, _read(folder, "parity", "skipae-train export")),
        ]
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _read(folder: Path, name: str, command: str) -> Any:
    path = folder / "training" / f"{name}.json"
    if not path.exists():
        raise CardError(f"{path} is missing: {command} writes it")
    return json.loads(path.read_text(encoding="utf-8"))


def _front_matter(config: CheckpointConfig) -> str:
    return f"""---
library_name: skipae
license: other
license_name: see-terms-below
pipeline_tag: {PIPELINE_TAG[config.task]}
tags:
- onnx
- safetensors
- denoising
- image-restoration
- autoencoder
- arxiv:{ARXIV}
---
"""


def _metrics(scores: list[dict[str, Any]]) -> str:
    lines = [
        "## Measured",
        "",
        "Mean RGB PSNR in dB over the pictures of a set; the net is never told the noise level.",
        "",
    ]
    lines += ["| set | damage | pictures | before | after | command |", "| --- | --- | --- | --- | --- | --- |"]
    for score in scores:
        lines.append(
            f"| {score['set']} | {score['label']} | {score['images']} | {score['before']:.2f} | "
            f"**{score['after']:.2f}** | `{score['command']}` |"
        )
    return "\n".join([*lines, ""])


def _use(config: CheckpointConfig) -> str:
    return f"""## Use

```python
from PIL import Image
from skipae import from_pretrained

from_pretrained("{config.name}").denoise(Image.open("photo.jpg")).save("photo.denoised.png")
```

Without skipae, `onnx/model.onnx` is enough: input `image`, output `restored`, both float32 [N, 3, H, W], RGB in
[0, 1], any N, H and W; `onnx/features.onnx` gives every encoder layer after ReLU (`enc1` to
`{config.architecture.layers[-1].name}`).

```python
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("onnx/model.onnx")
pixels = np.asarray(Image.open("photo.jpg").convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
restored = session.run(["restored"], {{"image": pixels}})[0][0].transpose(1, 2, 0)
Image.fromarray((restored.clip(0, 1) * 255).round().astype(np.uint8)).save("photo.denoised.png")
```

To fill masked places, set them to the colour {tuple(config.preprocessing.fill)} (RGB in [0, 1]) first: the net
was trained on holes of that colour.
"""


def _architecture(config: CheckpointConfig) -> str:
    network = config.architecture
    shape = f", m = {network.m}" if network.m else ""
    lines = [
        "## Architecture",
        "",
        f"{network.network}{shape}, n = {network.n} of Dong et al., supplement A; shortcuts: {network.shortcuts}, "
        f"`{network.topology}`. One changed pixel reaches at most {network.reach} pixels; tiles overlap by "
        f"{config.halo}, beyond which no change above 1e-4 was measured.",
        "",
        "| layer | channels | stride | receptive field |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {x.name} | {x.channels} | {x.total_stride} | {x.receptive_field} |" for x in network.layers]
    return "\n".join([*lines, ""])


def _training(recipe: dict[str, Any], environment: dict[str, Any]) -> str:
    phases = ", ".join(f"{p['steps']:,} steps of {p['batch']} crops of {p['crop']} pixels" for p in recipe["phases"])
    facts = "\n".join(f"- {key}: {value}" for key, value in environment.items())
    return f"""## Training

Recipe `{recipe["name"]}` (`skipae-train pretrain {recipe["name"]} --data PHOTOS --out RUN`): {phases}; ADAM at
{recipe["lr"]:g}, loss {recipe["loss"]}, seed {recipe["seed"]}. All values are in `training/recipe.json`, the log in
`training/log.csv`.

{facts}
"""


def _files(config: CheckpointConfig, parity: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | `{digest}` |" for name, digest in config.files.items())
    return f"""## Files

Convolution weights are stored as {parity["storage"]} and computed with in float32. ONNX Runtime and torch differ by
at most {parity["output"]:.1g} (image, of 1) and {parity["features"]:.1g} (features, of a layer's largest value).

| file | sha256 |
| --- | --- |
{rows}
"""
