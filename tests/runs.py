"""Commands and their complaints; what a run folder holds, for tests that break runs off."""

import csv
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

from resnet_keras import backup

SHELL = Path(__file__).with_name("shell.py")


def refused_in_one_line(done, *, after_others=False):
    """The one line of a process that a user's mistake has ended.

    Args:
        done: the finished process.
        after_others: whether lines of another kind may stand above.
    """
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    *others, line = done.stderr.splitlines()
    assert after_others or not others, done.stderr
    assert line.startswith("error: ") and not any(o.startswith("error: ") for o in others)
    return line


def in_forks(commands, folder):
    """What commands answer in a folder, each a fork of a process that has loaded the libraries.

    Returns:
        For each command its `code`, `output`, `lines`, `memory` in MiB, `seconds` of a core.
    """
    done = subprocess.run(
        [sys.executable, SHELL, "/dev/stdin"], cwd=folder, text=True,
        input=json.dumps(commands), stdout=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(SHELL.parents[1]),
             "COLUMNS": "200", "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:  # TensorFlow's line about GPUs, which a fork has not held back
        lines = answer["output"].splitlines()
        answer["lines"] = [line for line in lines if "cuInit" not in line]
    return dict(zip(commands, answers, strict=True))


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
