"""What judges an exported file, what may be replaced by one, and how its speed is measured."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from sklearn import metrics

from resnet_keras import SPECS, ResNet
from resnet_keras.data import ArraySplit, Source
from resnet_keras.errors import InputError
from resnet_keras.exporting import _Job, is_finished
from resnet_keras.exporting.convert import (
    Calibration,
    _network,
    image_calibration,
    tuned_calibration,
)
from resnet_keras.exporting.options import settle
from resnet_keras.exporting.publish import prepare, require_replaceable
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
    ("measure", "kept", "refused", "reason"),
    [("max_difference", 0.24, 0.25, "its probabilities differ by up to 2.5e-01, not by less than "),
     ("mean_largest_difference", 0.24, 0.25,
      "the largest difference of its probabilities is 2.5e-01 in the mean of 7 images, not less "),
     ("unquantized_max_difference", 0.24, 0.25,
      "even without quantization its probabilities differ by 2e-01 or more"),
     ("unquantized_max_difference", 0.24, None,
      "even without quantization its probabilities differ by 2e-01 or more"),
     ("top1_agreement", 0.25, 0.24,
      "its top class is the same on 24.00 % of 7 images, not on 25.00 % or more"),
     ("decision_agreement", 0.25, 0.24,
      "24.00 % of its decisions about 7 images are the same, not 25.00 % or more")],
)  # fmt: skip
def test_a_difference_must_be_below_its_bound_and_an_agreement_at_least_its(
    measure, kept, refused, reason
):
    def said(value, **others):
        report = {"max_difference": 0.1, "examples": 7} | {measure: value} | others
        return prove.reason_to_refuse(report, measure, 0.25)

    assert said(kept) is None and said(refused).startswith(reason)
    assert "of the largest one" not in said(refused)
    if "difference" in measure:
        assert " of the largest one" in said(refused, difference_of="scores")


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
    nothing.add(np.float32([[0, 3]]), np.zeros((1, 2)))
    assert nothing.measured("features")["max_difference"] == 3  # a share of nothing is itself
    nothing.add(np.float32([[np.nan, 1]]), np.zeros((1, 2)))
    assert nothing.measured("features")["max_difference"] is None
    small = prove._Differences()
    small.add(np.float32([[0.25, 0]]), np.float32([[0.5, -0.125]]))
    assert small.measured("scores")["max_difference"] == 0.25 / 0.5


def of_numbers(add, path):
    """A model file whose scores are the first pixel, and 100 more or less of it."""

    def predict(images):
        first = images[:, 0, 0, 0].astype(np.float32)
        return np.stack([first, 100 + add - first], axis=1)

    return ModelFile(path / "m.keras", predict, 1, Metadata(Preprocessing(4)), True, classes=2)


@pytest.mark.parametrize("examples", [1, 128, 129, 200, 300, 301])
def test_the_first_images_are_compared_whatever_the_batches(examples, tmp_path):
    """Batches are of up to 128."""
    numbers = np.arange(300) % 101
    images = np.broadcast_to(numbers[:, None, None, None], (300, 4, 4, 1)).astype(np.uint8)
    split = ArraySplit(labels=("a", "b"), channels=1, arrays=(images, np.int64(numbers % 2)))
    report = prove.compare(
        of_numbers(0, tmp_path), of_numbers(20, tmp_path), split, examples=examples
    )
    first = numbers[:examples]
    assert report["examples"] == len(first) and report["difference_of"] == "scores"
    assert report["max_difference"] == pytest.approx(20 / max(first.max(), 100))
    # The first class leads from half of 100 on; in the copy from half of 120.
    assert report["top1_agreement"] == np.mean((first >= 50) == (first >= 60))
    assert report["top1_source"] == np.mean((first < 50) == first % 2)
    assert report["top1"] == np.mean((first < 60) == first % 2)


def test_256_images_are_compared_unless_told_otherwise(tmp_path):
    images = np.zeros((300, 4, 4, 1), np.uint8)
    split = ArraySplit(labels=("a", "b"), channels=1, arrays=(images, np.zeros(300, np.int64)))
    model = of_numbers(0, tmp_path)
    assert prove.compare(model, model, split)["examples"] == 256


def test_latencies_are_medians_of_turns_after_the_warm_up(tmp_path, monkeypatch):
    calls, now = [], [1000.0]
    monkeypatch.setattr(prove, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def model_file(name, seconds):
        def predict(images):
            calls.append(name)
            now[0] += seconds[min(calls.count(name), len(seconds)) - 1]
            return np.zeros((1, 2))

        path = tmp_path / f"{name}.keras"
        return ModelFile(path, predict, 3, Metadata(Preprocessing(4)), True)

    # The first three are the warm-up; then half are of 10 ms, and half of 20 ms and more.
    slow = [0.05] * 3 + [0.01] * 15 + [0.0203456] + [0.05] * 14
    files = {"slow": model_file("slow", slow), "quick": model_file("quick", [0.001])}
    found = prove.latencies(files, np.zeros((1, 4, 4, 3), np.uint8))
    assert calls == ["slow", "quick"] * (3 + 30)
    assert found == {"slow": {"all": 15.173}, "quick": {"all": 1.0}}
    # No longer than three seconds for each of two, of turns of a second, unless the warm-up is.
    for each, turns in ((0.5, 7), (0.75, 5), (2.0, 4)):
        calls.clear()
        prove.latencies({name: model_file(name, [each]) for name in "ab"}, None)
        assert calls == ["a", "b"] * turns


def test_latencies_are_measured_with_one_thread_and_with_four(tmp_path, monkeypatch):
    """As ONNX Runtime is told."""
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)], "mean",
        [info("x", onnx.TensorProto.FLOAT, ["n", 4, 4, 3])],
        [info("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    told, session = [], onnxruntime.InferenceSession

    def noted(path, options, **others):
        told.append(options.intra_op_num_threads)
        return session(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    opened = open_model_file(tmp_path / "m.onnx", threads=3)
    found = prove.latencies({"mean": opened}, np.zeros((1, 4, 4, 3), np.uint8))
    assert told == [3, 1, 4] and list(found["mean"]) == ["1", "4"]


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
    # Its normalisation is a convolution, which every importer of TFLite reads alike; in a
    # SavedModel it has numbers for each place of a row, which TensorFlow is faster with.
    assert "Rescaling" not in kinds
    saved = _network(model, settle(path, tmp_path / "saved", {}), None)
    assert np.shape(saved.get_layer("normalise").scale) == (16, 3)


def test_a_fine_tuned_network_of_grey_images_and_of_sigmoids_takes_rgb(tmp_path):
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    model = keras.Model(pixels, keras.layers.Dense(3, activation="sigmoid", name="predictions")(x))
    grey = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.float32)
    clone = quantization_aware(model)
    for _ in range(3):
        clone(grey, training=True)
    tuned = Calibration({}, ranges=activation_ranges(clone))
    options = {"quantize": "int8", "rgb_input": True}
    settings = settle(Path("m.keras"), tmp_path / "x.tflite", options)
    network = _network(model, settings, tuned)
    scores = np.asarray(network(np.repeat(grey, 3, axis=-1), training=False))
    assert np.abs(scores - np.asarray(model(grey))).max() < 0.02
    # Integers go in, so that what makes grey of them is rounded, too.
    rounded = {"grey", "rgb_range"}
    assert rounded <= {layer.name for layer in network.layers}
    plain = _network(model, settings, None)
    assert rounded & {layer.name for layer in plain.layers} == {"grey"}


def grey_or_colour(channels, dataset=None):
    """A model file of 4x4 images; it is never run."""
    metadata = Metadata(Preprocessing(4), dataset=dataset)
    return ModelFile(Path("m.keras"), lambda images: images, channels, metadata, True)


def test_int8_is_calibrated_on_200_images_by_a_seed_and_on_100_at_least():
    def found(examples, seed):
        images = np.random.default_rng(0).integers(0, 256, (examples, 4, 4, 1), dtype=np.uint8)
        split = ArraySplit(labels=("a",), channels=1, arrays=(images, np.zeros(examples, np.int64)))
        calibration = image_calibration(grey_or_colour(1), split, seed)
        assert calibration.origin == {
            "dataset": None, "split": None, "examples": min(200, examples), "seed": seed,
        }  # fmt: skip
        numbers = {image.tobytes(): i for i, image in enumerate(images)}
        return [numbers[image.tobytes()] for image in calibration.images]

    one, again, other = found(300, 7), found(300, 7), found(300, 8)
    assert len(set(one)) == 200 and one == again != other
    assert sorted(found(100, 0)) == list(range(100))
    with pytest.raises(InputError, match="at least 100 training images.*Received: 99 of the given"):
        found(99, 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets of 100 training images and a test image, of one level each: 50, and 200.

    By their levels; None by None.
    """
    names = {None: None}
    for level in (50, 200):
        root = tmp_path_factory.mktemp("level")
        for split, count in (("train", 100), ("test", 1)):
            (root / split / "any").mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (4, 4), (level,) * 3).save(root / split / "any" / f"{i}.png")
        names[level] = f"folder:{root}"
    return names


