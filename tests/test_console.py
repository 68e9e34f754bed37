"""Signals end a program in one way, whatever the libraries within it make of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import os, pathlib, signal, time
from resnet_keras import files, console

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


def unread(*program, buffered=True):
    """What a program says on stderr, and its exit code, where nobody reads its stdout."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *program], stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"},
    )  # fmt: skip
    os.close(write)
    return done.stderr, done.returncode


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "resnet_keras", "--help"),
        ("-m", "resnet_keras", "doctor", "--help"),
        ("-m", "resnet_keras", "summary", "resnet20_cifar", "--json"),
        ("recipes/quickstart.py", "--help"),
    ],
)
def test_what_nobody_reads_ends_without_a_word(program):
    assert unread(*program) == ("", 128 + signal.SIGPIPE)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_stdout_that_nobody_reads_any_more_is_a_signal(buffered):
    program = """
from resnet_keras import console
terminal.exit_with_one_line()
with terminal.stopping("Go on."):
    while True:
        print("words")
"""
    assert unread("-c", program, buffered=buffered) == (
        "\nstopped by SIGPIPE. Go on.\n",
        128 + signal.SIGPIPE,
    )


def test_what_was_said_before_a_stream_is_watched_comes_first():
    program = "print('a'); from resnet_keras import terminal; terminal.exit_with_one_line(); "
    done = subprocess.run(
        [sys.executable, "-c", program + "print('\\xe9'); terminal.say('b')"],
        capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n\xe9\n", b"b\n")
