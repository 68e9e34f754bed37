"""One command trains, writes the run folder, and says what is wrong in one line."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from runs import SHORT, finished, forks, refused_in_one_line

from resnet_keras import Recipe, backup, data, train
from resnet_keras.errors import InputError
from resnet_keras.models import count
from resnet_keras.training import run_folder
from resnet_keras.training.dry_run import resolved
from resnet_keras.training.machine import (
    versions,
)
from resnet_keras.training.tracking import _known

SMALL = (
    "--train-size", "8", "--eval-size", "8", "--padding", "1", "--epochs", "1",
    "--warmup-epochs", "0", "--learning-rate", "0.01",
)  # fmt: skip


@pytest.fixture
def quickstart(run_python, tmp_path, data_dir):
    """Run the quickstart recipe, small, in a process of its own."""

    def run(*flags, name="run", **environment):
        folder = tmp_path / name
        common = (*SMALL, "--data-dir", data_dir, "--run-dir", folder)
        code = "import runpy; RECIPE = runpy.run_path('recipes/quickstart.py')['RECIPE'];" \
               "from resnet_keras import train; train(RECIPE.parse())"  # fmt: skip
        return run_python("-c", code, *common, *flags, **environment), folder

    return run


def test_a_run_folder_holds_what_the_contract_says(digits_run):
    names = {path.name for path in digits_run.iterdir()}
    assert names >= {"recipe.json", "log.csv", "model.keras", "labels.txt", "results.json"}
    results = json.loads((digits_run / "results.json").read_text())
    assert results["examples"] == 360 and results["top1"] > 0.9 and results["top5"] > 0.99
    with open(digits_run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    # The accuracy that fit saw last is that of the saved file.
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(results["top1"], abs=1e-6)
    assert (digits_run / "labels.txt").read_text().split() == list("0123456789")


def test_results_say_how_the_network_was_trained_and_tested(digits_run):
    results = json.loads((digits_run / "results.json").read_text())
    with open(digits_run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(results) == {
        "top1", "top5", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1",
        "examples", "images_per_second", "ece", "nll", "per_class", "confusion", "train_seconds",
        "epoch", "epoch_reason", "precision", "replicas", "skipped", "tested_on", "validated_on",
        "files", "versions",
    }  # fmt: skip
    assert results["train_seconds"] == round(sum(float(row["seconds"]) for row in rows), 1)
    assert (results["epoch"], results["epoch_reason"]) == (12, "last of 12 epochs")
    assert (results["precision"], results["replicas"], results["files"]) == ("float32", 1, None)
    assert results["skipped"] == {"train": 0, "test": 0}
    assert results["tested_on"] == results["validated_on"] == "test"
    assert results["versions"] == versions()
    # The last of 12 epochs of 23 batches: half a cosine from 0.1.
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates == pytest.approx(
        [0.05 * (1 + np.cos(np.pi * (23 * e + 22) / (23 * 12))) for e in range(12)], abs=2e-3
    )


@pytest.mark.slow
def test_policies_and_erasing_with_the_mean_train(data_dir, tmp_path):
    """What torchvision's V2 recipes do to an image and to a batch."""
    recipe = dataclasses.replace(
        SHORT, policy="trivial_augment_wide", erasing=0.5, erasing_fill="mean", mixup=0.2,
        cutmix=1.0, repeats=4, data_dir=data_dir, run_dir=tmp_path / "run",
    )  # fmt: skip
    with open(train(recipe) / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert 2 < float(row["loss"]) < 3  # at first, ln 10 = 2.3
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert written["policy"] == "trivial_augment_wide" and written["erasing_fill"] == "mean"


@pytest.mark.slow
def test_the_saved_model_needs_nothing_of_ours(digits_run, run_python, data_dir, tmp_path):
    from resnet_keras.model_files import open_model_file

    images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    expected = open_model_file(digits_run / "model.keras").predict(images[:50])
    np.savez(tmp_path / "x.npz", images=images[:50], expected=expected)
    code = (
        "import sys; sys.modules['resnet_keras'] = None\n"  # cannot be imported from now on
        "import keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "x = np.load(sys.argv[2])\n"
        "assert np.abs(model.predict(x['images'], verbose=0) - x['expected']).max() < 1e-6\n"
        "assert {layer.dtype_policy.name for layer in model.layers} == {'float32'}\n"
        "assert all(type(layer).__module__.startswith('keras.') for layer in model.layers)\n"
        "assert not model.compiled and np.allclose(x['expected'].sum(1), 1, atol=1e-5)"
    )
    done = run_python("-c", code, digits_run / "model.keras", tmp_path / "x.npz")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_half_precision_run_leaves_a_float32_model(quickstart):
    done, folder = quickstart("--precision", "mixed_bfloat16")
    assert done.returncode == 0 and "mixed_bfloat16: as requested" in done.stderr, done.stderr
    model = keras.saving.load_model(folder / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}


@pytest.mark.slow
def test_float16_on_a_cpu_is_replaced_with_one_line(quickstart):
    done, folder = quickstart("--precision", "mixed_float16")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "mixed_float16" in line]
    assert line.startswith(("float32: ", "mixed_bfloat16: ")) and "slower" in line
    assert json.loads((folder / "results.json").read_text())["precision"] in line


