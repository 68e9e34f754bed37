"""What watches a run: log, progress bar, backups, signals, a stop at the first NaN."""

import contextlib
import csv
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras import backup
from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.signals import stop
from resnet_keras.training.replicas import Replicas, StoppedTogether
from resnet_keras.training.tracking import Report, profiling


class Diverged(Exception):
    """The loss is no number any more."""


class Place:
    """Where a run stands, shared by those who watch it.

    Attributes:
        batch: batches done; several make a step where gradients are accumulated.
        accumulate: how many.
        steps_per_epoch: steps in an epoch.
        total: steps of the whole run.
        rows: of `log.csv`, one an epoch.
    """

    def __init__(self, step: int, accumulate: int, steps_per_epoch: int, total: int, rows: list):
        self.batch = step * accumulate
        self.accumulate = accumulate
        self.steps_per_epoch = steps_per_epoch
        self.total = total
        self.rows = rows

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.batch // self.accumulate

    @property
    def at_step_end(self) -> bool:
        """Whether no step is half done."""
        return self.batch % self.accumulate == 0

    @property
    def within_epoch(self) -> bool:
        """Whether the epoch goes on after this step; the run's last one may be short."""
        return self.step % self.steps_per_epoch != 0 and self.step < self.total

    def next_epochs(self) -> tuple[int, int, int]:
        """What to fit next: first epoch, the one behind the last, and steps in each."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        whole = self.total // self.steps_per_epoch
        if not done and epoch < whole:
            return epoch, whole, self.steps_per_epoch
        end = min((epoch + 1) * self.steps_per_epoch, self.total)
        return epoch, epoch + 1, end - self.step


class Count(keras.callbacks.Callback):
    """Counts, and stops where the loss is no number. The first of the callbacks."""

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    def on_train_batch_end(self, batch, logs=None):
        """One batch more."""
        self.place.batch += 1
        # The running mean: once not a number, it stays so.
        if not np.isfinite(float(logs["loss"])):
            raise Diverged(f"the loss is NaN or infinite at step {self.place.step}")


class Average(keras.callbacks.Callback):
    """Validates the running average of the weights, which is what will be saved."""

    def on_test_begin(self, logs=None):
        """Take the averages."""
        self.model.optimizer.exchange()

    def on_test_end(self, logs=None):
        """Take the weights again."""
        self.model.optimizer.exchange()


class Row(keras.callbacks.Callback):
    """Adds a row to the log, once an epoch; in every process."""

    def __init__(self, place: Place, rate: Callable[[int], float]):
        super().__init__()
        self.place, self.rate = place, rate

    def on_epoch_begin(self, epoch, logs=None):
        """Look at the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Add a row."""
        row = {"epoch": epoch + 1, "learning_rate": self.rate(self.place.step - 1)}
        row |= {name: float(value) for name, value in sorted(logs.items())}
        seconds = time.perf_counter() - self.start
        if self.place.rows and self.place.rows[-1]["epoch"] == row["epoch"]:
            # Of a shorter run, which ended within this epoch.
            seconds += self.place.rows.pop()["seconds"]
        self.place.rows.append(row | {"seconds": round(seconds, 2)})


class Log(keras.callbacks.Callback):
    """Shows each row: `log.csv`, written whole or not at all, and the recipe's logger."""

    def __init__(self, place: Place, path: Path, report: Report):
        super().__init__()
        self.place, self.path, self.report = place, path, report

    def on_epoch_end(self, epoch, logs=None):
        """Write."""
        write_rows(self.path, self.place.rows)
        row = self.place.rows[-1]
        self.report(row["epoch"], {k: v for k, v in row.items() if k != "epoch"})


