"""Keras callbacks of a run: its log, backups, signals, profile, and a stop at the first NaN."""

import contextlib
import csv
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from resnet_keras import backup
from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.signals import stop
from resnet_keras.training.replicas import Replicas, StoppedTogether
from resnet_keras.training.tracking import Report, profiling

if TYPE_CHECKING:
    from resnet_keras.training.best_epoch import BestEpoch

# The numbers at the end of names that Keras itself has chosen, within the path of a variable.
_NUMBERED = re.compile(r"_[0-9]+(?=/)|(?<=[a-z])_[0-9]+(?=_)")

# Before the names of the best epoch's weights in a backup.
BEST = "best/"


class Diverged(Exception):
    """The loss or a weight is NaN or infinite."""


@contextlib.contextmanager
def ending_where_diverged() -> Iterator[None]:
    """End the program with one line and exit code 1 where the loss or a weight is not finite.

    Raises:
        SystemExit: 1; the last backup is kept.
    """
    try:
        yield
    except Diverged as error:
        say(
            f"error: {error}. Try a lower --learning-rate, a longer warm-up or --precision "
            "float32, in another --run-dir; the last backup is kept."
        )
        raise SystemExit(1) from None


class Position:
    """Where a run stands; shared by its callbacks.

    Attributes:
        batch: number of batches done.
        accumulate: number of batches that make a step.
        steps_per_epoch: number of steps in an epoch.
        total: number of steps of the whole run.
        rows: of `log.csv`, one per epoch.
        stopped: whether the run ends after this epoch, before its last step.
        epochs_before: number of epochs of a training that this one continues.
    """

    epochs_before = 0

    def __init__(self, step: int, accumulate: int, steps_per_epoch: int, total: int, rows: list):
        self.batch = step * accumulate
        self.accumulate = accumulate
        self.steps_per_epoch = steps_per_epoch
        self.total = total
        self.rows = rows
        self.stopped = False

    @property
    def step(self) -> int:
        """Number of training steps done."""
        return self.batch // self.accumulate

    @property
    def at_step_end(self) -> bool:
        """Whether no step is half done."""
        return self.batch % self.accumulate == 0

    @property
    def within_epoch(self) -> bool:
        """Whether more steps of this epoch follow; the run's last epoch may be short."""
        return self.step % self.steps_per_epoch != 0 and self.step < self.total

    def next_epochs(self) -> tuple[int, int, int]:
        """What to fit next: the first epoch, the one after the last, and the steps in each."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        whole = self.total // self.steps_per_epoch
        if not done and epoch < whole:
            return epoch, whole, self.steps_per_epoch
        end = min((epoch + 1) * self.steps_per_epoch, self.total)
        return epoch, epoch + 1, end - self.step


class LateLogs(keras.callbacks.CallbackList):
    """Callbacks that are given, after a batch, the logs of the batch before it.

    Keras turns logs into floats, and so waits for the device after every batch, which then waits
    for the next batch to be read, copied and launched. The logs of the batch before are there
    already. The first batch of a `fit` has no other logs than its own.
    """

    _before: Any = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Call the callbacks."""
        before, self._before = self._before, logs
        super().on_train_batch_end(batch, logs if before is None else before)


