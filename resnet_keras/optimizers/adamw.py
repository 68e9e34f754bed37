"""AdamW with PyTorch's arithmetic."""

from typing import Any

import keras

from resnet_keras.optimizers.moments import Moments


@keras.saving.register_keras_serializable("resnet_keras")
class AdamW(Moments):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017), as `torch.optim.AdamW`.

    With gradient `g`, parameter `w`, moments `m` and `v` (initially 0), learning rate `lr`, and
    the number of the step `t`, from 1:

        w = w - lr * weight_decay * w
        m = beta_1 * m + (1 - beta_1) * g        v = beta_2 * v + (1 - beta_2) * g ** 2
        w = w - lr * m / (1 - beta_1 ** t) / (sqrt(v / (1 - beta_2 ** t)) + epsilon)

    As in PyTorch, every parameter decays unless it is excluded, and the defaults are PyTorch's.
    A step that was discarded does not count in `t`.

    Args:
        learning_rate: a float, 0 or more, or a schedule.
        weight_decay: factor of the parameter which, times the learning rate, is subtracted from
            it in each step, unless it is excluded.
        beta_1: decay of the mean of gradients, in [0, 1).
        beta_2: decay of the mean of their squares, in [0, 1).
        epsilon: added to the root of that mean, 0 or more.
        **arguments: of `Optimizer`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **arguments: Any,
    ):
        arguments |= {"weight_decay": weight_decay}
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **arguments)

    def compute_update(self, index: int, gradient: Any, variable: Any, learning_rate: Any):
        """Compute one variable's step; see `Optimizer.compute_update`."""
        step, moments = self.adam_step(index, gradient)
        kept = variable
        if self.weight_decay and self.decayed[index]:
            kept = variable * (1 - learning_rate * self.weight_decay)
        return kept - learning_rate * step, moments
