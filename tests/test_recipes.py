"""The recipes run as a new user would run them."""

import csv
import json

import pytest


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
