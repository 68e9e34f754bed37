"""A run that is killed and resumed ends, bit for bit, as an unbroken one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from runs import end, log, newest_step

from resnet_keras import Recipe, backup, data, train
from resnet_keras.errors import InputError
from resnet_keras.training import watch

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


# `train` replaces float16 on a CPU, where convolutions of half precision crawl; a very small
# network bears them.
HALF = """
from contextlib import ExitStack
from dataclasses import replace
from runpy import run_path

from resnet_keras import SPECS, Spec
from resnet_keras.training import prepared, trained
from resnet_keras.training.replicas import choose_replicas

SPECS["tiny"] = Spec("basic", (1, 1, 1), (4, 8, 16), stem="cifar", shortcut="pad")
recipe = replace(run_path("recipes/quickstart.py")["RECIPE"], model="tiny", drop_path=0.2, ema=0.9)
recipe = recipe.parse()
replicas = choose_replicas(recipe)
with ExitStack() as stack:
    trained(prepared(recipe, recipe.run_dir, replicas, "{policy}", stack), stack)
"""


@pytest.fixture
def start(data_dir):
    """Start a run in a process of its own."""
    from resnet_keras import data

    data.Source("digits", "train", data_dir=data_dir).open()

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


@pytest.mark.slow  # tests/faults/test_kills.py has a quick one
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
    assert "To resume: python " in output.splitlines()[-1]
    stopped_at = backup.load(folder / "backup").step
    process = start(folder, *flags)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and f"resuming at step {stopped_at}" in output, output
    assert end(folder) == expected and expected[0] == 48


@pytest.mark.slow
def test_a_run_whose_reader_leaves_saves_and_stops(start, tmp_path):
    process = start(tmp_path, "--epochs", "1000", "--backup-every", "1000000")
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    process.stdout.close()  # stderr's, too: as `2>&1 | head` does
    assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert newest_step(tmp_path) == backup.load(tmp_path / "backup").step > 0


@pytest.mark.slow
def test_a_signal_says_what_it_waits_for(tmp_path, capfd):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    place = watch.Position(step=0, accumulate=1, steps_per_epoch=1, total=2, rows=[])
    said = []
    for events in ((), ("on_test_begin",), ("on_test_begin", "on_test_end")):
        keep = watch.Backups(place, tmp_path, (1, "steps"), [], None, {}, None)
        keep.set_model(model)
        for event in events:
            getattr(keep, event)()
        keep.on_signal(signal.SIGTERM, None)
        said.append(capfd.readouterr().err.split()[-1])
    assert said == ["step", "validation", "step"]


@pytest.mark.slow
def test_a_longer_run_is_what_a_long_one_would_have_been(tmp_path, data_dir):
    """Broken off within an epoch, whose row of the log is of the whole epoch at last."""
    recipe = Recipe(
        model="resnet20_cifar", dataset="digits", train_size=8, eval_size=8, batch_size=256,
        mean=(127.5,), std=(127.5,), learning_rate=0.01, schedule="constant", drop_path=0.1,
        precision="float32", deterministic=True, data_dir=data_dir,
    )  # fmt: skip
    for folder, steps in (("long", 8), ("short", 7), ("short", 8)):
        train(replace(recipe, run_dir=tmp_path / folder, steps=steps))  # 6 an epoch
    assert end(tmp_path / "short") == end(tmp_path / "long")
    assert [row["epoch"] for row in log(tmp_path / "short")] == ["1", "2"]
    results = [json.loads((tmp_path / f / "results.json").read_text()) for f in ("long", "short")]
    assert results[0]["top1"] == results[1]["top1"]


def test_a_run_does_not_go_on_with_other_images(tmp_path):
    for number in range(12):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    recipe = Recipe(
        model="resnet20_cifar", dataset=f"folder:{tmp_path / 'images'}", train_size=8,
        eval_size=8, batch_size=4, learning_rate=0.01, schedule="constant", epochs=1,
        precision="float32", run_dir=tmp_path / "run",
    )  # fmt: skip
    run = train(recipe)
    trained_on = data.open_folder(tmp_path / "images", "train").paths
    count = len(trained_on)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def refused(words):
        with pytest.raises(InputError, match=f"with images {count} of 2 classes .*{words}"):
            train(replace(recipe, epochs=2))
        assert {p: p.read_bytes() for p in before if p.name != "lock"} == {
            p: b for p, b in before.items() if p.name != "lock"
        }

    (tmp_path / "images" / "a").rename(tmp_path / "images" / "c")
    refused(f"restore them, .* Received: {count} of 2 classes")
    (tmp_path / "images" / "c").rename(tmp_path / "images" / "a")
    # A copy of an image is on the same side.
    shutil.copy(trained_on[0], tmp_path / "images" / "a" / "99.png")
    refused(f"Received: {count + 1} of 2 classes")


def test_a_backup_of_another_network_is_refused_before_anything_is_lost(
    digits_run, data_dir, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    fields = json.loads((run / "recipe.json").read_text())
    (run / "results.json").unlink()
    saved = backup.load(run / "backup")
    name = "model/00000/conv1_conv/kernel"
    for damage in ({}, {name: np.zeros((1, 1, 1, 1), np.float32)}):
        arrays = {key: value for key, value in saved.arrays.items() if key != name} | damage
        backup.save(run / "backup", saved._replace(arrays=arrays))
        with pytest.raises(InputError, match=f"another version.*--run-dir. Received: {name}"):
            train(Recipe(**fields | {"run_dir": run, "data_dir": data_dir}))
    assert json.loads((run / "recipe.json").read_text()) == fields


def test_a_resumed_run_needs_no_checkpoint(digits_run, data_dir, tmp_path):
    run, weights = tmp_path / "run", tmp_path / "gone.keras"
    shutil.copytree(digits_run, run)
    fields = json.loads((run / "recipe.json").read_text()) | {"weights": str(weights)}
    (run / "recipe.json").write_text(json.dumps(fields))
    (run / "results.json").unlink()
    assert train(Recipe(**fields | {"run_dir": run, "data_dir": data_dir})) == run


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        *("one device", "best epoch", "with a teacher"),
        *("two replicas", "two replicas bfloat16", "two replicas float16"),
    ],
)
def test_ten_kills_at_random_steps_change_nothing(start, tmp_path, kind, digits_run):
    flags = ("--drop-path", "0.1", "--mixup", "0.2", "--cutmix", "1.0", "--ema", "0.9")
    flags += ("--ema-every", "5", "--ema-after-warmup")  # most kills fall between two moves
    if "two" in kind:
        flags += ("--replicas", "2", "--sync-batch-norm")
    if kind == "best epoch":  # its weights and its number are in the backups that are compared
        flags += ("--holdout", "360", "--keep", "best", "--patience", "3", "--learning-rate", "2")
    if kind == "with a teacher":  # which takes smaller images
        flags += ("--teacher", str(digits_run / "model.keras"))
    if "float16" in kind:
        start = partial(start, code=HALF.replace("{policy}", f"mixed_{kind.split()[-1]}"))
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
