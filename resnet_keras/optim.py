"""SGD as the papers' code computes it; a learning rate for every step."""

from collections.abc import Sequence

import keras
from keras import ops


class SGD(keras.optimizers.Optimizer):
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
        **arguments: those of `keras.optimizers.Optimizer`.

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
        arguments = {"name": "sgd", **arguments}
        super().__init__(learning_rate, **arguments)  # the base class' own decay stays off
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum}")
        if weight_decay < 0:
            raise ValueError(f"`weight_decay` must be >= 0. Received: weight_decay={weight_decay}")
        if nesterov and not momentum:
            raise ValueError("`nesterov` needs `momentum` above 0. Received: momentum=0")
        self.momentum = momentum
        self.nesterov = nesterov
        self.l2 = weight_decay
        self.exclude = tuple(exclude)

    def build(self, variables):
        """Create one momentum buffer a variable, and note which variables decay."""
        if self.built:
            return
        super().build(variables)
        self.decayed = [not any(word in v.path for word in self.exclude) for v in variables]
        self.buffers = []
        if self.momentum:
            self.buffers = [
                self.add_variable_from_reference(variable, name="momentum")
                for variable in variables
            ]

    def update_step(self, gradient, variable, learning_rate):
        """Update one variable in place."""
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype)
        step = ops.cast(gradient, variable.dtype)
        if self.l2 and self.decayed[index]:
            step = step + self.l2 * variable
        if self.momentum:
            buffer = self.buffers[index]
            velocity = self.momentum * buffer + step
            self.assign(buffer, velocity)
            step = step + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, rate * step)

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.l2,
            "exclude": self.exclude,
        }


class Table(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, as a table; behind its end the last rate stays.

    A table is exact where curves of floating-point steps are off by one, and one class serves
    every published curve.

    Args:
        rates: one rate for each step, from step 0.

    Raises:
        ValueError: no rates.
    """

    def __init__(self, rates: Sequence[float]):
        super().__init__()
        if not len(rates):
            raise ValueError("`rates` must have one rate a step. Received: none")
        self.rates = rates

    def __call__(self, step):
        """The rate of training step `step`."""
        rates = ops.convert_to_tensor(self.rates, dtype=keras.config.floatx())
        return ops.take(rates, ops.minimum(ops.cast(step, "int32"), len(self.rates) - 1))

    def get_config(self) -> dict:
        """The arguments of the constructor."""
        return {"rates": list(self.rates)}