@pytest.mark.slow
def test_two_replicas_with_synchronized_batch_norm_are_one_device(quickstart):
    # They add in another order. A small rate keeps four steps from magnifying what that rounds.
    flags = ("--batch-size", "360", "--sync-batch-norm", "--precision", "float32",
             "--learning-rate", "0.002")  # fmt: skip
    weights = []
    for replicas in ("1", "2"):
        done, folder = quickstart(
            *flags, "--replicas", replicas, name=replicas, TF_ENABLE_ONEDNN_OPTS="0"
        )
        assert done.returncode == 0, done.stderr
        assert f" {replicas} replica" in done.stderr
        weights.append(keras.saving.load_model(folder / "model.keras").get_weights())
    assert max(np.abs(a - b).max() for a, b in zip(*weights, strict=True)) < 1e-5


def test_a_loss_that_is_nan_or_infinite_stops_the_run_and_leaves_a_good_backup(quickstart):
    done, folder = quickstart("--learning-rate", "1e30", "--backup-every", "1", "--epochs", "2")
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: ") and re.search("is NaN or infinite (at|by) step", line)
    assert "--learning-rate" in line and "--precision" in line and "Traceback" not in done.stderr
    saved = backup.load(folder / "backup")
    weights = [v for name, v in saved.arrays.items() if name.startswith("model/")]
    assert weights and all(np.isfinite(v).all() for v in weights)
    assert not (folder / "model.keras").exists()


def test_intervals_of_backups_are_steps_or_times():
    def interval(every):
        return Recipe(model="resnet20_cifar", dataset="digits", backup_every=every).interval()

    assert interval("500") == (500, "steps") and interval("90s") == (90, "seconds")
    assert interval("10m") == (600, "seconds") and interval("2h") == (7200, "seconds")
    for bad in ("0", "m", "1.5m", "-3", "", "5d", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(InputError, match="backup_every"):
            interval(bad)


def test_a_finished_run_says_so(digits_run, data_dir, capsys):
    fields = json.loads((digits_run / "recipe.json").read_text())
    before = (digits_run / "model.keras").read_bytes()
    train(Recipe(**fields | {"run_dir": digits_run, "data_dir": data_dir}))
    assert "is finished: top-1 " in capsys.readouterr().out
    assert (digits_run / "model.keras").read_bytes() == before


def test_another_recipe_is_refused_and_nothing_is_changed(quickstart, digits_run):
    before = {path: path.read_bytes() for path in digits_run.iterdir() if path.is_file()}
    done, _ = quickstart("--run-dir", digits_run)
    line = refused_in_one_line(done)
    assert "belongs to another recipe" in line and "--run-dir" in line
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_training_in_the_same_folder_is_refused(digits_run, tmp_path, data_dir):
    fields = json.loads((digits_run / "recipe.json").read_text())
    recipe = Recipe(**fields | {"run_dir": tmp_path, "data_dir": data_dir})
    with backup.alone(tmp_path), pytest.raises(InputError, match="another process is training"):
        train(recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_damaged_recipe_file_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text('{"model": "resn')
    recipe = Recipe(model="resnet20_cifar", dataset="digits", run_dir=tmp_path)
    with pytest.raises(ValueError, match="recipe.json is damaged.*--run-dir"):
        train(recipe)


@pytest.fixture(scope="module")
def away():
    """Runs commands; whatever network there is, it is behind a proxy that nobody answers on."""
    proxy = "http://127.0.0.1:9"
    with forks(Path(__file__).parents[1], http_proxy=proxy, https_proxy=proxy) as ask:
        yield ask


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--model", "resnet5"), "resnet18"), (("--dataset", "no_such_set"), "no such data set"),
     (("--dataset", "cifar10"), "cifar-10-binary.tar.gz"),
     (("--dataset", "imagenet2012"), "ILSVRC2012_img_val.tar"),
     (("--weights", "no.pth"), "no.pth")],
)  # fmt: skip
def test_bad_input_is_one_line_and_code_2(away, flags, words, tmp_path, data_dir):
    places = ("--data-dir", data_dir, "--run-dir", tmp_path / "run")
    answer = away(shlex.join(map(str, ("python", "recipes/quickstart.py", *places, *flags))))
    assert words in refused_in_one_line(finished(answer), after_others=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_finetuning_for_int8_leaves_a_stock_model_and_its_ranges(digits_run, data_dir, tmp_path):
    from resnet_keras.quantize import quantization_aware, read_ranges

    theirs = Recipe(**json.loads((digits_run / "recipe.json").read_text()))
    recipe = dataclasses.replace(
        theirs, weights=str(digits_run / "model.keras"), quantize=True, learning_rate=0.001,
        weight_decay=0.0, epochs=1, data_dir=data_dir, run_dir=tmp_path / "run", mean=(127.5,),
        std=(127.5,),
    )  # fmt: skip
    path = train(recipe) / "model.keras"
    model = keras.saving.load_model(path, compile=False)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in model.layers)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["top1"] > 0.9
    ranges = read_ranges(path)
    quantization_aware(model, ranges)  # they fit
    assert ranges["conv1_relu"][0] == 0 < ranges["conv1_relu"][1]


