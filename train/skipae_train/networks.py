"""The paper's networks in torch, for every :class:`skipae_zoo.Architecture`: auto-encoder, classifier, segmenter.

Sources: section 3.1 (auto-encoder), section 5.4 (what is transferred) and supplement A, table 1 (heads).  The
Context Encoder of table 4 is the auto-encoder with ``shortcuts="none"``; what makes it one besides is its
corruption and its loss.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from skipae.errors import SkipaeError
from skipae_zoo import Architecture, CheckpointConfig, ConfigError, Head, Norm, Task, read_config, verified_file

Init = Literal["normal", "he"]
NetworkPart = Literal["encoder", "decoder"]
WeightLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
ARCHITECTURE_FIELDS = tuple(field.name for field in dataclasses.fields(Architecture))
"""Fields that must agree between networks that share encoder and decoder."""
_OF_DECODER = ("shortcuts", "topology", "refine")
"""Fields in which networks that share only the encoder may differ."""


class TransferError(SkipaeError, ValueError):
    """Weights that cannot be transferred; the message says which, and what would fit."""

    exit_code = 2


class ChannelBias(nn.Module):
    """A number per channel that is added, in the place of batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Add it to [N, C, H, W]."""
        return x + self.bias.view(-1, 1, 1)


class ConvNorm(nn.Module):
    """A convolution or deconvolution and its batch norm; ReLU is left to the caller (figure 1b)."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, norm: Norm | None = "batch") -> None:
        super().__init__()
        self.conv = conv
        kind = {"batch": nn.BatchNorm2d, "none": ChannelBias, None: nn.Identity}[norm]
        self.norm: nn.Module = kind(conv.out_channels)


