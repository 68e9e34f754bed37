"""OpenVINO files: an `.xml` with its `.bin`, float32 and int8; and that nobody is told of it."""

import dataclasses
import os

import keras
import numpy as np
import pytest

from resnet_keras import SPECS, ResNetV1D, evaluate, export
from resnet_keras.errors import InputError
from resnet_keras.exporting import folded
from resnet_keras.model_files import Metadata, open_model_file
from resnet_keras.model_files.formats import ONNX, OPENVINO, format_of
from resnet_keras.preprocessing import Preprocessing

pytest.importorskip("openvino", reason="pip install 'resnet-keras[openvino]'")

# What XML and our lines of labels have to escape.
METADATA = Metadata(
    Preprocessing((32, 48), 52),
    labels=("cat", 'a "dog" <&>', "bird \u00e9\U0001f426,\ttab"),
    dataset="folder:/home/somebody",
)


@pytest.fixture(scope="module")
def openvino():
    """As the format imports it, without its telemetry."""
    return OPENVINO.module.openvino


@pytest.fixture(scope="module")
def network():
    """Three channels, a max pool, average pools and strides: what may need transposes."""
    small = dataclasses.replace(SPECS["resnetv1d50"], depths=(1, 1), widths=(8, 16))
    keras.utils.set_random_seed(0)
    return folded(ResNetV1D(small, input_shape=(32, 48, 3), classes=3))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_it_computes_what_keras_does(openvino, network, images, tmp_path, layout):
    path = tmp_path / "model.xml"
    OPENVINO.module.write(network, path, METADATA, layout=layout)
    assert format_of(path) is OPENVINO
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    counts = OPENVINO.module.operators(path)
    assert counts["Convolution"] == 3 + 2 * 4 and "FakeQuantize" not in counts
    assert counts.get("Transpose", 0) == (0 if layout == "nchw" else 1)
    assert OPENVINO.module.unwelcome(counts, layout) == []
    model = openvino.Core().read_model(path)
    # float32: float16 would be half of it. Biases that are equal are there once.
    weights = sum(weight.numpy().nbytes for weight in network.weights)
    assert 0.9 * weights < path.with_suffix(".bin").stat().st_size < 1.1 * weights
    (entry,) = model.get_parameters()
    shape = "[?,3,32,48]" if layout == "nchw" else "[?,32,48,3]"
    assert str(entry.partial_shape) == shape and entry.element_type == openvino.Type.f32
    assert entry.layout == openvino.Layout(layout.upper())
    assert (model.input().any_name, model.output().any_name) == ("images", "probabilities")
    names = {op.friendly_name for op in model.get_ops()}
    assert {"conv1_1_conv/Conv", "conv3_block1_add/Add", "predictions/MatMul"} <= names
    expected = network.predict(images, verbose=0)
    for threads in (1, 2):
        predict = open_model_file(path, threads=threads).predict
        for batch in (1, 5):
            assert np.abs(predict(images[:batch]) - expected[:batch]).max() < 1e-5


def test_the_threads_are_those_that_are_asked_for(openvino, network, tmp_path, monkeypatch):
    OPENVINO.module.write(network, tmp_path / "model.xml", METADATA)
    compiled, compile_model = [], openvino.Core.compile_model

    def noted(*arguments):
        compiled.append(compile_model(*arguments))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    open_model_file(tmp_path / "model.xml", threads=1)  # of more, it takes as many as are there
    assert compiled[0].get_property("INFERENCE_NUM_THREADS") == 1
    # Not the bfloat16 that is the default of some processors.
    assert compiled[0].get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_metadata_travels_inside(openvino, network, tmp_path):
    OPENVINO.module.write(network, tmp_path / "model.xml", METADATA, layout="nchw")
    model = openvino.Core().read_model(tmp_path / "model.xml")
    inside = {
        name: model.get_rt_info([name]).astype(str)
        for name in ("labels", "size", "layout", "metadata")
    }
    assert inside["labels"].splitlines()[:2] == list(METADATA.labels[:2])
    assert (inside["size"], inside["layout"]) == ("32,48", "nchw")
    opened = open_model_file(tmp_path / "model.xml")
    assert opened.has_metadata and opened.metadata.labels == METADATA.labels
    assert opened.metadata.preprocessing == METADATA.preprocessing
    assert opened.metadata.dataset is None  # a folder of this machine


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_int8_is_that_of_onnx(openvino, network, images, tmp_path, layout):
    calibration = np.concatenate([images] * 4)
    options = {"layout": layout, "quantize": "int8", "images": calibration}
    errors = OPENVINO.module.write(network, tmp_path / "a.xml", METADATA, **options)
    assert errors == ONNX.module.write(network, tmp_path / "a.onnx", METADATA, **options)
    assert openvino.Core().read_model(tmp_path / "a.xml").input().element_type == openvino.Type.u8
    assert OPENVINO.module.operators(tmp_path / "a.xml")["FakeQuantize"] > 11
    # A byte a weight, and the biases in float32.
    kernels = sum(w.numpy().size for w in network.weights if "kernel" in w.path)
    assert (tmp_path / "a.bin").stat().st_size < 1.5 * kernels
    expected = network.predict(images, verbose=0)
    got, onnx = (open_model_file(tmp_path / name).predict(images) for name in ("a.xml", "a.onnx"))
    assert np.abs(got - onnx).max() < 0.01 and np.abs(got - expected).max() < 0.02


