"""The names that PyTorch code gives the parts of a ResNet: torchvision's, and what follows them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.heads import head_of, is_bookkeeping
from resnet_keras.weights.names.naming import Naming

# Every one of these networks has this tensor, once.
FIRST = "layer1.0.conv1.weight"

VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

# What MoCo calls its networks.
_ENCODERS = {"encoder_q", "encoder_k", "base_encoder", "momentum_encoder"}

_LAYER = re.compile(r"conv(\d+)(?:_block(\d+))?(?:_(\d))?_(conv|bn)")


def part(layer: str) -> tuple[int, int, int, bool]:
    """What a layer of ours, other than `predictions`, is.

    Returns:
        Stage and block as in `conv3_block4`, the number in it (0: the shortcut's; of a stem: 0, or
        1 to 3 where it is deep), and whether it is a batch norm. A block of 0: the stem.
    """
    match = _LAYER.fullmatch(layer)
    if match is None:
        raise ValueError(f"no layer of a ResNet. Received: {layer!r}")
    stage, block, number, kind = match.groups(default="0")
    return int(stage), int(block), int(number), kind == "bn"


def torch_name(
    layer: str, variable: str, stem: Callable[[int, bool], str], shortcut: Callable[[str], int]
) -> str:
    """The name of a variable of ours, without a prefix; the head is `fc`.

    Args:
        layer: a layer's name, as `conv3_block4_2_bn`.
        variable: a variable's name, as `gamma`.
        stem: from the number of a convolution in a deep stem, and whether its batch norm is meant,
            to its name.
        shortcut: from a block, `layer2.0.`, to the index of the convolution in its `downsample`.

    Returns:
        As `layer2.3.bn2.weight`.
    """
    match = _LAYER.fullmatch(layer)
    if match is None:
        return f"fc.{VARIABLES[variable]}"
    stage, block, number, kind = match.groups()
    norm = kind == "bn"
    if block is not None:
        name = f"layer{int(stage) - 1}.{int(block) - 1}."
        name += f"downsample.{shortcut(name) + norm}" if number == "0" else f"{kind}{number}"
    elif number is not None:
        name = stem(int(number), norm)
    else:
        name = "bn1" if norm else "conv1"
    return f"{name}.{VARIABLES[variable]}"


def deep_stem(number: int, norm: bool) -> str:
    """The name of convolution 1, 2 or 3 of a deep stem, or of the batch norm behind it: timm's.

    Its `conv1` is a `Sequential` of convolution, norm, activation, ...; the last norm is outside.
    """
    return "bn1" if norm and number == 3 else f"conv1.{3 * (number - 1) + norm}"


class Layout(NamedTuple):
    """What the names of PyTorch's files say, whoever's they are.

    Attributes:
        prefix: of all names of the backbone.
        pooled: the blocks, `layer2.0.`, whose shortcut begins with a pool.
        avg_down: as in `Spec`; None where the file does not tell.
    """

    prefix: str
    pooled: frozenset[str]
    avg_down: bool | None


def layout(path: str, arrays: Mapping[str, np.ndarray], first: str = FIRST) -> Layout | None:
    """Find the network among the names of a file; None if there is none.

    Args:
        path: of the file, for messages.
        arrays: by the file's names.
        first: the name of the tensor that every network has once.

    Raises:
        InputError: there are several.
    """
    found = prefixes(arrays, first)
    if not found:
        return None
    if len(found) > 1:
        raise InputError(
            f"{path} must have one tensor named [PREFIX.]{first}. "
            f"Received: {found[0] + first!r} and {found[1] + first!r}"
        )
    prefix = found[0]
    # OpenMMLab's ResNet-D numbers differently in its first stage, timm's does not, and a dilated
    # one differs again: what the file has is right for each block.
    behind = ".downsample.1.weight"
    pooled = frozenset(
        key.removeprefix(prefix).removesuffix(behind[1:])
        for key, array in arrays.items()
        if key.startswith(prefix) and key.endswith(behind) and array.ndim == 4
    )
    strided = f"{prefix}layer2.0.downsample"
    told = f"{strided}.0.weight" in arrays or f"{strided}.1.weight" in arrays
    return Layout(prefix, pooled, "layer2.0." in pooled if told else None)


def prefixes(arrays: Iterable[str], first: str) -> list[str]:
    """What stands in front of a tensor's name, wherever it is."""
    found = (key for key in arrays if key == first or key.endswith(f".{first}"))
    return [key.removesuffix(first) for key in found]


