"""Accuracy and calibration by their definitions, and what `evaluate` keeps."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from PIL import Image

from resnet_keras import data
from resnet_keras.errors import InputError
from resnet_keras.evaluation import evaluate, load_predictions, measures, predict_split
from resnet_keras.evaluation import test_batches as batches_of
from resnet_keras.evaluation.predictions import Gallery
from resnet_keras.model_files import Metadata, ModelFile
from resnet_keras.preprocessing import Preprocessing


def test_ranks_count_the_classes_that_are_better():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert measures.ranks(scores, [2, 0]).tolist() == [1, 0]


def test_among_equal_scores_the_first_leads_as_argmax_has_it():
    scores = np.random.default_rng(0).integers(0, 4, (200, 5)) / 4
    labels = np.arange(200) % 5
    places = measures.ranks(scores, labels)
    assert ((places == 0) == (scores.argmax(1) == labels)).all()
    order = np.argsort(-scores, axis=1, kind="stable")
    assert (order[np.arange(200), places] == labels).all()


def test_nan_is_never_right():
    nan = np.nan
    scores = np.array([[nan, nan, nan], [0.5, nan, 0.1], [0.5, nan, 0.1]])
    assert measures.ranks(scores, [0, 0, 1]).tolist() == [3, 1, 3]


def test_top1_of_a_class_without_images_is_none():
    places, labels = np.array([0, 1, 0]), np.array([0, 0, 2])
    assert measures.per_class(places, labels, 4) == [0.5, None, 1.0, None]


def test_ece_by_hand():
    # Two bins of 15 are used: (0.8, 0.8667] holds .85 and .82, (0.5333, 0.6] holds .6, its end.
    scores = np.array([[0.85, 0.15], [0.18, 0.82], [0.6, 0.4]])
    labels = np.array([0, 0, 0])
    binned = measures.reliability(scores, labels)
    assert binned.counts[12] == 2 and binned.counts[8] == 1 and binned.counts.sum() == 3
    assert binned.accuracy[12] == 0.5 and binned.accuracy[8] == 1
    expected = 2 / 3 * abs(0.5 - (0.85 + 0.82) / 2) + 1 / 3 * abs(1 - 0.6)
    assert binned.ece == pytest.approx(expected, abs=1e-12)


def test_ece_of_the_ends():
    """A score of 1 is in the last bin; sure and always wrong is an error of 1, a coin none."""
    sure = np.array([[1.0, 0.0]] * 4)
    assert measures.reliability(sure, np.zeros(4, int)).ece == 0
    assert measures.reliability(sure, np.ones(4, int)).ece == 1
    coin = np.array([[0.5 + 1e-12, 0.5 - 1e-12]] * 4)
    assert measures.reliability(coin, np.array([0, 1, 0, 1])).ece == pytest.approx(0, abs=1e-9)


def test_negative_log_likelihood_by_hand():
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    found = measures.negative_log_likelihood(scores, np.array([0, 1]))
    assert found == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-7)
    impossible = measures.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert impossible == pytest.approx(126 * math.log(2))  # the smallest normal float32: 2 ** -126


def test_a_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 3

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    np.testing.assert_allclose(
        measures.at_temperature(softmax(logits), 2.5), softmax(logits / 2.5), rtol=1e-12
    )


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_labels_is_found(truth):
    """Labels drawn from softmax(z / T): the maximum of the likelihood is near T."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 5)) * 2
    scores = measures.at_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    drawn = measures.at_temperature(scores, truth).cumsum(1) > rng.random((20_000, 1))
    labels = drawn.argmax(1)
    found = measures.fit_temperature(scores, labels)
    # Four standard deviations of the estimate, by the Fisher information: the mean variance of
    # the logits under the prediction at the truth.
    p = measures.at_temperature(scores, truth)
    spread = (p * logits**2).sum(1) - (p * logits).sum(1) ** 2
    assert abs(1 / found - 1 / truth) < 4 / math.sqrt(spread.sum())
    losses = [
        measures.negative_log_likelihood(measures.at_temperature(scores, t), labels)
        for t in (found / 1.02, found, found * 1.02)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_temperatures_of_what_is_all_right_or_tells_nothing_are_the_ends():
    sure = np.array([[0.9, 0.1]] * 3)
    assert measures.fit_temperature(sure, np.zeros(3, int)) == measures.COLDEST
    assert measures.fit_temperature(sure, np.ones(3, int)) == measures.HOTTEST


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
    path = tmp_path / "new" / "said.npz"
    answer = evaluate(digits_run / "model.keras", data_dir=data_dir, save=path)
    with np.load(path) as arrays:  # plain arrays, no pickle
        assert arrays["scores"].dtype == np.float32 and arrays["scores"].shape == (360, 10)
        assert arrays["index"].tolist() == list(range(360)) and "paths" not in arrays
    said = load_predictions(path)
    images, labels = data.Source("digits", "test", data_dir=data_dir).open().arrays
    assert np.array_equal(said.labels, labels)
    assert answer["top1"] == np.mean(said.scores.argmax(1) == labels)
    mine = [np.mean(said.scores.argmax(1)[labels == c] == c) for c in range(10)]
    assert answer["per_class"] == {str(c): mine[c] for c in range(10)}
    loss = -np.log(said.scores[np.arange(360), labels].astype(float)).mean()
    assert answer["nll"] == pytest.approx(loss, rel=1e-9)
    assert np.array_equal(said.images, images[said.shown])
    model = (digits_run / "model.keras").read_bytes()
    assert said.model_file == hashlib.sha256(model).hexdigest()
    assert [p.name for p in path.parent.iterdir()] == ["said.npz"]


def test_results_of_a_run_hold_what_evaluate_measures(digits_run):
    results = json.loads((digits_run / "results.json").read_text())
    assert 0 < results["ece"] < 1 and results["nll"] > 0
    assert list(results["per_class"]) == list("0123456789")


def fixed(scores, labels=("a", "b"), dataset=None):
    """A model file that says what is in the first pixels of an image."""
    metadata = Metadata(Preprocessing(4), labels=labels, dataset=dataset)

    def predict(images):
        return np.array([scores[int(image[0, 0, 0])] for image in images])

    return predict, metadata


@pytest.fixture
def folder(tmp_path):
    """Five images of two classes on each of three sides; one of `val` is also in `test`."""
    for side, offset in (("train", 0), ("val", 20), ("test", 40)):
        for i in range(5):
            path = tmp_path / "images" / side / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 40 if (side, i) == ("val", 0) else offset + i
            Image.fromarray(np.full((4, 4, 3), level, np.uint8)).save(path)
    return tmp_path / "images"


def model_file_of(predict, metadata, tmp_path):
    (tmp_path / "model.any").write_bytes(b"")
    return ModelFile(tmp_path / "model.any", predict, 3, metadata, True)


def test_images_that_are_evaluated_are_left_out_of_the_calibration(folder, tmp_path, capsys):
    # Each image says its true class with .9, but one of each side: the best temperature of
    # four right and one wrong, or of three and one, is known.
    right = {n: [0.9, 0.1] if n % 2 == 0 else [0.1, 0.9] for n in range(60)}
    right[21], right[41] = [0.9, 0.1], [0.9, 0.1]
    open_ = model_file_of(*fixed(right), tmp_path)
    answer = evaluate(open_, dataset=f"folder:{folder}", split="test", calibrate_on="val")
    assert "1 of 5 images of val are among those evaluated" in capsys.readouterr().err
    assert answer["calibration_examples"] == 4 and answer["calibrated_on"] == "val"
    # 3 of 4 right: sigmoid(logit(.9) / T) = 3/4.
    assert answer["temperature"] == pytest.approx(math.log(9) / math.log(3), rel=1e-5)
    assert answer["top1"] == 0.8 and answer["ece"] == pytest.approx(0.1)
    assert answer["ece_calibrated"] == pytest.approx(0.05, abs=1e-5)
    nll = -(4 * math.log(0.75) + math.log(0.25)) / 5
    assert answer["nll_calibrated"] == pytest.approx(nll, rel=1e-5)
    assert answer["nll"] == pytest.approx(-(4 * math.log(0.9) + math.log(0.1)) / 5, rel=1e-6)


def test_the_evaluated_images_themselves_are_refused_for_calibration(folder, tmp_path):
    open_ = model_file_of(*fixed({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    with pytest.raises(ValueError, match="other images.*Received: calibrate_on='test'"):
        evaluate(open_, dataset=f"folder:{folder}", calibrate_on="test")


def test_a_folder_s_predictions_name_their_files(folder, tmp_path):
    open_ = model_file_of(*fixed({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    said = predict_split(open_, dataset=f"folder:{folder}")
    said.save(tmp_path / "said.npz")
    again = load_predictions(tmp_path / "said.npz")
    ends = [path.split("images/")[1] for path in again.paths]
    assert ends == ["test/a/0.png", "test/a/2.png", "test/a/4.png", "test/b/1.png", "test/b/3.png"]
    assert again.labels.tolist() == [0, 0, 0, 1, 1] and again.classes == ("a", "b")


def test_logits_have_no_calibration(folder, tmp_path):
    open_ = model_file_of(*fixed({n: [3.0, -2.0] for n in range(60)}), tmp_path)
    answer = evaluate(open_, dataset=f"folder:{folder}")
    assert answer["ece"] is None and answer["nll"] is None and answer["top1"] == 0.6
    with pytest.raises(ValueError, match="no probabilities"):
        evaluate(open_, dataset=f"folder:{folder}", calibrate_on="val")


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04", b"hello"])
def test_what_are_no_predictions_are_named(tmp_path, contents):
    (tmp_path / "x.npz").write_bytes(contents)
    with pytest.raises(ValueError, match="x.npz holds no predictions"):
        load_predictions(tmp_path / "x.npz")


def test_save_wants_its_suffix_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match="must end in .npz"):
        evaluate(tmp_path / "missing.keras", save=tmp_path / "out.csv")


def test_more_classes_than_the_model_has_are_refused(folder, tmp_path):
    open_ = model_file_of(*fixed({n: [1.0] for n in range(60)}, labels=()), tmp_path)
    few = dataclasses.replace(open_, classes=1)
    with pytest.raises(InputError, match="tells 1 classes apart, folder:.* has 2"):
        evaluate(few, dataset=f"folder:{folder}")
    with pytest.raises(InputError, match="must be above 0. Received: batch_size=0"):
        evaluate(open_, dataset=f"folder:{folder}", batch_size=0)


def test_what_is_made_up_is_said(folder, tmp_path, capsys):
    open_ = model_file_of(*fixed({n: [0.9, 0.1] for n in range(60)}, labels=()), tmp_path)
    evaluate(dataclasses.replace(open_, has_metadata=False), dataset=f"folder:{folder}")
    assert "model.any has no model.json beside it: images are resized to 4 and cropped" in (
        capsys.readouterr().err
    )


def test_an_image_that_vanishes_is_named_wherever_batches_are_read(folder, tmp_path):
    open_ = model_file_of(*fixed({n: [0.9, 0.1] for n in range(60)}), tmp_path)
    batches = batches_of(open_, dataset=f"folder:{folder}")
    (folder / "test" / "a" / "0.png").unlink()
    with pytest.raises(InputError, match="test/a/0.png can no longer be read"):
        next(batches)