def initialize(network: nn.Module, init: Init, last: nn.Module) -> None:
    """Draw new random weights; biases start at 0, batch norm at the identity.

    ``normal`` is the paper's N(0, 0.01) (section 4), ``he`` scales by fan-in; the layer ``last``, which gives the
    network's output, is N(0, 0.01) in both.
    """
    if init not in ("normal", "he"):
        raise ValueError(f"init must be 'normal' (the paper's N(0, 0.01)) or 'he', not {init!r}")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, ChannelBias):
            nn.init.zeros_(module.bias)
        elif isinstance(module, WeightLayer):
            std = 0.01
            if init == "he" and module is not last:
                taps = float(module.weight[0].numel())
                if isinstance(module, nn.ConvTranspose2d):
                    # Each output of a deconvolution of stride s sums kernel² / s² taps of every input channel.
                    taps = module.in_channels * module.weight[0, 0].numel() / module.stride[0] ** 2
                std = (2 / taps) ** 0.5
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Network(nn.Module):
    """What all networks have: the normalization of pixels and the encoder, and for some the decoder.

    Args:
        architecture: which network, and which shortcuts.
        mean: mean of each channel of the training pixels, in [0, 1].  The normalization is part of the module
            ("zero-centered and normalized", section 4), so images are passed as RGB in [0, 1].
        std: standard deviation of each channel, in the same units.
    """

    task: ClassVar[Task]
    mean: Tensor
    std: Tensor
    head_config: Head | None = None
    """The head, of networks that have one."""
    classes: int = 0
    """Number of logits, of networks that have a head."""

    def __init__(self, architecture: Architecture, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.encoder = nn.ModuleDict()
        self.decoder = nn.ModuleDict()
        for layer in architecture.layers:
            shape = (layer.kernel, layer.stride, layer.kernel // 2)
            conv = nn.Conv2d(layer.in_channels, layer.channels, *shape, bias=False)
            self.encoder[layer.name] = ConvNorm(conv, architecture.norm)

    @classmethod
    def from_checkpoint(cls, folder: Path) -> Self:
        """Return the network of a checkpoint folder, weights in float32, ready to use.

        ``Network.from_checkpoint`` loads every kind of network.

        Raises:
            skipae_zoo.ConfigError: the folder is damaged, its weights do not match its config, or it is another kind
                of network.
        """
        config = read_config(folder)
        network = _build(config)
        if not isinstance(network, cls):
            raise ConfigError(
                f"{folder} is for {config.task}: it holds a {type(network).__name__}, not a {cls.__name__}"
            )
        path = verified_file(folder, config, "model.safetensors")
        try:
            tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        except Exception as error:  # damaged and forged files raise nearly anything
            told = " ".join(str(error).split())[:100]
            raise ConfigError(f"{path} cannot be read ({told}): fetch or export the checkpoint again") from error
        expected = {name: value.shape for name, value in network.state_dict().items() if _is_stored(name)}
        if expected != {name: value.shape for name, value in tensors.items()}:
            wrong = [
                n for n in sorted({*expected, *tensors}) if n not in tensors or expected.get(n) != tensors[n].shape
            ]
            raise ConfigError(
                f"{path} does not contain the weights of the network in its config.json; check {', '.join(wrong[:4])}"
            )
        check_finite(tensors, path)
        network.load_state_dict(tensors, strict=False)
        return network.eval()

    def initialize(self, init: Init) -> None:
        """Draw new random weights; see :func:`initialize`."""
        initialize(self, init, self.last)

    @property
    def last(self) -> WeightLayer:
        """The layer that gives the network's output."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the only images that it takes; None where it takes any."""
        return None

    def unit(self, name: str) -> ConvNorm:
        """Return the layer ``enc1`` .. ``encL`` or ``dec1`` .. ``decL``, or one of those that refine a
        ``dec`` of stride 2.
        """
        key = name.replace(".", "_")  # names of modules have no dots
        return cast(ConvNorm, (self.encoder if key in self.encoder else self.decoder)[key])

    def normalize(self, image: Tensor) -> Tensor:
        """Return what the first layer sees of an image in [0, 1]."""
        return (image - self.mean) / self.std

    def encode(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last layer after ReLU, and what the shortcuts carry: one tensor per layer (see :meth:`decode`)."""
        raw, outputs = self._encoded(pixels)
        return outputs[-1], raw if self.architecture.topology == "pre" else outputs

    def _encoded(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the output of each layer's convolution, and what the next layer takes."""
        ends = {last: first for first, last in self.architecture.units}
        raw: list[Tensor] = []
        outputs: list[Tensor] = []
        for number, name in enumerate(self.encoder, start=1):
            unit = self.unit(name)
            raw.append(unit.conv(outputs[-1] if outputs else pixels))
            x = torch.relu(unit.norm(raw[-1]))
            outputs.append(x + outputs[ends[number] - 2] if number in ends else x)
        return raw, outputs

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Run from the last layer's output back to ``dec2`` after ReLU (and shortcut), the size of ``enc1``.

        Each deconvolution restores its mirror's input size.
        """
        pre = self.architecture.topology == "pre"
        starts = {last: first for first, last in self.architecture.units}
        entered: dict[int, Tensor] = {}
        for number in range(len(self.encoder), 1, -1):
            unit = self.unit(f"dec{number}")
            if number in starts:
                entered[starts[number]] = x
            target = skips[number - 2]
            x = unit.conv(x, output_size=target.shape[-2:])
            joins = number - 1 in self.architecture.shortcut_layers
            if joins and pre:
                x = x + target
            x = torch.relu(unit.norm(x))
            if joins and not pre:
                x = x + target
            if number in entered:
                x = x + entered.pop(number)
            for name in self.architecture.refinements(number):
                further = self.unit(name)
                x = torch.relu(further.norm(further.conv(x)))
        return x

    def features(self, image: Tensor) -> dict[str, Tensor]:
        """Return every encoder layer after ReLU: ``enc1`` .. ``encL``, [N, C, ceil(H / s), ceil(W / s)]."""
        _, found = self._encoded(self.normalize(image))
        return dict(zip(self.encoder, found, strict=True))

    def _add_decoder(self, first: int) -> None:
        """Add the deconvolutions from ``dec{first}`` on; ``dec1`` gives the pixels, without batch norm."""
        for number, layer in enumerate(self.architecture.layers, start=1):
            if number >= first:
                shape = (layer.kernel, layer.stride, layer.kernel // 2)
                conv = nn.ConvTranspose2d(layer.channels, layer.in_channels, *shape, bias=number == 1)
                norm = self.architecture.norm
                self.decoder[f"dec{number}"] = ConvNorm(conv, norm if number > 1 else None)
                for name in self.architecture.refinements(number):
                    further = nn.ConvTranspose2d(layer.in_channels, layer.in_channels, 3, 1, 1, bias=False)
                    self.decoder[name.replace(".", "_")] = ConvNorm(further, norm)


class AutoEncoder(Network):
    """Convolutional auto-encoder with symmetric shortcuts (section 3.1).

    Parameters: see :class:`Network`, and ``init`` in :meth:`Network.initialize`.
    """

    task = "restoration"

    def __init__(
        self,
        architecture: Architecture,
        *,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        init: Init = "normal",
    ) -> None:
        super().__init__(architecture, mean, std)
        self._add_decoder(1)
        self.initialize(init)

    @property
    def last(self) -> WeightLayer:
        """The last deconvolution."""
        return self.unit("dec1").conv

    def forward(self, image: Tensor) -> Tensor:
        """Restore images.

        Args:
            image: float32 [N, 3, H, W], RGB in [0, 1], any H and W >= 1.

        Returns:
            float32 [N, 3, H, W] in the same units, not clamped.
        """
        pixels = self.normalize(image)
        x = self.unit("dec1").conv(self.decode(*self.encode(pixels)), output_size=pixels.shape[-2:])
        restored = x if self.architecture.shortcuts == "none" else x + pixels
        return cast(Tensor, restored * self.std + self.mean)  # float32 under autocast too, since std is


class Classifier(Network):
    """The encoder and a head that gives one row of logits per image (supplement A, table 1).

    Args:
        architecture: which network; its shortcuts are not used.
        classes: number of logits.
        head: ``pool-fc`` (Network-1), ``conv-pool`` (Network-2) or ``fc`` (Network-3; ``head.hidden`` is 4096 in the
            paper).  Logits are raw; hidden layers have ReLU and, as in VGG, dropout of 0.5, no batch norm.
        crop: height and width of the images; required by ``fc``, which needs a fixed size, and ignored by the others.
        mean: see :class:`Network`.
        std: see :class:`Network`.
        init: see :meth:`Network.initialize`.
    """

    task = "classification"
    head_config: Head

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        head: Head,
        *,
        crop: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        init: Init = "normal",
    ) -> None:
        super().__init__(architecture, mean, std)
        channels = architecture.layers[-1].channels
        pool: dict[str, nn.Module] = {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
        layers: dict[str, nn.Module]
        if head.kind == "pool-fc":
            layers = pool | {"fc": nn.Linear(channels, classes)}
        elif head.kind == "conv-pool":
            layers = {"conv": nn.Conv2d(channels, classes, 1)} | pool
        elif head.kind == "fc":
            if crop is None or head.hidden < 1:
                raise ValueError(f"the head 'fc' needs crop and hidden, not crop={crop} and hidden={head.hidden}")
            rows, columns = architecture.layers[-1].output_size(crop, crop)
            layers = {"flatten": nn.Flatten()}
            width = channels * rows * columns
            for number in (1, 2):
                layers[f"fc{number}"] = nn.Linear(width, head.hidden)
                layers[f"relu{number}"] = nn.ReLU()
                layers[f"dropout{number}"] = nn.Dropout(0.5)
                width = head.hidden
            layers["fc3"] = nn.Linear(width, classes)
        else:
            raise ValueError(f"the head of a classifier must be pool-fc, conv-pool or fc, not {head.kind!r}")
        self.classes = classes
        self.head_config = head
        self.crop = crop
        self.head = nn.Sequential(OrderedDict(layers))
        self.initialize(init)

    @property
    def last(self) -> WeightLayer:
        """The layer that gives the classes."""
        name = {"pool-fc": "fc", "conv-pool": "conv", "fc": "fc3"}[self.head_config.kind]
        return cast(WeightLayer, getattr(self.head, name))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the crop for ``fc``, else None."""
        return (self.crop, self.crop) if self.crop is not None and self.head_config.kind == "fc" else None

    def forward(self, image: Tensor) -> Tensor:
        """Return logits, float32 [N, classes], of images float32 [N, 3, H, W], RGB in [0, 1]."""
        if self.size not in (None, tuple(image.shape[-2:])):
            raise ValueError(f"images must be {self.crop} x {self.crop} pixels, not {list(image.shape[-2:])}")
        return cast(Tensor, self.head(self.encode(self.normalize(image))[0])).float()


class Segmenter(Network):
    """The auto-encoder whose last deconvolution is replaced by a 3x3 convolution to the classes (section 5.4.2).

    The input is not added to the output: classes are not colors.  The first layer must have stride 1, since the
    convolution in its mirror's place does not enlarge.  Parameters: see :class:`Classifier`.
    """

    task = "segmentation"
    head_config: Head

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        *,
        head: Head = Head("decoder"),  # noqa: B008 (frozen)
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.25, 0.25, 0.25),
        init: Init = "normal",
    ) -> None:
        super().__init__(architecture, mean, std)
        first = architecture.layers[0]
        if first.stride != 1:
            raise ValueError(
                f"a segmenter's first layer must have stride 1: m[0] must be 0 or more than 1, not {first}"
            )
        if head.kind != "decoder":
            raise ValueError(f"the head of a segmenter must be decoder, not {head.kind!r}")
        self.classes = classes
        self.head_config = head
        self._add_decoder(2)
        self.head = nn.Sequential(OrderedDict(conv=nn.Conv2d(first.channels, classes, 3, padding=1)))
        self.initialize(init)

    @property
    def last(self) -> WeightLayer:
        """The convolution that gives the classes."""
        return cast(WeightLayer, self.head[0])

    def forward(self, image: Tensor) -> Tensor:
        """Return logits, float32 [N, classes, H, W], of images float32 [N, 3, H, W], RGB in [0, 1], any H, W >= 1."""
        return cast(Tensor, self.head(self.decode(*self.encode(self.normalize(image))))).float()


def transfer(
    target: Classifier | Segmenter, source: Network | Path, parts: Sequence[NetworkPart] = ("encoder",)
) -> list[str]:
    """Take weights, batch norm's statistics and the normalization of pixels over from a pre-trained network.

    Args:
        target: receives them; all other weights keep their initialization.
        source: an auto-encoder (or a network made from one), or its checkpoint folder.
        parts: ``("encoder",)``, or ``("encoder", "decoder")`` for segmenters: two of the three initializations of
            figure 4; the third is to transfer nothing.

    Returns:
        The names of the parameters that are new, in order: all of the head, and of the decoder unless it is among
        ``parts``.

    Raises:
        TransferError: the source has another architecture or lacks a part; the target is unchanged.
    """
    network = Network.from_checkpoint(source) if isinstance(source, Path) else source
    fields = tuple(name for name in ARCHITECTURE_FIELDS if "decoder" in parts or name not in _OF_DECODER)
    check_architecture(target.architecture, network.architecture, fields)
    prefixes = (*(f"{part}." for part in parts), "mean", "std")
    wanted = [name for name in target.state_dict() if name.startswith(prefixes)]
    found = network.state_dict()
    missing = [name for name in wanted if name not in found]
    lacking = [part for part in parts if not any(name.startswith(f"{part}.") for name in wanted)]
    if missing or lacking:
        what = (
            f"pre-trained {type(network).__name__} lacks {missing[0]}"
            if missing
            else (f"{type(target).__name__} has no {lacking[0]}")
        )
        raise TransferError(f"{', '.join(parts)} cannot be transferred: the {what}")
    target.load_state_dict({name: found[name] for name in wanted}, strict=False)
    return [name for name, _ in target.named_parameters() if name not in wanted]


def check_architecture(ours: Architecture, theirs: Architecture, fields: Sequence[str] = ARCHITECTURE_FIELDS) -> None:
    """Raise :class:`TransferError` where ``fields`` of a pre-trained network are not those of the one it is for."""
    wrong = [key for key in fields if getattr(ours, key) != getattr(theirs, key)]
    if wrong:
        told = ", ".join(f"{key} is {getattr(theirs, key)!r} and must be {getattr(ours, key)!r}" for key in wrong)
        raise TransferError(
            f"the weights of another architecture do not fit: in the pre-trained network {told}; use one with the same "
            "recipe, variant and budget"
        )


def check_finite(state: Mapping[str, Tensor], where: object) -> None:
    """Raise :class:`skipae_zoo.ConfigError` where a network's values are not all numbers."""
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
        raise ConfigError(
            f"{where} holds weights that are NaN or infinite, in {wrong[0]}{more}: the training diverged, or the file "
            "is damaged; use another state of the run, or fetch the checkpoint again"
        )


def _build(config: CheckpointConfig) -> Network:
    """Return the network that a config describes, its weights not yet loaded."""
    pixels, head, classes = config.preprocessing, config.head, len(config.labels)
    if head is None:
        return AutoEncoder(config.architecture, mean=pixels.mean, std=pixels.std)
    if head.kind == "decoder":
        return Segmenter(config.architecture, classes, head=head, mean=pixels.mean, std=pixels.std)
    return Classifier(config.architecture, classes, head, crop=pixels.crop, mean=pixels.mean, std=pixels.std)


def _is_stored(name: str) -> bool:
    """Return whether a value of the state is kept in model.safetensors."""
    return not name.endswith("num_batches_tracked")
