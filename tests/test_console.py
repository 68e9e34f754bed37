"""What a program says: streams whose readers leave, and lines that control no terminal."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_keras.console import say

ROOT = Path(__file__).parents[1]


def unread(*program, buffered=True):
    """Return stderr and exit code of a program whose stdout has no reader."""
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
def test_a_program_whose_reader_leaves_ends_silently(program):
    assert unread(*program) == ("", 128 + signal.SIGPIPE)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves_is_a_signal(buffered):
    program = """
from resnet_keras import console, signals
console.exit_with_one_line()
with signals.stopping("Resume so."):
    while True:
        print("words")
"""
    assert unread("-c", program, buffered=buffered) == (
        "\nstopped by SIGPIPE. Resume so.\n",
        128 + signal.SIGPIPE,
    )


def test_what_was_said_before_a_stream_is_watched_comes_first():
    program = "print('a'); from resnet_keras import console; console.exit_with_one_line(); "
    done = subprocess.run(
        [sys.executable, "-c", program + "print('\\xe9'); console.say('b')"],
        capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a\n\xe9\n", b"b\n")


def test_what_would_control_a_terminal_is_escaped(capsys):
    say("a\x1b[31m\n\u202e\xe9日")
    assert capsys.readouterr() == ("", "a\\x1b[31m\\n\\u202e\xe9日\n")


def test_noise_is_held_back_and_other_lines_are_not():
    program = """
import os, sys
from resnet_keras.console import without_noise
with without_noise():
    os.write(2, b"E0 cuda_platform failed to start\\n\\nwhat matters\\n")
    print("python, too", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "what matters\npython, too\n"
