"""What judges an exported file, what may be replaced by one, and how its speed is measured."""

import dataclasses
import importlib
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from resnet_keras import SPECS, ResNet
from resnet_keras.errors import InputError
from resnet_keras.exporting.convert import _network, tuned_calibration
from resnet_keras.exporting.options import settle
from resnet_keras.exporting.publish import require_replaceable
from resnet_keras.model_files import Metadata, ModelFile, open_model_file
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.quantize import activation_ranges, quantization_aware, write_ranges

# The package has a function of this name.
prove = importlib.import_module("resnet_keras.exporting.prove")

NOTHING = {"top1_agreement": None, "decision_agreement": None}
CLASSES, DECISIONS = NOTHING | {"top1_agreement": 1.0}, NOTHING | {"decision_agreement": 1.0}
QUANTIZED = {"mean_largest_difference": 0.05, "unquantized_max_difference": 5e-3}


@pytest.mark.parametrize(
    ("found", "quantize", "main", "further"),
    [(CLASSES, "none", ("max_difference", 1e-4), {"top1_agreement": 0.99}),
     (CLASSES, "float16", ("max_difference", 5e-3), {"top1_agreement": 0.95}),
     (DECISIONS, "float16", ("max_difference", 5e-3), {"decision_agreement": 0.95}),
     (NOTHING, "none", ("max_difference", 1e-4), {}),
     (CLASSES, "dynamic", ("top1_agreement", 0.99), QUANTIZED),
     (CLASSES, "int8", ("top1_agreement", 0.99), QUANTIZED),
     (DECISIONS, "int8", ("decision_agreement", 0.99), QUANTIZED),
     (CLASSES | {"decision_agreement": 1.0}, "int8", ("top1_agreement", 0.99),
      {"decision_agreement": 0.99} | QUANTIZED),
     (NOTHING, "int8", ("mean_largest_difference", 0.05),
      {"unquantized_max_difference": 5e-3})],
)  # fmt: skip
def test_a_file_is_judged_by_the_measures_of_its_kind(found, quantize, main, further):
    report = found | {"unquantized_max_difference": 0.0}
    assert prove._bounds(report, quantize) == (main, further)


@pytest.mark.parametrize(
    ("measure", "kept", "refused"),
    [("max_difference", 0.24, 0.25), ("mean_largest_difference", 0.24, 0.25),
     ("unquantized_max_difference", 0.24, 0.25), ("unquantized_max_difference", 0.24, None),
     ("top1_agreement", 0.25, 0.24), ("decision_agreement", 0.25, 0.24)],
)  # fmt: skip
def test_a_difference_must_be_below_its_bound_and_an_agreement_at_least_its(measure, kept, refused):
    def reason(value, **others):
        report = {"max_difference": 0.1, "examples": 7} | {measure: value} | others
        return prove.reason_to_refuse(report, measure, 0.25)

    assert reason(kept) is None and reason(refused)
    assert "of the largest one" not in reason(refused)
    if "difference" in measure:
        assert " of the largest one" in reason(refused, difference_of="scores")


def test_differences_are_of_all_images_whatever_the_batches():
    collected = prove._Differences()
    collected.add(np.float32([[1, 2], [3, 4]]), np.float32([[1, 1], [1, 4]]))
    collected.add(np.float32([[0, 0]]), np.float32([[-8, 0]]))
    found = {
        "max_difference": 8, "mean_difference": 11 / 6, "mean_largest_difference": 11 / 3,
    }  # fmt: skip
    for kind, scale in (("probabilities", 1), ("scores", 8)):
        measured = collected.measured(kind)
        assert (measured.pop("examples"), measured.pop("difference_of")) == (3, kind)
        assert measured == pytest.approx({name: value / scale for name, value in found.items()})
    nothing = prove._Differences()
    nothing.add(np.zeros((1, 2)), np.zeros((1, 2)))
    assert nothing.measured("features")["max_difference"] == 0
    nothing.add(np.float32([[np.nan, 1]]), np.zeros((1, 2)))
    assert nothing.measured("features")["max_difference"] is None


def test_latencies_are_medians_of_turns_after_the_warm_up(tmp_path, monkeypatch):
    calls = []

    def model_file(name, seconds):
        def predict(images):
            calls.append(name)
            time.sleep(seconds[min(calls.count(name), len(seconds)) - 1])
            return np.zeros((1, 2))

        path = tmp_path / f"{name}.keras"
        return ModelFile(path, predict, 3, Metadata(Preprocessing(4)), True)

    # The first three are the warm-up.
    files = {"slow": model_file("slow", [0.05] * 3 + [0.01]), "quick": model_file("quick", [0])}
    found = prove.latencies(files, np.zeros((1, 4, 4, 3), np.uint8))
    assert calls == ["slow", "quick"] * (3 + 30)
    assert 10 <= found["slow"]["all"] < 40 and found["quick"]["all"] < 5
    assert found["slow"]["all"] == round(found["slow"]["all"], 3)
    calls.clear()
    monkeypatch.setattr(prove, "SECONDS", 0.05)  # for each of the two
    prove.latencies({"a": model_file("a", [0.02]), "b": model_file("b", [0.02])}, None)
    assert 2 * (3 + 1) <= len(calls) <= 2 * (3 + 3)


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    if contents is None:
        path.mkdir()
    else:
        path.write_text(contents)


