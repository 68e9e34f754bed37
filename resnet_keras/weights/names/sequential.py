"""The numbers of `Sequential(*resnet.children())`, as which PyTorch users cut a network."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import FIRST, TorchNaming, layout

# The modules of torchvision's and timm's networks by their places; the rest has no tensors.
_PLACES = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in range(1, 5)}}
_MODULES = {place: module for module, place in _PLACES.items()}


@dataclass(frozen=True)
class Sequential(TorchNaming):
    """`0.weight`, `1.weight`, `4.0.conv1.weight`, ..., `7.1.bn2.weight`."""

    title = "torch.nn.Sequential"
    signature = "[PREFIX.]4.0.conv1.weight"
    first: ClassVar[str] = "4.0.conv1.weight"
    roots: ClassVar[str] = r"[0-7]\."

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first block, the fifth of the children."""
        naming = cls.found(contents)
        if naming is None:
            return None
        named = {
            re.sub(r"^\d+", lambda place: _MODULES.get(place[0], place[0]), rest): array
            for key, array in contents.arrays.items()
            if naming.inside(key) and (rest := key.removeprefix(naming.prefix))
        }
        place = layout(contents.path, named, FIRST)
        assert place is not None  # `found` has found it
        return replace(naming, avg_down=place.avg_down, pooled=place.pooled)

    def local(self, layer: str, variable: str) -> str:
        """As that of `TorchNaming`."""
        root, dot, rest = super().local(layer, variable).partition(".")
        return f"{_PLACES.get(root, root)}{dot}{rest}"
