"""The names of OpenMMLab's files: MMPretrain's classifiers, and the backbones of its detectors."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming, layout


@dataclass(frozen=True)
class OpenMMLab(TorchNaming):
    """`backbone.conv1`, `backbone.stem.0`, `backbone.layer1.0.conv1`, `head.fc`."""

    title = "OpenMMLab"
    signature = "backbone.layer1.0.conv1.weight"
    antialias = False  # its plain rows were evaluated with OpenCV

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the prefix `backbone.`, or by the deep stem."""
        found = layout(contents.path, contents.arrays)
        if found is None:
            return None
        outside = found.prefix.removesuffix("backbone.")
        if outside == found.prefix and f"{found.prefix}stem.0.conv.weight" not in contents.arrays:
            return None
        return cls(f"{outside}head.fc", found.prefix, found.avg_down, pooled=found.pooled)

    def stem(self, number: int, norm: bool) -> str:
        """A module with `conv` and `bn` for each convolution."""
        return f"stem.{number - 1}.{'bn' if norm else 'conv'}"
