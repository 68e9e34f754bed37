"""The recipes run as a new user would run them."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file


@pytest.mark.parametrize("recipe", ["quickstart"])
def test_the_quickstart_trains_exports_and_predicts(run_python, recipe, tmp_path):
    run = tmp_path / "run"
    flags = ("--run-dir", run, "--data-dir", tmp_path / "data")
    done = run_python(f"recipes/{recipe}.py", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["examples"] == 360 and results["top1"] >= 0.97
    report = json.loads((run / "model.tflite.report.json").read_text())
    assert report["max_difference"] < 1e-4
    assert done.stdout.count("is read as") == 8
    assert f"top-1 {100 * results['top1']:.2f} %" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_finetuning_on_a_folder_with_bad_files(run_python, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        folder = tmp_path / "pictures" / f"class {number}"
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 40, (20 + i, 30, 3)) + 40 * number
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.jpg")
    bad = {"empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": (folder / "0.jpg").read_bytes()[:200]}
    for name, contents in bad.items():
        (folder / name).write_bytes(contents)
    golden = Path("tests/golden/parity")
    state = runpy.run_path(str(golden / "make_state.py"))["make_state"](
        json.loads((golden / "resnet18_cifar10.json").read_text())
    )
    save_file(state, tmp_path / "theirs.safetensors")
    run = tmp_path / "run"
    theirs, dataset = tmp_path / "theirs.safetensors", f"folder:{tmp_path / 'pictures'}"
    flags = (
        "--dataset", dataset, "--weights", theirs, "--model", "resnet18_cifar", "--freeze", "1",
        "--train-size", "16", "--eval-size", "16", "--eval-resize", "18",
        "--epochs", "1", "--milestones", "1", "--run-dir", run,
    )  # fmt: skip

    done = run_python("recipes/finetune_resnet50.py", *flags)
    assert done.returncode == 2 and not run.exists()
    line = done.stderr.splitlines()[-1]
    assert all(name in line for name in bad) and "--skip-bad" in line

    done = run_python("recipes/finetune_resnet50.py", *flags, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "skipped: " in done.stderr and "head.fc.weight" in done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["skipped"]["train"] + results["skipped"]["test"] >= 3
    assert (run / "labels.txt").read_text().splitlines() == [f"class {i}" for i in range(5)]
    answer = run_python(
        "-m", "resnet_keras", "predict", run / "model.keras", folder / "0.jpg", "--json"
    )
    (top, *_) = json.loads(answer.stdout)[str(folder / "0.jpg")]
    assert top["label"].startswith("class ")


@pytest.mark.slow
def test_the_quickstart_reaches_98_percent_in_the_median_of_five_seeds(run_python, tmp_path):
    found = []
    for seed in range(5):
        run = tmp_path / str(seed)
        flags = ("--seed", seed, "--run-dir", run, "--data-dir", tmp_path / "data")
        assert run_python("recipes/quickstart.py", *flags).returncode == 0
        results = json.loads((run / "results.json").read_text())
        found.append(results["top1"])
        assert results["train_seconds"] < 180
    assert sorted(found)[2] >= 0.98, found


@pytest.mark.slow
def test_fashion_mnist_trains_an_epoch_on_the_real_pictures(run_python, tmp_path):
    flags = ("--epochs", "1", "--run-dir", tmp_path / "run", "--data-dir", tmp_path / "data")
    done = run_python("recipes/fashion_mnist_resnet20.py", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["examples"] == 10_000 and results["top1"] > 0.7
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