class Profile(keras.callbacks.Callback):
    """Traces some steps."""

    def __init__(self, place: Place, steps: range, folder: Path):
        super().__init__()
        self.place, self.steps, self.folder = place, steps, folder
        self.open = contextlib.ExitStack()
        self.running = False

    def on_train_batch_begin(self, batch, logs=None):
        """Start before the first of the steps, or where the run goes on among them."""
        if not self.running and self.place.step in self.steps:
            self.open.enter_context(profiling(self.folder))
            self.running = True

    def on_train_batch_end(self, batch, logs=None):
        """Stop behind the last."""
        if self.running and self.place.step not in self.steps:
            self.close()

    def close(self) -> None:
        """Write the trace, if one was started."""
        self.open.close()
        self.running = False


class Keep(keras.callbacks.Callback):
    """Backups: of everything that the next step depends on, every so many steps or seconds.

    Of several processes the first one writes, and a signal to one of them stops all at the same
    step.
    """

    def __init__(
        self,
        place: Place,
        folder: Path,
        every: tuple[int, str],
        metrics: list,
        replicas: Replicas,
        settled: dict[str, Any],
        saved: backup.Saved | None,
    ):
        super().__init__()
        self.place, self.folder, self.replicas = place, folder, replicas
        self.compiled, self.settled = metrics, settled
        self.number, self.unit = every
        self.saved_at = time.monotonic()
        self.saved_step = place.step
        self.signal = self.stop = 0  # what this process heard; what all of them know
        self.doing = "step"  # what ends before a signal is heard
        self.resumed = saved and saved.arrays  # has the metrics within the epoch
        self.sums = {}  # the metrics of an epoch that is at its end, or at that of the run

    def on_epoch_begin(self, epoch, logs=None):
        """Keras has just set the metrics to zero; in a resumed epoch they go on."""
        if self.resumed and self.place.within_epoch:
            for name, variable in self._metrics().items():
                variable.assign(self.resumed[name])
        self.resumed, self.sums = None, {}

    def on_test_begin(self, logs=None):
        """Note the metrics before the validation counts with them: a longer run may go on here."""
        self.sums = _values(self._metrics())
        self.doing = "validation"

    def on_test_end(self, logs=None):
        """The next step follows, or the end of the epoch, which saves."""
        self.doing = "step"

    def on_train_batch_end(self, batch, logs=None):
        """Save within an epoch; at its end `on_epoch_end` does, when the log has its row."""
        if self.place.at_step_end and self.place.within_epoch and self._due():
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        """Save at the end of an epoch."""
        if self._due():
            self.save()

    def on_train_end(self, logs=None):
        """Save the end of the training."""
        if self.saved_step != self.place.step:
            self.save()

    def save(self) -> None:
        """Write a backup; then stop, if a signal asked for it."""
        if self.replicas.process == 0:
            self._write()
        self.saved_at, self.saved_step = time.monotonic(), self.place.step
        if self.stop:
            raise StoppedTogether(self.stop)

    def _write(self) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # within an epoch the variables are empty
        arrays = _values(state(self.model, self.compiled)) | self.sums
        for name, array in arrays.items():
            # The loss tells one step late; what is lost already would replace a good backup.
            if name.startswith("model/") and not np.isfinite(array).all():
                raise Diverged(
                    f"{name.split('/', 2)[2]} is NaN or infinite at step {self.place.step}"
                )
        notes = {"rows": self.place.rows, **self.settled}
        backup.save(self.folder, backup.Saved(self.place.step, arrays, notes))

    def on_signal(self, number, frame) -> None:
        """Note a signal; the end of the step saves and stops. The second one stops at once.

        A validation goes on to its end: its row is the epoch's.
        """
        if self.signal:
            stop(number, frame)
        self.signal = number
        # Not `print`: the signal may have come within another one.
        os.write(2, f"\n{signal.Signals(number).name}: saving after this {self.doing}\n".encode())

    def _due(self) -> bool:
        self.stop = max(self.replicas.gather(self.signal))
        if self.stop:
            return True
        if self.unit == "steps":
            return self.place.step % self.number == 0
        return time.monotonic() - self.saved_at >= self.number

    def _metrics(self) -> dict[str, keras.Variable]:
        every = state(self.model, self.compiled)
        return {name: variable for name, variable in every.items() if name.startswith("metric/")}


