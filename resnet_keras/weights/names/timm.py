"""timm's names of ResNet-C and ResNet-D; its plain ResNets have torchvision's."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming


@dataclass(frozen=True)
class Timm(TorchNaming):
    """`conv1.0`, `conv1.1`, `conv1.3`, `layer1.0.conv1`, `fc`."""

    title = "timm"
    signature = "[PREFIX.]conv1.0.weight"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the deep stem, `conv1.0.weight`."""
        naming = cls.found(contents)
        deep = naming is not None and f"{naming.prefix}conv1.0.weight" in contents.arrays
        return naming if deep else None
