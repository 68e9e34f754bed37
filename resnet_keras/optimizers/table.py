"""A learning rate for every step."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("resnet_keras")
class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, as a table; behind its end the last rate stays.

    A table is exact where curves of floating-point steps are off by one, and one class serves
    every published curve.

    Args:
        learning_rates: one rate for each step, from step 0.

    Raises:
        ValueError: no learning_rates.
    """

    def __init__(self, learning_rates: Sequence[float]):
        super().__init__()
        if not len(learning_rates):
            raise ValueError("`learning_rates` must have one rate a step. Received: none")
        self.learning_rates = np.asarray(learning_rates, "float64")

    def __call__(self, step):
        """The rate of training step `step`."""
        learning_rates = ops.convert_to_tensor(self.learning_rates, dtype=keras.config.floatx())
        return ops.take(
            learning_rates, ops.minimum(ops.cast(step, "int32"), len(self.learning_rates) - 1)
        )

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {"learning_rates": self.learning_rates.tolist()}
