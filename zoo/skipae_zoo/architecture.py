"""The paper's networks as data: every convolution, its channels, stride, receptive field and shortcut.

Source: Dong, Mao, Shen, Yang, "Learning Deep Representations Using Convolutional Auto-encoders with
Symmetric Skip Connections", section 3.1 and supplement A, table 1.  Nothing here computes on pixels:
the training package builds torch modules from this table, the inference package plans tiles with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from skipae_zoo.text import shown

NetworkName = Literal["network-1", "network-2", "network-3"]
Shortcuts = Literal["symmetric", "input-output", "none"]
Topology = Literal["pre", "post"]
Norm = Literal["batch", "none"]


MAX_LAYERS = 64
"""Maximum number of encoder convolutions: four times the paper's deepest."""

MAX_CHANNELS = 4096
"""Maximum number of channels of the first layer; later stages may have eight times as many."""

MAX_REFINE = 8
"""Maximum number of further deconvolutions of a stage."""


class ArchitectureError(ValueError):
    """An architecture that the paper's family does not contain; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One encoder convolution, followed by batch norm and ReLU (section 3.1)."""

    name: str
    """``enc1`` .. ``encL``; the deconvolution that mirrors ``enc5`` is ``dec5``."""
    in_channels: int
    channels: int
    """Channels of its output."""
    kernel: int
    """Side of the square kernel, 3 or 1; it pads by ``kernel // 2``."""
    stride: int
    """Stride of this convolution alone, 1 or 2."""
    total_stride: int
    """Input pixels from one output pixel to the next: the product of the strides up to here."""
    receptive_field: int
    """Side in input pixels of the square that one output pixel depends on."""

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of this layer's output for an image of ``height x width`` pixels."""
        return -(-height // self.total_stride), -(-width // self.total_stride)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A convolutional auto-encoder of the paper's family.

    ``network-1`` has four stages of ``m[k]`` 3x3 convolutions with n, 2n, 4n, 8n channels, the last one of
    each stage with stride 2; a stage of 0 convolutions is left out.  ``network-2`` is All-CNN-C without
    pooling (the paper's n is 96), ``network-3`` is VGG-16 without pooling (the paper's n is 64); their
    depth is fixed, so ``m`` is empty.
    """

    network: NetworkName
    n: int
    """Channels of the first layer."""
    m: tuple[int, ...] = ()
    """Convolutions per stage, strided ones included; ``network-1`` only."""
    shortcuts: Shortcuts = "symmetric"
    """``symmetric``: every second convolution's output is added to its mirror's, and the input to the
    output.  ``input-output``: the latter alone (the paper's "without shortcut").  ``none``: neither."""
    topology: Topology = "pre"
    """Place where a symmetric shortcut joins: ``pre`` adds raw convolution outputs, before batch norm and ReLU
    (figure 1b, pre-activation); ``post`` adds the outputs of both ReLUs."""
    widths: tuple[int, ...] = ()
    """Channels of each stage instead of n, 2n, 4n, 8n; the first is n.  ``network-1`` only, like the fields below."""
    residual: bool = False
    """True if pairs of layers that change neither size nor channels are residual units: what goes into the first is
    added to what comes out of the second's ReLU, in the encoder and at its mirror in the decoder."""
    refine: int = 0
    """Further deconvolutions of stride 1 after each one of stride 2, for a decoder deeper than the encoder."""
    norm: Norm = "batch"
    """``none`` has a bias per channel where batch norm would be."""

    def __post_init__(self) -> None:
        """Reject an architecture outside the family."""
        _one_of("network", self.network, get_args(NetworkName))
        _one_of("shortcuts", self.shortcuts, get_args(Shortcuts))
        _one_of("topology", self.topology, get_args(Topology))
        if not _is_count(self.n) or not 1 <= self.n <= MAX_CHANNELS:
            raise ArchitectureError(
                f"n must be a whole number of channels from 1 to {MAX_CHANNELS}, not {shown(self.n)}"
            )
        if self.network == "network-1":
            if len(self.m) != 4 or not all(_is_count(k) for k in self.m) or not 2 <= sum(self.m) <= MAX_LAYERS:
                raise ArchitectureError(
                    f"m must be four whole numbers of convolutions, one per stage, at least 2 in all and at "
                    f"most {MAX_LAYERS}, for example (2, 2, 3, 3), not {shown(self.m)}"
                )
        elif self.m:
            raise ArchitectureError(f"m is fixed for {self.network}: leave it empty, not {shown(self.m)}")
        self._check_options()

    def _check_options(self) -> None:
        """Refuse options that are outside the family, or that the paper's fixed networks do not have."""
        _one_of("norm", self.norm, get_args(Norm))
        if not isinstance(self.residual, bool):
            raise ArchitectureError(f"residual must be true or false, not {shown(self.residual)}")
        if not _is_count(self.refine) or self.refine > MAX_REFINE:
            raise ArchitectureError(f"refine must be a whole number from 0 to {MAX_REFINE}, not {shown(self.refine)}")
        if self.widths and (
            len(self.widths) != 4
            or not all(_is_count(k) and 1 <= k <= 8 * MAX_CHANNELS for k in self.widths)
            or self.widths[0] != self.n
        ):
            raise ArchitectureError(
                f"widths must be empty or four numbers of channels, one per stage, the first of them n = {self.n}, "
                f"not {shown(self.widths)}"
            )
        if self.network != "network-1" and (self.widths or self.residual or self.refine or self.norm != "batch"):
            raise ArchitectureError(
                f"widths, residual, refine and norm are for network-1: leave them out of {self.network}"
            )

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The encoder, first layer first."""
        layers: list[LayerSpec] = []
        channels, total_stride, field = 3, 1, 1
        for number, (out, kernel, stride) in enumerate(self._convolutions(), start=1):
            field += (kernel - 1) * total_stride
            total_stride *= stride
            layers.append(LayerSpec(f"enc{number}", channels, out, kernel, stride, total_stride, field))
            channels = out
        return tuple(layers)

    @property
    def shortcut_layers(self) -> tuple[int, ...]:
        """The i for which the output of ``enc{i}`` is added to the output of ``dec{i+1}``: 2, 4, ... < L."""
        return tuple(range(2, len(self.layers), 2)) if self.shortcuts == "symmetric" else ()

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """First and last layer of each residual unit, counted from 1.

        The input of the first is added to the output of the last; in the decoder, the input of the last's mirror to
        the output of the first's.
        """
        found: list[tuple[int, int]] = []
        layers = self.layers if self.residual else ()
        for number in range(3, len(layers) + 1):  # the first takes pixels
            pair = layers[number - 2 : number]
            free = not found or found[-1][1] < number - 1
            if free and all(layer.stride == 1 and layer.in_channels == layer.channels for layer in pair):
                found.append((number - 1, number))
        return tuple(found)

    def refinements(self, number: int) -> tuple[str, ...]:
        """Return the names of the further deconvolutions that follow ``dec{number}``."""
        count = self.refine if number > 1 and self.layers[number - 1].stride == 2 else 0
        return tuple(f"dec{number}.{k}" for k in range(1, count + 1))

    @property
    def total_stride(self) -> int:
        """Input pixels between neighbors of the last encoder layer."""
        return self.layers[-1].total_stride

    @property
    def reach(self) -> int:
        """Pixels by which a change of one input pixel can travel in the output, encoder and decoder together."""
        encoder = decoder = 0
        stride = 1
        for layer in self.layers:
            step = layer.kernel // 2
            encoder += step * stride
            stride *= layer.stride
        for number, layer in reversed(list(enumerate(self.layers, start=1))):
            # A deconvolution spreads each input pixel, stride apart, by kernel // 2 pixels of its output.
            stride //= layer.stride
            decoder += (layer.kernel // 2 + len(self.refinements(number))) * stride
        return encoder + decoder

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, as in ``config.json``: options only where they are used."""
        options = {"widths": list(self.widths), "residual": self.residual, "refine": self.refine, "norm": self.norm}
        return {
            "network": self.network,
            "n": self.n,
            "m": list(self.m),
            "shortcuts": self.shortcuts,
            "topology": self.topology,
            **{key: value for key, value in options.items() if value != _OPTIONS[key]},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read the output of :meth:`to_dict`.

        Raises:
            ArchitectureError: a key is wrong; the message names it.
        """
        known = {"network", "n", "m", "shortcuts", "topology"}
        if set(data) - set(_OPTIONS) != known:
            wrong = ", ".join(sorted((set(data) - set(_OPTIONS)) ^ known))
            raise ArchitectureError(
                f"architecture must have the keys {', '.join(sorted(known))}; check {shown(wrong)[1:-1]}"
            )
        options = {**_OPTIONS, **{key: data[key] for key in _OPTIONS if key in data}}
        for key, values in (("m", data["m"]), ("widths", options["widths"])):
            if not isinstance(values, list):
                raise ArchitectureError(f"{key} must be a list of whole numbers, not {shown(values)}")
        return cls(
            network=cast(NetworkName, data["network"]),
            n=data["n"],
            m=tuple(data["m"]),
            shortcuts=cast(Shortcuts, data["shortcuts"]),
            topology=cast(Topology, data["topology"]),
            **{**options, "widths": tuple(options["widths"])},
        )

    def _convolutions(self) -> Iterator[tuple[int, int, int]]:
        """Yield (output channels, kernel, stride) of each encoder convolution (supplement A, table 1)."""
        n = self.n
        if self.network == "network-1":
            for stage, count in enumerate(self.m):
                for k in range(count):
                    yield self.widths[stage] if self.widths else n * 2**stage, 3, 2 if k == count - 1 else 1
        elif self.network == "network-2":
            yield from [(n, 3, 1), (n, 3, 1), (n, 3, 2)]
            yield from [(2 * n, 3, 1), (2 * n, 3, 1), (2 * n, 3, 2)]
            yield from [(2 * n, 3, 1), (2 * n, 1, 1)]
        else:
            for width, count in ((n, 2), (2 * n, 2), (4 * n, 3), (8 * n, 3), (8 * n, 3)):
                for k in range(count):
                    yield width, 3, 2 if k == count - 1 else 1


_OPTIONS: dict[str, Any] = {"widths": [], "residual": False, "refine": 0, "norm": "batch"}
"""Fields that ``config.json`` leaves out where they have these values, as all checkpoints did before."""


def network_1(m: tuple[int, int, int, int], n: int, **options: Any) -> Architecture:
    """Return Network-1 of supplement A: CIFAR uses m = (5, 5, 5, 0), n = 128; STL-10 m = (2, 2, 3, 3), n = 64."""
    return Architecture("network-1", n, m, **options)


def network_2(n: int = 96, **options: Any) -> Architecture:
    """Return Network-2 of supplement A: All-CNN-C without pooling, for CIFAR-10 with 4,000 labels."""
    return Architecture("network-2", n, **options)


def network_3(n: int = 64, **options: Any) -> Architecture:
    """Return Network-3 of supplement A: VGG-16 without pooling, for ImageNet and VOC."""
    return Architecture("network-3", n, **options)


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ArchitectureError(f"{field} must be one of {', '.join(allowed)}, not {shown(value)}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
