"""Commands and what they refuse; what a run folder holds, for tests that interrupt runs."""

import csv
import fcntl
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from resnet_keras import Recipe, backup

SHELL = Path(__file__).with_name("shell.py")

# An epoch of a small network on the digits.
SHORT = Recipe(
    model="resnet20_cifar", dataset="digits", train_size=8, eval_size=8, mean=(127.5,),
    std=(127.5,), batch_size=100, learning_rate=0.01, epochs=1, schedule="constant",
    precision="float32", logger="none",
)  # fmt: skip


def refused_in_one_line(done, *, after_others=False):
    """Return the one line of a process that has ended because of a mistake of the user.

    Args:
        done: the finished process.
        after_others: whether other lines may stand above it.
    """
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    *others, line = done.stderr.splitlines()
    assert after_others or not others, done.stderr
    assert line.startswith("error: ") and not any(o.startswith("error: ") for o in others)
    return line


@contextmanager
def forks(folder, **environment):
    """Give a function that runs a command in a fork of a process that has loaded the libraries.

    The command, `python ...` or Python code, runs in the folder. Its answer has `code`, `out`,
    `err`, `output` (both), its `lines`, `memory` in MiB, `seconds` of a core.
    """
    server = subprocess.Popen(
        [sys.executable, SHELL], cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(SHELL.parents[1]),
             "COLUMNS": "200", "PYTHONUTF8": "1", **environment},
    )  # fmt: skip

    def ask(command):
        server.stdin.write(json.dumps(command) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        # TensorFlow's line about GPUs, which a fork has not held back.
        lines = answer["err"].splitlines(keepends=True)
        answer["err"] = "".join(line for line in lines if "cuInit" not in line)
        output = answer["out"] + answer["err"]
        return {**answer, "output": output, "lines": output.splitlines()}

    with server:  # closes its pipes, waits
        yield ask
    assert server.returncode == 0


def in_forks(commands, folder):
    """What commands answer in a folder; see `forks`."""
    with forks(folder) as ask:
        return {command: ask(command) for command in commands}


def finished(answer):
    """The answer of a fork as the process that it was."""
    return subprocess.CompletedProcess((), answer["code"], answer["out"], answer["err"])


def made_once(tmp_path_factory, name, make):
    """A folder that `make(folder)` fills once, however many processes pytest-xdist tests with.

    Whoever changes what is in it takes a copy.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(base / f"{name}.made", "a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        made.seek(0)
        if not made.read():
            make(base / name)
            made.write("made")
    return base / name


def log(folder):
    """The log without its time column."""
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def end(folder):
    """What a run ended with: every variable, and the log without its time column."""
    saved = backup.load(folder / "backup")
    return saved.step, {name: array.tobytes() for name, array in saved.arrays.items()}, log(folder)


def newest_step(folder):
    """Of the newest backup, by its name; 0 where there is none."""
    names = (path.stem for path in (folder / "backup").glob("*.safetensors"))
    return max((int(name) for name in names if name.isdigit()), default=0)