@pytest.mark.parametrize(
    ("out", "options", "there", "refused"),
    [("page", {"format": "web"}, {"page": None}, None),
     ("page", {"format": "web"},
      {"page/app.js": "", "page/metadata.js": "", "page/model.onnx": ""}, None),
     ("page", {"format": "web"}, {"page/app.js": "", "page/model.onnx": ""}, "not an exported"),
     ("page", {"format": "web"}, {"page": "a file"}, "is not an exported page"),
     ("saved", {}, {"saved": None}, None),
     ("saved", {}, {"saved/saved_model.pb": ""}, None),
     ("saved", {}, {"saved/thesis.txt": ""}, "is not a SavedModel folder"),
     ("saved", {}, {"saved": "a file"}, "is not a SavedModel folder"),
     ("m.tflite", {}, {"m.tflite": "an old one", "m.bin": "mine"}, None),
     ("m.tflite", {}, {"m.tflite": None}, "must be a file, but is a folder"),
     ("m.xml", {}, {"m.xml": "", "m.bin": ""}, None),
     ("m.xml", {}, {"m.bin": "mine"}, "m.bin exists, is not part of an earlier export"),
     ("m.onnx", {}, {"m.onnx.md": "---\nours"}, None),
     ("m.onnx", {}, {"m.onnx.md": "# notes"}, "is not a model card"),
     ("m.onnx", {}, {"m.onnx.md": None}, "is not a model card"),
     ("m.onnx", {}, {"m.json": "[1]"}, "m.json exists, is not the metadata"),
     ("page", {"format": "web"}, {"page.json": "[1]"}, None)],
)  # fmt: skip
def test_an_export_replaces_an_earlier_one_and_nothing_else(out, options, there, refused, tmp_path):
    for name, contents in there.items():
        write(tmp_path / name, contents)
    settings = settle(Path("model.keras"), tmp_path / out, options)
    if refused is None:
        require_replaceable(tmp_path / out, settings)
    else:
        with pytest.raises(InputError, match=refused):
            require_replaceable(tmp_path / out, settings)


def test_of_several_labels_the_decisions_and_the_average_precisions_count():
    rng = np.random.default_rng(0)
    expected, labels = rng.uniform(size=(30, 4)), rng.integers(0, 2, (30, 4))
    got = np.clip(expected + rng.normal(0, 0.1, (30, 4)), 0, 1)
    found = prove._of_scores(got, expected, labels, 0.4)
    assert found == {
        "top1_agreement": None, "top1": None, "top1_source": None,
        "decision_agreement": np.mean((got >= 0.4) == (expected >= 0.4)),
        "map": pytest.approx(metrics.average_precision_score(labels, got)),
        "map_source": pytest.approx(metrics.average_precision_score(labels, expected)),
    }  # fmt: skip
    # Of one class per image, whose probabilities sum to 1, the likeliest counts.
    shares = expected / expected.sum(1, keepdims=True)
    numbers = labels.argmax(1)
    found = prove._of_scores(got, shares, numbers, None)
    assert found == {
        "top1_agreement": np.mean(got.argmax(1) == shares.argmax(1)),
        "top1": np.mean(got.argmax(1) == numbers), "decision_agreement": None,
        "top1_source": np.mean(shares.argmax(1) == numbers),
    }  # fmt: skip


def test_ranges_of_fine_tuning_are_used_unless_others_are_asked_for(tmp_path):
    path = tmp_path / "m.keras"
    small = dataclasses.replace(SPECS["resnet20_cifar"], depths=(1, 1), widths=(8, 16))
    model = ResNet(small, input_shape=(16, 16, 3), classes=3)
    model.save(path)
    Metadata(Preprocessing(16), dataset="digits").write(path)
    clone = quantization_aware(model)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3)).astype("float32")
    for _ in range(3):
        clone(images, training=True)
    ranges = activation_ranges(clone)
    original = open_model_file(path, folded=False)

    def found(out="x.tflite", **options):
        settings = settle(path, tmp_path / out, {"quantize": "int8"} | options)
        return tuned_calibration(path, original, settings)

    assert found() is None  # there are none yet
    write_ranges(path, ranges)
    tuned = found()
    assert tuned.origin == {"dataset": "digits", "split": "train", "fine_tuned": True}
    assert tuned.images is None and tuned.ranges == ranges
    assert found(quantize="none") is None and found(quantize="dynamic") is None
    assert found(calibrate="digits") is None and found(keep_float=("conv1_conv",)) is None
    settings = settle(path, tmp_path / "x.tflite", {"quantize": "int8"})
    network = _network(model, settings, tuned)
    scores = np.asarray(network(images, training=False))
    assert np.abs(scores.sum(1) - 1).max() < 1e-5
    assert np.abs(scores - np.asarray(model(images))).max() < 0.05
    kinds = {type(layer).__name__ for layer in network.layers}
    assert "FakeQuant" in kinds and "BatchNormalization" not in kinds
    # Without ranges the same file is made of the folded network.
    kinds = {type(layer).__name__ for layer in _network(model, settings, None).layers}
    assert not kinds & {"FakeQuant", "BatchNormalization"}