@pytest.mark.parametrize("channels", [1, 3, 2, 4])
@pytest.mark.parametrize(
    ("trained_on", "tested_on", "calibrate", "expected"),
    [(None, 50, None, 50), (200, 50, None, 200), (200, 200, 50, 50), (None, None, 50, 50),
     (50, None, None, 50), (200, None, 50, 50)],
)  # fmt: skip
def test_calibration_images_are_those_of_training_or_others_if_told(
    trained_on, tested_on, calibrate, expected, channels, folders, tmp_path
):
    source = Source(folders[tested_on]) if tested_on else None
    arrays = np.zeros((1, 4, 4, channels), np.uint8), np.zeros(1, np.int64)
    split = ArraySplit(labels=("any",), channels=channels, arrays=arrays, source=source)
    options = {"quantize": "int8", "calibrate": folders[calibrate]}
    settings = settle(tmp_path / "m.keras", tmp_path / "x.tflite", options)
    original = grey_or_colour(channels, folders[trained_on])
    job = _Job(0.0, tmp_path / "m.keras", tmp_path / "x", settings, original, split, 256, None)
    if channels not in (1, 3):  # files have no others
        with pytest.raises(InputError, match=f"takes images of {channels} channels, .* has 3"):
            job.calibration(0)
        return
    calibration = job.calibration(0)
    assert calibration.origin == {
        "dataset": folders[expected], "split": "train", "examples": 100, "seed": 0,
    }  # fmt: skip
    assert calibration.images.shape == (100, 4, 4, channels)
    assert np.all(calibration.images == expected)


