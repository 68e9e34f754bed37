"""Signals end a program in one way, whatever the libraries within it make of them."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import os, pathlib, signal, time
from resnet_keras import disk, terminal

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

terminal.exit_with_one_line()
with terminal.stopping("Go on."):
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
        "disk.write_text(pathlib.Path('x'), 'of what is not whole')",
    ],
)
def test_a_swallowed_signal_is_heeded_at_the_next_chance(tmp_path, then):
    line, _ = stopped(tmp_path, then)
    assert line == "stopped by SIGTERM. Go on."


def test_a_program_that_heeds_no_signal_is_ended(tmp_path):
    line, seconds = stopped(tmp_path, "time.sleep(60)")
    assert line == "stopped by SIGTERM." and 10 < seconds < 30
