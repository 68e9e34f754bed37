"""SGD, as all published ResNets used it."""

from typing import Any

import keras

from resnet_keras.optimizers.optimizer import Optimizer


@keras.saving.register_keras_serializable("resnet_keras")
class SGD(Optimizer):
    """Stochastic gradient descent with PyTorch's arithmetic, which all published ResNets used.

    With gradient `g`, parameter `w`, buffer `b` (initially 0) and learning rate `lr`:

        g = g + weight_decay * w        b = momentum * b + g        w = w - lr * b

    or, with `nesterov`, `w = w - lr * (g + momentum * b)`. Stock Keras differs twice: it decays
    outside the momentum (about ten times weaker at 0.9), and keeps the learning rate inside the
    buffer (so that a lower one takes effect ten steps late).

    Args:
        learning_rate: a float, 0 or more, or a schedule.
        momentum: in [0, 1).
        nesterov: use Nesterov's momentum.
        **arguments: of `Optimizer`, among them `weight_decay`, the factor of the L2 penalty,
            which is added to the gradient of every parameter that is not in `exclude`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        **arguments: Any,
    ):
        super().__init__(learning_rate, **arguments)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if nesterov and not momentum:
            raise ValueError("`nesterov` needs `momentum` above 0. Received: momentum=0")
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables) -> None:
        """Create a momentum buffer for each variable, unless `momentum` is 0."""
        if self.built:
            return
        super().build(variables)
        self.buffers = self.add_slots("momentum", variables) if self.momentum else []

    def compute_update(self, index: int, gradient: Any, variable: Any, learning_rate: Any):
        """Compute one variable's step; see `Optimizer.compute_update`."""
        if self.weight_decay and self.decayed[index]:
            gradient = gradient + self.weight_decay * variable
        if not self.momentum:
            return variable - learning_rate * gradient, []
        buffer = self.buffers[index]
        velocity = self.momentum * buffer + gradient
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        return variable - learning_rate * step, [(buffer, velocity)]
