"""The names of OpenMMLab's files: MMPretrain's classifiers, and the backbones of its detectors."""

import re
from dataclasses import dataclass
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming

# What its models have beside a backbone.
_PARTS = re.compile(r"(\w+_)?(head|neck)|data_preprocessor")


@dataclass(frozen=True)
class OpenMMLab(TorchNaming):
    """`backbone.conv1`, `backbone.stem.0`, `backbone.layer1.0.conv1`, `head.fc`."""

    title = "OpenMMLab"
    signature = "backbone.layer1.0.conv1.weight"
    antialias = False  # its plain rows were evaluated with OpenCV

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the deep stem, or by `backbone.` with nothing but necks and heads beside it."""
        naming = cls.found(contents)
        if naming is None:
            return None
        if f"{naming.prefix}stem.0.conv.weight" in contents.arrays:
            return naming
        outside = naming.prefix.removesuffix("backbone.")
        roots = {
            key.removeprefix(outside).partition(".")[0]
            for key in contents.arrays
            if not naming.inside(key)
        }
        own = outside != naming.prefix and naming.head == f"{outside}head.fc"
        own = own and not (naming.projects or naming.problem)
        return naming if own and all(map(_PARTS.fullmatch, roots)) else None

    @classmethod
    def default_head(cls, prefix: str) -> str:
        """As that of `TorchNaming`."""
        return f"{prefix.removesuffix('backbone.')}head.fc"

    def stem(self, number: int, norm: bool) -> str:
        """A module with `conv` and `bn` for each convolution."""
        return f"stem.{number - 1}.{'bn' if norm else 'conv'}"
