"""The progress of a training: a bar on a terminal, elsewhere a line per epoch and per minute."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import keras

if TYPE_CHECKING:
    from resnet_keras.training.watch import Position

# Seconds between two drawings of the bar.
_INTERVAL = 0.1

# Seconds between two lines where there is no terminal.
_MINUTE = 60.0

# Characters of the shortest bar and of the longest.
_SHORTEST, _LONGEST = 5, 20


class ProgressBar(keras.callbacks.Callback):
    """Shows the epoch, the speed, the time left of the run, the metrics, and the wait for data.

    Args:
        position: where the run stands; it counts each batch before this callback is called.
        batch_size: number of images in a batch (a micro-batch where gradients are accumulated).
        stream: where to write; by default stdout.
        waited: gives the seconds that the training has waited for batches so far; None: not known.
    """

    def __init__(
        self,
        position: "Position",
        batch_size: int,
        stream: TextIO | None = None,
        waited: Callable[[], float] | None = None,
    ):
        super().__init__()
        self.position, self.batch_size = position, batch_size
        self.waited = waited
        self.stream = stream or sys.stdout
        # When the first batch of all was done, which includes the compilation, and its step.
        self.first: tuple[float, int] | None = None
        self.drawn = 0.0  # when the bar was drawn, or a line written
        self.is_open = False  # whether the line on the terminal is not ended yet

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start to measure the speed."""
        self.epoch, self.batches = epoch, 0
        self.since = time.perf_counter()
        if not self.stream.isatty():
            self.drawn = self.since

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Draw the bar, unless it was drawn just now; without a terminal write a line a minute."""
        now = self.last = time.perf_counter()
        self.batches += 1
        if self.batches == 1:
            self.after_first, self.waited_first = now, self.waited() if self.waited else 0.0
        if self.first is None:
            self.first = now, self.position.step
        if now - self.drawn < (_INTERVAL if self.stream.isatty() else _MINUTE):
            return
        self.drawn = now
        if self.stream.isatty():
            self.is_open = True
            columns = os.get_terminal_size(self.stream.fileno()).columns or 80
            self._write(f"\r{self._bar(logs or {}, columns - 1)}\x1b[K")
        else:
            self._write(f"{self._epoch()}: {', '.join(self._parts(logs or {}))}\n")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write the line of the epoch, in the place of the bar."""
        metrics = [f"{name} {_number(float(value))}" for name, value in (logs or {}).items()]
        parts = [self._speed(), *metrics, *self._left(), *self._waiting()]
        line = f"{self._epoch()}: {', '.join(parts)}"
        self._write(f"\r{line}\x1b[K\n" if self.is_open else f"{line}\n")
        self.is_open = False

    def close(self) -> None:
        """End the line of the bar, so that what is written next has a line of its own."""
        if self.is_open:
            self._write("\n")
            self.is_open = False

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def _bar(self, logs: Mapping[str, Any], columns: int) -> str:
        """The line of an epoch that is not at its end, of at most `columns` characters."""
        done, steps = self._steps()
        parts = self._parts(logs)
        free = columns - len(f"{self._epoch()} [] ")
        while len(parts) > 1 and len(", ".join(parts)) > free - _SHORTEST:
            parts.pop()
        numbers = ", ".join(parts)
        # A multiple of 5, so that it seldom changes.
        width = max(_SHORTEST, min(_LONGEST, (free - len(numbers)) // 5 * 5))
        bar = f"[{'#' * (width * done // steps):.<{width}}]"
        return f"{self._epoch()} {bar} {numbers}"[:columns]

    def _steps(self) -> tuple[int, int]:
        """The number of steps of the epoch that are done, and of all of them."""
        before = self.epoch * self.position.steps_per_epoch
        steps = min(self.position.steps_per_epoch, self.position.total - before)
        return self.position.step - before, steps

    def _parts(self, logs: Mapping[str, Any]) -> list[str]:
        """What a line says of an epoch that is not at its end, the most important first."""
        done, steps = self._steps()
        metrics = [f"{name} {_number(float(value))}" for name, value in logs.items()]
        counts = f"{done:>{len(str(steps))}}/{steps}"
        return [counts, self._speed(), *self._left(), *metrics, *self._waiting()]

    def _epoch(self) -> str:
        epochs = -(-self.position.total // self.position.steps_per_epoch)
        before = self.position.epochs_before
        return f"Epoch {before + self.epoch + 1}/{before + epochs}"

    def _speed(self) -> str:
        """Of the epoch's training, without the first batch, which includes the compilation."""
        batches, since = self.batches - 1, self.after_first
        if not batches:
            batches, since = 1, self.since
        seconds = max(self.last - since, 1e-9)
        return f"{batches * self.batch_size / seconds:.0f} images/s"

    def _waiting(self) -> list[str]:
        """The share of the epoch's training spent waiting for data, without the first batch."""
        if self.waited is None or self.batches < 2:
            return []
        share = (self.waited() - self.waited_first) / max(self.last - self.after_first, 1e-9)
        return [f"{100 * min(share, 1):.0f} % waiting for data"]

    def _left(self) -> list[str]:
        """The time left of the run at its speed so far; nothing at its end."""
        if self.first is None:
            return []
        since, first = self.first
        done, rest = self.position.step - first, self.position.total - self.position.step
        if not (done and rest):
            return []
        return [f"{_clock((time.perf_counter() - since) / done * rest)} left"]


def _number(value: float) -> str:
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def _clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