def test_finetuning_for_int8_needs_a_trained_network(tmp_path):
    with pytest.raises(InputError, match="`quantize` needs `weights`"):
        Recipe(model="resnet20_cifar", dataset="digits", quantize=True, run_dir=tmp_path)


def test_dry_run_prints_one_json_object_and_touches_nothing(run_python, tmp_path):
    folder = tmp_path / "none"
    done = run_python("recipes/imagenet_resnet50.py", "--dry-run", "--run-dir", folder)
    printed = json.loads(done.stdout)
    assert printed["steps_per_epoch"] == 5005 and printed["total_steps"] == 500_500
    assert printed["params"] == 25_557_032 and printed["macs"] == 4_089_184_256
    assert printed["precision"] == "auto" and printed["estimated_memory_bytes"] > 2**30
    assert not folder.exists()


def test_replicas_must_divide_the_batch():
    with pytest.raises(ValueError, match="multiple of replicas"):
        dataclasses.replace(Recipe(model="resnet18", dataset="digits"), batch_size=9, replicas=2)


@pytest.mark.slow
def test_images_of_two_sizes_are_trained_and_judged(data_dir, tmp_path, capsys):
    run = {"steps": 2, "data_dir": data_dir, "run_dir": tmp_path / "run"}
    recipe = dataclasses.replace(SHORT, eval_size=12, eval_resize=12, **run)
    with pytest.raises(SystemExit):
        train(dataclasses.replace(recipe, dry_run=True))
    printed = json.loads(capsys.readouterr().out)
    one = resolved(dataclasses.replace(recipe, eval_size=8))
    for name in ("params", "macs", "estimated_memory_bytes"):
        assert printed[name] == one[name] > 0
    results = json.loads((train(recipe) / "results.json").read_text())
    assert results["examples"] == 360
    model = keras.saving.load_model(tmp_path / "run" / "model.keras", compile=False)
    with pytest.raises(ValueError, match="one input size. Received: .*None"):
        count(model)


@pytest.mark.slow
def test_images_that_are_held_out_are_tested_and_not_trained_on(data_dir, tmp_path, capsys):
    recipe = dataclasses.replace(SHORT, holdout=37, data_dir=data_dir, run_dir=tmp_path / "run")
    assert resolved(recipe)["steps_per_epoch"] == 14  # of 1400 images, not 1437
    run = train(recipe)
    captured = capsys.readouterr()
    assert "1,400 training images, 37 held-out images, 14 steps" in captured.err
    assert captured.out.endswith("of 37 held-out images\n")
    assert json.loads((run / "results.json").read_text())["examples"] == 37
    _, labels = data.Source("digits", "train", data_dir=data_dir).open().arrays
    with np.load(run / "predictions.npz") as said:
        assert np.array_equal(said["labels"], labels[-37:])
    page = (run / "report.html").read_text()
    assert "top-1 of 37 held-out images" in page and "test images" not in page


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("recipe.json", "[]", "recipe.json is damaged: it must hold an object.*--run-dir"),
     ("recipe.json", "\xe9", "recipe.json is damaged: .*utf-8.*--run-dir"),
     ("recipe.json", None, "results.json exists, but not the recipe.json.*--run-dir"),
     ("results.json", '{"top1": 0.9', "results.json is damaged: .*Delete it"),
     ("results.json", "{}", "results.json is damaged: top1 must be a number. Delete it"),
     ("results.json", '{"top1": 1, "top5": "all"}', "damaged: top5 must be a number")],
)  # fmt: skip
def test_damaged_files_of_a_finished_run_are_named(digits_run, tmp_path, name, text, words):
    fields = json.loads((digits_run / "recipe.json").read_text())
    for file in ("recipe.json", "results.json"):
        (tmp_path / file).write_bytes((digits_run / file).read_bytes())
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=words):
        train(Recipe(**fields | {"run_dir": tmp_path}))


