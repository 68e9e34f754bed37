"""A learning rate for every step."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("resnet_keras")
class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, as a table; after its end the last one stays.

    A table is exact where curves of floating-point steps are off by one, and one class serves
    every published curve.

    Args:
        learning_rates: one for each step, from step 0.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, learning_rates: Sequence[float]):
        super().__init__()
        if not len(learning_rates):
            raise ValueError("`learning_rates` must have a number for each step. Received: none")
        self.learning_rates = np.asarray(learning_rates, "float64")

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of training step `step`, a scalar of Keras' float type."""
        learning_rates = ops.convert_to_tensor(self.learning_rates, dtype=keras.config.floatx())
        return ops.take(
            learning_rates, ops.minimum(ops.cast(step, "int32"), len(self.learning_rates) - 1)
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"learning_rates": self.learning_rates.tolist()}
