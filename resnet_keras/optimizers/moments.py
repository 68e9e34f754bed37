"""What optimizers that follow Adam share: two moments of each gradient, and Adam's step."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from resnet_keras.optimizers.optimizer import Optimizer


class Moments(Optimizer):
    """An optimizer that keeps Adam's moments (Kingma and Ba 2014, algorithm 1).

    Args:
        learning_rate: a float, 0 or more, or a schedule.
        beta_1: decay of the mean of gradients, in [0, 1).
        beta_2: decay of the mean of their squares, in [0, 1).
        epsilon: added to the root of that mean, 0 or more.
        **arguments: of `Optimizer`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any,
        *,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        **arguments: Any,
    ):
        super().__init__(learning_rate, **arguments)
        for name, value in {"beta_1": beta_1, "beta_2": beta_2}.items():
            if not 0 <= value < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value}")
        if epsilon < 0:
            raise ValueError(f"`epsilon` must be >= 0. Received: epsilon={epsilon}")
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create two moments for each variable."""
        if self.built:
            return
        super().build(variables)
        self.means = self.add_slots("mean", variables)
        self.squares = self.add_slots("square", variables)

    def adam_step(self, index: int, gradient: Any) -> tuple[Any, list[tuple]]:
        """Compute Adam's step of one variable, before the learning rate.

        The moments are bias-corrected, and epsilon is outside the root. A step that was discarded
        does not count in the correction.

        Args:
            index: number of the variable.
            gradient: of the batch.

        Returns:
            The step, which is to be subtracted, and pairs `(own variable, its new value)`.
        """
        mean = self.beta_1 * self.means[index] + (1 - self.beta_1) * gradient
        square = self.beta_2 * self.squares[index] + (1 - self.beta_2) * ops.square(gradient)
        root = ops.sqrt(square / self._correction(self.beta_2, gradient.dtype))
        step = mean / self._correction(self.beta_1, gradient.dtype) / (root + self.epsilon)
        return step, [(self.means[index], mean), (self.squares[index], square)]

    def _correction(self, beta: float, dtype: str) -> Any:
        """1 - beta ** steps, exact in float32 too, where .999 is not."""
        steps = ops.cast(self.updates + 1, dtype)
        return -ops.expm1(steps * math.log(beta)) if beta else ops.ones_like(steps)
