"""What we reach of the privates of Keras, TensorFlow and TFDS is where it was, and only there.

A test that fails here with a new version of a library names the function of
`resnet_keras.internals` to look at.
"""

import ast
import hashlib
import importlib
import inspect
import pkgutil
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

import resnet_keras

PACKAGE = Path(resnet_keras.__file__).parent


def test_keras_producer():
    from resnet_keras.internals.keras import producer

    x = keras.Input((4,))
    one, other = keras.layers.Dense(4), keras.layers.Dense(4)
    y = other(one(x))
    assert producer(y) is other and producer(other.input) is one
    assert producer(x).name == keras.Model(x, y).layers[0].name
    assert isinstance(producer(x + y), keras.Operation)


def test_keras_producer_inputs():
    from resnet_keras.internals.keras import producer_inputs

    layer = keras.layers.Dense(4)
    first, second = keras.Input((4,)), keras.Input((4,))
    (one,), (other,) = producer_inputs(layer(first)), producer_inputs(layer(second))
    assert one is first and other is second
    assert [*map(id, producer_inputs(first + second))] == [id(first), id(second)]


def test_keras_calls_and_readers():
    from resnet_keras.internals.keras import calls, readers

    x = keras.Input((4,))
    layer = keras.layers.Dense(4)
    assert calls(layer) == readers(layer) == 0
    y = layer(x)
    assert (calls(layer), readers(layer)) == (1, 0)
    keras.layers.ReLU()(y)
    keras.layers.Add()([y, x])
    assert (calls(layer), readers(layer)) == (1, 2)
    layer(y)
    assert (calls(layer), readers(layer)) == (2, 3)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A TFLite model y = relu(w x) with the ranges of x in -1..3, and of y in 0..6."""
    import tensorflow as tf

    from resnet_keras.internals.tensorflow import calibrated

    def double(x):
        return tf.nn.relu(tf.matmul(x, tf.constant([[2.0, 0.0], [0.0, 2.0]])))

    module, folder = tf.Module(), str(tmp_path_factory.mktemp("double"))
    module.serve = tf.function(double, [tf.TensorSpec((1, 2), tf.float32)])
    tf.saved_model.save(module, folder, {"serve": module.serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    images = [np.array([[-1.0, 3.0]], np.float32), np.array([[0.0, 1.0]], np.float32)]
    converter.representative_dataset = lambda: ([image] for image in images)
    return calibrated(converter)


def test_tensorflow_calibrated(calibrated):
    from ai_edge_litert import schema_py_generated as schema

    (graph,) = schema.ModelT.InitFromPackedBuf(calibrated, 0).subgraphs
    entry = graph.tensors[graph.inputs[0]]
    assert (entry.quantization.min[0], entry.quantization.max[0]) == (-1.0, 3.0)
    assert entry.type == schema.TensorType.FLOAT32


def test_tensorflow_calibrated_refuses_a_converter_without_the_mode():
    from resnet_keras.internals.tensorflow import calibrated

    class Converter:
        def convert(self):
            raise AssertionError("it would not have calibrated")

    with pytest.raises(RuntimeError, match="`_experimental_calibrate_only`"):
        calibrated(Converter())


def test_tensorflow_quantized_and_operator_details(calibrated):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    from resnet_keras.internals.tensorflow import operator_details, quantized

    kinds = {"input_data_type": tf.int8, "output_data_type": tf.int8}
    interpreter = Interpreter(model_content=quantized(calibrated, **kinds))
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    assert entry["dtype"] is np.int8
    assert entry["quantization"][0] == pytest.approx(4 / 255)  # -1..3 in 255 steps
    verified = Interpreter(model_content=quantized(calibrated, enable_numeric_verify=True))
    operators = operator_details(verified)
    names = Counter(operator["op_name"] for operator in operators)
    assert names["NumericVerify"] > 0
    indices = {tensor["index"] for tensor in verified.get_tensor_details()}
    for operator in operators:
        assert {*operator["inputs"], *operator["outputs"]} <= indices | {-1}
    kept = [t["name"] for t in Interpreter(model_content=calibrated).get_output_details()]
    floating = quantized(calibrated, denylisted_nodes=kept)
    names = {o["op_name"] for o in operator_details(Interpreter(model_content=floating))}
    assert "QUANTIZE" not in names


def test_tensorflow_parse_saved_model(tmp_path):
    import tensorflow as tf

    from resnet_keras.internals.tensorflow import parse_saved_model

    module = tf.Module()
    module.serve = tf.function(lambda x: x + 1, [tf.TensorSpec((), tf.float32)])
    tf.saved_model.save(module, str(tmp_path), {"serve": module.serve})
    (meta,) = parse_saved_model(tmp_path).meta_graphs
    assert "serve" in meta.signature_def


def test_tensorflow_gpu_memory():
    import tensorflow as tf

    from resnet_keras.internals.tensorflow import gpu_memory

    limits = gpu_memory()
    assert len(limits) == len(tf.config.list_logical_devices("GPU"))
    assert all(limit > 2**20 for limit in limits)


def test_tfds_url_info(tmp_path):
    from resnet_keras.internals.tfds import url_info

    path = tmp_path / "a"
    path.write_bytes(b"abc")
    info = url_info(path)
    assert (info.checksum, info.size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    (tmp_path / "b").write_bytes(b"abc")
    assert info == url_info(tmp_path / "b")
    path.write_bytes(b"abd")
    assert info != url_info(path)


# Of six archives of Imagenette, the one that its configuration names, and so on.
@pytest.mark.parametrize(
    ("dataset", "files"),
    [("eurosat/rgb", ["EuroSAT.zip"]), ("eurosat/all", ["EuroSATallBands.zip"]),
     ("imagenette/160px-v2", ["imagenette2-160.tgz"]), ("stl10", ["stl10_binary.tar.gz"]),
     ("oxford_flowers102", ["102flowers.tgz", "imagelabels.mat", "setid.mat"])],
)  # fmt: skip
def test_tfds_needed_urls(tmp_path, dataset, files):
    import tensorflow_datasets as tfds

    from resnet_keras.internals.tfds import needed_urls

    builder = tfds.builder(dataset, data_dir=tmp_path)
    assert sorted(url.rpartition("/")[2] for url in needed_urls(builder)) == files


def test_tfds_wrong_checksum(tmp_path):
    import tensorflow_datasets as tfds

    from resnet_keras.internals.tfds import NonMatchingChecksumError, url_info

    for folder, content in {"published": b"abc", "mine": b"abd"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.bin").write_bytes(content)

    class Wrong(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {"https://example.org/a.bin": url_info(tmp_path / "published" / "a.bin")}

        def _info(self):
            features = tfds.features.FeaturesDict({"a": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            manager.download("https://example.org/a.bin")

        def _generate_examples(self):
            yield from ()

    builder = Wrong(data_dir=tmp_path / "data")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "mine")
    with pytest.raises(NonMatchingChecksumError):
        builder.download_and_prepare(download_config=config)


def test_tfds_default_data_dir():
    import tensorflow_datasets as tfds

    from resnet_keras.internals.tfds import default_data_dir

    root = Path(tfds.builder("mnist").data_dir).parents[1]
    assert root == default_data_dir().expanduser()


def test_tfds_is_unfinished(tmp_path):
    from tensorflow_datasets.core.utils import file_utils

    from resnet_keras.internals.tfds import is_unfinished

    with file_utils.incomplete_dir(tmp_path / "1.0.0") as folder:
        assert is_unfinished(Path(folder))
    assert not is_unfinished(tmp_path / "1.0.0")


# Single underscores of the standard library that its documentation names.
PUBLIC = {"_exit", "_replace", "_asdict", "_fields"}

# Modules of other libraries that they do not offer to users.
PRIVATE_MODULES = (
    "keras.src", "tensorflow.python", "tensorflow.core", "tensorflow.lite", "tensorflow.compiler",
    "tensorflow_datasets.core", "jax._src", "jaxlib",
)  # fmt: skip


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def trees(*, internals):
    for path in sorted(PACKAGE.rglob("*.py")):
        if internals or "internals" not in path.parts:
            yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def own_names():
    """Private names that this package defines: functions, classes, attributes, variables."""
    names = set()
    for _, tree in trees(internals=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
    return names


def reaches(tree, own):
    """Uses of privates of others, as they are written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr == "__internal__" or (is_private(node.attr) and node.attr not in own):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(PRIVATE_MODULES):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").startswith(PRIVATE_MODULES):
                yield node.lineno, node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            if isinstance(node.args[1], ast.Constant) and is_private(node.args[1].value):
                yield node.lineno, ast.unparse(node)