def test_keep_float_and_float_pixels(openvino, network, images, tmp_path):
    OPENVINO.module.write(
        network, tmp_path / "a.xml", METADATA, quantize="int8", images=images, io="float32",
        keep_float=("conv1_1_conv",),
    )  # fmt: skip
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert model.input().element_type == openvino.Type.f32
    kernels = {
        op.friendly_name: op.input_value(1).get_node().get_type_name()
        for op in model.get_ops()
        if op.get_type_name() == "Convolution"
    }
    floats = [name for name, kind in kernels.items() if kind == "Constant"]
    assert len(kernels) == 11 and [name.split("/")[0] for name in floats] == ["conv1_1_conv"]


def test_without_its_weights_it_is_named(network, tmp_path):
    path = tmp_path / "model.xml"
    OPENVINO.module.write(network, path, METADATA)
    path.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"model\.xml cannot be .* Received: no model\.bin$"):
        open_model_file(path)


def test_what_is_no_model_is_named(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    for text in ("<html></html>", "", "<net"):
        (tmp_path / "x.xml").write_text(text)
        with pytest.raises(InputError, match=r"x\.xml can't be read as a model: [^\n]+$"):
            open_model_file(tmp_path / "x.xml")


@pytest.mark.parametrize("batch", [-1, 1, 8])
def test_a_file_of_another_program(openvino, images, tmp_path, batch):
    """Its layout follows from its shape: the mean of each colour, colours first."""
    ops = openvino.opset13
    pixels = ops.parameter([batch, 3, 32, 48], np.float32)
    model = openvino.Model([ops.reduce_mean(pixels, [2, 3])], [pixels], "mean")
    openvino.save_model(model, tmp_path / "mean.xml")
    if batch == 8:
        with pytest.raises(InputError, match="one image at a time. Received: a batch of 8"):
            open_model_file(tmp_path / "mean.xml")
        return
    opened = open_model_file(tmp_path / "mean.xml")
    assert (opened.channels, opened.classes, opened.has_metadata) == (3, 3, False)
    assert np.abs(opened.predict(images) - images.mean((1, 2))).max() < 1e-3


QUIET = """
import multiprocessing, sys
from pathlib import Path
import keras

started = []
multiprocessing.Process.start = lambda self: started.append(self)  # how telemetry sends
from resnet_keras.model_files import Metadata
from resnet_keras.model_files.formats import OPENVINO
from resnet_keras.preprocessing import Preprocessing
pixels = keras.Input((8, 8, 3))
model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
OPENVINO.module.write(model, Path(sys.argv[1]), Metadata(Preprocessing(8)))
assert not started and "openvino_telemetry" not in sys.modules
import openvino_telemetry  # whoever wants it has it
"""


@pytest.mark.slow
def test_openvino_reports_nothing(run_python, tmp_path):
    """Else it sends each import to Google Analytics, and leaves an identity in HOME."""
    environment = {"HOME": str(tmp_path / "home"), "CI": ""}  # it is quiet where CI is true
    (tmp_path / "home").mkdir()
    done = run_python("-c", QUIET, tmp_path / "x.xml", **environment)
    assert done.returncode == 0, done.stderr
    assert "intel" not in os.listdir(tmp_path / "home")


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_it_is_exported_proved_and_evaluated(digits_run, data_dir, tmp_path, quantize):
    out = tmp_path / "out" / "digits.xml"
    report = export(digits_run / "model.keras", out, data_dir=data_dir, quantize=quantize)
    assert report["kept"] and set(report["latency_ms"]) == {"1", "4"}
    assert report["operators"]["Convolution"] == 19
    assert report["bytes"] == sum(out.with_suffix(s).stat().st_size for s in (".xml", ".bin"))
    names = {path.name for path in out.parent.iterdir()}
    assert names == {
        "digits.xml", "digits.bin", "digits.json", "digits.xml.md", "digits.xml.report.json",
    }  # fmt: skip
    top1 = evaluate(digits_run / "model.keras", data_dir=data_dir)["top1"]
    if quantize == "none":
        assert report["max_difference"] < 1e-4
        assert evaluate(out, data_dir=data_dir)["top1"] == top1
    else:
        assert report["top1_agreement"] >= 0.99 and report["layers"]
        assert abs(evaluate(out, data_dir=data_dir)["top1"] - top1) < 0.01
    card = out.with_name("digits.xml.md").read_text()
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    scope = {"pixels": images if quantize == "int8" else images.astype(np.float32)}
    code = card.split("```python\n")[1].split("```")[0]
    exec(code.replace('"digits.xml"', repr(str(out))), scope)
    assert np.abs(scope["scores"] - open_model_file(out).predict(images)).max() < 1e-5
