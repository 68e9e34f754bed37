"""The bar shows where a run stands: on a real terminal of 80 columns, and without one."""

import fcntl
import io
import os
import re
import struct
import termios
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest

from resnet_keras import Recipe
from resnet_keras.data import Waiting
from resnet_keras.training.fitting import _shown
from resnet_keras.training.progress import ProgressBar
from resnet_keras.training.watch import LogWriter, Position, Profiler

LOGS = {"accuracy": 0.5, "loss": 0.0001234}
VALIDATED = LOGS | {"val_accuracy": 0.25, "val_loss": 1.5}


@pytest.fixture
def terminal():
    """A stream on a terminal of 80 columns, and what reads its screen."""
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream, lambda: os.read(reader, 1 << 16).decode()
    os.close(reader)


def batches(bar, number, seconds=0.0):
    for batch in range(number):
        time.sleep(seconds)
        bar.position.batch += 1
        bar.on_train_batch_end(batch, LOGS)


def run_of_two_epochs(stream):
    """4 steps of 2 batches, then 3: the last epoch is shorter."""
    bar = ProgressBar(Position(0, 2, 4, 7, []), batch_size=8, stream=stream)
    bar.on_epoch_begin(0)
    batches(bar, 8, seconds=0.01)
    bar.on_epoch_end(0, VALIDATED)
    bar.on_epoch_begin(1)
    batches(bar, 6)
    bar.on_epoch_end(1, VALIDATED)
    bar.close()


METRICS = "accuracy 0.5000, loss 1.23e-04, val_accuracy 0.2500, val_loss 1.5000"


def test_without_a_terminal_there_is_a_line_for_each_epoch():
    stream = io.StringIO()
    run_of_two_epochs(stream)
    first, second = stream.getvalue().splitlines()
    # 7 batches of 8 images, each after 10 ms at least: the first one is not counted.
    speed = int(re.fullmatch(rf"Epoch 1/2: (\d+) images/s, {METRICS}, 0:0\d left", first)[1])
    assert 80 < speed <= 800
    assert re.fullmatch(rf"Epoch 2/2: \d+ images/s, {METRICS}", second)


def test_without_a_terminal_there_is_a_line_each_minute():
    stream = io.StringIO()
    bar = ProgressBar(Position(0, 1, 45, 450, []), batch_size=64, stream=stream)
    bar.on_epoch_begin(0)
    batches(bar, 30)
    assert not stream.getvalue()
    bar.drawn -= 60
    batches(bar, 3)
    text = r"Epoch 1/10: 31/45, \d+ images/s, 0:0\d left, accuracy 0.5000, loss 1.23e-04\n"
    assert re.fullmatch(text, stream.getvalue())


def test_lines_tell_the_share_of_the_time_spent_waiting():
    stream, waits = io.StringIO(), iter([5.0, 5.004, 5.008, 5.012, 5.016])
    position = Position(0, 1, 9, 9, [])
    bar = ProgressBar(position, batch_size=8, stream=stream, waited=lambda: next(waits))
    bar.on_epoch_begin(0)
    batches(bar, 9, seconds=0.01)
    bar.on_epoch_end(0, LOGS)
    # Of 8 times 10 ms and more 4 ms: the first batch, with its 5 seconds, does not count.
    share = int(re.search(r", loss 1.23e-04, (\d+) % waiting for data\n", stream.getvalue())[1])
    assert 1 <= share <= 5


def test_a_terminal_has_a_bar_that_fits(terminal):
    stream, read = terminal
    bar = ProgressBar(Position(0, 1, 45, 450, []), batch_size=64, stream=stream)
    bar.on_epoch_begin(0)
    batches(bar, 1)
    assert re.fullmatch(
        r"\rEpoch 1/10 \[\.+\]  1/45, \d+ images/s, accuracy 0.5000, loss 1.23e-04\x1b\[K", read()
    )
    batches(bar, 29)  # drawn a moment ago
    bar.drawn = 0
    batches(bar, 1)
    drawn = read()
    text = r"\rEpoch 1/10 \[(#+\.+)\] 31/45, \d+ images/s, 0:0\d left, accuracy 0.5000.*\x1b\[K"
    (bars,) = re.fullmatch(text, drawn).groups()
    assert bars.count("#") == len(bars) * 31 // 45
    assert len(drawn) - len("\r\x1b[K") <= 79
    bar.on_epoch_end(0, VALIDATED)
    line = read()
    assert line.startswith("\rEpoch 1/10: ") and line.endswith("\x1b[K\r\n")


def test_a_bar_that_is_left_open_is_ended(terminal):
    stream, read = terminal
    bar = ProgressBar(Position(0, 1, 4, 8, []), batch_size=8, stream=stream)
    bar.on_epoch_begin(0)
    batches(bar, 1)
    read()
    bar.close()
    bar.close()
    assert read() == "\r\n"


def test_the_time_left_is_at_the_speed_so_far():
    bar = ProgressBar(Position(100, 1, 50, 4000, []), batch_size=8, stream=io.StringIO())
    bar.on_epoch_begin(2)
    time.sleep(0.3)  # the compilation, which is not counted
    batches(bar, 11, seconds=0.02)  # 20 ms a step at least, and 3889 steps are left
    bar.on_epoch_end(2, {})
    minutes, seconds = re.search(r", (\d+):(\d\d) left", bar.stream.getvalue()).groups()
    assert 3889 * 0.02 - 1 <= 60 * int(minutes) + int(seconds) < 3889 * 0.2


def test_a_run_shows_how_long_it_waits_for_its_micro_batches(tmp_path):
    recipe = Recipe(
        model="resnet20_cifar", dataset="digits", batch_size=12, accumulate=3, logger="none"
    )
    waiting = Waiting()
    waiting.seconds = 2.5
    with ExitStack() as stack:
        position = Position(0, 3, 4, 7, [])
        shown = _shown(recipe, position, tmp_path, waiting, stack)
        (bar,) = (each for each in shown if isinstance(each, ProgressBar))
        assert (bar.batch_size, bar.waited(), bar.position) == (4, 2.5, position)
        quiet = _shown(replace(recipe, verbose=False), position, tmp_path, waiting, stack)
    assert not any(isinstance(each, ProgressBar) for each in quiet)
    assert [type(each) for each in quiet] == [LogWriter, Profiler]
