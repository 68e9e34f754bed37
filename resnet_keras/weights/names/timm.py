"""timm's names of ResNet-C and ResNet-D; its plain ResNets have torchvision's."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming, layout


@dataclass(frozen=True)
class Timm(TorchNaming):
    """`conv1.0`, `conv1.1`, `conv1.3`, `layer1.0.conv1`, `fc`."""

    title = "timm"
    signature = "[PREFIX.]conv1.0.weight"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the deep stem, `conv1.0.weight`."""
        found = layout(contents.path, contents.arrays)
        if found is None or f"{found.prefix}conv1.0.weight" not in contents.arrays:
            return None
        return cls(f"{found.prefix}fc", found.prefix, found.avg_down, pooled=found.pooled)
