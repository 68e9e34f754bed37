"""The names of this library's own files."""

from dataclasses import dataclass
from typing import Self

from resnet_keras.models import is_of_heatmaps
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names import keras_layers
from resnet_keras.weights.names.naming import Naming
from resnet_keras.weights.names.told import Told


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
        keras_layers.refuse_relatives(contents)
        top = keras_layers.parts(contents.layers).top
        found = keras_layers.head(contents, top, ["predictions"])
        style = keras_layers.style(contents.layers)
        draws = "heatmaps/kernel" in contents.arrays and all(map(is_of_heatmaps, top))
        return cls(
            found.head,
            avg_down=style.avg_down,
            stride_in_1x1=style.stride_in_1x1,
            problem=found.problem,
            heatmaps="heatmaps" if draws else "",
        )

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        return f"{self.head if layer == 'predictions' else layer}/{variable}"

    def inside(self, key: str) -> bool:
        """As that of `Naming`."""
        return keras_layers.inside(key)

    def told(self, contents: Contents) -> Told:
        """As that of `Naming`: a `.keras` file shows its whole network."""
        if not contents.layers:
            return Told()
        front, backbone, top = keras_layers.parts(contents.layers)
        pixels = keras_layers.pixels(contents.path, front)
        style = keras_layers.style(contents.layers)
        return Told(
            mean=pixels and pixels.mean,
            std=pixels and pixels.std,
            bgr=False,
            normalised=pixels is not None,
            dilation=style.dilation,
            channel_padding=style.channel_padding,
            output_stride=keras_layers.output_stride(backbone),
            input_shape=keras_layers.input_shape(contents.layers),
            activation=keras_layers.top(top).activation,
            layers=backbone,
            whole=True,
        )
