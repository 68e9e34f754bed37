"""The names of MMPose's top-down networks: a backbone, and the head of Xiao et al. 2018."""

import re
from dataclasses import dataclass, replace
from typing import Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.openmmlab import OpenMMLab
from resnet_keras.weights.names.torch_names import VARIABLES

# What MMPose calls the head since 1.0, and before.
_HEADS = ("head", "keypoint_head")

# Height and width of the images where nobody says: those of most of its networks for COCO.
SIZE = (256, 192)

_DECONVOLUTION = re.compile(r"deconv(\d+)_(conv|bn)")


@dataclass(frozen=True)
class MMPose(OpenMMLab):
    """`backbone.layer1.0.conv1`, `head.deconv_layers.0`, ..., `head.final_layer`."""

    title = "MMPose"
    signature = "head.deconv_layers.0.weight"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first deconvolution and the last layer of the head, beside a backbone."""
        naming = cls.found(contents)
        if naming is None or not naming.prefix.endswith("backbone."):
            return None
        outside = naming.prefix.removesuffix("backbone.")
        for head in _HEADS:
            ends = (f"{outside}{head}.{part}.weight" for part in ("deconv_layers.0", "final_layer"))
            if all(end in contents.arrays for end in ends):
                return replace(naming, heatmaps=f"{outside}{head}", problem="", projects=False)
        return None

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        if (deconvolution := _DECONVOLUTION.fullmatch(layer)) is not None:
            number, kind = deconvolution.groups()
            # A `Sequential` of deconvolution, norm, activation, ...
            index = 3 * (int(number) - 1) + (kind == "bn")
            return f"{self.heatmaps}.deconv_layers.{index}.{VARIABLES[variable]}"
        if layer == "heatmaps":
            return f"{self.heatmaps}.final_layer.{VARIABLES[variable]}"
        return super().name(layer, variable)

    def beside(self, key: str) -> bool:
        """As that of `Naming`: the statistics of pixels, which the configuration has, too."""
        outside = self.prefix.removesuffix("backbone.")
        return key.startswith(f"{outside}data_preprocessor.") or super().beside(key)