@dataclass(frozen=True)
class TorchNaming(Naming):
    """Names and layout of PyTorch's files; a subclass says how they are recognised.

    Attributes:
        first: the tensor that every one of its networks has, once.
        roots: how the names of the backbone's parts begin, as a regular expression.
        pooled: the blocks, `layer2.0.`, whose shortcut begins with a pool.
    """

    first: ClassVar[str] = FIRST
    roots: ClassVar[str] = r"(conv|bn|layer)\d+\.|stem\."

    pooled: frozenset[str] = frozenset()

    @classmethod
    def found(cls, contents: Contents, **fields: Any) -> Self | None:
        """The names in a file that has `first`; None if it has not.

        Args:
            contents: the file.
            **fields: those that are told by something else than names.

        Raises:
            InputError: there are several networks.
        """
        place = layout(contents.path, contents.arrays, cls.first)
        if place is None:
            return None
        fields = {"avg_down": place.avg_down, "pooled": place.pooled} | fields
        naming = cls(cls.default_head(place.prefix), place.prefix, **fields)
        outside = {k: a for k, a in contents.arrays.items() if not naming.inside(k)}
        head = head_of(outside, place.prefix, naming.features(contents.arrays))
        # The `fc` of these is a projection, even where it is one layer.
        projects = head.projects or not _ENCODERS.isdisjoint(place.prefix.split("."))
        return replace(
            naming,
            head=head.name or naming.head,
            problem="" if projects else head.problem,
            projects=projects,
        )

    @classmethod
    def default_head(cls, prefix: str) -> str:
        """The name of the last layer, for messages about files that have none."""
        return f"{prefix}fc"

    def features(self, arrays: Mapping[str, np.ndarray]) -> int | None:
        """The channels at the end of the backbone; None if it has no stages."""
        channels, stage = None, 2
        while True:
            names = (self.name(f"conv{stage}_block1_{n}_conv", "kernel") for n in (3, 2))
            last = next((arrays[name] for name in names if name in arrays), None)
            if last is None or not last.ndim:
                return channels
            channels, stage = len(last), stage + 1

    def stem(self, number: int, norm: bool) -> str:
        """As `deep_stem`."""
        return deep_stem(number, norm)

    def local(self, layer: str, variable: str) -> str:
        """The name of a variable of ours in the backbone, without the prefix."""
        return torch_name(layer, variable, self.stem, lambda block: int(block in self.pooled))

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        if layer == "predictions":
            return f"{self.head}.{VARIABLES[variable]}"
        return self.prefix + self.local(layer, variable)

    def inside(self, key: str) -> bool:
        """As that of `Naming`."""
        rest = key.removeprefix(self.prefix)
        return key.startswith(self.prefix) and re.match(self.roots, rest) is not None

    def beside(self, key: str) -> bool:
        """As that of `Naming`."""
        outside = not key.startswith(self.prefix) and self.head.startswith(self.prefix)
        return not self.inside(key) and (outside or is_bookkeeping(key.removeprefix(self.prefix)))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """As that of `Naming`: OIHW, (out, in)."""
        return (ours[3], ours[2], *ours[:2]) if len(ours) == 4 else ours[::-1]

    def value(self, array: np.ndarray) -> np.ndarray:
        """As that of `Naming`."""
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    def arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add a bias of zeros to a last layer that has none."""
        kernel, bias = (self.name("predictions", variable) for variable in ("kernel", "bias"))
        headless = self.problem or self.projects or kernel not in arrays
        if headless or bias in arrays or arrays[kernel].ndim != 2:
            return arrays
        return {**arrays, bias: np.zeros(len(arrays[kernel]), np.float32)}
