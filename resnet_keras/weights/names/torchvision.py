"""torchvision's names, which timm's plain ResNets have, too."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import FIRST, TorchNaming


@dataclass(frozen=True)
class Torchvision(TorchNaming):
    """`conv1`, `layer1.0.conv1`, `fc`."""

    title = "torchvision"
    signature = f"[PREFIX.]{FIRST}"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By `layer1.0.conv1.weight`."""
        return cls.found(contents)