def restore(saved: backup.Saved, model: keras.Model, metrics: list) -> backup.Saved:
    """Put a backup into a model; `Keep` puts the metrics there, when their epoch begins.

    Args:
        saved: the backup.
        model: compiled, its optimizer built.
        metrics: it was compiled with.

    Returns:
        The backup with the arrays of the metrics alone: the others are not needed any more.

    Raises:
        InputError: the model has other variables; none is changed.
    """
    variables = state(model, metrics)
    found = {name: array.shape for name, array in saved.arrays.items()}
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    if odd := sorted(found.items() ^ wanted.items()):
        raise InputError(
            "the backups are of another network, or of another version of this program or of "
            f"Keras: go on with that one, or take another --run-dir. Received: {odd[0][0]}"
        )
    later = {}
    for name, variable in variables.items():
        if name.startswith("metric/"):
            later[name] = saved.arrays[name]
        else:
            variable.assign(saved.arrays[name])
    return saved._replace(arrays=later)


def state(model: keras.Model, metrics: list) -> dict[str, keras.Variable]:
    """Every variable that the next step reads, by a name that a new process gives it, too.

    Args:
        model: compiled.
        metrics: it was compiled with; Keras lists them as the model's after the first step only.

    Returns:
        `model/00000/conv1_conv/kernel`, `optimizer/...`, `metric/...`.
    """
    metrics = {metric.name: metric for metric in (*model.metrics, *metrics)}
    metrics.pop("compile_metrics", None)  # what holds the compiled ones
    counted = {id(v) for metric in metrics.values() for v in metric.variables}
    kinds = {
        "model": [v for v in model.variables if id(v) not in counted],
        "optimizer": model.optimizer.variables,
        "metric": [v for name in sorted(metrics) for v in metrics[name].variables],
    }
    return {
        # Keras counts some names over the whole process: `seed_generator_24/...`.
        f"{kind}/{number:05d}/{re.sub(r'_[0-9]+(?=/)', '', variable.path)}": variable
        for kind, variables in kinds.items()
        for number, variable in enumerate(variables)
    }


def _values(variables: dict[str, keras.Variable]) -> dict[str, np.ndarray]:
    # Read first: what lives on several replicas is no array by itself.
    to_numpy, read = keras.ops.convert_to_numpy, keras.ops.convert_to_tensor
    return {name: to_numpy(read(variable)) for name, variable in variables.items()}


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar of an epoch, with images a second; above it the time left of the run."""

    def __init__(self, place: Place, batch_size: int):
        super().__init__()
        self.place, self.batch_size = place, batch_size
        self.start, self.first_step = time.perf_counter(), place.step

    def on_epoch_begin(self, epoch, logs=None):
        """Say which epoch, and how long the rest will take at the speed so far."""
        self._reset_progbar()
        self._maybe_init_progbar()
        if not self.verbose:
            return
        done = self.place.step - self.first_step
        left = ""
        if done:
            rest = self.place.total - self.place.step
            left = f", {_clock((time.perf_counter() - self.start) / done * rest)} left"
        epochs = -(-self.place.total // self.place.steps_per_epoch)
        print(f"Epoch {epoch + 1}/{epochs}{left}", flush=True)

    def _maybe_init_progbar(self):
        if self.progbar is None:
            # Without a terminal, one line an epoch.
            self.verbose = self.verbose and (1 if sys.stdout.isatty() else 2)
            self.progbar = _Bar(self.batch_size, self.target, self.verbose)


class _Bar(keras.utils.Progbar):
    """Keras' bar, with images a second where it has milliseconds a step."""

    def __init__(self, batch_size, target, verbose):
        super().__init__(target, width=10, verbose=verbose, stateless_metrics=set())
        self.batch_size = batch_size

    def _format_time(self, time_per_unit, unit_name):
        return f" {self.batch_size / max(time_per_unit, 1e-9):.0f} images/s"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `log.csv`, whole or not at all."""
    with whole(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
