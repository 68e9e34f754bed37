"""float16 and int8 files: small, close, calibrated on real images, and refused otherwise."""

import json
import zipfile

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from resnet_keras import data, export
from resnet_keras.errors import InputError
from resnet_keras.exporting import BoundMissed, folded
from resnet_keras.model_files import Metadata, open_model_file, tflite
from resnet_keras.model_files import onnx as onnx_format
from resnet_keras.model_files.layer_errors import LayerErrors
from resnet_keras.preprocessing import Preprocessing

WRITERS = {"tflite": tflite, "onnx": onnx_format}
KINDS = {
    "half.tflite": "float16",
    "dynamic.tflite": "dynamic",
    "int8.tflite": "int8",
    "int8.onnx": "int8",
}
INTEGERS = [name for name, kind in KINDS.items() if kind == "int8"]
TFLITE = [name for name in KINDS if name.endswith(".tflite")]
METADATA = Metadata(Preprocessing(8), labels=tuple("0123456789"))


@pytest.fixture(scope="module", params=KINDS)
def quantized(request, digits_run, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantized") / request.param
    kind = KINDS[request.param]
    report = export(digits_run / "model.keras", out, quantize=kind, data_dir=data_dir, examples=360)
    return out, report


@pytest.fixture(scope="module")
def network(digits_run):
    return folded(keras.saving.load_model(digits_run / "model.keras", compile=False))


@pytest.fixture(scope="module")
def images(data_dir):
    return data.Source("digits", "train", data_dir=data_dir).open().arrays[0][:100]


@pytest.fixture(scope="module")
def raw_bytes(network, images, tmp_path_factory):
    """Files that take uint8 pixels, not proved, and the errors of their layers."""
    made = {}
    for suffix, writer in WRITERS.items():
        path = tmp_path_factory.mktemp("raw") / f"model.{suffix}"
        made[suffix] = path, writer.write(network, path, METADATA, quantize="int8", images=images)
    return made


def test_size_and_agreement(quantized):
    out, report = quantized
    shrunk = report["bytes"] / report["bytes_float32"]
    assert report["bytes"] == out.stat().st_size and report["examples"] == 360
    if report["quantize"] == "float16":
        # Two bytes for four, and names that do not shrink.
        assert 0.5 < shrunk < 0.53 and report["max_difference"] < 5e-3
    else:
        assert 0.25 < shrunk <= 0.30 and report["top1_agreement"] >= 0.99


def right(path, split):
    """Whether a file names each image of a split right."""
    images, labels = data.read_digits(split)
    return open_model_file(path).predict(images[..., None]).argmax(-1) == labels


def test_accuracy_is_within_half_a_point(quantized, digits_run):
    out, report = quantized
    results = json.loads((digits_run / "results.json").read_text())
    assert report["examples"] == results["examples"] == 360
    assert report["top1_source"] == pytest.approx(results["top1"])
    tested = right(out, "test")
    assert report["top1"] == pytest.approx(tested.mean())
    # Two of the 360 test images are more than half a point already, so all 1797 count. On the
    # test images alone, what bounds the loss is the agreement, above.
    every = np.concatenate([tested, right(out, "train")])
    source = [right(digits_run / "model.keras", split) for split in ("test", "train")]
    assert every.mean() >= np.concatenate(source).mean() - 0.005


def test_latency_is_compared_with_the_float_file(quantized):
    _, report = quantized
    assert set(report["latency_ms"]) == set(report["latency_ms_float32"]) == {"1", "4"}


def test_int8_names_its_calibration_and_its_layers(quantized, data_dir):
    out, report = quantized
    if report["quantize"] != "int8":
        assert report["calibration"] is None and report["layers"] == []
        return
    assert report["calibration"] == {
        "dataset": "digits", "split": "train", "examples": 200, "seed": 0,
    }  # fmt: skip
    errors = [row["error"] for row in report["layers"]]
    assert errors == sorted(errors, reverse=True) and 1e-6 < errors[-1] < errors[0] < 0.2
    layers = {row["layer"] for row in report["layers"]}
    # 19 convolutions, 9 sums, the normalisation, the pool and the head; pads and pools move values.
    assert {"normalise", "conv1_conv", "conv4_block3_2_conv", "conv2_block1_add", "avg_pool",
            "predictions"} < layers and len(layers) == 19 + 9 + 3  # fmt: skip


@pytest.mark.parametrize("quantized", INTEGERS, indirect=True)
def test_raw_bytes_go_in_and_no_float_is_left(quantized):
    out, report = quantized
    if out.suffix == ".tflite":
        interpreter = Interpreter(str(out))
        interpreter.allocate_tensors()
        (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert entry["dtype"] == exit_["dtype"] == np.uint8
        assert entry["quantization"] == (1.0, 0) and exit_["quantization"] == (1 / 256, 0)
        tensors = interpreter.get_tensor_details()
        kinds = {t["dtype"] for t in tensors if t["name"]}
        assert kinds == {np.uint8, np.int8, np.int32}
    else:
        graph = onnx.load(out).graph
        assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
        weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        (first,) = [node for node in graph.node if "images" in node.input]
        assert first.op_type == "DequantizeLinear"
        assert weights[first.input[1]] == 1 and weights[first.input[2]] == 0
        assert weights[first.input[2]].dtype == np.uint8
        assert set(report["operators"]) == {
            "Add", "Conv", "DequantizeLinear", "Flatten", "GlobalAveragePool", "MatMul", "MaxPool",
            "Mul", "Pad", "QuantizeLinear", "Reshape", "Softmax",
        }  # fmt: skip


@pytest.mark.parametrize("quantized", INTEGERS, indirect=True)
def test_weights_are_quantized_per_channel(quantized):
    out, _ = quantized
    if out.suffix == ".tflite":
        tensors = Interpreter(str(out)).get_tensor_details()
        scales = [len(t["quantization_parameters"]["scales"]) for t in tensors if len(t["shape"])]
    else:
        scales = [
            w.dims[0] for w in onnx.load(out).graph.initializer if "scale" in w.name and w.dims
        ]
    assert scales.count(64) >= 6  # the convolutions of the last stage


@pytest.mark.slow
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_other_types_in_and_out_give_the_same(network, images, raw_bytes, tmp_path, io):
    path = tmp_path / "other.tflite"
    tflite.write(network, path, METADATA, quantize="int8", images=images, io=io)
    given, raw = open_model_file(path), open_model_file(raw_bytes["tflite"][0])
    interpreter = Interpreter(str(given.path))
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    kind = np.dtype(io).type
    assert entry["dtype"] == exit_["dtype"] == kind
    if io == "int8":
        assert entry["quantization"] == (1.0, -128) and exit_["quantization"] == (1 / 256, -128)
    probabilities = given.predict(images)
    assert np.array_equal(probabilities, raw.predict(images))
    # Steps of 1/256, so that their sum is 1 but for the rounding of ten of them.
    assert np.array_equal(probabilities * 256, np.round(probabilities * 256))
    assert np.abs(probabilities.sum(1) - 1).max() <= 10 * 0.5 / 256


def test_layers_can_stay_in_float(network, images, raw_bytes, tmp_path):
    keep = ("conv1_conv", "predictions")
    everything, errors = raw_bytes["tflite"]
    kept = tmp_path / "kept.tflite"
    left = tflite.write(network, kept, METADATA, quantize="int8", images=images, keep_float=keep)
    assert set(errors) - set(left) == set(keep)
    kinds = {}
    for name, path in (("all", everything), ("kept", kept)):
        tensors = Interpreter(str(path)).get_tensor_details()
        kinds[name] = {t["name"]: t["dtype"] for t in tensors}
    (conv1,) = [name for name in kinds["all"] if "conv1_relu" in name and name.endswith("1")]
    assert kinds["all"][conv1] == np.int8 and kinds["kept"][conv1] == np.float32
    with pytest.raises(InputError, match="no operator belongs to this layer; there are normalise"):
        tflite.write(
            network, tmp_path / "x.tflite", METADATA, quantize="int8", images=images,
            keep_float=("conv9_conv",),
        )  # fmt: skip


def test_layers_of_onnx_can_stay_in_float(network, images, tmp_path):
    keep = ("normalise", "conv1_conv")
    path = tmp_path / "kept.onnx"
    errors = onnx_format.write(
        network, path, METADATA, quantize="int8", images=images, keep_float=keep
    )
    assert not set(keep) & set(errors) and "conv2_block1_1_conv" in errors
    by_name = {node.name: node for node in onnx.load(path).graph.node}
    weights = {w.name for w in onnx.load(path).graph.initializer}
    assert by_name["conv1_conv/Conv"].input[1] in weights  # float32, not behind a DequantizeLinear
    assert by_name["conv2_block1_1_conv/Conv"].input[1] not in weights
    assert open_model_file(path).predict(images).shape == (100, 10)
    with pytest.raises(InputError, match="no operator belongs to this layer"):
        onnx_format.write(
            network, path, METADATA, quantize="int8", images=images, keep_float=("conv9_conv",)
        )


def test_the_error_of_a_layer_is_a_share_of_its_spread():
    errors = LayerErrors()
    real = np.array([[[[1.0, 500.0], [3.0, 500.0]]]])  # NHWC: means 2 and 500, squares 2 and 0
    errors.add("a", "x", real + 0.5, real, axis=-1)  # 4 times 0.25
    assert errors.by_layer() == {"a": pytest.approx(np.sqrt(1.0 / 2.0))}
    errors.add("a", "x", real, real, axis=-1)
    assert errors.by_layer()["a"] == pytest.approx(np.sqrt(1.0 / 4.0))
    errors.add("a", "y", real.transpose(0, 3, 1, 2) + 1, real.transpose(0, 3, 1, 2), axis=1)
    assert errors.by_layer()["a"] == pytest.approx(np.sqrt(4.0 / 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_the_list_of_errors_names_the_layer_to_keep(network, images, tmp_path, suffix):
    """A channel that is not used is a thousand: in steps of 4 all other channels are 0."""
    spoilt = keras.models.clone_model(network)
    spoilt.set_weights(network.get_weights())
    culprit, reader = (spoilt.get_layer(f"conv2_block2_{i}_conv") for i in (1, 2))
    kernel, bias = culprit.get_weights()
    bias[0] += 1000
    culprit.set_weights([kernel, bias])
    kernel, bias = reader.get_weights()
    kernel[:, :, 0] = 0
    reader.set_weights([kernel, bias])
    apart = {}
    for name, kept in (("all", ()), ("kept", (culprit.name, reader.name))):
        path = tmp_path / f"{name}.{suffix}"
        errors = WRITERS[suffix].write(
            spoilt, path, METADATA, quantize="int8", images=images, io="float32", keep_float=kept
        )
        if not kept:
            assert max(errors, key=errors.get) == culprit.name and errors[culprit.name] > 0.3
        else:
            assert culprit.name not in errors and max(errors.values()) < 0.2
        got = open_model_file(path).predict(images)
        apart[name] = np.abs(got - spoilt.predict(images, verbose=0)).mean()
    assert apart["kept"] < 0.2 * apart["all"]


def test_float_pixels_in_onnx(network, images, raw_bytes, tmp_path):
    path = tmp_path / "other.onnx"
    onnx_format.write(network, path, METADATA, quantize="int8", images=images, io="float32")
    (entry,) = onnx.load(path).graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    raw = open_model_file(raw_bytes["onnx"][0]).predict(images)
    assert np.array_equal(open_model_file(path).predict(images), raw)


class Rounded(keras.layers.Layer):
    """A range that the network carries itself, as after fine-tuning for int8."""

    def __init__(self, low, high, **arguments):
        super().__init__(**arguments)
        self.low, self.high = low, high

    def call(self, inputs):
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high)


def test_a_network_with_ranges_of_its_own_needs_no_calibration(tmp_path):
    pixels = keras.Input((4, 4, 3), name="images")
    x = keras.layers.Conv2D(8, 3, activation="relu")(Rounded(0.0, 255.0)(pixels))
    x = keras.layers.Flatten()(Rounded(0.0, 600.0)(x))
    x = Rounded(-40.0, 40.0)(keras.layers.Dense(3)(x))
    model = keras.Model(pixels, keras.layers.Softmax()(x))
    path = tmp_path / "model.tflite"
    assert tflite.write(model, path, METADATA, quantize="int8", io="uint8") == {}
    interpreter = Interpreter(str(path))
    (entry,) = interpreter.get_input_details()
    assert entry["dtype"] == np.uint8 and entry["quantization"] == (1.0, 0)
    kinds = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32}
    assert "FAKE_QUANT" not in tflite.operators(path)


def _folder(root, draw):
    """A folder of 130 images, of which 104 are for training."""
    for i in range(130):
        folder = root / "any"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(i)).save(folder / f"{i}.png")
    return f"folder:{root}"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_bad_calibration_set_is_refused_and_nothing_is_left(colour_run, tmp_path, suffix):
    """Faint grey noise: ranges so small that the activations of digits are cut off."""
    draw = np.random.default_rng(0)
    faint = _folder(tmp_path / "faint", lambda i: draw.integers(125, 131, (8, 8, 3), np.uint8))
    out = tmp_path / "out" / f"model.{suffix}"
    with pytest.raises(BoundMissed, match="its top class is the same on"):
        export(colour_run / "model.keras", out, quantize="int8", calibrate=faint)
    assert [path.name for path in out.parent.iterdir()] == [f"model.{suffix}.report.json"]
    report = json.loads((out.parent / f"model.{suffix}.report.json").read_text())
    assert report["calibration"]["dataset"] == faint and report["calibration"]["examples"] == 104
    assert not report["kept"] and report["top1_agreement"] < 0.9


def test_too_few_images_are_refused(colour_run, tmp_path):
    few = tmp_path / "few" / "any"
    few.mkdir(parents=True)
    for i in range(110):  # about a fifth of which is the test
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(few / f"{i}.png")
    opened = data.Source(f"folder:{few.parent}", "train").open()
    received = f"Received: {opened.examples} of folder:"
    assert 70 < opened.examples < 100
    with pytest.raises(InputError, match=f"at least 100 training images.*{received}"):
        export(
            colour_run / "model.keras", tmp_path / "x.tflite", quantize="int8",
            calibrate=f"folder:{few.parent}",
        )  # fmt: skip
    with pytest.raises(InputError, match=received):
        export(colour_run / "model.keras", tmp_path / "x.tflite", quantize="int8", calibrate=opened)
    with pytest.raises(InputError, match="takes images of 3 channels, digits has 1"):
        export(
            colour_run / "model.keras", tmp_path / "x.tflite", quantize="int8", calibrate="digits"
        )


@pytest.mark.parametrize("quantized", TFLITE, indirect=True)
def test_a_tflite_file_has_labels_and_a_description(quantized):
    """Read back by the field numbers of `metadata_schema.fbs`."""
    out, _ = quantized
    with zipfile.ZipFile(out) as files:
        assert files.read("labels.txt").decode().split() == list("0123456789")
        assert {entry.compress_type for entry in files.infolist()} == {zipfile.ZIP_STORED}
    from ai_edge_litert import schema_py_generated as schema

    content = schema.Model.GetRootAs(out.read_bytes(), 0)
    entries = [content.Metadata(i) for i in range(content.MetadataLength())]
    (entry,) = [entry for entry in entries if entry.Name() == b"TFLITE_METADATA"]
    metadata = content.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert metadata[4:8] == b"M001" and b"labels.txt\0" in metadata
