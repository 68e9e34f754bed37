"""The names of kuangliu's pytorch-cifar, from which most CIFAR code for PyTorch descends."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming


@dataclass(frozen=True)
class Kuangliu(TorchNaming):
    """`conv1`, `layer2.0.shortcut.0`, `layer2.0.shortcut.1`, `linear`."""

    title = "pytorch-cifar"
    signature = "[PREFIX.]layer2.0.shortcut.0.weight"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the convolution in a shortcut."""
        naming = cls.found(contents, avg_down=False)
        if naming is None or f"{naming.prefix}layer2.0.shortcut.0.weight" not in contents.arrays:
            return None
        return naming

    @classmethod
    def default_head(cls, prefix: str) -> str:
        """As that of `TorchNaming`."""
        return f"{prefix}linear"

    def local(self, layer: str, variable: str) -> str:
        """As that of `TorchNaming`."""
        return super().local(layer, variable).replace(".downsample.", ".shortcut.")
