"""The names of MMSegmentation's and MMDetection's ResNet-C and ResNet-D."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.openmmlab import OpenMMLab


@dataclass(frozen=True)
class MMSegmentation(OpenMMLab):
    """`backbone.stem.0`, `backbone.stem.1`, `backbone.stem.3`, ..., `backbone.layer1.0.conv1`."""

    title = "MMSegmentation"
    signature = "backbone.stem.0.weight"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the deep stem."""
        naming = cls.found(contents)
        if naming is None or f"{naming.prefix}stem.0.weight" not in contents.arrays:
            return None
        return naming

    def stem(self, number: int, norm: bool) -> str:
        """A `Sequential` of convolution, norm, activation, ..."""
        return f"stem.{3 * (number - 1) + norm}"
