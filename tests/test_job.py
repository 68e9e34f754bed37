"""What a training works with, what its data must be, and how it is summed up in a line."""

import dataclasses
import hashlib
from contextlib import ExitStack, nullcontext

import keras
import numpy as np
import pytest
from runs import SHORT

from resnet_keras import data
from resnet_keras.errors import InputError
from resnet_keras.training import _require_validation, _summary, _warn_of_imbalance, prepared
from resnet_keras.training.dry_run import resolved
from resnet_keras.training.job import Job
from resnet_keras.training.replicas import Replicas


def test_a_job_knows_what_it_shares_with_the_run_that_it_resumes(tmp_path):
    def split(level, name=""):
        images = np.full((250, 8, 8, 1), level, np.uint8), np.arange(250) % 10
        return data.ArraySplit(labels=tuple("0123456789"), channels=1, arrays=images, name=name)

    train, validation, test = split(1), split(2), split(3)
    (tmp_path / "teacher.keras").write_bytes(b"teacher")
    recipe = dataclasses.replace(
        SHORT, epochs=3, freeze=3, weights="start.keras", then_epochs=2, holdout=250
    )
    job = Job(recipe, tmp_path, Replicas(nullcontext, 4), "float32", train, validation, test, None)
    then = job.then()
    # Batches of 100 of 250 images: 3 steps an epoch.
    assert (job.steps_per_epoch, job.total_steps, then.total_steps) == (3, 9, 6)
    assert (job.epochs_before, then.epochs_before) == (0, 3)
    assert job.backups == tmp_path / "backup" and then.backups == tmp_path / "backup" / "then"
    assert then.then() is None and (then.earlier, then.spent) == (job, 0.0)
    shorter = dataclasses.replace(recipe, steps=7)  # in the third epoch
    assert dataclasses.replace(job, recipe=shorter).then().epochs_before == 3
    shared = {
        "backend": keras.backend.backend(), "precision": "float32", "replicas": 4,
        "images": train.identity,
    }  # fmt: skip
    assert job.fixed == shared
    best = dataclasses.replace(recipe, keep="best")
    assert dataclasses.replace(job, recipe=best).fixed == shared | {
        "validation": validation.identity
    }
    taught = dataclasses.replace(SHORT, teacher=str(tmp_path / "teacher.keras"))
    digest = hashlib.sha256(b"teacher").hexdigest()
    assert dataclasses.replace(job, recipe=taught).fixed == shared | {"teacher": digest}


def test_a_job_names_the_images_that_it_is_tested_on(tmp_path):
    def names(recipe, validation, test):
        job = Job(
            recipe, tmp_path, Replicas(nullcontext), "float32", validation, validation, test, None
        )
        return job.validated_on, job.tested_on

    images = np.zeros((2, 8, 8, 1), np.uint8), np.arange(2)
    unnamed = data.ArraySplit(labels=("a", "b"), channels=1, arrays=images)
    val, fold = (dataclasses.replace(unnamed, name=name) for name in ("val", "fold 1/2"))
    assert names(SHORT, unnamed, unnamed) == ("test", "test")
    held_out = dataclasses.replace(SHORT, holdout=37, keep="best")
    assert names(held_out, unnamed, unnamed) == ("train[-37:]", "test")
    held_out = dataclasses.replace(SHORT, holdout=37)
    assert names(held_out, unnamed, unnamed) == ("train[-37:]", "train[-37:]")
    assert names(SHORT, val, fold) == ("val", "fold 1/2")
    assert names(SHORT, unnamed, fold) == ("fold 1/2", "fold 1/2")


@pytest.mark.parametrize(
    ("process", "order"), [(0, ["open", "open", "wait"]), (1, ["wait", "open", "open"])]
)
def test_the_first_process_prepares_the_data_and_the_others_wait(
    process, order, data_dir, tmp_path, monkeypatch
):
    done, open_ = [], data.Source.open
    monkeypatch.setattr(data.Source, "open", lambda source: done.append("open") or open_(source))
    replicas = Replicas(nullcontext, 2, process=process, processes=2)
    monkeypatch.setattr(Replicas, "gather", lambda self, number: done.append("wait"))
    recipe = dataclasses.replace(SHORT, data_dir=data_dir)
    with ExitStack() as stack:
        job = prepared(recipe, tmp_path, replicas, "float32", stack)
    assert done == order
    assert (job.train.examples, job.test.examples) == (1437, 360) and job.validation is job.test


def labelled(numbers, name=""):
    """A split of images with these classes, or with these rows of labels."""
    numbers = np.asarray(numbers)
    classes = numbers.shape[1] if numbers.ndim == 2 else numbers.max() + 1
    images = np.zeros((len(numbers), 8, 8, 1), np.uint8)
    return data.ArraySplit(
        labels=tuple("abcdef"[:classes]), channels=1, arrays=(images, numbers), name=name
    )


