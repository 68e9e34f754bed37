"""Training on a folder of one's own images: what is validated, what is tested, what is said."""

import concurrent.futures
import csv
import json
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from resnet_keras import Recipe, evaluate, export, train
from resnet_keras.errors import InputError

DIGITS = load_digits()


def folder(root, parts, classes=10):
    """Write digits as PNG files: `parts` gives for each split the numbers of its images."""
    for split, numbers in parts.items():
        for i in numbers:
            label = DIGITS.target[i]
            if label < classes:
                path = root / split / str(label) / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((DIGITS.images[i] * 15.9).astype(np.uint8)).save(path)
    return f"folder:{root}"


def recipe(tmp_path, dataset, **columns):
    defaults = dict(
        model="resnet20_cifar", train_size=8, eval_size=8, batch_size=50, learning_rate=0.05,
        epochs=2, schedule="constant", precision="float32", verbose=False, logger="none",
        run_dir=tmp_path / "run",
    )  # fmt: skip
    return Recipe(dataset=dataset, **{**defaults, **columns})


@pytest.mark.slow
def test_validation_images_are_looked_at_each_epoch_and_test_images_once(tmp_path, capfd):
    parts = {"train": range(200), "valid": range(200, 260), "test": range(260, 300)}
    dataset = folder(tmp_path / "images", parts)
    run = train(recipe(tmp_path, dataset))
    said = capfd.readouterr()
    assert "200 training images, 60 validation images, 40 test images, 8 steps" in said.err
    assert "of 40 test images" in said.out
    results = json.loads((run / "results.json").read_text())
    assert results["examples"] == 40 and results["tested_on"] == "test"
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    on_val = evaluate(run / "model.keras", split="val")
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(on_val["top1"], abs=1e-6)
    assert float(rows[-1]["val_loss"]) == pytest.approx(on_val["nll"], rel=1e-4)
    assert evaluate(run / "model.keras", split="test")["top1"] == results["top1"]
    assert evaluate(run / "model.keras", split="all")["examples"] == 300


@pytest.mark.slow
def test_a_holdout_is_taken_from_the_training_images(tmp_path, capfd):
    parts = {"train": range(200), "test": range(260, 300)}
    dataset = folder(tmp_path / "images", parts)
    run = train(recipe(tmp_path, dataset, holdout=0.25, epochs=1))
    said = capfd.readouterr().err
    assert "150 training images, 50 validation images, 40 test images, 3 steps" in said
    assert json.loads((run / "results.json").read_text())["examples"] == 40


@pytest.mark.slow
def test_without_test_images_the_validation_images_are_the_test(tmp_path, capfd):
    dataset = folder(tmp_path / "images", {"train": range(100), "val": range(100, 140)})
    run = train(recipe(tmp_path, dataset, epochs=1))
    assert "top-1" in (said := capfd.readouterr().out) and "of 40 validation images" in said
    assert json.loads((run / "results.json").read_text())["tested_on"] == "val"


def test_one_class_is_nothing_to_learn(tmp_path):
    dataset = folder(tmp_path / "images", {"train": range(100), "val": range(100, 140)}, 1)
    with pytest.raises(InputError, match="must have two classes or more. Received: 0"):
        train(recipe(tmp_path, dataset))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_in_grey(tmp_path):
    dataset = folder(tmp_path / "images", {"train": range(150), "val": range(150, 200)})
    run = train(recipe(tmp_path, dataset, channels=1, epochs=1))
    model = keras.saving.load_model(run / "model.keras")
    assert model.input_shape[-1] == 1
    assert evaluate(run / "model.keras")["examples"] == 50
    report = export(run / "model.keras", run / "m.tflite", quantize="int8", examples=16, bound=0)
    assert report["calibration"]["examples"] == 150


@pytest.mark.slow
def test_trainings_in_one_process_say_nothing_about_tracing(tmp_path, capfd):
    dataset = folder(tmp_path / "images", {"train": range(40), "val": range(40, 60)})
    for i in range(4):
        train(recipe(tmp_path, dataset, epochs=1, run_dir=tmp_path / str(i)))
    assert "retracing" not in capfd.readouterr().err


