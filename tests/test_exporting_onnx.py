"""ONNX files: layouts, opsets, names, a batch of any size, and few operators."""

import dataclasses

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from resnet_keras import SPECS, ResNet, ResNetV1D
from resnet_keras.errors import InputError
from resnet_keras.exporting import folded
from resnet_keras.model_files import Metadata, open_model_file
from resnet_keras.model_files import onnx as onnx_format
from resnet_keras.model_files.onnx import rewriting
from resnet_keras.preprocessing import Preprocessing

METADATA = Metadata(
    Preprocessing(32, 36),
    labels=("cat", "dog", "a bird\u00e9"),
    dataset="folder:/home/somebody",
)


@pytest.fixture(scope="module")
def network():
    """Three channels, a max pool, average pools and strides: what may need transposes."""
    small = dataclasses.replace(SPECS["resnetv1d50"], depths=(1, 1), widths=(8, 16))
    keras.utils.set_random_seed(0)
    return folded(ResNetV1D(small, input_shape=(32, 32, 3), classes=3))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("layout", "opset"), [("nhwc", 17), ("nchw", 17), ("nhwc", 18), ("nchw", 18), ("nchw", 13)]
)
def test_layouts_and_opsets(network, images, tmp_path, layout, opset):
    path = tmp_path / "model.onnx"
    onnx_format.write(network, path, METADATA, layout=layout, opset=opset)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    counts = onnx_format.operators(path)
    assert counts.get("Transpose", 0) == (0 if layout == "nchw" else 1)
    assert "BatchNormalization" not in counts and counts["Conv"] == 3 + 2 * 4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,), (exit_,) = session.get_inputs(), session.get_outputs()
    shape = ["batch", 3, 32, 32] if layout == "nchw" else ["batch", 32, 32, 3]
    assert (entry.name, entry.shape, entry.type) == ("images", shape, "tensor(float)")
    assert (exit_.name, exit_.shape, exit_.type) == ("probabilities", ["batch", 3], "tensor(float)")
    expected = network.predict(images, verbose=0)
    pixels = images.transpose(0, 3, 1, 2) if layout == "nchw" else images
    for batch in (1, 5):
        (got,) = session.run(None, {"images": pixels[:batch].astype(np.float32)})
        assert np.abs(got - expected[:batch]).max() < 1e-5
    assert np.abs(open_model_file(path).predict(images) - expected).max() < 1e-5


def test_metadata(network, tmp_path):
    onnx_format.write(network, tmp_path / "model.onnx", METADATA, layout="nchw")
    properties = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert properties["labels"].splitlines() == list(METADATA.labels)
    assert properties["size"] == "32,32" and properties["layout"] == "nchw"
    model_file = open_model_file(tmp_path / "model.onnx")
    assert model_file.metadata.preprocessing == METADATA.preprocessing
    assert model_file.metadata.labels == METADATA.labels
    assert model_file.metadata.dataset is None  # a folder of this machine


