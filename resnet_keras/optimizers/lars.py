"""LARS, for batches of thousands of images."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from resnet_keras.optimizers.optimizer import Optimizer, norm


@keras.saving.register_keras_serializable("resnet_keras")
class LARS(Optimizer):
    """LARS (You et al. 2017, arXiv:1708.03888, algorithm 1), as MLPerf's ResNet-50 sets it.

    With gradient `g`, parameter `w`, velocity `v` (initially 0) and learning rate `lr`:

        local = trust_coefficient * |w| / (|g| + weight_decay * |w| + epsilon)
        v = momentum * v + lr * local * (g + weight_decay * w)        w = w - v

    where `|w|` is the L2 norm of the parameter, and `local` is 1 where a norm is 0. A parameter
    that is excluded does not decay, and its `local` is 1. The learning rate is inside the
    velocity, as in the paper and MLPerf's reference; NVIDIA's submissions also multiply the
    momentum by the ratio of this step's learning rate to that of the step before.

    Args:
        learning_rate: a float, 0 or more, or a schedule.
        momentum: in [0, 1).
        trust_coefficient: ratio of a step to its parameter at learning rate 1, above 0.
        epsilon: added to the denominator of `local`, 0 or more.
        weight_decay: factor of the parameter that is added to its gradient.
        exclude: words; a parameter whose path contains one of them takes the step of plain SGD with
            momentum, without decay.
        **arguments: of `Optimizer`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        *,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        epsilon: float = 0.0,
        weight_decay: float = 5e-5,
        exclude: Sequence[str] = ("bias", "gamma", "beta"),
        **arguments: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, exclude=exclude, **arguments)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if not trust_coefficient > 0:
            raise ValueError(
                "`trust_coefficient` must be above 0. "
                f"Received: trust_coefficient={trust_coefficient}"
            )
        if epsilon < 0:
            raise ValueError(f"`epsilon` must be >= 0. Received: epsilon={epsilon}")
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Create a velocity for each variable, unless `momentum` is 0."""
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_slots("momentum", variables) if self.momentum else []

    def compute_update(self, index: int, gradient: Any, variable: Any, learning_rate: Any):
        """Compute one variable's step; see `Optimizer.compute_update`."""
        step = learning_rate * gradient
        if self.decayed[index]:
            decayed = gradient + self.weight_decay * variable
            step = learning_rate * self._local(gradient, variable) * decayed
        if not self.momentum:
            return variable - step, []
        velocity = self.momentum * self.velocities[index] + step
        return variable - velocity, [(self.velocities[index], velocity)]

    def _local(self, gradient: Any, variable: Any) -> Any:
        """The local learning rate of a parameter; 1 where its norm or its gradient's is 0."""
        size, slope = norm([variable]), norm([gradient])
        below = slope + self.weight_decay * size + self.epsilon
        both = ops.minimum(size, slope) > 0
        # Not 0 / 0 where it is discarded: that would be NaN to who looks for one.
        return ops.where(both, self.trust_coefficient * size / ops.where(both, below, 1.0), 1.0)