CHOOSES = ({"keep": "best"}, {"patience": 2}, {"keep": "best", "patience": 2})


@pytest.mark.parametrize("columns", CHOOSES)
def test_no_epoch_is_chosen_by_the_test_images(columns, capfd):
    test, validation = labelled([0, 1]), labelled([0, 1])
    chooses = dataclasses.replace(SHORT, dataset="folder:images", **columns)
    words = "has no validation images, .*--holdout.* Received: keep='.*', patience=.*, holdout=0"
    with pytest.raises(InputError, match=f"folder:images {words}"):
        _require_validation(chooses, test, test)
    _require_validation(chooses, validation, test)
    _require_validation(SHORT, test, test)  # chooses none
    assert not capfd.readouterr().err
    # Of images that were split into train and val alone, val is tested at the end, too.
    _require_validation(chooses, validation, labelled([0, 1], "val"))
    assert "warning: folder:images has no test images" in capfd.readouterr().err


def test_an_imbalance_of_labels_is_that_of_the_images_that_have_them(capfd):
    rows = np.zeros((20, 3), np.uint8)
    rows[:, 0], rows[:2, 2] = 1, 1  # 20 images of a, none of b, 2 of c
    _warn_of_imbalance(labelled(rows), SHORT)
    said = capfd.readouterr().err
    assert "20 training images of a and 2 of c: look at the average precision of each" in said
    assert "--sampling" not in said  # which is for one label
    rows[2, 2] = 1
    _warn_of_imbalance(labelled(rows), SHORT)
    _warn_of_imbalance(labelled(np.zeros((20, 3), np.uint8)), SHORT)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("results", "line"),
    [
        ({"top1": 0.5, "top5": 0.75, "examples": 1234},
         "top-1 50.00 %, top-5 75.00 % of 1,234 test images"),
        ({"top1": 1, "top5": None, "balanced_accuracy": 0.125, "macro_f1": 0.0625,
          "tested_on": "val", "examples": 8},
         "top-1 100.00 %, balanced 12.50 %, macro F1 6.25 % of 8 validation images"),
        ({"top1": None, "top5": None, "map": 0.5, "macro_f1": 0.75, "micro_f1": 0.25,
          "threshold": 0.375, "tested_on": "fold 1/5", "examples": 8},
         "mAP 50.00 %, macro F1 75.00 %, micro F1 25.00 % at threshold 0.38 of 8 images of fold "
         "1/5"),
    ],
)  # fmt: skip
def test_a_run_is_summed_up_in_a_line(results, line):
    assert _summary(SHORT, results) == line


def test_a_summary_without_its_split_goes_by_the_recipe():
    held_out = dataclasses.replace(SHORT, holdout=37)  # as 0.1.0 wrote it
    assert (
        _summary(held_out, {"top1": 0.5, "examples": 37}) == "top-1 50.00 % of 37 held-out images"
    )


def test_a_dry_run_has_the_rates_where_the_curve_bends():
    # 1,437 images are 15 steps of 100; a tenth from each milestone on.
    stairs = {"learning_rate": 1.0, "schedule": "step"}
    recipe = dataclasses.replace(SHORT, **stairs, epochs=4, milestones=(1, 3))
    found = resolved(recipe)
    assert (found["steps_per_epoch"], found["total_steps"]) == (15, 60)
    assert found["learning_rates"] == pytest.approx({0: 1, 15: 0.1, 45: 0.01, 59: 0.01})
    # Where steps are counted, milestones are steps; step 40 is not reached, and not shown.
    recipe = dataclasses.replace(SHORT, **stairs, steps=40, milestones=(10, 40), warmup_steps=4)
    found = resolved(recipe)
    assert (found["steps_per_epoch"], found["total_steps"]) == (15, 40)
    assert found["learning_rates"] == pytest.approx({0: 0.25, 4: 1, 10: 0.1, 39: 0.1})
    assert "then" not in found


def test_a_dry_run_leaves_open_what_the_number_of_images_decides():
    recipe = dataclasses.replace(
        SHORT, dataset="folder:images", channels=1, freeze=3, weights="start.keras", then_epochs=2
    )
    found = resolved(recipe)
    names = ("steps_per_epoch", "total_steps", "learning_rates", "then")
    assert [found[name] for name in names] == [None] * 4
    assert found["params"] > 0 and found["macs"] > 0
    assert resolved(dataclasses.replace(recipe, then_epochs=0, steps=7))["total_steps"] == 7