def test_nodes_are_named_after_layers(network, tmp_path):
    onnx_format.write(network, tmp_path / "model.onnx", METADATA)
    names = [node.name for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert len(set(names)) == len(names)
    layers = {layer.name for layer in network.layers}
    unnamed = {name for name in names if name.split("/")[0] not in layers}
    assert unnamed <= {"Transpose", "images/Transpose"}
    assert {"conv1_1_conv/Conv", "conv2_block1_0_conv/Conv", "predictions/Softmax"} <= set(names)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_int8_of_three_channels(network, images, tmp_path, layout):
    path = tmp_path / "int8.onnx"
    calibration = np.concatenate([images] * 20)
    onnx_format.write(network, path, METADATA, layout=layout, quantize="int8", images=calibration)
    assert onnx_format.operators(path).get("Transpose", 0) == (0 if layout == "nchw" else 1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    got, expected = open_model_file(path).predict(images), network.predict(images, verbose=0)
    assert np.abs(got - expected).max() < 0.02


def means_of_colours(path, batch):
    """Another program's file, without our metadata: the mean of each colour, colours first."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"]),
         onnx.helper.make_node("Flatten", ["y"], ["z"])],
        "mean",
        [onnx.helper.make_tensor_value_info("x", kind, [batch, 3, 6, 6])],
        [onnx.helper.make_tensor_value_info("z", kind, [batch, 3])],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_the_layout_of_a_foreign_file_follows_from_its_shape(tmp_path):
    means_of_colours(tmp_path / "mean.onnx", "n")
    model_file = open_model_file(tmp_path / "mean.onnx", threads=1)
    images = np.random.default_rng(0).integers(0, 255, (2, 6, 6, 3), dtype=np.uint8)
    assert model_file.channels == 3 and not model_file.has_metadata
    assert model_file.metadata.preprocessing.size == (6, 6)
    assert np.abs(model_file.predict(images) - images.mean((1, 2))).max() < 1e-3


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_height_and_width_may_differ(tmp_path, layout):
    network = folded(ResNet("resnet20_cifar", input_shape=(16, 24, 3)))
    metadata = Metadata(Preprocessing((16, 24), 20))
    onnx_format.write(network, tmp_path / "m.onnx", metadata, layout=layout)
    properties = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert properties["size"] == "16,24"
    model_file = open_model_file(tmp_path / "m.onnx")
    assert model_file.metadata.preprocessing == Preprocessing((16, 24), 20)
    images = np.random.default_rng(0).integers(0, 255, (2, 16, 24, 3), dtype=np.uint8)
    expected = network.predict(images, verbose=0)
    assert np.abs(model_file.predict(images) - expected).max() < 1e-5


def test_resnet20_needs_no_transposes_either(tmp_path):
    """Its shortcuts pad the channels."""
    network = folded(ResNet("resnet20_cifar"))
    onnx_format.write(network, tmp_path / "x.onnx", METADATA, layout="nchw")
    assert "Transpose" not in onnx_format.operators(tmp_path / "x.onnx")


def test_a_file_of_one_image_runs_image_by_image(tmp_path):
    means_of_colours(tmp_path / "one.onnx", 1)
    images = np.random.default_rng(0).integers(0, 255, (3, 6, 6, 3), dtype=np.uint8)
    answers = open_model_file(tmp_path / "one.onnx").predict(images)
    assert np.abs(answers - images.mean((1, 2))).max() < 1e-3
    means_of_colours(tmp_path / "eight.onnx", 8)
    with pytest.raises(InputError, match="one image at a time. Received: a batch of 8"):
        open_model_file(tmp_path / "eight.onnx")


def padded(behind, *, before=None, pads=(0, 0, 1, 2, 0, 0, 2, 1), value=0.0, mode="constant"):
    """A graph of a `Pad` between a node that it reads, if any, and one that reads it."""
    kind = onnx.TensorProto.FLOAT
    nodes = [onnx.helper.make_node("Pad", ["r", "pads", "value"], ["p"], mode=mode), behind]
    first = before or onnx.helper.make_node("Identity", ["x"], ["r"])
    graph = onnx.helper.make_graph(
        [first, *nodes],
        "padded",
        [onnx.helper.make_tensor_value_info("x", kind, ["n", 2, 9, 8])],
        [onnx.helper.make_tensor_value_info("y", kind, list("ncij"))],
        [onnx.numpy_helper.from_array(np.array(pads, np.int64), "pads"),
         onnx.numpy_helper.from_array(np.array(value, np.float32), "value"),
         onnx.numpy_helper.from_array(
             np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(np.float32), "w")],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def outputs(model, images):
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()  # it folds some Pads itself, and wrongly
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: images})[0]


CONV = onnx.helper.make_node("Conv", ["p", "w"], ["y"], strides=[2, 2], pads=[0, 1, 2, 0])
POOL = onnx.helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2])
RELU = onnx.helper.make_node("Relu", ["x"], ["r"])
# torch's own order is top, left, bottom, right, too: those of the node and those of the Pad.
FOLDED = {
    "convolution": (padded(CONV), [1, 3, 4, 1]),
    "max pool behind a ReLU": (padded(POOL, before=RELU), [1, 2, 2, 1]),
}
KEPT = {
    "max pool of negative numbers": padded(POOL),
    "windows of padding alone": padded(POOL, before=RELU, pads=(0, 0, 3, 0, 0, 0, 0, 0)),
    "ones": padded(CONV, value=1.0),
    "reflection": padded(CONV, mode="reflect"),
    "cropping": padded(CONV, pads=(0, 0, -1, 0, 0, 0, 0, 0)),
    "channels": padded(POOL, before=RELU, pads=(0, 1, 0, 0, 0, 2, 0, 0)),
    "a padding of its own": padded(
        onnx.helper.make_node("Conv", ["p", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])
    ),
}


@pytest.mark.parametrize("case", [*FOLDED, *KEPT])
def test_zeros_are_folded_into_what_reads_them(case):
    model, pads = FOLDED.get(case) or (KEPT[case], None)
    numbers = np.random.default_rng(1).normal(size=(2, 2, 9, 8)).astype(np.float32) - 1
    before = outputs(model, numbers)
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    rewriting.simplify(rewritten)
    kinds = [node.op_type for node in rewritten.graph.node]
    assert ("Pad" in kinds) == (case in KEPT)
    if pads is not None:
        (attribute,) = [a for a in rewritten.graph.node[-1].attribute if a.name == "pads"]
        assert list(attribute.ints) == pads
    assert np.abs(outputs(rewritten, numbers) - before).max() < 1e-5


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_our_networks_have_operators_that_importers_know(layout, tmp_path):
    """No `Pad`, no `Squeeze`, and a number for each colour, in every kind of stem and pool."""
    keras.utils.set_random_seed(0)
    small = dataclasses.replace(SPECS["resnet18"], depths=(1, 1), widths=(8, 16))
    network = folded(ResNet(small, input_shape=(32, 32, 3), classes=3))
    onnx_format.write(network, tmp_path / "x.onnx", METADATA, layout=layout)
    graph = onnx.load(tmp_path / "x.onnx").graph
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    by_name = {node.name: node for node in graph.node}
    for name in ("normalise/Mul", "normalise/Add"):
        assert shapes[by_name[name].input[1]] == [1, 3, 1, 1]
    kinds = [node.op_type for node in graph.node]
    assert not {"Pad", "Squeeze"} & set(kinds) and kinds.count("Flatten") == 1
    if layout == "nhwc":
        assert kinds[0] == "Transpose"  # pixels as they come


def test_a_network_that_wants_the_colours_last_gets_one_transpose_at_most(tmp_path):
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(pixels)))
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3), dtype=np.uint8)
    for layout in ("nhwc", "nchw"):
        onnx_format.write(model, tmp_path / "x.onnx", Metadata(Preprocessing(4)), layout=layout)
        assert onnx_format.operators(tmp_path / "x.onnx").get("Transpose", 0) <= 1
        got = open_model_file(tmp_path / "x.onnx").predict(images)
        assert np.abs(got - model.predict(images, verbose=0)).max() < 1e-2
