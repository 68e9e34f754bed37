"""The epoch of a training with the highest validation accuracy: its weights, and when to stop."""

from typing import Any

import keras
import numpy as np

from resnet_keras.backup import Saved
from resnet_keras.training.watch import BEST, Position, state, values


class BestEpoch(keras.callbacks.Callback):
    """Finds the epoch with the highest validation accuracy, keeps its weights, stops after it.

    Of equal accuracies that with the lower loss is better; of equal losses, the earlier epoch.
    All that it knows is in every backup (`notes`, `arrays`), so that a resumed run chooses as one
    that was never interrupted.

    Args:
        position: where the run stands; `EpochRow` is called before.
        metrics: that the model was compiled with.
        keep: whether to keep the weights.
        patience: stop after this many epochs without a better one; None: never.
        averages: whether the running averages of the weights are validated, and so kept.
        saved: the backup that the run was resumed from; None: a new run.
    """

    def __init__(
        self,
        position: Position,
        metrics: list,
        *,
        keep: bool,
        patience: int | None,
        averages: bool,
        saved: Saved | None,
    ):
        super().__init__()
        self.position, self.compiled = position, metrics
        self.keep, self.patience, self.averages = keep, patience, averages
        self.arrays: dict[str, np.ndarray] = {}  # of the model, by the names of `state`
        self.epoch, self.score = position.epochs_before, (-np.inf, -np.inf)
        if saved and (known := saved.notes.get("best")):
            self.epoch, self.score = known["epoch"], tuple(known["score"])
            self.arrays = {
                name.removeprefix(BEST): array
                for name, array in saved.arrays.items()
                if name.startswith(BEST)
            }
            position.stopped = self._exhausted()

    @property
    def notes(self) -> dict[str, Any]:
        """The epoch and its score, as JSON can hold them."""
        return (
            {"epoch": self.epoch, "score": list(self.score)}
            if np.isfinite(self.score).all()
            else {}
        )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the epoch with the best one so far."""
        row = self.position.rows[-1]
        score = row["val_accuracy"], -row["val_loss"]
        if np.isfinite(score).all() and score > self.score:
            self.epoch, self.score = row["epoch"], score
            if self.keep:
                self.arrays = self._weights()
        if self._exhausted():
            self.position.stopped = self.model.stop_training = True

    def _exhausted(self) -> bool:
        """Whether the last epochs were no better."""
        rows = self.position.rows
        return bool(self.patience and rows and rows[-1]["epoch"] - self.epoch >= self.patience)

    def _weights(self) -> dict[str, np.ndarray]:
        """What was validated."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        optimizer = self.model.optimizer
        if self.averages:
            optimizer.swap_averages()
        variables = state(self.model, self.compiled)
        arrays = {
            # A copy: the next step writes where NumPy may still look.
            name: np.array(value)
            for name, value in values(variables).items()
            if name.startswith("model/")
        }
        if self.averages:
            optimizer.swap_averages()
        return arrays

    def restore(self) -> None:
        """Put the kept weights into the model that is trained."""
        for name, variable in state(self.model, self.compiled).items():
            if name in self.arrays:
                variable.assign(self.arrays[name])
