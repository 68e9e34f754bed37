"""A run is shown where it was asked to be: TensorBoard, its profiler, W&B, MLflow."""

import csv
import dataclasses
import json
import math
from importlib.util import find_spec

import pytest
from runs import refused_in_one_line

from resnet_keras import Recipe, train
from resnet_keras.errors import InputError
from resnet_keras.training import tracking

RECIPE = Recipe(model="resnet20_cifar", dataset="digits")


def scalars(folder):
    """`(tag, step): value` of TensorBoard's event files."""
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event

    found = {}
    for path in folder.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = Event.FromString(record)
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor).item()
                found[value.tag, event.step] = number
    return found


def test_tensorboard_has_the_rows_of_the_log(digits_run):
    found = scalars(digits_run / "tensorboard")
    with open(digits_run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = {
        (name, int(row["epoch"])): float(value)
        for row in rows
        for name, value in row.items()
        if name != "epoch"
    }
    assert found == pytest.approx(expected, rel=1e-6)
    assert ("val_accuracy", len(rows)) in found


@pytest.mark.slow
def test_the_steps_asked_for_are_traced_and_nothing_else_is_shown(tmp_path, data_dir):
    recipe = dataclasses.replace(
        RECIPE, train_size=8, eval_size=8, mean=(127.5,), std=(127.5,), batch_size=32, steps=6,
        precision="float32", data_dir=data_dir, run_dir=tmp_path, logger="none", profile="2:4",
    )  # fmt: skip
    folder = train(recipe)
    (trace,) = (folder / "tensorboard").rglob("*.xplane.pb")
    # Fit marks each step it traces.
    assert trace.stat().st_size > 1000
    assert not list((folder / "tensorboard").glob("events*"))


@pytest.mark.parametrize("profile", ["5", "5:", ":5", "5:5", "-1:3", "a:b"])
def test_profile_must_be_two_growing_steps(profile):
    with pytest.raises(InputError, match=f"START:STOP.*Received: profile='{profile}'"):
        dataclasses.replace(RECIPE, profile=profile)


def test_where_a_run_is_shown_may_change_on_resume():
    other = dataclasses.replace(RECIPE, logger="none", profile="0:1")
    assert other.conflict(RECIPE.to_json()) is None


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_before_the_work(run_python, tmp_path, logger):
    if find_spec(logger):
        pytest.skip(f"{logger} is installed")
    done = run_python("recipes/quickstart.py", "--logger", logger, "--run-dir", tmp_path / "run")
    assert f"pip install {logger}" in refused_in_one_line(done)
    assert not (tmp_path / "run").exists()


def show_twice(logger, folder):
    """Report two rows, each in a process of its own as far as the logger can tell."""
    recipe = dataclasses.replace(RECIPE, logger=logger)
    for epoch in (1, 2):
        with tracking.reporting(recipe, folder) as report:
            report(epoch, {"loss": 1 / epoch, "seconds": 1.0})
    return json.loads((folder / "tracking.json").read_text())[logger]


@pytest.mark.filterwarnings("default")
def test_mlflow_shows_one_resumed_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    number = show_twice("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    history = client.get_metric_history(number, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]
    assert client.get_run(number).data.params["model"] == "resnet20_cifar"


@pytest.mark.filterwarnings("default")
def test_wandb_shows_one_resumed_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    number = show_twice("wandb", tmp_path)
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{number}.wandb"))
    assert len(files) == 2 and math.prod(path.stat().st_size for path in files)
