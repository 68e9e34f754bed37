"""The best epoch and early stopping: which epoch, its weights, and that kills change nothing."""

import csv
import json
from contextlib import nullcontext

import keras
import numpy as np
import pytest

from resnet_keras import Recipe, evaluate, train
from resnet_keras.backup import Saved
from resnet_keras.data.splits import ArraySplit
from resnet_keras.errors import InputError
from resnet_keras.training import _reason, _warn_of_imbalance
from resnet_keras.training.best_epoch import BestEpoch
from resnet_keras.training.building import compiled
from resnet_keras.training.fitting import Fitted, fit
from resnet_keras.training.job import Job
from resnet_keras.training.replicas import Replicas
from resnet_keras.training.watch import BEST, Position, state


def recipe(tmp_path, **columns):
    """Its learning rate is so high that accuracies rise and fall."""
    defaults = dict(
        model="resnet20_cifar", dataset="digits", holdout=360, train_size=8, eval_size=8,
        batch_size=360, learning_rate=0.5, epochs=7, schedule="constant", precision="float32",
        verbose=False, logger="none", keep="best", run_dir=tmp_path / "run", data_dir=tmp_path,
    )  # fmt: skip
    return Recipe(**{**defaults, **columns})


def rows_of(run):
    with (run / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def callback(scores, keep=False, patience=None):
    """Feed accuracies and losses of epochs to `BestEpoch`; a model of one weight counts them."""
    position = Position(0, 1, 1, len(scores), [])
    best = BestEpoch(position, [], keep=keep, patience=patience, averages=False, saved=None)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    best.set_model(model)
    for i, (accuracy, loss) in enumerate(scores):
        if position.stopped:
            break
        model.layers[0].kernel.assign([[i + 1]])
        position.rows.append({"epoch": i + 1, "val_accuracy": accuracy, "val_loss": loss})
        best.on_epoch_end(i)
    return best, position, model


@pytest.mark.parametrize(
    ("scores", "epoch"),
    [([(0.1, 1), (0.5, 1), (0.3, 0.1)], 2),
     ([(0.5, 1), (0.5, 0.9), (0.5, 0.9)], 2),
     ([(0.5, 1), (np.nan, 0.9), (0.6, np.nan)], 1),
     ([(np.nan, 1), (0.2, 0.9)], 2)],
)  # fmt: skip
def test_the_best_epoch(scores, epoch):
    best, _, model = callback(scores, keep=True)
    assert best.epoch == epoch
    best.restore()
    assert float(model.layers[0].kernel.numpy()[0, 0]) == epoch


def test_before_an_epoch_has_a_score_nothing_is_noted():
    # A score of minus infinity is none in JSON (RFC 8259, section 6).
    best, _, _ = callback([(np.nan, 1)])
    assert best.notes == {}
    best, _, _ = callback([(0.5, 1)])
    assert best.notes == {"epoch": 1, "score": [0.5, -1]}


def test_patience_counts_the_epochs_since_the_best():
    scores = [(0.1, 1), (0.5, 1), (0.3, 1), (0.4, 1), (0.9, 1)]
    best, position, model = callback(scores, patience=2)
    assert (best.epoch, position.rows[-1]["epoch"]) == (2, 4)
    assert position.stopped and model.stop_training and not best.arrays
    best, position, _ = callback(scores, patience=3)
    assert (best.epoch, position.rows[-1]["epoch"], position.stopped) == (5, 5, False)
    # A run that was killed between its last epoch and its end does not train another one.
    saved = Saved(4, {}, {"best": {"epoch": 2, "score": [0.5, -1]}})
    rows = [{"epoch": i, "val_accuracy": a, "val_loss": b} for i, (a, b) in enumerate(scores, 1)]
    for patience, stopped in ((2, True), (3, False)):
        position = Position(4, 1, 1, 5, rows[:4])
        BestEpoch(position, [], keep=False, patience=patience, averages=False, saved=saved)
        assert position.stopped is stopped


def test_a_run_that_ended_with_its_last_step_keeps_its_best_epoch(tmp_path):
    """It was killed after its last backup: no epoch is left to train."""
    images = np.zeros((4, 8, 8, 1), np.uint8), np.arange(4)
    split = ArraySplit(labels=tuple("0123"), channels=1, arrays=images)
    ours = recipe(tmp_path, epochs=2, batch_size=4)
    model, metrics = compiled(ours, split, "float32", 1, fresh=True)
    best = {f"{BEST}{n}": np.full(v.shape, 0.5) for n, v in state(model, metrics).items()}
    rows = [{"epoch": 1, "val_accuracy": 0.5}, {"epoch": 2, "val_accuracy": 0.25}]
    saved = Saved(2, best, {"rows": rows, "best": {"epoch": 1, "score": [0.5, -1]}})
    job = Job(ours, tmp_path, Replicas(nullcontext), "float32", split, split, split, None)
    fitted = fit(job, model, metrics, saved)
    assert (fitted.epoch, fitted.rows) == (1, rows)
    assert all((weight == 0.5).all() for weight in model.get_weights())


@pytest.mark.parametrize(
    ("keep", "first", "second", "epoch", "reason"),
    [
        ("last", 3, 2, 5, "last of 5 epochs"),
        ("best", 3, 2, 4, "highest val_accuracy, 0.4000, of 2 epochs of the whole network"),
        ("best", 3, 1, 4,
         "highest val_accuracy, 0.4000, of 1 epoch of the whole network, stopped after 1 without "
         "a higher val_accuracy"),
        ("last", 2, 2, 5,
         "last of 5 epochs; the last layer alone: 2 epochs, stopped after 1 without a higher "
         "val_accuracy"),
    ],
)  # fmt: skip
def test_the_reason_names_both_trainings(tmp_path, keep, first, second, epoch, reason):
    """Three epochs of the last layer, then two of the whole network; 360 images are one step."""
    columns = {
        "freeze": 3,
        "epochs": 3,
        "then_epochs": 2,
        "patience": 1,
        "keep": keep,
        "weights": "start.keras",
    }
    images = np.zeros((360, 8, 8, 1), np.uint8), np.arange(360) % 2
    split = ArraySplit(labels=("a", "b"), channels=1, arrays=images)
    job = Job(
        recipe(tmp_path, **columns), tmp_path, None, "float32", split, split, split, None
    ).then()
    numbers = [*range(1, first + 1), *range(4, 4 + second)]
    rows = [{"epoch": n, "val_accuracy": n / 10} for n in numbers]
    assert _reason(job, Fitted(rows, epoch)) == reason


@pytest.mark.parametrize(
    ("counts", "columns", "warned"),
    [((10, 1), {}, "10 training images of a and 1 of b: look at the balanced accuracy"),
     ((3, 30, 0), {}, "30 training images of b and 3 of a"), ((9, 1), {}, None),
     ((29, 3), {}, None), ((10, 1), {"sampling": "balanced"}, None),
     ((10, 1), {"class_weights": "balanced"}, None)],
)  # fmt: skip
def test_ten_times_as_many_images_are_an_imbalance(counts, columns, warned, tmp_path, capfd):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    split = ArraySplit(labels=tuple("abc"[: len(counts)]), channels=1, arrays=(images, labels))
    _warn_of_imbalance(split, recipe(tmp_path, **columns))
    said = capfd.readouterr().err
    assert f"warning: {warned}" in said if warned else not said


@pytest.mark.slow
def test_a_run_keeps_its_best_epoch(tmp_path, data_dir):
    run = train(recipe(tmp_path, data_dir=data_dir, ema=0.5))
    rows, results = rows_of(run), json.loads((run / "results.json").read_text())
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert best is not rows[-1]  # or this test would show nothing
    assert results["epoch"] == best["epoch"]
    reason = f"highest val_accuracy, {best['val_accuracy']:.4f}, of {len(rows)} epochs"
    assert results["epoch_reason"] == reason
    # The model file is of that epoch, and was tested on images that had no part in the choice.
    found = evaluate(run / "model.keras", split="train[-360:]", data_dir=data_dir)
    assert found["top1"] == pytest.approx(best["val_accuracy"], abs=1e-6)
    assert found["nll"] == pytest.approx(best["val_loss"], rel=1e-3)
    assert results["tested_on"] == "test" and results["examples"] == 360
    assert results["validated_on"] == "train[-360:]"


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"keep": "best"}, "`keep` needs validation images: hold some out with --holdout"),
     ({"keep": "last", "patience": 3}, "`patience` needs validation images"),
     ({"patience": 0}, "`patience` must be above 0")],
)  # fmt: skip
def test_epochs_are_chosen_by_validation_images_only(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        recipe(tmp_path, **{"holdout": 0, **columns})
