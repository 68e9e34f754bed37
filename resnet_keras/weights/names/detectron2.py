"""detectron2's names, which the backbones of its `.pth` and `.pkl` files have."""

from dataclasses import dataclass
from typing import ClassVar, Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import VARIABLES, TorchNaming, part


@dataclass(frozen=True)
class Detectron2(TorchNaming):
    """`stem.conv1`, `stem.conv1.norm`, `res2.0.conv1`, `res2.0.shortcut`."""

    title = "detectron2"
    signature = "[PREFIX.]res2.0.conv1.weight"
    first: ClassVar[str] = "res2.0.conv1.weight"
    roots: ClassVar[str] = r"stem\.conv|res\d+\."

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first block."""
        return cls.found(contents, avg_down=False)

    @classmethod
    def default_head(cls, prefix: str) -> str:
        """As that of `TorchNaming`: where its own script puts torchvision's."""
        return f"{prefix}stem.fc"

    def local(self, layer: str, variable: str) -> str:
        """As that of `TorchNaming`."""
        stage, block, number, norm = part(layer)
        if block:
            name = f"res{stage}.{block - 1}."
            name += f"conv{number}" if number else "shortcut"
        else:
            name = f"stem.conv1_{number}" if number else "stem.conv1"
        return f"{name}{'.norm' if norm else ''}.{VARIABLES[variable]}"
