"""What `evaluate` and `predict` return of a model file and of images, and what they refuse."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.datasets
from defaults import defaults
from PIL import Image

from resnet_keras import __main__, __version__, data
from resnet_keras.errors import InputError
from resnet_keras.evaluation import (
    batches,
    evaluate,
    image_files,
    load_predictions,
    measures,
    open_split_for,
    predict,
    predict_split,
    source_for,
)
from resnet_keras.evaluation.predictions import Gallery
from resnet_keras.files import sha256
from resnet_keras.model_files import Metadata, ModelFile, open_model_file
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.published import pretrained
from resnet_keras.published.download import cache_folder


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_functions_have_the_defaults_of_their_commands(name):
    ours = defaults({"evaluate": evaluate, "predict": predict}[name])
    assert ours.items() <= defaults(getattr(__main__, name)).items()


def test_the_gallery_does_not_depend_on_batches():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (200, 2, 2, 1), dtype=np.uint8)
    scores = np.round(rng.dirichlet(np.ones(4), 200), 1)  # with ties
    labels = rng.integers(0, 4, 200)
    whole, pieces = Gallery(), Gallery()
    whole.look(images, scores, labels)
    for i in range(0, 200, 33):
        pieces.look(images[i : i + 33], scores[i : i + 33], labels[i : i + 33])
    shown, kept = whole.numbers_and_images((2, 2, 1))
    again, same = pieces.numbers_and_images((2, 2, 1))
    assert shown.tolist() == again.tolist() and np.array_equal(kept, same)
    assert np.array_equal(kept, images[shown])
    wrong = shown[:24]
    assert (measures.ranks(scores, labels)[wrong] > 0).all()
    assert (np.diff(scores[wrong].max(1)) <= 0).all()
    assert set(labels[shown[24:]]) == set(range(4))


def test_scores_of_every_image_are_saved(digits_run, data_dir, tmp_path):
    path = tmp_path / "new" / "scores.npz"
    answer = evaluate(digits_run / "model.keras", data_dir=data_dir, save=path)
    with np.load(path) as arrays:  # plain arrays, no pickle
        assert arrays["scores"].dtype == np.float32 and arrays["scores"].shape == (360, 10)
        assert arrays["index"].tolist() == list(range(360)) and "paths" not in arrays
    saved = load_predictions(path)
    images, labels = data.Source("digits", "test", data_dir=data_dir).open().arrays
    assert np.array_equal(saved.labels, labels)
    assert answer["top1"] == np.mean(saved.scores.argmax(1) == labels)
    mine = [np.mean(saved.scores.argmax(1)[labels == c] == c) for c in range(10)]
    assert answer["per_class"] == {str(c): mine[c] for c in range(10)}
    loss = -np.log(saved.scores[np.arange(360), labels].astype(float)).mean()
    assert answer["nll"] == pytest.approx(loss, rel=1e-9)
    assert np.array_equal(saved.images, images[saved.shown])
    model = (digits_run / "model.keras").read_bytes()
    assert saved.model_sha256 == hashlib.sha256(model).hexdigest()
    assert (saved.dataset, saved.split) == ("digits", "test")
    assert [p.name for p in path.parent.iterdir()] == ["scores.npz"]


def test_results_of_a_run_hold_what_evaluate_measures(digits_run):
    results = json.loads((digits_run / "results.json").read_text())
    assert 0 < results["ece"] < 1 and results["nll"] > 0
    assert list(results["per_class"]) == list("0123456789")


def looking_up(scores, labels=("a", "b"), dataset=None):
    """A model that looks up the scores of an image by its first pixel."""
    metadata = Metadata(Preprocessing(4), labels=labels, dataset=dataset)

    def predict(images):
        return np.array([scores[int(image[0, 0, 0])] for image in images])

    return predict, metadata


@pytest.fixture
def folder(tmp_path):
    """Five images of two classes in each of three splits; one of `val` is also in `test`."""
    for split, offset in (("train", 0), ("val", 20), ("test", 40)):
        for i in range(5):
            path = tmp_path / "images" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 40 if (split, i) == ("val", 0) else offset + i
            Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)
    return tmp_path / "images"


def model_file_of(predict, metadata, tmp_path):
    (tmp_path / "model.any").write_bytes(b"")
    return ModelFile(tmp_path / "model.any", predict, 3, metadata, True)


def test_images_that_are_evaluated_are_left_out_of_the_calibration(folder, tmp_path, capsys):
    # Every image gives its true class .9, except one in each split: the best temperature of
    # four right and one wrong, or of three and one, is known.
    right = {n: [0.9, 0.1] if n % 2 == 0 else [0.1, 0.9] for n in range(60)}
    right[21], right[41] = [0.9, 0.1], [0.9, 0.1]
    open_ = model_file_of(*looking_up(right), tmp_path)
    answer = evaluate(open_, dataset=f"folder:{folder}", split="test", calibrate_on="val")
    assert (
        "left 1 of 5 images of val out of the calibration, because they are among those"
        in capsys.readouterr().err
    )
    assert answer["calibration_examples"] == 4 and answer["calibrated_on"] == "val"
    # 3 of 4 right: sigmoid(logit(.9) / T) = 3/4.
    assert answer["temperature"] == pytest.approx(math.log(9) / math.log(3), rel=1e-5)
    assert answer["top1"] == 0.8 and answer["ece"] == pytest.approx(0.1)
    assert answer["ece_calibrated"] == pytest.approx(0.05, abs=1e-5)
    nll = -(4 * math.log(0.75) + math.log(0.25)) / 5
    assert answer["nll_calibrated"] == pytest.approx(nll, rel=1e-5)
    assert answer["nll"] == pytest.approx(-(4 * math.log(0.9) + math.log(0.1)) / 5, rel=1e-6)


def test_calibration_on_the_evaluated_images_alone_is_refused(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    with pytest.raises(ValueError, match="images other than.*Received: calibrate_on='test'"):
        evaluate(open_, dataset=f"folder:{folder}", calibrate_on="test")


def test_predictions_for_a_folder_name_its_files(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    split = open_split_for(open_, data.Source(f"folder:{folder}"))
    predict_split(open_, split).save(tmp_path / "scores.npz")
    again = load_predictions(tmp_path / "scores.npz")
    ends = [path.split("images/")[1] for path in again.paths]
    assert ends == ["test/a/0.png", "test/a/2.png", "test/a/4.png", "test/b/1.png", "test/b/3.png"]
    assert again.labels.tolist() == [0, 0, 0, 1, 1] and again.classes == ("a", "b")


def test_a_temperature_at_the_end_of_the_range_is_reported(folder, tmp_path, capsys):
    right = {n: [0.9, 0.1] if n % 2 == 0 else [0.1, 0.9] for n in range(60)}
    open_ = model_file_of(*looking_up(right), tmp_path)
    answer = evaluate(open_, dataset=f"folder:{folder}", calibrate_on="val")
    assert answer["temperature"] == measures.COLDEST
    assert "best temperature is outside 0.05 to 20.0: the model is right on nearly all" in (
        capsys.readouterr().err
    )


def test_classes_of_the_same_name_are_numbered(folder, tmp_path):
    """ImageNet has two kinds of crane."""
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}, labels=()), tmp_path)
    split = open_split_for(open_, data.Source(f"folder:{folder}"))
    twice = dataclasses.replace(split, labels=("crane", "crane"))
    assert predict_split(open_, twice).classes == ("0 crane", "1 crane")


def test_logits_cannot_be_calibrated(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [3.0, -2.0] for n in range(60)}), tmp_path)
    answer = evaluate(open_, dataset=f"folder:{folder}")
    assert answer["ece"] is None and answer["nll"] is None and answer["top1"] == 0.6
    with pytest.raises(ValueError, match="no probabilities"):
        evaluate(open_, dataset=f"folder:{folder}", calibrate_on="val")


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04", b"hello"])
def test_a_file_that_holds_no_predictions_is_named(tmp_path, contents):
    (tmp_path / "x.npz").write_bytes(contents)
    with pytest.raises(ValueError, match="x.npz holds no predictions"):
        load_predictions(tmp_path / "x.npz")


def test_the_suffix_of_save_is_checked_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="must end in .npz"):
        evaluate(tmp_path / "missing.keras", save=tmp_path / "out.csv")


def test_more_classes_than_the_model_has_are_refused(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [1.0] for n in range(60)}, labels=()), tmp_path)
    few = dataclasses.replace(open_, classes=1)
    with pytest.raises(InputError, match=r"has 1 classes, folder:.* has 2\.$"):
        evaluate(few, dataset=f"folder:{folder}")
    with pytest.raises(InputError, match="must be above 0. Received: batch_size=0"):
        evaluate(open_, dataset=f"folder:{folder}", batch_size=0)


def test_an_assumed_preprocessing_is_reported(folder, tmp_path, capsys):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}, labels=()), tmp_path)
    evaluate(dataclasses.replace(open_, has_metadata=False), dataset=f"folder:{folder}")
    assert "model.any has no model.json beside it" in (capsys.readouterr().err)


def test_an_image_that_vanishes_is_named_when_its_batch_is_read(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    read = batches(open_, open_split_for(open_, data.Source(f"folder:{folder}")), 128)
    (folder / "test" / "a" / "0.png").unlink()
    with pytest.raises(InputError, match="test/a/0.png can no longer be read"):
        next(read)


def test_an_open_split_gives_what_its_name_gives(folder, tmp_path):
    right = {n: [0.9, 0.1] if n % 2 == 0 else [0.1, 0.9] for n in range(60)} | {21: [0.8, 0.2]}
    open_ = model_file_of(*looking_up(right, dataset=f"folder:{folder}"), tmp_path)
    named = evaluate(open_, calibrate_on="val")
    splits = {split: source_for(open_, split=split).open() for split in ("test", "val")}
    opened = evaluate(open_, split=splits["test"], calibrate_on=splits["val"])
    assert opened | {"images_per_second": 0} == named | {"images_per_second": 0}
    assert opened["calibrated_on"] == "val" and opened["calibration_examples"] == 4
    with pytest.raises(InputError, match="by name, not for open ones. Received: dataset='digits'"):
        evaluate(open_, split=splits["test"], dataset="digits")
    by_hand = predict_split(open_, dataclasses.replace(splits["test"], source=None))
    assert (by_hand.dataset, by_hand.split) == ("the data set", "the split")
    one = dataclasses.replace(open_, channels=1)
    with pytest.raises(InputError, match="takes images of 1 channels, folder:.* has 3"):
        evaluate(one, split=splits["test"])


def test_classes_of_other_names_are_refused(folder, tmp_path):
    scores = {n: [0.9, 0.1] for n in range(60)}
    open_ = model_file_of(*looking_up(scores, labels=("a", "c")), tmp_path)
    with pytest.raises(InputError, match="has no class 'b', folder:.* has one"):
        evaluate(open_, dataset=f"folder:{folder}")
    two = model_file_of(*looking_up(scores, labels=("a", "d", "e")), tmp_path)
    with pytest.raises(InputError, match="has 3 classes, folder:.* has 2: no class 'b'.$"):
        evaluate(two, dataset=f"folder:{folder}")


def test_a_folder_without_some_of_the_classes_is_evaluated(folder, tmp_path):
    scores = {n: [0.1, 0.7, 0.2] for n in range(60)}  # always "a", the second of the model's
    three = model_file_of(*looking_up(scores, labels=("0", "a", "b")), tmp_path)
    found = evaluate(three, dataset=f"folder:{folder}")
    assert found["per_class"] == {"0": None, "a": 1.0, "b": 0.0}


def test_a_model_file_that_names_no_data_set_needs_one(tmp_path):
    open_ = model_file_of(*looking_up({}), tmp_path)
    with pytest.raises(InputError, match="model.any does not say what it was trained on.*dataset"):
        evaluate(open_)


def test_digits_in_files_are_predicted_as_in_the_split(digits_run, data_dir, tmp_path):
    images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    places = [tmp_path / "images" / str(i % 3) / f"{i:03}.png" for i in range(70)]
    for place, image in zip(places, images[:70], strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place)
    expected = load_predictions(digits_run / "predictions.npz").scores
    answers = predict(digits_run / "model.keras", tmp_path / "images", top=10)
    assert [answer["path"] for answer in answers] == sorted(map(str, places))
    for answer in answers:
        scores = expected[int(answer["path"][-7:-4])]
        assert list(answer) == ["path", "predictions"] and len(answer["predictions"]) == 10
        assert answer["predictions"][0]["label"] == str(scores.argmax())
        for one in answer["predictions"]:
            assert one["score"] == pytest.approx(scores[int(one["label"])], abs=1e-5)
        values = [one["score"] for one in answer["predictions"]]
        assert values == sorted(values, reverse=True)


def test_photographs_are_prepared_as_evaluation_prepares_them_a_batch_at_a_time(tmp_path):
    files = [Path(sklearn.datasets.__file__).parent / "images" / f"{name}.jpg"
             for name in ("china", "flower")]  # fmt: skip
    seen = []

    def mean_of_colours(images):
        seen.append(images)
        return images.mean((1, 2)).astype(np.float32)

    metadata = Metadata(Preprocessing((48, 32), 64, antialias=True))
    open_ = model_file_of(mean_of_colours, metadata, tmp_path)
    answers = predict(open_, [*files, *[files[0]] * 127], top=2)
    assert [len(images) for images in seen] == [128, 1] and seen[0].dtype == np.uint8
    for file, image in zip(files, seen[0], strict=False):
        # Both are 640 x 427: the short edge becomes 64, the long one 95, of which torchvision
        # crops round(63 / 2) = 32 columns on the left.
        small = Image.open(file).resize((95, 64), Image.Resampling.BILINEAR)
        expected = np.asarray(small)[8:56, 32:64].astype(int)
        assert image.shape == (48, 32, 3) and np.abs(image - expected).max() <= 2
    assert [answer["path"] for answer in answers[:2]] == [str(file) for file in files]
    colours = seen[0][0].mean((0, 1))
    first, second = np.argsort(-colours)[:2]
    assert answers[0]["predictions"] == [
        {"label": str(first), "score": pytest.approx(colours[first], rel=1e-6)},
        {"label": str(second), "score": pytest.approx(colours[second], rel=1e-6)},
    ]
    assert answers[0]["predictions"] == answers[-1]["predictions"]


def test_files_are_read_ahead_in_order_but_not_all_at_once():
    begun, most = [], 2 * os.cpu_count()  # two for each core

    def work(path):
        begun.append(path)
        if path.name == "4":
            raise FileNotFoundError(path)
        return np.array(int(path.name))

    files = [Path(str(number)) for number in range(5 * most)]
    found = image_files._ahead(work, files)
    file, result = next(found)
    assert (file, result()) == (files[0], 0)
    end = time.monotonic() + 60
    while len(begun) < most and time.monotonic() < end:
        time.sleep(0.01)
    assert len(begun) == most
    for file, result in found:
        if file.name == "4":
            with pytest.raises(FileNotFoundError):
                result()
        else:
            assert result() == int(file.name)
    assert file == files[-1] and sorted(begun) == sorted(files)
    begun.clear()
    found = image_files._ahead(work, files)
    next(found)
    found.close()  # nobody wants the others
    assert len(begun) <= most


def test_of_equal_scores_the_first_class_leads_in_predictions(folder, tmp_path):
    open_ = model_file_of(*looking_up({40: [0.5, 0.5]}), tmp_path)
    (answer,) = predict(open_, str(folder / "test" / "a" / "0.png"))
    assert [one["label"] for one in answer["predictions"]] == ["a", "b"]


def test_a_folder_is_predicted_without_what_file_managers_leave_behind(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    (folder / "val" / ".DS_Store").write_bytes(b"x")
    (folder / "val" / "a" / "Thumbs.db").write_bytes(b"x")
    (folder / "val" / "b" / "around").symlink_to(folder / "val")  # a circle
    answers = predict(open_, [folder / "val", folder / "test" / "a" / "0.png"])
    names = [str(Path(answer["path"]).relative_to(folder)) for answer in answers]
    expected = ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png"]
    assert names == [*(f"val/{name}" for name in expected), "test/a/0.png"]


def test_what_cannot_be_predicted_is_named(folder, tmp_path):
    open_ = model_file_of(*looking_up({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    (folder / "test" / "b" / "notes.txt").write_text("not an image")
    with pytest.raises(
        InputError, match=r"not an image. Fix .* with --skip-bad. Received: .*test/b/notes\.txt"
    ):
        predict(open_, folder)
    with pytest.raises(InputError, match="no such image. Received: .*missing.png"):
        predict(open_, [folder / "missing.png"])
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match="no images. Received: .*empty"):
        predict(open_, tmp_path / "empty")
    with pytest.raises(InputError, match="at least one image"):
        predict(open_, [])
    with pytest.raises(InputError, match="`top` must be above 0. Received: top=0"):
        predict(open_, folder, top=0)


def test_what_cannot_be_read_is_left_out_and_counted(folder, tmp_path, capfd):
    open_ = model_file_of(*looking_up({n: [n / 60, 1 - n / 60] for n in range(60)}), tmp_path)
    expected = predict(open_, folder)
    (folder / "test" / "a" / "-.png").write_bytes(b"")
    (folder / "val" / "b" / "notes.txt").write_text("not an image")
    whole = (folder / "test" / "a" / "0.png").read_bytes()
    (folder / "val" / "b" / "z.png").write_bytes(whole[:40])
    capfd.readouterr()
    answers = predict(open_, [folder, folder / "missing.png"], skip_bad=True)
    assert answers == expected  # in the same order, each with its own scores
    words = f"4 of {len(expected) + 4} files left out: "
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "left out" in line)
    assert line.startswith(words)
    reasons = ("1 empty", "1 not an image", "1 truncated", "1 no such file")
    assert sorted(line.removeprefix(words).split(", ")) == sorted(reasons)
    with pytest.raises(InputError, match="none of the files can be read. Received: 1 not an image"):
        predict(open_, folder / "val" / "b" / "notes.txt", skip_bad=True)


def test_by_default_five_classes_are_predicted_and_no_bad_file_is_left_out(folder, tmp_path):
    scores = {n: np.arange(7) / 21 for n in range(60)}
    open_ = model_file_of(*looking_up(scores, labels=()), tmp_path)
    (answer,) = predict(open_, folder / "test" / "a" / "0.png")
    assert [one["label"] for one in answer["predictions"]] == ["6", "5", "4", "3", "2"]
    (folder / "test" / "b" / "notes.txt").write_text("not an image")
    for call in (evaluate, source_for):
        with pytest.raises(InputError, match=r"1 of 16 files .* cannot be read: test/b/notes"):
            found = call(open_, dataset=f"folder:{folder}")
            found.open()
    assert evaluate(open_, dataset=f"folder:{folder}", skip_bad=True)["examples"] == 5


def test_published_accuracy_is_told_as_fractions(monkeypatch, folder, tmp_path):
    """Of weights that are named, as they lie in the cache once they are converted."""
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    inputs = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(pooled))
    both = next(row for row in pretrained() if row.top1 and row.top5)
    one = next(row for row in pretrained() if row.top1 and not row.top5)
    for row in (both, one):
        path = cache_folder() / "models" / __version__ / f"{row.name}.keras"
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        Metadata(Preprocessing(4), dataset=f"folder:{folder}").write(path)
        found = evaluate(row.name)
        assert found["published_top1"] == row.top1 / 100 > 0.5 and found["examples"] == 5
        assert found["published_top5"] == (row.top5 and row.top5 / 100)
        assert "published_top1" not in evaluate(path)


def test_scores_are_not_said_to_be_of_a_file_that_came_later(digits_run, data_dir, tmp_path):
    for name in ("model.keras", "model.json"):
        shutil.copy(digits_run / name, tmp_path)
    model_file = open_model_file(tmp_path / "model.keras")
    split = open_split_for(model_file, source_for(model_file, data_dir=data_dir))
    digest = sha256(tmp_path / "model.keras")
    assert predict_split(model_file, split).model_sha256 == digest
    # As a training does that ends meanwhile.
    shutil.copy(tmp_path / "model.keras", tmp_path / "new")
    os.replace(tmp_path / "new", tmp_path / "model.keras")
    with pytest.raises(InputError, match="model.keras was replaced while it was in use"):
        predict_split(model_file, split)
    (tmp_path / "model.keras").unlink()
    with pytest.raises(InputError, match="model.keras was replaced while it was in use"):
        predict_split(model_file, split)
