"""The files of keras.applications: our names, around another computation."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from resnet_keras.models import BN_EPSILON
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names import keras_layers
from resnet_keras.weights.names.keras_layers import Layers
from resnet_keras.weights.names.naming import Naming
from resnet_keras.weights.names.told import Told


@dataclass(frozen=True)
class KerasApplications(Naming):
    """`conv1_conv/kernel` and `conv1_conv/bias`; bottlenecks stride in their first convolution.

    Attributes:
        epsilon: of its batch norms.
    """

    title = "keras.applications"
    signature = "conv1_conv/bias"
    # Its `preprocess_input` subtracts this mean, of BGR pixels, and divides by nothing.
    mean = (123.68, 116.779, 103.939)
    std = (1.0, 1.0, 1.0)
    bgr = True
    whole = True
    heads: ClassVar[tuple[str, ...]] = ("predictions", "probs")  # since 2020; until then

    epsilon: float = 1.001e-5

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the bias of a convolution, which no other ResNet has."""
        if cls.signature not in contents.arrays:
            return None
        keras_layers.refuse_relatives(contents)
        _, backbone, top = cls.parts(contents.layers)
        found = keras_layers.head(contents, top, cls.heads)
        epsilons = {
            layer["config"]["epsilon"]
            for layer in backbone.values()
            if layer["class_name"] == "BatchNormalization"
        }
        return cls(
            found.head,
            avg_down=False,
            stride_in_1x1=True,
            problem=found.problem,
            epsilon=epsilons.pop() if len(epsilons) == 1 else cls.epsilon,
        )

    @classmethod
    def parts(cls, layers: Layers) -> keras_layers.Parts:
        """The layers of a file, those of the backbone by our names."""
        return keras_layers.parts(layers)

    def told(self, contents: Contents) -> Told:
        """As that of `Naming`: a `.keras` file shows its whole network, perhaps its preprocessing.

        Where it does not, authors called `preprocess_input` outside of it.
        """
        front, backbone, top = self.parts(contents.layers)
        pixels = keras_layers.pixels(contents.path, front)
        # `arrays` folds the difference away.
        layers = {
            name: {**layer, "config": {**layer["config"], "epsilon": BN_EPSILON}}
            if layer["config"].get("epsilon") == self.epsilon
            else layer
            for name, layer in backbone.items()
        }
        scored = any(key.startswith(f"{self.head}/") for key in contents.arrays)
        return Told(
            mean=pixels and pixels.mean,
            std=pixels and pixels.std,
            bgr=pixels and pixels.bgr,
            normalised=True if pixels else None,
            output_stride=keras_layers.output_stride(layers),
            input_shape=keras_layers.input_shape(contents.layers),
            activation=keras_layers.top(top).activation,
            layers=layers,
            assumed=() if contents.layers or not scored else ("average of the last map",),
        )

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        return f"{self.head if layer == 'predictions' else layer}/{variable}"

    def inside(self, key: str) -> bool:
        """As that of `Naming`."""
        return keras_layers.inside(key)

    def arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Fold the biases into the means.

        (conv + b - mean) / sqrt(var + e) = (conv - (mean - b)) / sqrt((var + e - 1e-5) + 1e-5).
        """
        changed = {}
        for key, array in arrays.items():
            layer, variable = key.split("/")
            if not self.inside(key):
                changed[key] = array
                continue
            bias = arrays.get(f"{self.partner(layer)}/bias")
            if variable == "bias" and f"{self.partner(layer)}/moving_mean" in arrays:
                continue
            if variable == "moving_mean" and bias is not None:
                array = array - bias
            elif variable == "moving_variance":
                array = array + np.float32(self.epsilon - BN_EPSILON)
            changed[key] = array
        return changed

    @staticmethod
    def partner(layer: str) -> str:
        """The file's batch norm of a convolution, and the convolution of a batch norm."""
        stem, _, kind = layer.rpartition("_")
        return f"{stem}_{'conv' if kind == 'bn' else 'bn'}"
