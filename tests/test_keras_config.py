"""A `.keras` file tells a constructor nothing that it knows: an older Keras may not have it."""

import dataclasses
import inspect
import json
import os
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from resnet_keras import SPECS, ResNet, features
from resnet_keras.exporting import plain, save_plain
from resnet_keras.model_files import load_keras
from resnet_keras.model_files.formats import KERAS
from resnet_keras.model_files.keras_config import without_defaults
from resnet_keras.weights import convert

# What Keras 3.4 does not know of the layers and initializers of these networks and of 3.15:
# tests/clients/test_older_keras.py has this list from both of them.
NEW = {
    "InputLayer": {"ragged"},
    "BatchNormalization": {"renorm", "renorm_clipping", "renorm_momentum"},
    "Conv2D": {"lora_alpha"},
    "Dense": {"lora_alpha", "quantization_config"},
    "VarianceScaling": {"input_axes", "output_axes"},
}

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.float32)


def kinds():
    """One network for each block, stem, shortcut and place of a stride."""
    told = {}
    for name, spec in SPECS.items():
        kind = dataclasses.replace(spec, depths=(1, 2), widths=(8, 16))
        told.setdefault(kind, name)
    kinds = {name: kind for kind, name in told.items()}
    caffe = dataclasses.replace(kinds["resnet50"], stride_in_1x1=True)
    both = dataclasses.replace(kinds["resnet20_cifar"], shortcut="pad_both")
    return kinds | {"caffe": caffe, "pad_both": both}


KINDS = kinds()


def network(kind, **options):
    """A network whose batch norms are not the identity."""
    model = ResNet(KINDS[kind], input_shape=(16, 16, 3), classes=4, **options)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "moving" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return model


