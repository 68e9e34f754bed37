"""The names that PyTorch code gives the parts of a ResNet: torchvision's, and what follows them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.weights.names.naming import Naming

# Every one of these networks has this tensor, once.
FIRST = "layer1.0.conv1.weight"

_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_LAYER = re.compile(r"conv(\d+)(?:_block(\d+))?(?:_(\d))?_(conv|bn)")


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
        return f"fc.{_VARIABLES[variable]}"
    stage, block, number, kind = match.groups()
    norm = kind == "bn"
    if block is not None:
        name = f"layer{int(stage) - 1}.{int(block) - 1}."
        name += f"downsample.{shortcut(name) + norm}" if number == "0" else f"{kind}{number}"
    elif number is not None:
        name = stem(int(number), norm)
    else:
        name = "bn1" if norm else "conv1"
    return f"{name}.{_VARIABLES[variable]}"


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


def layout(path: str, arrays: Mapping[str, np.ndarray]) -> Layout | None:
    """Find the network among the names of a file; None if there is none.

    Raises:
        InputError: there are several.
    """
    found = [key for key in arrays if key == FIRST or key.endswith(f".{FIRST}")]
    if not found:
        return None
    if len(found) > 1:
        raise InputError(
            f"{path} must have one tensor named [PREFIX.]{FIRST}. "
            f"Received: {found[0]!r} and {found[1]!r}"
        )
    prefix = found[0].removesuffix(FIRST)
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


@dataclass(frozen=True)
class TorchNaming(Naming):
    """Names and layout of PyTorch's files; a subclass says how they are recognised.

    Attributes:
        pooled: the blocks, `layer2.0.`, whose shortcut begins with a pool.
    """

    pooled: frozenset[str] = frozenset()

    def stem(self, number: int, norm: bool) -> str:
        """As `deep_stem`."""
        return deep_stem(number, norm)

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        name = torch_name(layer, variable, self.stem, lambda block: int(block in self.pooled))
        if layer == "predictions":
            return self.head + name.removeprefix("fc")
        return self.prefix + name

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """As that of `Naming`: OIHW, (out, in)."""
        return (ours[3], ours[2], *ours[:2]) if len(ours) == 4 else ours[::-1]

    def value(self, array: np.ndarray) -> np.ndarray:
        """As that of `Naming`."""
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