def test_new_images_are_all_evaluated(tmp_path, colour_run):
    """Class folders alone, of some of the classes; the training's own folder has a test split."""
    dataset = folder(tmp_path / "new", {"": range(50)}, classes=7)
    count = int((DIGITS.target[:50] < 7).sum())
    found = evaluate(colour_run / "model.keras", dataset=dataset)
    assert found["examples"] == count and found["top1"] > 0.8
    assert found["per_class"]["8"] is None and found["per_class"]["3"] is not None
    assert evaluate(colour_run / "model.keras", dataset=dataset, split="test")["examples"] < count
    assert evaluate(colour_run / "model.keras")["examples"] == 180
    odd = folder(tmp_path / "odd", {"": range(50)})
    (tmp_path / "odd" / "9").rename(tmp_path / "odd" / "nine")
    with pytest.raises(InputError, match="has no class 'nine'"):
        evaluate(colour_run / "model.keras", dataset=odd)


def test_a_folder_of_test_images_alone_is_evaluated(tmp_path, colour_run):
    dataset = folder(tmp_path / "new", {"test": range(50)})
    assert evaluate(colour_run / "model.keras", dataset=dataset)["examples"] == 50


def test_grey_networks_see_folders_in_grey(tmp_path, digits_run):
    dataset = folder(tmp_path / "new", {"": range(100)})
    found = evaluate(digits_run / "model.keras", dataset=dataset)
    assert found["examples"] == 100 and found["top1"] > 0.9
    assert keras.saving.load_model(digits_run / "model.keras").input_shape[-1] == 1


@pytest.mark.parametrize(
    ("columns", "rule"),
    [({"dataset": "digits", "channels": 1}, "must be None for data sets of TFDS"),
     ({"dataset": "digits", "holdout": 0.155}, "must be hundredths"),
     ({"dataset": "digits", "holdout": 20.5}, "must be a whole number"),
     ({"dataset": "digits", "holdout": 1437}, "must be below the number"),
     ({"dataset": "digits", "holdout": -1}, "must be 0 or more")],
)  # fmt: skip
def test_columns_that_cannot_be(columns, rule):
    field = list(columns)[-1]
    with pytest.raises(InputError, match=f"`{field}` {rule}"):
        Recipe(model="resnet20_cifar", **columns)


@pytest.mark.slow
def test_a_share_of_a_data_set_of_tfds(tmp_path, data_dir):
    run = train(recipe(tmp_path, "digits", holdout=0.1, epochs=1, data_dir=data_dir))
    results = json.loads((run / "results.json").read_text())
    assert results["examples"] == 144  # a tenth of 1,437, rounded
    assert Recipe(model="resnet20_cifar", dataset="digits", holdout=0.1).examples() == 1437 - 144


def test_a_finished_run_says_that_the_images_have_changed(tmp_path, capfd):
    dataset = folder(tmp_path / "images", {"train": range(100), "test": range(100, 140)})
    run = train(recipe(tmp_path, dataset, epochs=1))
    capfd.readouterr()
    assert train(recipe(tmp_path, dataset, epochs=1)) == run
    assert f"{run} is finished: top-1" in capfd.readouterr().out
    folder(tmp_path / "images", {"train": range(140, 150)})
    with pytest.raises(InputError, match="has changed since: .*'files': 150.*, then .*140") as line:
        train(recipe(tmp_path, dataset, epochs=1))
    assert "choose another --run-dir" in str(line.value)


@pytest.mark.slow
def test_training_in_a_thread(tmp_path):
    """As web servers and notebooks' widgets do: Python has signals in its main thread alone."""
    dataset = folder(tmp_path / "images", {"train": range(100), "test": range(100, 140)})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(train, recipe(tmp_path, dataset, epochs=1)).result()
    assert json.loads((run / "results.json").read_text())["examples"] == 40


