"""The names of this library's own files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.naming import Naming


@dataclass(frozen=True)
class ResNetKeras(Naming):
    """`conv1_conv/kernel`, `conv2_block1_1_conv/kernel`, `predictions/kernel`."""

    title = "resnet_keras"
    signature = "conv1_conv/kernel"

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the stem's kernel; a `.keras` file tells the rest by its layers."""
        if not {"conv1_conv/kernel", "conv1_1_conv/kernel"} & set(contents.arrays):
            return None
        avg_down, stride_in_1x1 = style(contents.layers)
        return cls("predictions", avg_down=avg_down, stride_in_1x1=stride_in_1x1)

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        return f"{layer}/{variable}"


def style(layers: Mapping[str, dict[str, Any]]) -> tuple[bool | None, bool | None]:
    """`avg_down` and `stride_in_1x1` of a Keras model.

    Args:
        layers: `class_name` and `config` of each layer by name, at least those of `conv3_block1`.

    Returns:
        Both; None where the layers do not tell.
    """
    if "conv3_block1_1_conv" not in layers:
        return None, None
    pool = layers.get("conv3_block1_0_pool", {}).get("class_name") == "AveragePooling2D"
    strides = layers["conv3_block1_1_conv"]["config"]["strides"]
    bottleneck = "conv3_block1_3_conv" in layers
    return pool, tuple(strides) != (1, 1) if bottleneck else None
