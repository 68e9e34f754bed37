"""How much of a layer's output quantizing this layer alone changes."""

import numpy as np

# On so many of the calibration images it is measured.
IMAGES = 8


class LayerErrors:
    """Collects, for each layer, what it gave and what it would have given in float.

    The error is the root of the summed squares of the differences over those of the output around
    the mean of its channel: 0.01 is one hundredth of what the layer tells apart. Around the mean,
    because a channel that is large but constant tells nothing, and yet widens the range.
    """

    def __init__(self):
        self._sums = {}

    def add(self, layer: str, output: str, got: np.ndarray, expected: np.ndarray, axis: int):
        """Add the output of one image.

        Args:
            layer: whose; it may have several outputs, the worst of which counts.
            output: name of the output.
            got: what was quantized, as real numbers.
            expected: the same in float.
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
        """The errors, in the order in which the layers came."""
        errors = {}
        for (layer, _), (wrong, count, total, squares) in self._sums.items():
            told = max(float(np.sum(squares - total**2 / count)), 1e-30)
            errors[layer] = max(errors.get(layer, 0.0), float(np.sqrt(wrong / told)))
        return errors