def test_a_run_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("mine")
    dataset = folder(tmp_path / "images", {"train": range(100), "test": range(100, 140)})
    with pytest.raises(InputError, match="`run_dir` must be a folder.*this is a file"):
        train(recipe(tmp_path, dataset))
    assert (tmp_path / "run").read_text() == "mine"


def test_more_stages_than_the_network_has_cannot_be_frozen():
    with pytest.raises(InputError, match=r"`freeze` must be in \[-1, 3\] with resnet20_cifar"):
        Recipe(model="resnet20_cifar", dataset="digits", weights="x.pth", freeze=4)


def test_a_folder_that_a_model_file_names_and_that_is_gone(tmp_path, colour_run):
    metadata = json.loads((colour_run / "model.json").read_text())
    metadata["dataset"] = "folder:images"  # relative to where it was trained
    (tmp_path / "model.json").write_text(json.dumps(metadata))
    (tmp_path / "model.keras").write_bytes((colour_run / "model.keras").read_bytes())
    with pytest.raises(InputError, match="was trained on images that are not there, as its JSON"):
        evaluate(tmp_path / "model.keras")


@pytest.mark.parametrize("where", ["ipykernel", "ps1"])
def test_notebooks_are_told_to_call_train_again(monkeypatch, where):
    from resnet_keras.training.replicas import command

    assert "train(recipe)" not in command()
    if where == "ps1":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "ipykernel", json)
    assert command() == "call train(recipe) again"


def test_records_end_without_a_warning(recwarn, data_dir):
    """Keras warns of data that end, unless their number is known."""
    from resnet_keras import data
    from resnet_keras.preprocessing import Preprocessing

    split = data.Source("digits", "test", data_dir=data_dir).open()
    batches = data.evaluation_batches(split, Preprocessing(8), batch_size=50)
    assert batches.cardinality() == 8 and len(list(batches)) == 8


def imbalanced(tmp_path):
    """Ten times as many zeros as ones, and some twos."""
    zeros, ones, twos = (np.flatnonzero(DIGITS.target == n) for n in range(3))
    parts = {"train": [*zeros[:100], *ones[:10], *twos[:40]],
             "test": [*zeros[100:170], *ones[100:110], *twos[100:110]]}  # fmt: skip
    return folder(tmp_path / "images", parts)


def test_an_imbalance_is_named_and_the_small_class_counts(tmp_path, capfd):
    dataset = imbalanced(tmp_path)
    run = train(recipe(tmp_path, dataset, epochs=1))
    said = capfd.readouterr()
    assert "warning: 100 training images of 0 and 10 of 1: look at the balanced" in said.err
    results = json.loads((run / "results.json").read_text())
    assert results["top5"] is None and "top-5" not in said.out
    balanced, f1 = (100 * results[name] for name in ("balanced_accuracy", "macro_f1"))
    assert f"balanced {balanced:.2f} %, macro F1 {f1:.2f} % of 90 test images" in said.out
    counts = np.array(results["confusion"])
    assert counts.sum(axis=1).tolist() == [70, 10, 10]
    assert results["top1"] == pytest.approx(counts.trace() / 90)
    recalls = counts.diagonal() / counts.sum(axis=1)
    assert results["balanced_accuracy"] == pytest.approx(recalls.mean())
    assert list(results["per_class"].values()) == pytest.approx(list(recalls))
    page = (run / "report.html").read_text()
    assert "balanced accuracy: mean of the classes" in page


@pytest.mark.slow
@pytest.mark.parametrize("column", [{"class_weights": "balanced"}, {"sampling": "balanced"}])
def test_a_balanced_training_is_another_and_says_nothing(tmp_path, capfd, column):
    run = train(recipe(tmp_path, imbalanced(tmp_path), epochs=1, **column))
    assert "warning:" not in capfd.readouterr().err
    plain = train(recipe(tmp_path, f"folder:{tmp_path / 'images'}", epochs=1,
                         run_dir=tmp_path / "plain"))  # fmt: skip
    logs = [(folder / "log.csv").read_text().splitlines()[1].split(",") for folder in (run, plain)]
    assert logs[0][:1] == logs[1][:1] and logs[0] != logs[1]
