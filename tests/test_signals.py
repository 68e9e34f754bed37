"""A signal ends a program in one way, whatever the libraries in it make of it."""

import signal
import subprocess
import sys
import time

import pytest

from resnet_keras.signals import signals_to

PROGRAM = """
import os, pathlib, signal, time
from resnet_keras import console, files, signals

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

console.exit_with_one_line()
with signals.stopping("Resume so."):
    Deaf()
    {then}
print("went on")
"""


def stopped(folder, then):
    """A program whose signal comes where Python ignores errors, and what it does then."""
    start = time.monotonic()
    program = [sys.executable, "-c", PROGRAM.format(then=then)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done
    assert not done.stdout and not list(folder.iterdir())
    return done.stderr.strip(), time.monotonic() - start


@pytest.mark.parametrize(
    "then",
    [
        "pass",
        "raise SystemError('returned a result with an exception set')",
        "files.write_text(pathlib.Path('x'), 'of what is not whole')",
    ],
)
def test_a_swallowed_signal_is_heeded_at_the_next_chance(tmp_path, then):
    line, _ = stopped(tmp_path, then)
    assert line == "stopped by SIGTERM. Resume so."


@pytest.mark.slow
def test_a_program_that_heeds_no_signal_is_ended(tmp_path):
    line, seconds = stopped(tmp_path, "time.sleep(60)")
    assert line == "stopped by SIGTERM." and 10 < seconds < 30


def test_handlers_are_put_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    heard = []
    with pytest.raises(ZeroDivisionError), signals_to(lambda number, frame: heard.append(number)):
        for number in numbers:
            signal.raise_signal(number)
        raise ZeroDivisionError
    assert heard == list(numbers)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_signal_ends_a_program_at_once():
    program = """
import os, signal, time
from resnet_keras.signals import stopping
with stopping("Resume so."):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert done.returncode == -signal.SIGINT and not done.stdout


def test_errors_in_destructors_are_shown_unless_they_are_signals(tmp_path):
    program = """
from resnet_keras.signals import stopping

class Broken:
    def __del__(self):
        raise ZeroDivisionError("shown")

with stopping("Resume so."):
    Broken()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "ZeroDivisionError: shown" in done.stderr
