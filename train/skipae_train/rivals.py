"""Other denoisers for comparison: OpenCV's non-local means and FFDNet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from skipae_train.data import DataError, Pixels

Denoiser = Callable[[Pixels], Pixels]
NLM_H = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50)
"""Strengths of non-local means that are tried."""
FFDNET_CHANNELS = (13, *[96] * 11, 12)
"""Channels of the inputs and outputs of FFDNet's convolutions."""
FFDNET_SIGMA = (3, 5, 10, 15, 20, 25, 35, 50)
"""Noise levels passed to FFDNet."""


def nlm(h: float) -> Denoiser:
    """Return OpenCV's ``fastNlMeansDenoisingColored`` with one strength for luma and chroma.

    Raises:
        DataError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise DataError("OpenCV is not installed: pip install opencv-python-headless") from error
    return lambda pixels: np.asarray(
        cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(pixels[..., ::-1]), None, h, h)[..., ::-1], np.uint8
    )


def nlm_settings() -> dict[str, Denoiser]:
    """Return non-local means at every strength that is tried, weakest first, by the name of the setting."""
    return {f"h = {h}": nlm(h) for h in NLM_H}


def ffdnet_settings(weights: Path) -> dict[str, Denoiser]:
    """Return FFDNet at every noise level that is tried, lowest first, by the name of the setting."""
    network = FFDNet(weights)
    return {f"sigma = {level}": network.at(level) for level in FFDNET_SIGMA}


def ffdnet_graph() -> onnx.ModelProto:
    """Return an ONNX graph of FFDNet's shape for color with random weights, to measure its speed with.

    ``pixel_values`` float32 [1, 3, H, W], H and W even, to the same shape.
    """
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("SpaceToDepth", ["pixel_values"], ["halves"], blocksize=2),
        helper.make_node("Slice", ["halves", "0", "1", "1"], ["plane"]),  # stands for the plane of the noise level
        helper.make_node("Concat", ["halves", "plane"], ["x0"], axis=1),
    ]
    weights = [numpy_helper.from_array(np.full(1, int(name), np.int64), name) for name in ("0", "1")]
    for number, (before, after) in enumerate(pairwise(FFDNET_CHANNELS), start=1):
        x, weight, bias = f"x{number}", f"weight{number}", f"bias{number}"
        values = rng.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        weights += [numpy_helper.from_array(values, weight), numpy_helper.from_array(np.zeros(after, np.float32), bias)]
        last = number == len(FFDNET_CHANNELS) - 1
        nodes.append(
            helper.make_node("Conv", [f"x{number - 1}", weight, bias], [x if last else f"{x}.conv"], pads=[1] * 4)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"{x}.conv"], [x]))
    nodes.append(helper.make_node("DepthToSpace", [x], ["reconstruction"], blocksize=2, mode="CRD"))
    sides: list[str | int | None] = [1, 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "ffdnet",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info("reconstruction", TensorProto.FLOAT, sides)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class FFDNet(nn.Module):
    """FFDNet for color (Zhang, Zuo, Zhang, 2018) from its authors' weights, ``ffdnet_color.pth`` or ``_clip``."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            layers: list[nn.Module] = []
            for before, after in pairwise(FFDNET_CHANNELS):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            self.model = nn.Sequential(*layers[:-1])
            self.load_state_dict(state)
        except Exception as error:  # torch.load raises almost anything
            raise DataError(
                f"{weights} does not contain the weights of FFDNet for color; use ffdnet_color.pth or "
                "ffdnet_color_clip.pth of its authors"
            ) from error
        self.eval()

    def forward(self, image: Tensor, sigma: float) -> Tensor:
        """Denoise float32 [N, 3, H, W] in [0, 1] of a noise level on the 0-255 scale."""
        height, width = image.shape[-2:]
        halves = F.pixel_unshuffle(F.pad(image, (0, width % 2, 0, height % 2), mode="replicate"), 2)
        level = torch.full_like(halves[:, :1], sigma / 255)
        found: Tensor = self.model(torch.cat([halves, level], 1))
        return F.pixel_shuffle(found, 2)[..., :height, :width]

    def at(self, sigma: float) -> Denoiser:
        """Return the denoiser of one noise level."""

        @torch.inference_mode()
        def denoise(pixels: Pixels) -> Pixels:
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255
            restored = (self(image, sigma)[0].clamp(0, 1) * 255).round().byte()
            return np.asarray(restored.permute(1, 2, 0).numpy(), np.uint8)

        return denoise
