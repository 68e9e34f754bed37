"""A run that is killed and started again ends, bit for bit, where an unbroken one ends."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from runs import end, newest_step

from resnet_keras import backup

ROOT = Path(__file__).parents[1]

# Random crops and warps, a cosine with warm-up, momentum; an epoch ends every 12 steps.
FLAGS = (
    "--epochs", "4", "--batch-size", "128", "--warmup-epochs", "1", "--deterministic",
    "--precision", "float32",
)  # fmt: skip

CODE = (
    "import runpy; RECIPE = runpy.run_path('recipes/quickstart.py')['RECIPE'];"
    "from resnet_keras import train; train(RECIPE.parse())"
)


# `train` replaces float16 on a CPU, where its convolutions crawl; a very small network bears it.
HALF = """
import sys
from contextlib import ExitStack
from dataclasses import replace
from runpy import run_path

from resnet_keras import SPECS, Spec
from resnet_keras.train.machine import choose_replicas

SPECS["tiny"] = Spec("basic", (1, 1, 1), (4, 8, 16), stem="cifar", shortcut="pad")
recipe = replace(run_path("recipes/quickstart.py")["RECIPE"], model="tiny", drop_path=0.2, ema=0.9)
recipe = recipe.parse()
replicas = choose_replicas(recipe)
trained = sys.modules["resnet_keras.train"]._trained
with ExitStack() as stack:
    trained(recipe, recipe.run_dir, replicas, "mixed_float16", stack)
"""


@pytest.fixture
def start(data_dir):
    """Start a run in a process of its own."""
    from resnet_keras import data

    data.open_split("digits", "train", data_dir=data_dir)

    def start(folder, *flags, code=CODE, **environment):
        common = ("--data-dir", str(data_dir), "--run-dir", str(folder))
        return subprocess.Popen(
            [sys.executable, "-c", code, *FLAGS, *common, *flags],
            cwd=ROOT, env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return start


def kill(process, folder, after, number=signal.SIGKILL):
    """Send a signal once the run has written a backup of a step behind `after`."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if newest_step(folder) > after:
            process.send_signal(number)
            break
        time.sleep(0.001)
    output, _ = process.communicate(timeout=120)
    return output


def unbroken(start, folder, *flags, **environment):
    process = start(folder, *flags, **environment)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return end(folder)


def test_kill_and_terminate_change_nothing(start, tmp_path):
    expected = unbroken(start, tmp_path / "unbroken")
    folder = tmp_path / "broken"
    flags = ("--backup-every", "3")
    process = start(folder, *flags)
    kill(process, folder, after=3)
    assert process.returncode == -signal.SIGKILL
    process = start(folder, *flags)
    output = kill(process, folder, after=20, number=signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "To go on: python " in output.splitlines()[-1]
    stopped_at = backup.load(folder / "backup").step
    process = start(folder, *flags)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and f"going on at step {stopped_at}" in output, output
    assert end(folder) == expected and expected[0] == 48


def test_a_run_that_nobody_listens_to_any_more_saves_and_stops(start, tmp_path):
    process = start(tmp_path, "--epochs", "1000", "--backup-every", "1000000")
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    process.stdout.close()  # stderr's, too: as `2>&1 | head` does
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert newest_step(tmp_path) == backup.load(tmp_path / "backup").step > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["one device", "two replicas", "two replicas bfloat16", "two replicas float16"]
)
def test_ten_kills_at_random_steps_change_nothing(start, tmp_path, kind):
    flags = ("--drop-path", "0.1", "--mixup", "0.2", "--cutmix", "1.0", "--ema", "0.9")
    if "two" in kind:
        flags += ("--replicas", "2", "--sync-batch-norm")
    if "bfloat16" in kind:
        flags += ("--precision", "mixed_bfloat16")
    if " float16" in kind:
        start = partial(start, code=HALF)
        flags += ("--batch-size", "16", "--steps", "48", "--warmup-epochs", "0")
    expected = unbroken(start, tmp_path / "unbroken", *flags)
    folder, rng = tmp_path / "broken", random.Random(0)
    kills = 0
    while kills < 10:
        done = backup.load(folder / "backup")
        # Backups at every step: many kills fall into a save.
        process = start(folder, "--backup-every", "1", *flags)
        kill(process, folder, after=(done.step if done else 0) + rng.randrange(4))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    output, _ = start(folder, *flags).communicate(timeout=600)
    assert end(folder) == expected, output
    assert kills >= 8
