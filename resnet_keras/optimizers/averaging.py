"""When the running average of the weights moves."""

from typing import Any, NamedTuple

from keras import ops


class Averaging(NamedTuple):
    """When an exponential moving average moves, and how far: `ema` of an optimizer.

    Steps are those that were taken: one that was discarded does not count. The default moves after
    every step. With `every`, `copy_steps` and `epoch` the moves are those of torchvision's
    references (`references/classification/train.py`, with
    `torch.optim.swa_utils.AveragedModel(use_buffers=True)`).

    Attributes:
        decay: of one move, in [0, 1): `average = decay * average + (1 - decay) * weight`.
        every: steps from one move to the next, 1 or more; the first step moves.
        copy_steps: number of steps, 0 or more, in which a move copies the weights. The first move
            after them copies once more, because an average begins with a copy.
        epoch: number of steps after which `every` is counted from 0 again, 1 or more; None: never.
    """

    decay: float
    every: int = 1
    copy_steps: int = 0
    epoch: int | None = None

    def check(self) -> None:
        """Refuse values that are out of range.

        Raises:
            ValueError: the first of them.
        """
        if not 0 <= self.decay < 1:
            raise ValueError(f"`ema` must be in [0, 1). Received: ema={self.decay}")
        least = {"every": (self.every, 1), "copy_steps": (self.copy_steps, 0)}
        least["epoch"] = (1 if self.epoch is None else self.epoch, 1)
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ValueError(
                    f"`ema` must have `{name}` {minimum} or more. Received: {name}={value}"
                )

    def at(self, step: Any) -> tuple[Any, Any]:
        """Say what happens after a step, without a branch.

        Args:
            step: number of the step, from 0: a scalar.

        Returns:
            Two boolean scalars: whether the average moves (None: always), and whether the move
            copies the weights.
        """
        step = ops.convert_to_tensor(step)
        moves = None if self.every == 1 else ops.equal(self._within(step) % self.every, 0)
        return moves, step <= self._last_copy()

    def _within(self, step: Any) -> Any:
        """The number of a step within its epoch."""
        return step if self.epoch is None else step % self.epoch

    def _last_copy(self) -> int:
        """The step of the first move after `copy_steps`."""
        steps = range(self.copy_steps, self.copy_steps + self.every)
        return next(step for step in steps if self._within(step) % self.every == 0)