def test_only_internals_reach_into_other_libraries():
    own = own_names()
    found = [
        (str(path), *use) for path, tree in trees(internals=False) for use in reaches(tree, own)
    ]
    assert found == []


def test_the_scan_sees_what_internals_reach():
    """Else the test above might see nothing."""
    own = own_names()
    found = {use for path, tree in trees(internals=True) for _, use in reaches(tree, own)}
    assert {
        "tensor._keras_history", "layer._inbound_nodes", "layer._outbound_nodes",
        "converter._experimental_calibrate_only", "interpreter._get_ops_details",
        "tensorflow.lite.python.convert", "tensorflow.core.protobuf",
        "tensorflow.python.client", "tensorflow_datasets.core.download",
    } <= found  # fmt: skip


# What subclasses must define, by the documentation of TFDS; and what Python itself adds.
HOOKS = {"_info", "_split_generators", "_generate_examples", "_abc_impl"}


def classes():
    """Every class of this package."""
    for module in pkgutil.walk_packages([str(PACKAGE)], "resnet_keras."):
        if module.name != "resnet_keras.__main__":
            for value in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(value) and value.__module__ == module.name:
                    yield value


def test_no_class_overrides_privates_of_its_foreign_base():
    """An override that Keras renames would be called no more, without an error."""
    seen = 0
    for kind in classes():
        foreign = [
            base for base in kind.__mro__
            if not base.__module__.startswith(("resnet_keras", "typing"))
        ]  # fmt: skip
        theirs = {name for base in foreign for name in vars(base) if is_private(name)} - HOOKS
        if foreign != [object]:
            seen += 1
            assert not theirs & vars(kind).keys(), (kind, theirs & vars(kind).keys())
    assert seen > 10


def test_no_attribute_of_an_optimizer_has_a_private_name_of_keras():
    """Keras would read ours, or overwrite it."""
    from resnet_keras import SGD

    def attributes(optimizer):
        optimizer.build([keras.Variable(np.ones(2), name="kernel")])
        return {name for name in vars(optimizer) if is_private(name)}

    stock = attributes(keras.optimizers.SGD(0.1, momentum=0.5))
    assigned = set()
    for path, tree in trees(internals=False):
        if path.parts[0] == "optimizers":
            assigned |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            }
    assert attributes(SGD(0.1, momentum=0.5, ema=0.5)) - stock <= assigned
    assert not {name for name in assigned if is_private(name)} & stock