class StepCounter(keras.callbacks.Callback):
    """Counts batches, and stops where the loss is NaN or infinite. The first of the callbacks."""

    def __init__(self, position: Position):
        super().__init__()
        self.position = position

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count a batch.

        Raises:
            Diverged: the loss was NaN or infinite before this batch.
        """
        self.position.batch += 1
        self._require_finite(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the loss of the epoch's last batch, too.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        self._require_finite(logs)

    def _require_finite(self, logs: Any) -> None:
        # The running mean over the epoch: once it is NaN, it stays NaN.
        if not np.isfinite(float(logs["loss"])):
            raise Diverged(f"the loss is NaN or infinite by step {self.position.step}")


class ValidateAverages(keras.callbacks.Callback):
    """Validates the running average of the weights, which is what will be saved."""

    def on_test_begin(self, logs: Any = None) -> None:
        """Put the averages into the model."""
        self.model.optimizer.swap_averages()

    def on_test_end(self, logs: Any = None) -> None:
        """Put the weights back."""
        self.model.optimizer.swap_averages()


class EpochRow(keras.callbacks.Callback):
    """Adds a row to the log after each epoch; in every process.

    Args:
        position: of the training.
        learning_rate: by the step.
        spent: seconds that computing features took; they count as part of the next epoch.
    """

    def __init__(
        self, position: Position, learning_rate: Callable[[int], float], spent: float = 0.0
    ):
        super().__init__()
        self.position, self.learning_rate, self.spent = position, learning_rate, spent

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the time."""
        self.start, self.spent = time.perf_counter() - self.spent, 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add a row."""
        number = self.position.epochs_before + epoch + 1
        row = {"epoch": number, "learning_rate": self.learning_rate(self.position.step - 1)}
        row |= {name: float(value) for name, value in sorted(logs.items())}
        seconds = time.perf_counter() - self.start
        if self.position.rows and self.position.rows[-1]["epoch"] == row["epoch"]:
            # The row of a shorter run, which ended within this epoch.
            seconds += self.position.rows.pop()["seconds"]
        self.position.rows.append(row | {"seconds": round(seconds, 2)})


class LogWriter(keras.callbacks.Callback):
    """Writes the rows to `log.csv`, whole or not at all, and to the recipe's logger."""

    def __init__(self, position: Position, path: Path, report: Report):
        super().__init__()
        self.position, self.path, self.report = position, path, report

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the row of an epoch."""
        write_rows(self.path, self.position.rows)
        row = self.position.rows[-1]
        self.report(row["epoch"], {k: v for k, v in row.items() if k != "epoch"})


class Profiler(keras.callbacks.Callback):
    """Traces some steps for TensorBoard's profiler."""

    def __init__(self, position: Position, steps: range, folder: Path):
        super().__init__()
        self.position, self.steps, self.folder = position, steps, folder
        self.open = contextlib.ExitStack()
        self.running = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start before the first of the steps, or where the run is resumed among them."""
        if not self.running and self.position.step in self.steps:
            self.open.enter_context(profiling(self.folder))
            self.running = True

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop after the last."""
        if self.running and self.position.step not in self.steps:
            self.close()

    def close(self) -> None:
        """Write the trace, if one was started."""
        self.open.close()
        self.running = False


class Backups(keras.callbacks.Callback):
    """Backs up everything that the next step depends on, and stops on a signal.

    Of several processes the first one writes, and a signal to one of them stops all at the same
    step.

    Args:
        position: where the run stands.
        folder: of the backups.
        every: the interval, as a number and "steps" or "seconds".
        metrics: that the model was compiled with.
        replicas: among which this process has some.
        settled: what a resumed run must share with this one, for the notes of the backups.
        saved: the backup that the run was resumed from, as `restore` returned it; None: a new run.
        best: the best epoch so far, where one is chosen.
    """

    def __init__(
        self,
        position: Position,
        folder: Path,
        every: tuple[int, str],
        metrics: list,
        replicas: Replicas,
        settled: dict[str, Any],
        saved: backup.Saved | None,
        best: "BestEpoch | None" = None,
    ):
        super().__init__()
        self.position, self.folder, self.replicas, self.best = position, folder, replicas, best
        self.compiled, self.settled = metrics, settled
        self.number, self.unit = every
        self.saved_at = time.monotonic()
        self.saved_step = position.step
        self.signal = self.stop = 0  # what this process has received; what all of them know of
        self.doing = "step"  # what is finished before the run stops
        self.resumed = saved.arrays if saved else None  # the metrics within the epoch
        self.sums: dict[str, np.ndarray] = {}  # the metrics when the validation began

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restore the metrics of a resumed epoch, which Keras has just set to zero."""
        if self.resumed and self.position.within_epoch:
            for name, variable in self._metrics().items():
                _assign(variable, self.resumed[name])
        self.resumed, self.sums = None, {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Note the metrics before the validation uses them: a longer run may be resumed here."""
        self.sums = values(self._metrics())
        self.doing = "validation"

    def on_test_end(self, logs: Any = None) -> None:
        """Note that the validation is over."""
        self.doing = "step"

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save within an epoch; `on_epoch_end` saves at its end, when the log has its row."""
        if self.position.at_step_end and self.position.within_epoch and self._due():
            self.save()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save at the end of an epoch."""
        if self._due():
            self.save()

    def on_train_end(self, logs: Any = None) -> None:
        """Save the end of the training."""
        if self.saved_step != self.position.step:
            self.save()

    def save(self) -> None:
        """Write a backup; then stop, if a signal was received.

        Raises:
            Diverged: a weight is NaN or infinite; no backup is written.
            StoppedTogether: a signal was received.
        """
        if self.replicas.process == 0:
            self._write()
        self.saved_at, self.saved_step = time.monotonic(), self.position.step
        if self.stop:
            raise StoppedTogether(self.stop)

    def _write(self) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # within an epoch the variables are empty
        counted = int(_value(self.model.optimizer.iterations))
        if counted != self.position.step:
            raise RuntimeError(
                f"the optimizer has made {counted} steps, the run {self.position.step}: Keras' "
                f"training step did not call `Optimizer.apply`. Received: Keras {keras.__version__}"
            )
        arrays = values(state(self.model, self.compiled)) | self.sums
        for name, array in arrays.items():
            # The loss is behind the weights: here a backup of lost ones would replace a good one.
            if name.startswith("model/") and not np.isfinite(array).all():
                raise Diverged(
                    f"{name.split('/', 2)[2]} is NaN or infinite at step {self.position.step}"
                )
        notes = {"rows": self.position.rows, **self.settled}
        if self.best is not None:
            notes["best"] = self.best.notes
            arrays |= {BEST + name: array for name, array in self.best.arrays.items()}
        backup.save(self.folder, backup.Saved(self.position.step, arrays, notes))

    def on_signal(self, number: int, frame: Any) -> None:
        """Note a signal: the run saves and stops after this step. A second one stops it at once.

        A validation is finished first, because the epoch's row has its numbers.
        """
        if self.signal:
            stop(number, frame)
        self.signal = number
        # Not `print`, which the signal may have interrupted.
        os.write(2, f"\n{signal.Signals(number).name}: saving after this {self.doing}\n".encode())

    def _due(self) -> bool:
        self.stop = max(self.replicas.gather(self.signal))
        if self.stop:
            return True
        if self.unit == "steps":
            return self.position.step % self.number == 0
        return time.monotonic() - self.saved_at >= self.number

    def _metrics(self) -> dict[str, keras.Variable]:
        every = state(self.model, self.compiled)
        return {name: variable for name, variable in every.items() if name.startswith("metric/")}


