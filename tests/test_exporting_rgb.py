"""A file of a network of grey images can take RGB images."""

import json
import shutil
import zipfile

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from resnet_keras import data, evaluate, export
from resnet_keras.errors import InputError
from resnet_keras.model_files import Metadata, open_model_file, read_metadata, tflite
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.quantize import (
    activation_ranges,
    quantization_aware,
    with_probabilities,
    with_rgb_input,
)

FILES = {
    "float.tflite": {},
    "int8.tflite": {"quantize": "int8"},
    "nhwc.onnx": {},
    "nchw.onnx": {"layout": "nchw"},
    "int8.onnx": {"quantize": "int8"},
    "float.xml": {},
    "served": {},
}


# Some processors have a faster, rougher bfloat16.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


# What int8 is in TFLite's file and what ONNX is in float's, together once more.
SLOW = pytest.param("int8.onnx", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[SLOW if name == "int8.onnx" else name for name in FILES])
def exported(request, digits_run, data_dir, tmp_path_factory):
    """A file that takes RGB, and its report."""
    if request.param.endswith(".xml"):
        pytest.importorskip("openvino", reason="pip install 'resnet-keras[openvino]'")
    out = tmp_path_factory.mktemp("rgb") / request.param
    options = FILES[request.param] | {"rgb_input": True, "data_dir": data_dir}
    return out, export(digits_run / "model.keras", out, **options)


@pytest.fixture(scope="module")
def colours():
    """Images of low contrast, whose classes are less sure than those of digits."""
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def run(path, images):
    """What another program does: it gives the file RGB images as its input asks for them."""
    if path.suffix == ".tflite":
        interpreter = Interpreter(str(path))
        (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], images.astype(entry["dtype"]))
        interpreter.invoke()
        scores = interpreter.get_tensor(exit_["index"])
        return scores / np.float32(256) if scores.dtype == np.uint8 else scores
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        if entry.shape[1] == 3:
            images = images.transpose(0, 3, 1, 2)
        kind = np.uint8 if entry.type == "tensor(uint8)" else np.float32
        return session.run(None, {entry.name: images.astype(kind)})[0]
    if path.suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        return openvino.compile_model(path, "CPU", EXACT)(images.astype(np.float32))[0]
    serve = tf.saved_model.load(str(path)).signatures["serve"]
    return serve(images=tf.constant(images, tf.float32))["probabilities"].numpy()


def test_it_is_proved_on_grey_images(exported):
    out, report = exported
    assert report["kept"] and report["rgb_input"] is True
    assert report["quantize"] == "int8" or report["max_difference"] < 1e-4
    assert report["top1_agreement"] >= 0.99
    assert "RGB, of which the file makes grey" in (out.parent / f"{out.name}.md").read_text()


def test_colours_become_the_grey_of_bt601(exported, colours, digits_run):
    out, report = exported
    grey = colours @ np.array([0.299, 0.587, 0.114])
    original = keras.saving.load_model(digits_run / "model.keras")
    expected = original.predict(grey[..., None], verbose=0)
    got = run(out, colours)
    if report["quantize"] == "int8":
        # In the three channels' order: with red and blue exchanged half of the classes are others.
        assert np.mean(got.argmax(1) == expected.argmax(1)) >= 0.8
        assert np.abs(got - expected).mean() < 0.03
    else:
        assert np.abs(got - expected).max() < 1e-4


def test_it_is_evaluated_on_the_grey_images_of_its_data_set(exported, digits_run, data_dir):
    out, report = exported
    results = json.loads((digits_run / "results.json").read_text())
    measured = evaluate(out, data_dir=data_dir)
    assert measured["examples"] == 360
    tolerance = 0.01 if report["quantize"] == "int8" else 0
    assert measured["top1"] == pytest.approx(results["top1"], abs=tolerance)


def test_the_file_says_so_itself(exported, tmp_path):
    out, _ = exported
    assert json.loads(out.with_suffix(".json").read_text())["rgb_input"] is True
    alone = tmp_path / out.name
    shutil.copytree(out, alone) if out.is_dir() else shutil.copy(out, alone)
    if out.suffix == ".xml":
        shutil.copy(out.with_suffix(".bin"), tmp_path)
    model_file = open_model_file(alone)
    assert model_file.metadata.rgb_input and model_file.channels == 1
    grey = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)
    rgb = np.repeat(grey, 3, axis=-1)
    assert np.array_equal(model_file.predict(grey), model_file.predict(rgb))
    if out.suffix == ".tflite":
        with zipfile.ZipFile(out) as files:
            assert json.loads(files.read("metadata.json"))["rgb_input"] is True


@pytest.mark.parametrize("exported", ["served"], indirect=True)
def test_files_of_images_are_decoded_to_grey(exported, digits_run, tmp_path):
    out, _ = exported
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    serve = tf.saved_model.load(str(out)).signatures["serve_bytes"]
    answer = serve(image_bytes=tf.constant([(tmp_path / "image.png").read_bytes()]))
    pixels = data.read_image(tmp_path / "image.png", channels=1)[None]
    expected = open_model_file(digits_run / "model.keras").predict(pixels.numpy())[0]
    assert np.allclose(answer["scores"][0], np.sort(expected)[:-6:-1], atol=1e-5)


@pytest.mark.slow
def test_after_fine_tuning_for_int8(digits_run, data_dir, tmp_path):
    model = keras.saving.load_model(digits_run / "model.keras", compile=False)
    images = data.Source("digits", "test", data_dir=data_dir).open().arrays[0][:100]
    seen = quantization_aware(model)
    seen(images.astype(np.float32), training=True)
    clone = with_probabilities(quantization_aware(model, activation_ranges(seen)))
    path = tmp_path / "tuned.tflite"
    metadata = Metadata(Preprocessing(8), rgb_input=True)
    tflite.write(with_rgb_input(clone, rounded=True), path, metadata, quantize="int8")
    tensors = Interpreter(str(path)).get_tensor_details()
    assert {t["dtype"] for t in tensors if t["name"]} <= {np.uint8, np.int8, np.int32}
    rgb = np.repeat(images, 3, axis=-1)
    expected = model.predict(images.astype(np.float32), verbose=0)
    assert np.mean(run(path, rgb).argmax(1) == expected.argmax(1)) > 0.9


def test_what_cannot_take_rgb_is_refused(digits_run, colour_run, data_dir, tmp_path):
    with pytest.raises(InputError, match="is for a network of grey images.*have 3 channels"):
        export(colour_run / "model.keras", tmp_path / "m.onnx", rgb_input=True)
    with pytest.raises(
        InputError, match="`rgb_input` is for a .tflite file, a .onnx file, a .xml file or a Sa"
    ):
        export(digits_run / "model.keras", tmp_path / "m.keras", rgb_input=True, data_dir=data_dir)
    assert not list(tmp_path.iterdir())


def test_metadata_says_it_only_where_it_is_so(digits_run):
    assert "rgb_input" not in json.loads((digits_run / "model.json").read_text())
    assert not read_metadata(digits_run / "model.keras").rgb_input