def test_the_same_in_float32_is_what_is_made_without_options_of_int8(tmp_path):
    def settled(**options):
        return settle(Path("m.keras"), tmp_path / "m.onnx", {"layout": "nchw"} | options)

    int8 = settled(quantize="int8", calibrate="digits", io="float32", keep_float=["conv1_conv"])
    assert int8.in_float32() == settled() != int8


@pytest.mark.parametrize("name", ["m.onnx", "m.xml"])
def test_until_a_file_is_in_its_place_its_report_says_so(name, tmp_path):
    """Else a kill between the two would leave the report of a file that is not there."""
    part, out = tmp_path / "part" / name, tmp_path / name
    settings, metadata = settle(Path("m.keras"), out, {}), Metadata(Preprocessing(4))
    for file in settings.format.files(part):
        write(file, file.name)
    metadata.write(part)
    write(out, "an older one")
    report = {"kept": True, "reason": None, "max_difference": 0.25}
    assert prepare(report, part, out, metadata, settings) == report
    written = json.loads((tmp_path / f"{name}.report.json").read_text())
    assert written == report | {"kept": False, "reason": "the export was broken off"}
    assert not is_finished(out) and out.read_text() == "an older one"
    # What lies beside it is in its place, and the file alone is left.
    assert [path.name for path in part.parent.iterdir()] == [name]
    beside = {file.name for file in settings.format.files(out)} | {"m.json", f"{name}.report.json"}
    assert {path.name for path in tmp_path.iterdir()} == beside | {"part"}