def restore(saved: backup.Saved, model: keras.Model, metrics: list) -> backup.Saved:
    """Put a backup into a model, except the metrics: `Backups` does, when their epoch begins.

    Args:
        saved: the backup.
        model: compiled, its optimizer built.
        metrics: that it was compiled with.

    Returns:
        The backup with the arrays of the metrics and of the best epoch alone: the others are not
        needed any more.

    Raises:
        InputError: the model has other variables; none was changed.
    """
    variables = state(model, metrics)
    later = {n: array for n, array in saved.arrays.items() if n.startswith(BEST)}
    found = {n: array.shape for n, array in saved.arrays.items() if n not in later}
    wanted = {name: array.shape for name, array in values(variables).items()}
    if odd := sorted(found.items() ^ wanted.items()):
        raise InputError(
            "the backups are of another network, or of another version of this program or of "
            f"Keras: resume with that one, or choose another --run-dir. Received: {odd[0][0]}"
        )
    for name, variable in variables.items():
        if name.startswith("metric/"):
            later[name] = saved.arrays[name]
        else:
            variable.assign(saved.arrays[name])
    return saved._replace(arrays=later)


def state(model: keras.Model, metrics: list) -> dict[str, keras.Variable]:
    """Collect every variable that the next step reads, by names that are the same in all processes.

    Args:
        model: compiled.
        metrics: that it was compiled with; Keras adds them to the model's after the first step.

    Returns:
        `model/00000/conv1_conv/kernel`, `optimizer/...`, `metric/...`.
    """
    named = {metric.name: metric for metric in (*model.metrics, *metrics)}
    named.pop("compile_metrics", None)  # the container of the compiled ones
    counted = {id(v) for metric in named.values() for v in metric.variables}
    kinds = {
        "model": [v for v in model.variables if id(v) not in counted],
        "optimizer": model.optimizer.variables,
        "metric": [v for name in sorted(named) for v in named[name].variables],
    }
    return {
        # Keras numbers some names over the whole process: `seed_generator_24/...`, `conv2d_3_...`.
        f"{kind}/{number:05d}/{_NUMBERED.sub('', variable.path)}": variable
        for kind, variables in kinds.items()
        for number, variable in enumerate(variables)
    }


def values(variables: dict[str, keras.Variable]) -> dict[str, np.ndarray]:
    """The values by the names of `state`; of a metric a row for each replica, which sums apart."""
    found = {}
    for name, variable in variables.items():
        apart = _sums_apart(variable) if name.startswith("metric/") else ()
        found[name] = np.stack([part.numpy() for part in apart]) if apart else _value(variable)
    return found


def _assign(variable: keras.Variable, values: np.ndarray) -> None:
    """Assign what `_values` gave of a metric.

    A sum over the replicas would be shared out among them, and what is added later be rounded
    otherwise.
    """
    if apart := _sums_apart(variable):
        for part, value in zip(apart, values, strict=True):
            part.assign(value)
    else:
        variable.assign(values)


def _sums_apart(variable: keras.Variable) -> tuple:
    """The variables of TensorFlow that a metric's one is in several replicas; else nothing."""
    if keras.backend.backend() != "tensorflow":
        return ()
    import tensorflow as tf

    parts = tf.distribute.get_strategy().experimental_local_results(variable.value)
    return parts if len(parts) > 1 else ()


def _value(variable: Any) -> np.ndarray:
    # A tensor first: a variable that lives on several replicas is not an array.
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `log.csv`, whole or not at all."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)
