"""What quantization costs each layer: which layer an operator computes, and how far it is off."""

import re
from collections.abc import Sequence

import numpy as np

# How many of the calibration images the errors are measured on.
IMAGES = 8


class LayerErrors:
    """Collects, for each layer, its quantized output and the output that float would have given.

    The error is the root of the summed squares of the differences over those of the output around
    the mean of its channel: 0.01 is one hundredth of what the layer distinguishes. Around the mean,
    because a channel that is large but constant distinguishes nothing, and yet widens the range.
    """

    def __init__(self):
        # Of each layer and output: squared differences, count, sums and squares of each channel.
        self._sums: dict[tuple[str, str], tuple] = {}

    def add(
        self, layer: str, output: str, got: np.ndarray, expected: np.ndarray, axis: int
    ) -> None:
        """Add the output of one image.

        Args:
            layer: the layer; of several outputs the worst counts.
            output: name of the output.
            got: the quantized values, as real numbers.
            expected: the same in float, of the same shape.
            axis: of the channels.
        """
        got, expected = (
            np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)
            for values in (got, expected)
        )
        new = (
            np.sum((got - expected) ** 2),
            len(expected),
            np.sum(expected, axis=0),
            np.sum(expected**2, axis=0),
        )
        old = self._sums.get((layer, output), (0.0, 0, 0.0, 0.0))
        self._sums[layer, output] = tuple(a + b for a, b in zip(old, new, strict=True))

    def by_layer(self) -> dict[str, float]:
        """Return the error of each layer, in the order in which they were added."""
        errors: dict[str, float] = {}
        for (layer, _), (wrong, count, total, squares) in self._sums.items():
            spread = max(float(np.sum(squares - total**2 / count)), 1e-30)
            errors[layer] = max(errors.get(layer, 0.0), float(np.sqrt(wrong / spread)))
        return errors


def layer_of(text: str, names: Sequence[str]) -> str | None:
    """Find the layer that a converted operator computes.

    Args:
        text: names of operators and tensors, as TensorFlow writes scopes, joined with `;`:
            `conv1_relu_1/Relu;conv1_conv_1/BiasAdd`. Keras counts the calls of a layer (`_1`).
        names: of the layers, in the order of the model.

    Returns:
        Of several, the first in the model, which is the convolution of a fused operator; None if
        no layer is named.
    """
    number = {name: i for i, name in enumerate(names)}
    found = set()
    for scope in re.findall(r"[^/;:]+(?=/)", text):
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in number:
                found.add(name)
                break
    return min(found, key=lambda name: number[name], default=None)
