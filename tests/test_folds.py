"""Cross-validation: the folds share out the images, a model knows its own, the report averages."""

import json
import statistics

import numpy as np
import pytest
from PIL import Image

from resnet_keras import Recipe, data, evaluate, train
from resnet_keras.errors import InputError
from resnet_keras.recipe import splits
from resnet_keras.report import over_folds, read_run


def write(root, counts, *, start=0):
    """Write grey PNG files, each of one shade: `counts` for each class."""
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            # Its own bytes in each file.
            pixels = np.full((8, 8, 3), hash_of(label, i + start), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i + start}.png")
    return f"folder:{root}"


def hash_of(label, i):
    return [ord(label[0]), i % 256, i // 256]


def paths(dataset, split, fold=None, **more):
    return set(data.Source(dataset, split, fold=fold, **more).open().paths)


def test_the_folds_share_out_the_images(tmp_path):
    dataset = write(tmp_path, {"a": 23, "b": 11})
    everything = paths(dataset, "all")
    tests = [paths(dataset, f"fold {k}/5") for k in range(1, 6)]
    assert sorted(p for fold in tests for p in fold) == sorted(everything) and len(everything) == 34
    for k, test in enumerate(tests, 1):
        fold = f"fold {k}/5"
        assert paths(dataset, "train", fold) == everything - test
        assert paths(dataset, "test", fold) == test
        # Of each class in proportion: a fifth of 23 and of 11, up to one image.
        assert sum("/a/" in p for p in test) in (4, 5) and sum("/b/" in p for p in test) in (2, 3)
    assert [len(t) for t in tests] == [7, 7, 7, 7, 6]
    opened = data.Source(dataset, "fold 2/5").open()
    assert opened.name == "fold 2/5" and opened.labels == ("a", "b")


@pytest.mark.parametrize("of", [2, 12])
def test_there_may_be_two_folds_or_one_of_each_image(tmp_path, of):
    dataset = write(tmp_path, {"a": 8, "b": 4})
    tests = [paths(dataset, f"fold {k}/{of}") for k in range(1, of + 1)]
    assert [len(test) for test in tests] == [12 // of] * of and len(set.union(*tests)) == 12


def test_copies_are_in_one_fold(tmp_path):
    dataset = write(tmp_path, {"a": 10, "b": 10})
    for copy in range(4):
        (tmp_path / "a" / f"copy{copy}.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    folds = [paths(dataset, f"fold {k}/4") for k in range(1, 5)]
    found = [sum("copy" in p or p.endswith("a/3.png") for p in fold) for fold in folds]
    assert sorted(found) == [0, 0, 0, 5]


def test_test_images_of_ones_own_are_in_no_fold(tmp_path):
    for split, start in (("train", 0), ("val", 100), ("test", 200)):
        write(tmp_path / split, {"a": 6, "b": 6}, start=start)
    dataset = f"folder:{tmp_path}"
    folds = [paths(dataset, f"fold {k}/3") for k in range(1, 4)]
    assert set.union(*folds) == paths(dataset, "train") | paths(dataset, "val")
    # Validation images may be held out of what is left.
    held = paths(dataset, "val", "fold 1/3", holdout=4)
    assert len(held) == 4 and not held & folds[0]
    assert paths(dataset, "train", "fold 1/3", holdout=4) == (folds[1] | folds[2]) - held


@pytest.mark.parametrize("fold", ["fold 0/5", "fold 6/5", "fold 1/1", "fold 1/40"])
def test_folds_that_cannot_be(tmp_path, fold):
    dataset = write(tmp_path, {"a": 10, "b": 10})
    with pytest.raises(InputError, match=f"2 to 20 folds.*Received: '{fold}'"):
        data.Source(dataset, fold).open()


@pytest.mark.parametrize(
    ("columns", "rule"),
    [({"folds": 5}, "`folds` needs `fold`"), ({"fold": 2}, "`fold` needs `folds`"),
     ({"folds": 1, "fold": 1}, "`folds` must be 2 or more"),
     ({"folds": 101, "fold": 1}, "`folds` must be 100 or fewer for data sets of TFDS"),
     ({"folds": 5, "fold": 6}, r"`fold` must be in \[1, 5\]"),
     ({"folds": 5, "fold": 1, "holdout": 10}, "`holdout` must be 0 with `folds`"),
     ({"folds": 5, "fold": 1, "keep": "best"}, "`keep` needs validation images")],
)  # fmt: skip
def test_recipes_that_cannot_be(columns, rule):
    with pytest.raises(InputError, match=rule):
        Recipe(model="resnet20_cifar", dataset="digits", **columns)


def test_folds_of_other_data_sets_are_slices_of_the_training_images():
    names = [splits({"dataset": "digits", "folds": 3, "fold": k})[::2] for k in (1, 2, 3)]
    assert names == [
        ("train[33%:]", "train[0%:33%]"),
        ("train[:33%]+train[67%:]", "train[33%:67%]"),
        ("train[:67%]", "train[67%:100%]"),
    ]
    recipe = Recipe(model="resnet20_cifar", dataset="digits", folds=3, fold=2, batch_size=1)
    assert recipe.examples() == 1437 - (round(1437 * 0.67) - round(1437 * 0.33))


@pytest.mark.slow
def test_a_cross_validation(tmp_path, data_dir):
    runs = []
    for fold in (1, 2, 3):
        recipe = Recipe(
            model="resnet20_cifar", dataset="digits", folds=3, fold=fold, train_size=8,
            eval_size=8, batch_size=100, learning_rate=0.1, epochs=2, precision="float32",
            verbose=False, logger="none", data_dir=data_dir, run_dir=tmp_path / str(fold),
        )  # fmt: skip
        runs.append(read_run(train(recipe)))
        examples = runs[-1].results["examples"]
        assert recipe.examples() + examples == 1437
    found = over_folds(runs)
    tops = [run.results["top1"] for run in runs]
    assert found["folds"] == found["of"] == 3
    assert found["top1"] == {"mean": pytest.approx(np.mean(tops)),
                             "std": pytest.approx(statistics.stdev(tops))}  # fmt: skip
    assert over_folds(runs[:1]) is None and over_folds([runs[0], runs[0]]) is None
    assert over_folds(runs[1:])["folds"] == 2
    # Evaluated again, a model sees the images that it was not trained on.
    model = tmp_path / "2" / "model.keras"
    assert json.loads(model.with_suffix(".json").read_text())["split"] == "train[33%:67%]"
    assert evaluate(model, data_dir=data_dir)["top1"] == tops[1]


@pytest.mark.slow
def test_a_fold_of_a_folder_is_trained_and_known_to_its_model(tmp_path, capfd):
    dataset = write(tmp_path / "images", {"a": 40, "b": 20})
    recipe = Recipe(
        model="resnet20_cifar", dataset=dataset, folds=4, fold=3, train_size=8, eval_size=8,
        batch_size=15, learning_rate=0.1, epochs=1, precision="float32", verbose=False,
        logger="none", run_dir=tmp_path / "run",
    )  # fmt: skip
    run = train(recipe)
    said = capfd.readouterr()
    assert "45 training images, 15 images of fold 3/4, 3 steps" in said.err
    assert "of 15 images of fold 3/4" in said.out
    results = json.loads((run / "results.json").read_text())
    assert results["tested_on"] == "fold 3/4"
    assert evaluate(run / "model.keras")["examples"] == 15
    assert evaluate(run / "model.keras", split="all")["examples"] == 60
