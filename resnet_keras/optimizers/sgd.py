"""SGD, as all published ResNets used it."""

from collections.abc import Sequence

import keras

from resnet_keras.optimizers.step import Optimizer


@keras.saving.register_keras_serializable("resnet_keras")
class SGD(Optimizer):
    """Stochastic gradient descent with PyTorch's arithmetic, which all published ResNets used.

    With gradient `g`, parameter `w`, buffer `b` (at first 0) and learning rate `lr`:

        g = g + weight_decay * w        b = momentum * b + g        w = w - lr * b

    or, with `nesterov`, `w = w - lr * (g + momentum * b)`. Stock Keras differs twice: it decays
    outside the momentum (about ten times weaker at 0.9), and keeps the rate inside the buffer (so
    a drop of the rate takes effect ten steps late).

    Args:
        learning_rate: a float above or equal to 0, or a schedule.
        momentum: in [0, 1).
        nesterov: whether to look ahead.
        weight_decay: L2 penalty's factor, added to the gradient of every parameter.
        exclude: words; a parameter whose path has one of them is not decayed (e.g.
            `("bias", "gamma", "beta")`).
        **arguments: those of `Optimizer`.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        learning_rate=0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        exclude: Sequence[str] = (),
        **arguments,
    ):
        arguments |= {"weight_decay": weight_decay, "exclude": exclude}
        super().__init__(learning_rate, **{"name": "sgd", **arguments})
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if nesterov and not momentum:
            raise ValueError("`nesterov` needs `momentum` above 0. Received: momentum=0")
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables):
        """Create one momentum buffer a variable."""
        if self.built:
            return
        super().build(variables)
        self.buffers = self._slots("momentum", variables) if self.momentum else []

    def move(self, place, gradient, variable, rate):
        """Compute one variable's step; see `Optimizer.move`."""
        if self.l2 and self.decayed[place]:
            gradient = gradient + self.l2 * variable
        if not self.momentum:
            return variable - rate * gradient, []
        buffer = self.buffers[place]
        velocity = self.momentum * buffer + gradient
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        return variable - rate * step, [(buffer, velocity)]

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        own = {"momentum": self.momentum, "nesterov": self.nesterov}
        return super().get_config() | own
