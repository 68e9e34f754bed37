"""The recipes run as a new user would run them."""

import csv
import dataclasses
import json
import math
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from parity import save_state
from PIL import Image
from runs import refused_in_one_line
from test_folders import bad_files

from resnet_keras import data, train
from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.preprocessing import Preprocessing


def test_the_quickstart_trains_exports_and_predicts(run_python, tmp_path):
    run = tmp_path / "run"
    # Shorter than the recipe; the slow test below holds what the whole of it reaches.
    flags = ("--epochs", "20", "--run-dir", run, "--data-dir", tmp_path / "data")
    done = run_python("recipes/quickstart.py", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["examples"] == 360 and results["top1"] >= 0.9
    report = json.loads((run / "model.tflite.report.json").read_text())
    assert report["max_difference"] < 1e-4
    assert done.stdout.count("is read as") == 8
    page = (run / "report.html").read_text()
    assert "<code>model.tflite</code></td>" in page and report["clients"] in page
    assert f"top-1 {100 * results['top1']:.2f} %" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


@pytest.mark.slow
def test_finetuning_on_a_folder_with_bad_files(run_python, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        folder = tmp_path / "images" / f"class {number}"
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 40, (20 + i, 30, 3)) + 40 * number
            Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.jpg")
    bad = bad_files()
    for name, (contents, _) in bad.items():
        (folder / name).write_bytes(contents)
    save_state("resnet18_cifar10", tmp_path / "theirs.safetensors")
    run = tmp_path / "run"
    theirs, dataset = tmp_path / "theirs.safetensors", f"folder:{tmp_path / 'images'}"
    flags = (
        "--dataset", dataset, "--weights", theirs, "--model", "resnet18_cifar", "--freeze", "1",
        "--train-size", "16", "--eval-size", "16", "--eval-resize", "18",
        "--epochs", "1", "--milestones", "1", "--run-dir", run,
    )  # fmt: skip

    done = run_python("recipes/finetune_resnet50.py", *flags)
    line = refused_in_one_line(done, after_others=True)
    assert not run.exists()
    assert len(bad) == 13 and "--skip-bad" in line
    assert all(f"{name} ({reason})" in line for name, (_, reason) in bad.items())

    done = run_python("recipes/finetune_resnet50.py", *flags, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "skipped: " in done.stderr and "head.fc.weight" in done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["skipped"] == {"train": 13, "test": 13}  # of the folder, not of one split
    assert (run / "labels.txt").read_text().splitlines() == [f"class {i}" for i in range(5)]
    answer = run_python(
        "-m", "resnet_keras", "predict", run / "model.keras", folder / "0.jpg", "--json"
    )
    (top, *_) = json.loads(answer.stdout)[str(folder / "0.jpg")]
    assert top["label"].startswith("class ")


@pytest.mark.slow
def test_the_example_of_ones_own_images(run_python, tmp_path):
    images, data_dir = tmp_path / "images", ("--data-dir", tmp_path / "data")
    done = run_python("tools/example_images.py", images, *data_dir)
    assert "1,694 images of 8 classes, 3 bad files" in done.stdout, done.stderr
    found = {}
    for weights in ("none", "balanced"):
        run = tmp_path / weights
        flags = ("--skip-bad", "--class-weights", weights, "--run-dir", run, "--logger", "none")
        done = run_python("recipes/own_images.py", "--dataset", f"folder:{images}", *flags)
        assert done.returncode == 0, done.stderr
        found[weights] = json.loads((run / "results.json").read_text())
        assert found[weights]["skipped"] == {"train": 3, "test": 3}
        assert ("warning: " in done.stderr) == (weights == "none")
        assert f"balanced {100 * found[weights]['balanced_accuracy']:.2f} %" in done.stdout
    # Four of the eight classes have a tenth of the images of the others.
    assert found["none"]["top1"] > found["none"]["balanced_accuracy"] + 0.1
    assert found["balanced"]["balanced_accuracy"] > found["none"]["balanced_accuracy"] + 0.1
    file = tmp_path / "int8.tflite"
    command = (
        "export",
        tmp_path / "none" / "model.keras",
        file,
        "--quantize",
        "int8",
        "--skip-bad",
        "--json",
    )
    report = json.loads(run_python("-m", "resnet_keras", *command).stdout)
    assert report["kept"] and report["top1_agreement"] >= 0.99


@pytest.mark.slow
def test_the_quickstart_reaches_98_percent_in_the_median_of_five_seeds(run_python, tmp_path):
    found = []
    for seed in range(5):
        run = tmp_path / str(seed)
        flags = ("--seed", seed, "--run-dir", run, "--data-dir", tmp_path / "data")
        assert run_python("recipes/quickstart.py", *flags).returncode == 0
        found.append(json.loads((run / "results.json").read_text())["top1"])
    assert sorted(found)[2] >= 0.98, found


@pytest.mark.slow
def test_the_quickstart_twice_is_the_same_bit_for_bit(run_python, tmp_path):
    weights = []
    for name in "ab":
        flags = ("--deterministic", "--run-dir", tmp_path / name, "--data-dir", tmp_path / "data")
        done = run_python("recipes/quickstart.py", *flags)
        assert done.returncode == 0, done.stderr
        weights.append(keras.saving.load_model(tmp_path / name / "model.keras").get_weights())
    assert len(weights[0]) > 90 and np.abs(weights[0][0]).max() > 0
    for a, b in zip(*weights, strict=True):
        assert a.tobytes() == b.tobytes()
    with np.load(tmp_path / "a" / "predictions.npz") as a:
        with np.load(tmp_path / "b" / "predictions.npz") as b:
            assert a["scores"].tobytes() == b["scores"].tobytes()


@pytest.mark.slow
def test_fashion_mnist_trains_an_epoch_on_the_real_images(run_python, tmp_path):
    flags = ("--epochs", "1", "--run-dir", tmp_path / "run", "--data-dir", tmp_path / "data")
    done = run_python("recipes/fashion_mnist_resnet20.py", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["examples"] == 10_000 and results["top1"] > 0.7
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1


IMAGENET = {
    "dataset": "imagenet2012", "batch_size": 256, "learning_rate": 0.1, "weight_decay": 1e-4,
    "momentum": 0.9, "nesterov": False, "exclude": (), "clip_norm": None, "label_smoothing": 0.0,
    "epochs": 100, "schedule": "step", "milestones": (30, 60, 90), "milestone_factor": 0.1,
    "warmup_epochs": 0, "train_size": 224, "min_area": 0.08, "flip": True, "padding": 0,
    "interpolation": "bilinear",
    "antialias": False, "eval_resize": 256, "eval_size": 224, "ema": 0.0, "loss": "softmax",
    "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "optimizer": "sgd",
}  # fmt: skip
CIFAR = {
    **IMAGENET, "dataset": "cifar10", "batch_size": 128, "epochs": 200, "milestones": (100, 150),
    "train_size": 32, "min_area": None, "padding": 4, "eval_resize": None, "eval_size": 32,
    "mean": (125.307, 122.961, 113.8575), "std": (51.5865, 50.847, 51.255),
}  # fmt: skip
RSB = {
    **IMAGENET, "model": "resnet50", "batch_size": 2048, "optimizer": "lamb",
    "learning_rate": 0.005, "weight_decay": 0.01, "exclude": ("bias", "gamma", "beta"),
    "beta_1": 0.9, "beta_2": 0.999,
    "epsilon": 1e-6, "clip_norm": 1.0, "epochs": 600, "schedule": "cosine", "milestones": (),
    "min_learning_rate": 1e-6, "schedule_unit": "epoch", "warmup_epochs": 5, "warmup_start": 1e-4,
    "sync_batch_norm": True, "drop_path": 0.05, "loss": "sigmoid", "label_smoothing": 0.1,
    "mixup": 0.2, "cutmix": 1.0, "repeats": 3, "interpolation": "bicubic", "antialias": True,
    "rand_ops": 2, "rand_magnitude": 7, "rand_std": 0.5, "eval_resize": 236,
}  # fmt: skip
V2 = {
    **IMAGENET, "batch_size": 1024, "learning_rate": 0.5, "weight_decay": 2e-5,
    "exclude": ("gamma", "beta"), "label_smoothing": 0.1, "epochs": 600, "schedule": "cosine",
    "schedule_unit": "epoch", "min_learning_rate": 0.0, "milestones": (), "warmup_epochs": 5,
    "warmup_curve": "stairs", "warmup_start": 0.01, "warmup_peak": "after", "train_size": 176,
    "antialias": True, "eval_resize": 232, "mixup": 0.2, "cutmix": 1.0, "erasing": 0.1,
    "policy": "trivial_augment_wide", "erasing_fill": "mean", "repeats": 4,
    "ema": pytest.approx(0.998908, abs=5e-7), "ema_every": 32,
    "ema_after_warmup": True, "sync_batch_norm": False, "drop_path": 0.0,
}  # fmt: skip
GLUONCV = {
    **IMAGENET, "batch_size": 1024, "learning_rate": 0.4, "nesterov": True,
    "exclude": ("bias", "gamma", "beta"), "label_smoothing": 0.1, "epochs": 120, "mixup": 0.0,
    "schedule": "cosine", "schedule_unit": "step", "milestones": (), "warmup_epochs": 5,
    "warmup_curve": "linear", "warmup_start": 0.0, "warmup_peak": "last", "color_jitter": 0.4,
    "mean": (123.68, 116.779, 103.939), "std": (58.393, 57.12, 57.375), "precision": "auto",
}  # fmt: skip
NVIDIA = {
    **IMAGENET, "model": "resnet50", "batch_size": 2048, "learning_rate": 2.048,
    "momentum": 0.875, "weight_decay": 3.0517578125e-05, "exclude": ("gamma", "beta"),
    "label_smoothing": 0.1, "epochs": 90, "mixup": 0.0, "schedule": "cosine",
    "schedule_unit": "epoch", "milestones": (), "warmup_epochs": 8, "warmup_curve": "stairs",
    "warmup_start": None, "warmup_peak": "last", "antialias": True,
}  # fmt: skip
LARS = {
    **IMAGENET, "model": "resnet50", "batch_size": 3200, "learning_rate": 11.0,
    "mixup": 0.0, "optimizer": "lars", "trust_coefficient": 0.001, "epsilon": 0.0,
    "weight_decay": 5e-5,
    "exclude": ("bias", "gamma", "beta"), "label_smoothing": 0.1, "epochs": 37,
    "schedule": "poly", "power": 2.0, "min_learning_rate": 1e-4, "schedule_unit": "step",
    "milestones": (), "warmup_epochs": 2, "warmup_curve": "linear", "warmup_start": 0.0,
    "warmup_peak": "after", "min_area": 0.05, "antialias": True,
}  # fmt: skip
# The authors' code: 8.0 * --learning-rate 1e-3 for 512 images, StepLR of 30 epochs, and
# `Resize(int(256 / 224 * 384))`.
FIXRES = {
    **IMAGENET, "model": "resnet50", "batch_size": 512, "learning_rate": 0.008, "epochs": 56,
    "milestones": (30,), "train_size": 384, "train_resize": 438, "min_area": None, "flip": False,
    "antialias": True, "eval_resize": 438, "eval_size": 384, "freeze": 4, "adapt_last_norm": True,
    "mixup": 0.0,
}  # fmt: skip
PAPER = {**CIFAR, "epochs": 100, "steps": 64_000, "milestones": (32_000, 48_000)}

# Recipes that reach higher than OpenMMLab's, by those who published them.
HIGHER = {
    # 1,281,167 / 1024 = 1251.1; the first epochs as LinearLR, then 0.5 x (1 + cos(pi e / 595)) / 2.
    **{f"imagenet_resnet{n}_torchvision_v2": (
        V2 | {"model": f"resnet{n}"}, 1252, 751_200,
        {0: 0.005, 1251: 0.005, 1252: 0.104, 4 * 1252: 0.401, 5 * 1252: 0.5,
         302 * 1252: 0.25 * (1 + math.cos(math.pi * 297 / 595)),
         751_199: 0.25 * (1 + math.cos(math.pi * 594 / 595))}) for n in (50, 101, 152)},
    "imagenet_resnetv1d50_gluoncv": (
        GLUONCV | {"model": "resnetv1d50"}, 1252, 150_240,
        {0: 0.0, 1: 0.4 / 6259, 6259: 0.4, 6260: 0.4, 78_250: 0.2}),
    "imagenet_resnetv1d101_gluoncv": (
        GLUONCV | {"model": "resnetv1d101", "mixup": 0.2, "epochs": 200}, 1252, 250_400,
        {0: 0.0, 6260: 0.4, 128_330: 0.2}),
    "imagenet_resnetv1d152_gluoncv": (
        GLUONCV | {"model": "resnetv1d152", "mixup": 0.2, "epochs": 200, "batch_size": 256,
                   "learning_rate": 0.1, "precision": "float32"}, 5005, 1_001_000,
        {0: 0.0, 25_025: 0.1, 25_025 + 325_325: 0.075}),
    # DeepLearningExamples' lr_cosine_policy: (epoch + 1) / 8 of the peak, then a cosine.
    "imagenet_resnet50_nvidia": (
        NVIDIA, 626, 56_340,
        {0: 0.256, 625: 0.256, 626: 0.512, 7 * 626: 2.048, 8 * 626: 2.048, 49 * 626: 1.024,
         56_339: 1.024 * (1 + math.cos(math.pi * 81 / 82))}),
    # MLPerf: 11 x step / 802, then 1e-4 + (11 - 1e-4) x the square of what is left.
    "imagenet_resnet50_lars": (
        LARS, 401, 14_837,
        {0: 0.0, 401: 5.5, 801: 11 * 801 / 802, 802: 11.0, 802 + 7017: 1e-4 + 10.9999 / 4,
         14_836: 1e-4}),
    "imagenet_resnet50_fixres": (
        FIXRES, 2503, 140_168,
        {0: 0.008, 30 * 2503 - 1: 0.008, 30 * 2503: 0.0008, 140_167: 0.0008}),
}  # fmt: skip

# The published rows: the recipe's values, steps in an epoch and in all, and rates at some steps.
ROWS = {
    **HIGHER,
    **{f"cifar10_resnet{n}": (CIFAR | {"model": f"resnet{n}_cifar"}, 391, 78_200,
                              {39_099: 0.1, 39_100: 0.01, 58_650: 0.001})
       for n in (18, 34, 50, 101, 152)},
    "cifar100_resnet50": (
        CIFAR | {"model": "resnet50_cifar", "dataset": "cifar100", "weight_decay": 5e-4,
                 "milestones": (60, 120, 160), "milestone_factor": 0.2,
                 "mean": (129.304, 124.070, 112.434), "std": (68.170, 65.392, 70.418)},
        391, 78_200, {23_459: 0.1, 23_460: 0.02, 46_920: 0.004, 62_560: 0.0008}),
    **{f"imagenet_resnet{n}": (IMAGENET | {"model": f"resnet{n}"}, 5005, 500_500,
                               {150_149: 0.1, 150_150: 0.01, 300_300: 0.001, 450_450: 1e-4})
       for n in (18, 34, 50, 101, 152)},
    **{f"imagenet_resnetv1d{n}": (IMAGENET | {"model": f"resnetv1d{n}", "antialias": True},
                                  5005, 500_500, {150_150: 0.01}) for n in (50, 101, 152)},
    "imagenet_resnet50_fp16": (
        IMAGENET | {"model": "resnet50", "precision": "mixed_float16", "loss_scale": 512.0},
        5005, 500_500, {150_150: 0.01}),
    "imagenet_resnet50_rsb_a1": (RSB, 626, 375_600, {0: 5e-7, 3129: 0.005, 3130: 0.005}),
    "imagenet_resnet50_rsb_a2": (
        RSB | {"weight_decay": 0.02, "label_smoothing": 0.0, "mixup": 0.1, "epochs": 300},
        626, 187_800, {0: 5e-7, 3130: 0.005}),
    "imagenet_resnet50_rsb_a3": (
        RSB | {"learning_rate": 0.008, "weight_decay": 0.02, "label_smoothing": 0.0, "mixup": 0.1,
               "drop_path": 0.0, "repeats": 1, "rand_magnitude": 6, "epochs": 100},
        626, 62_600, {0: 8e-7, 3130: 0.008}),
    **{f"cifar10_resnet{n}": (PAPER | {"model": f"resnet{n}_cifar"}, 391, 64_000,
                              {0: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001})
       for n in (20, 56)},
    "cifar10_resnet110": (PAPER | {"model": "resnet110_cifar"}, 391, 64_000,
                          {0: 0.01, 399: 0.01, 400: 0.1, 32_000: 0.01}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_as_published_and_so_is_what_train_builds(name):
    from resnet_keras.training.building import optimizer as build_optimizer

    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    fields, steps, total, rates = ROWS[name]
    assert {field: getattr(recipe, field) for field in fields} == fields
    examples = {"imagenet2012": 1_281_167}.get(recipe.dataset, 50_000)
    assert recipe.steps_per_epoch(examples) == steps and recipe.total_steps(examples) == total
    for step, rate in rates.items():
        assert recipe.learning_rate_at(step) == pytest.approx(rate, rel=1e-6), step

    optimizer = build_optimizer(recipe, examples, "mixed_float16" if "fp16" in name else "float32")
    config = optimizer.get_config()
    assert type(optimizer).__name__.lower() == recipe.optimizer
    assert config["weight_decay"] == fields["weight_decay"]
    assert tuple(config["exclude"]) == fields["exclude"]
    own = {name: fields[name] for name in OPTIMIZERS[recipe.optimizer].arguments}
    assert {field: config[field] for field in own} == own
    if "ema_every" in fields:
        warmup = fields["warmup_epochs"] * steps
        assert config["ema"] == (fields["ema"], fields["ema_every"], warmup, steps)
    else:
        assert config["ema"] == 0
    assert optimizer.loss_scale == (512.0 if "fp16" in name else None)
    table = optimizer._learning_rate.learning_rates
    assert len(table) == total and table[-1] == recipe.learning_rate_at(total - 1)


def colours(examples, classes):
    """Random images, whose classes are one of a row."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, 40, 50, 3), dtype=np.uint8)
    labels = np.arange(examples) % classes
    return data.ArraySplit(
        labels=tuple(map(str, range(classes))), channels=3, arrays=(images, labels)
    )


@pytest.mark.parametrize("name", HIGHER)
def test_the_pipeline_and_the_loss_that_train_builds_are_as_published(name):
    from resnet_keras.training.building import loss

    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    fields, *_ = HIGHER[name]
    size, repeats = fields["train_size"], fields.get("repeats", 1)
    mixed = bool(fields["mixup"])
    split = colours(16, classes=16)
    plain = dataclasses.replace(recipe, mixup=0.0, cutmix=0.0)
    of_training = {"batch_size": 8, "seed": recipe.seed, "normalisation": (recipe.mean, recipe.std)}
    for columns, labelled in ((recipe, (8, 16) if mixed else (8,)), (plain, (8,))):
        batches = data.training_batches(split, columns, **of_training)
        images, labels = next(batches.as_numpy_iterator())
        assert images.shape == (8, size, size, 3) and labels.shape == labelled
    assert np.unique(labels, return_counts=True)[1].tolist() == [repeats] * (8 // repeats)
    assert all(len(set(labels[i : i + repeats])) == 1 for i in range(0, 8, repeats))

    shown = data.evaluation_batches(split, recipe.preprocessing, batch_size=4)
    images, _ = next(shown.as_numpy_iterator())
    edges = (fields["eval_size"], fields["eval_size"])
    assert images.shape == (4, *edges, 3)
    expected = Preprocessing(
        edges, fields["eval_resize"], "bilinear", fields["antialias"], fields["mean"],
        fields["std"],
    )  # fmt: skip
    assert recipe.preprocessing == expected
    made = loss(recipe, split)
    assert not made.sigmoid and made.label_smoothing == fields["label_smoothing"]


DEEP = ("101", "152")  # networks that take longer to build


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if any(n in name for n in DEEP) else name
        for name in HIGHER
    ],
)
def test_a_dry_run_prints_every_published_value(name, capsys):
    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    fields, steps, total, rates = HIGHER[name]
    with pytest.raises(SystemExit):
        train(dataclasses.replace(recipe, dry_run=True))
    printed = json.loads(capsys.readouterr().out)
    for field, value in fields.items():
        expected = list(value) if isinstance(value, tuple) else value
        assert printed[field] == expected, field
    assert (printed["steps_per_epoch"], printed["total_steps"]) == (steps, total)
    shown = {int(step): rate for step, rate in printed["learning_rates"].items()}
    warm = fields["warmup_epochs"] * steps
    lowered = [epoch * steps for epoch in fields["milestones"]]
    assert sorted(shown) == sorted({0, warm, *lowered, total - 1})
    known = {step: rate for step, rate in rates.items() if step in shown}
    assert known[warm] == fields["learning_rate"]
    assert {step: shown[step] for step in known} == pytest.approx(known, rel=1e-6)


def test_every_recipe_file_opens_with_its_claim_and_stands_on_one_page():
    files = sorted(Path("recipes").glob("*.py"))
    assert {path.stem for path in files} == {*ROWS, *OURS}
    for path in files:
        text = path.read_text()
        claim = text.split('"""')[1]
        assert f"python recipes/{path.name}" in claim
        measured = Path(f"results/{path.stem}/log.csv").exists()
        assert measured != ("Not measured here" in claim)
        if path.stem in {*ROWS, "fashion_mnist_resnet20"}:
            assert re.search(r" \d\d\.\d{1,3} % top-[15] published\.$", claim.splitlines()[0])
        else:
            assert re.search(r"\bours\b", claim)
        taken = "from resnet_keras.recipes import "
        hops = [line for line in text.splitlines() if line.startswith(taken)]
        assert len(hops) <= 1  # one named change of a recipe that is complete
        for hop in hops:
            assert taken not in Path(f"recipes/{hop.removeprefix(taken)}.py").read_text()


OURS = (
    *("quickstart", "quickstart_int8", "finetune_resnet50", "own_images"),
    *("fashion_mnist_resnet20", "fashion_mnist_resnet20_int8", "fashion_mnist_resnet20_short"),
)
