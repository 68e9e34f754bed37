"""A model file is opened if it has one input and one output, and refused otherwise."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from runs import in_forks

from resnet_keras import ResNet
from resnet_keras.errors import InputError
from resnet_keras.model_files import load_keras, open_model_file

# Numbers of inputs and outputs.
SEVERAL = [(2, 1), (1, 2)]


def network(inputs, outputs):
    """A network of images with several inputs or outputs."""
    entries = [keras.Input((8, 8, 3)) for _ in range(inputs)]
    x = keras.layers.Add()(entries) if inputs > 1 else entries[0]
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(entries, [keras.layers.Dense(3)(x) for _ in range(outputs)])


def write_keras(inputs, outputs, path):
    network(inputs, outputs).save(path)


def write_saved_model(inputs, outputs, path):
    network(inputs, outputs).export(path, verbose=False)


def write_tflite(inputs, outputs, path):
    model = network(inputs, outputs)
    specs = [tf.TensorSpec((1, 8, 8, 3)) for _ in range(inputs)]
    function = tf.function(lambda *images: model(list(images))).get_concrete_function(*specs)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function]).convert())


def write_onnx(inputs, outputs, path, shape=("n", 8, 8, 3)):
    names = [[f"{end}{i}" for i in range(n)] for end, n in (("in", inputs), ("out", outputs))]
    nodes = [helper.make_node("Sum", names[0], [name]) for name in names[1]]
    ends = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in some]
        for some in names
    )
    graph = helper.make_graph(nodes, "several", *ends)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


FORMATS = {
    "model.keras": write_keras,
    "saved_model": write_saved_model,
    "model.tflite": write_tflite,
    "model.onnx": write_onnx,
}


@pytest.mark.parametrize(("inputs", "outputs"), SEVERAL)
@pytest.mark.parametrize("name", FORMATS)
def test_a_model_with_several_inputs_or_outputs_is_refused(name, inputs, outputs, tmp_path):
    path = tmp_path / name
    FORMATS[name](inputs, outputs, path)
    counts = f"one input.*one output.* Received: {inputs} inputs, {outputs} outputs"
    with pytest.raises(InputError, match=f"{path} must have {counts}"):
        open_model_file(path)


@pytest.mark.slow
def test_verbs_refuse_a_model_with_two_outputs_in_one_line(tmp_path):
    model = ResNet("resnet20_cifar")
    beside = keras.layers.Dense(3, name="beside")(model.get_layer("avg_pool").output)
    keras.Model(model.input, [model.output, beside]).save(tmp_path / "two.keras")
    verbs = {
        "evaluate two.keras --dataset digits": "two.keras must have one input",
        "predict two.keras any.png": "two.keras must have one input",
        "export two.keras out.tflite --dataset digits": "two.keras must have one input",
        "convert two.keras out.safetensors": "two.keras has no single linear layer",
    }
    answers = in_forks([f"python -m resnet_keras {verb}" for verb in verbs], tmp_path)
    for answer, words in zip(answers.values(), verbs.values(), strict=True):
        assert answer["code"] == 2, answer["output"]
        (line,) = answer["lines"]
        assert line.startswith(f"error: {words}") and "Received: " in line
    assert [path.name for path in tmp_path.iterdir()] == ["two.keras"]


def test_a_model_of_anything_but_images_is_refused(tmp_path):
    words = keras.Input((10,))
    keras.Model(words, keras.layers.Dense(2)(words)).save(tmp_path / "words.keras")
    write_onnx(1, 1, tmp_path / "words.onnx", shape=("n", 10))
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path} must take images.* Received: an input of"):
            open_model_file(path)


@pytest.mark.parametrize("kind", ["dict", "list", "Sequential"])
def test_one_input_and_one_output_may_be_wrapped(kind, tmp_path):
    pixels = keras.Input((8, 8, 3), name="pixels")
    layers = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, name="scores")]
    scores = layers[1](layers[0](pixels))
    model = {
        "dict": lambda: keras.Model({"pixels": pixels}, {"scores": scores}),
        "list": lambda: keras.Model([pixels], [scores]),
        "Sequential": lambda: keras.Sequential([pixels, *layers]),
    }[kind]()
    model.save(tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras")
    assert tuple(loaded.output.shape) == (None, 3) and loaded.name == model.name
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    expected = keras.Model(pixels, scores).predict(images, verbose=0)
    got = open_model_file(tmp_path / "model.keras").predict(images)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
