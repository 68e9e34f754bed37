"""LAMB, as "ResNet strikes back" used it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from resnet_keras.optimizers.moments import Moments
from resnet_keras.optimizers.optimizer import norm


@keras.saving.register_keras_serializable("resnet_keras")
class LAMB(Moments):
    """LAMB (You et al. 2019, algorithm 2) as "ResNet strikes back" trained with it.

    That is timm's, which follows NVIDIA's: the gradient of all parameters together is clipped to
    `clip_norm`; moments are Adam's, bias-corrected, epsilon outside the root; the decay is
    added to the update; and the update of a parameter that decays is scaled to the norm of the
    parameter (phi is the identity; 1 where either norm is 0). A parameter that does not decay
    takes Adam's step. A step that was discarded does not count in the bias correction.

    Args:
        learning_rate: a float, 0 or more, or a schedule.
        weight_decay: factor of the parameter that is added to its update, unless it is excluded.
        beta_1: decay of the mean of gradients, in [0, 1).
        beta_2: decay of the mean of their squares, in [0, 1).
        epsilon: added to the root of that mean, 0 or more.
        exclude: words; a parameter whose path contains one of them is not decayed.
        clip_norm: upper limit of the norm of the gradient; None: no limit.
        **arguments: of `Optimizer`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.005,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude: Sequence[str] = ("bias", "gamma", "beta"),
        clip_norm: float | None = 1.0,
        **arguments: Any,
    ):
        arguments |= {"weight_decay": weight_decay, "exclude": exclude, "clip_norm": clip_norm}
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **arguments)

    def compute_update(self, index: int, gradient: Any, variable: Any, learning_rate: Any):
        """Compute one variable's step; see `Optimizer.compute_update`."""
        step, moments = self.adam_step(index, gradient)
        if self.weight_decay and self.decayed[index]:
            step = step + self.weight_decay * variable
            size, length = norm([variable]), norm([step])
            step = ops.where(ops.minimum(size, length) > 0, size / length, 1.0) * step
        return variable - learning_rate * step, moments
