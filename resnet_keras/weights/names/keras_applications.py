"""The files of keras.applications: our names, around another computation."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from resnet_keras.models import BN_EPSILON
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.naming import Naming

# Of its batch norms.
_EPSILON = 1.001e-5


@dataclass(frozen=True)
class KerasApplications(Naming):
    """`conv1_conv/kernel` and `conv1_conv/bias`; bottlenecks stride in their first convolution."""

    title = "keras.applications"
    signature = "conv1_conv/bias"
    # Its `preprocess_input` subtracts this mean, of BGR pixels, and divides by nothing.
    mean = (123.68, 116.779, 103.939)
    std = (1.0, 1.0, 1.0)

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the bias of a convolution, which no other ResNet has."""
        if "conv1_conv/bias" not in contents.arrays:
            return None
        head = "probs" if "probs/kernel" in contents.arrays else "predictions"  # until 2020; since
        return cls(head, avg_down=False, stride_in_1x1=True)

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        return f"{self.head if layer == 'predictions' else layer}/{variable}"

    def arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Fold the biases into the means, and take RGB.

        (conv + b - mean) / sqrt(var + e) = (conv - (mean - b)) / sqrt((var + e - 1e-5) + 1e-5).
        """
        changed = {}
        for key, array in arrays.items():
            layer, variable = key.split("/")
            bias = arrays.get(f"{layer.removesuffix('_bn')}_conv/bias")
            if variable == "bias" and f"{layer.removesuffix('_conv')}_bn/moving_mean" in arrays:
                continue
            if variable == "moving_mean" and bias is not None:
                array = array - bias
            elif variable == "moving_variance":
                array = array + np.float32(_EPSILON - BN_EPSILON)
            elif key == "conv1_conv/kernel":
                array = array[:, :, ::-1]
            changed[key] = array
        return changed