def written(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def objects(config):
    """All layers, initializers and the like of a configuration: class and arguments."""
    if isinstance(config, list):
        for value in config:
            yield from objects(value)
    elif isinstance(config, dict):
        if config.get("module", "").startswith("keras.") and isinstance(config["config"], dict):
            names = config["module"].removeprefix("keras.").split(".")
            if names[0] != "src":  # the model itself, which has no arguments but its graph
                kind = keras
                for name in (*names, config["class_name"]):
                    kind = getattr(kind, name)
                yield kind, config["config"]
        for value in config.values():
            yield from objects(value)


def defaults(kind):
    """What the signatures of a class and of those above it say, as JSON."""
    found = {}
    for above in reversed(kind.__mro__):
        for parameter in inspect.signature(above.__init__).parameters.values():
            if parameter.default is not parameter.empty:
                found[parameter.name] = json.loads(json.dumps(parameter.default))
    return found


def test_there_is_a_network_of_each_kind():
    assert {"resnet18", "resnet50", "resnetv1c50", "resnetv1d50", "resnet20_cifar"} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_holds_no_defaults_and_the_same_model(kind, tmp_path):
    model = plain(network(kind), "softmax")
    save_plain(model, tmp_path / "model.keras")
    found = list(objects(written(tmp_path / "model.keras")))
    assert len(found) > len(model.layers)
    for cls, arguments in found:
        default = defaults(cls)
        for name in set(arguments) - {"name", "dtype", "data_format"}:
            assert name not in default or arguments[name] != default[name], (cls, name)
        assert not NEW.get(cls.__name__, set()) & set(arguments), cls
    loaded = load_keras(tmp_path / "model.keras")
    for layer, other in zip(model.layers, loaded.layers, strict=True):
        assert type(layer) is type(other) and layer.get_config() == other.get_config()
    assert np.array_equal(loaded(IMAGES), model(IMAGES))


def test_all_that_write_keras_files_leave_defaults_out(tmp_path):
    network("resnet20_cifar").save(tmp_path / "keras_own.keras")
    loaded = load_keras(tmp_path / "keras_own.keras")
    convert(tmp_path / "keras_own.keras", tmp_path / "converted.keras")
    KERAS.module.write(loaded, tmp_path / "exported.keras")
    KERAS.module.save(features(loaded, ("C2", "C3")), tmp_path / "features.keras")
    for name in ("converted", "exported", "features"):
        path = tmp_path / f"{name}.keras"
        text = json.dumps(written(path)["config"]["layers"])
        assert '"Conv2D"' in text and "shared_object_id" not in text
        for key in (*set().union(*NEW.values()), "trainable", "bias_constraint"):
            assert f'"{key}"' not in text, (name, key)
        keras.saving.load_model(path)


def told(layer):
    return without_defaults(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )["config"]  # fmt: skip


def test_what_differs_is_kept():
    norm = layers.BatchNormalization(name="n", renorm=True, renorm_momentum=0.5, axis=1)
    kept = told(norm)
    clipping = kept.pop("renorm_clipping", {})  # not None, once there is renorm
    assert not clipping
    assert kept == {
        "name": "n", "dtype": "float32", "renorm": True, "renorm_momentum": 0.5, "axis": 1,
    }  # fmt: skip
    pool = told(layers.MaxPooling2D(3, strides=2, name="p"))
    assert (pool["pool_size"], pool["strides"]) == ([3, 3], [2, 2])
    # The default of one argument may be the value of another.
    assert "strides" not in told(layers.MaxPooling2D(2, strides=2, name="p"))
    initializer = told(layers.Dense(2, kernel_initializer=keras.initializers.HeNormal(seed=7)))
    assert initializer["kernel_initializer"]["config"] == {"seed": 7}
    assert told(layers.RandomFlip(data_format="channels_last", name="f")) == {
        "name": "f", "dtype": "float32",
    }  # fmt: skip
    assert told(layers.Dense(2, trainable=False))["trainable"] is False
    assert told(layers.Dense(2, dtype="mixed_bfloat16"))["dtype"] == "mixed_bfloat16"


@pytest.mark.parametrize("own", ["channels_last", "channels_first"])
def test_nothing_depends_on_the_settings_of_the_machine(own):
    before = keras.config.image_data_format(), keras.config.dtype_policy()
    try:
        keras.config.set_image_data_format(own)
        keras.config.set_dtype_policy("mixed_bfloat16")
        kept = told(layers.ZeroPadding2D(data_format="channels_first", dtype="float32", name="z"))
        assert kept == {"name": "z", "data_format": "channels_first", "dtype": "float32"}
        mixed = told(layers.ZeroPadding2D(data_format="channels_last", name="z"))
        assert mixed["data_format"] == "channels_last" and mixed["dtype"] == "mixed_bfloat16"
    finally:
        keras.config.set_image_data_format(before[0])
        keras.config.set_dtype_policy(before[1])


@keras.saving.register_keras_serializable("test_keras_config")
class Times(layers.Layer):
    """Somebody's layer; its `get_config` may say anything."""

    def __init__(self, factor=2, **arguments):
        super().__init__(**arguments)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def test_a_machine_whose_clock_was_never_set_writes_files_too(tmp_path):
    """Its files are of 1970, and ZIP begins with 1980."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    write = model.save

    def write_in_1970(folder, **options):
        write(folder, **options)
        for path in folder.iterdir():
            os.utime(path, (0, 0))

    model.save = write_in_1970
    KERAS.module.save(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_layers_of_other_people_and_models_inside_a_model(tmp_path):
    inner = keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(2, 1, dilation_rate=2)])
    pixels = keras.Input((4, 4, 3))
    each = layers.TimeDistributed(layers.Dense(3, use_bias=False))(pixels)
    ends = keras.ops.mean(inner(Times()(each)) + 1.0, axis=(1, 2), keepdims=False)
    model = keras.Model(pixels, ends)
    KERAS.module.save(model, tmp_path / "model.keras")
    text = json.dumps(written(tmp_path / "model.keras"))
    assert '"factor": 2' in text  # what is not Keras' own is left alone
    assert '"dilation_rate": [2, 2]' in text and '"bias_constraint"' not in text
    (mean,) = (
        each for each in written(tmp_path / "model.keras")["config"]["layers"]
        if each["class_name"] == "Mean"
    )  # fmt: skip
    assert mean["name"].startswith("mean") and "name" not in mean["config"]
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    assert np.array_equal(loaded(pixels), model(pixels))