# What the line says that sums up a run, and the number of images that it is of.
ONE_LABEL = {"top1": 0.5, "top5": 0.75, "examples": 8}
MANY_LABELS = {"map": 0.5, "micro_f1": 0.25, "macro_f1": 0.75, "threshold": 0.5, "examples": 8}


@pytest.mark.parametrize(
    ("numbers", "nulls"),
    [(ONE_LABEL, {}), (MANY_LABELS, {"top1": None, "top5": None}),
     ({"top1": 0.5, "examples": 8}, {"top5": None})],  # of five classes or fewer
)  # fmt: skip
def test_every_number_that_sums_up_a_run_is_required(tmp_path, numbers, nulls):
    recipe = Recipe(model="resnet20_cifar", dataset="digits", run_dir=tmp_path)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    results = nulls | numbers
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert run_folder.finished(recipe, tmp_path) == results
    for name in numbers:
        for wrong in ({name: "all"}, {name: True}):
            (tmp_path / "results.json").write_text(json.dumps(results | wrong))
            with pytest.raises(InputError, match=f"is damaged: {name} must be a number"):
                run_folder.finished(recipe, tmp_path)


def test_a_run_folder_of_another_version_is_refused_in_words(tmp_path):
    recipe = Recipe(model="resnet20_cifar", dataset="digits", run_dir=tmp_path)
    fields = recipe.to_json() | {"drop": 0.1, "rate_by": "step"}  # as 0.1.0 called them
    (tmp_path / "recipe.json").write_text(json.dumps(fields))
    words = f"{tmp_path} cannot be resumed: .* version 0.1.0 .*--run-dir. Received: drop=0.1"
    with pytest.raises(InputError, match=words):
        train(recipe)
    assert json.loads((tmp_path / "recipe.json").read_text()) == fields


def test_a_backup_without_its_recipe_is_refused(tmp_path):
    path = backup.save(tmp_path / "backup", backup.Saved(3, {"x": np.zeros(2)}, {"rows": []}))
    recipe = Recipe(model="resnet20_cifar", dataset="digits", run_dir=tmp_path)
    with pytest.raises(InputError, match=f"{path} exists, but not the recipe.json.*--run-dir"):
        train(recipe)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_damaged_notes_of_a_logger_are_named(tmp_path):
    (tmp_path / "tracking.json").write_text("[")
    with pytest.raises(InputError, match="tracking.json is damaged"):
        _known(tmp_path)


@pytest.mark.slow
def test_a_run_is_resumed_in_the_precision_it_began_in(digits_run, data_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(digits_run, folder)
    fields = json.loads((folder / "recipe.json").read_text())
    recipe = Recipe(
        **fields | {"run_dir": folder, "data_dir": data_dir, "precision": "mixed_bfloat16"}
    )
    (folder / "results.json").unlink()
    (folder / "recipe.json").write_text(json.dumps(fields | {"precision": "auto"}))
    with pytest.raises(InputError, match="precision float32: resume with --precision float32, or "):
        train(recipe)
    assert keras.config.dtype_policy().name == "float32"  # a run leaves no policy behind
    saved = backup.load(folder / "backup")
    assert (saved.notes.pop("precision"), saved.notes["replicas"]) == ("float32", 1)
    recipe = dataclasses.replace(recipe, precision="float32")
    saved.notes["replicas"] = 4
    backup.save(folder / "backup", saved)
    with pytest.raises(InputError, match="resume with --replicas 4, or .* Received: 1"):
        train(recipe)
    del saved.notes["replicas"]  # of a run before it was kept
    backup.save(folder / "backup", saved)
    assert train(recipe) == folder


@pytest.mark.parametrize("change", [{"norm_eval": True}, {"freeze": 0}])
def test_what_keeps_learnt_things_needs_a_trained_network(tmp_path, change):
    ((name, value),) = change.items()
    with pytest.raises(InputError, match=f"--weights. Received: {name}={value}, weights=None"):
        Recipe(model="resnet20_cifar", dataset="digits", run_dir=tmp_path, **change)
