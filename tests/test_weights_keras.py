"""Keras' own files: trained-on keras.applications, KerasHub, older versions, and ours."""

import dataclasses
import json
import re
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from checkpoints import few, relative, small, small_state
from keras import layers
from keras_networks import (
    SPEC,
    applications_resnet,
    keras_hub_backbone,
    old_resnet50,
    randomised,
    without_names,
    write_preset,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from resnet_keras import ResNet
from resnet_keras.errors import InputError
from resnet_keras.model_files import Metadata, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import convert, load_weights, save_torch
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.formats.keras_config import layer_names
from resnet_keras.weights.loading import model_layers
from resnet_keras.weights.names import keras_layers, recognise

preprocess_input = keras.applications.resnet50.preprocess_input


def pixels(size=32, channels=3):
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (2, size, size, channels)).astype("float32")


def converted(source, out):
    convert(source, out)
    return keras.saving.load_model(out)


def transferred(kind):
    """A Dense of 5 classes on keras.applications; flat, or with the backbone as a layer."""
    base = applications_resnet(include_top=False)
    images = keras.Input((32, 32, 3))
    if kind == "flat":
        x = layers.Dense(5, name="flowers")(layers.GlobalAveragePooling2D()(base.output))
        return randomised(keras.Model(base.input, layers.Activation("softmax")(x)))
    x = layers.RandomFlip("horizontal")(images)
    x = layers.Rescaling(1 / 127.5, -1)(x) if kind == "rescaled" else x
    x = preprocess_input(x) if kind == "caffe" else x
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(base(x)))
    return randomised(keras.Model(images, layers.Dense(5, activation="softmax", name="new")(x)))


@pytest.mark.parametrize("kind", ["flat", "nested", "rescaled", "caffe"])
def test_a_dense_on_keras_applications(tmp_path, kind):
    """BGR and the mean are what `preprocess_input` makes, unless the file shows other layers."""
    peer = transferred(kind)
    peer.save(tmp_path / "x.keras")
    inside = kind in ("rescaled", "caffe")
    truth = peer(pixels() if inside else preprocess_input(pixels().copy()), training=False)
    truth = keras.ops.convert_to_numpy(truth)
    assert truth.std() > 1e-3
    model = converted(tmp_path / "x.keras", tmp_path / "out.keras")
    assert relative(model(pixels()), truth) < 1e-5
    # PyTorch's format, and back.
    convert(tmp_path / "x.keras", tmp_path / "x.safetensors")
    again = converted(tmp_path / "x.safetensors", tmp_path / "again.keras")
    assert again.input_shape == (None, 32, 32, 3)
    assert relative(again(pixels()), truth) < 1e-5


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("kind", ["flat", "nested"])
def test_all_files_of_transfer_learning(tmp_path, kind, suffix):
    peer = transferred(kind)
    path = tmp_path / f"x{suffix}"
    peer.save_weights(path) if suffix == ".weights.h5" else peer.save(path)
    arguments = dict(input_shape=(32, 32, 3), mean=(123.68, 116.779, 103.939), std=(1, 1, 1))
    model = ResNet(SPEC, classes=5, **arguments)
    report = load_weights(model, path)
    assert not report.skipped and not report.new
    truth = keras.ops.convert_to_numpy(peer(preprocess_input(pixels().copy()), training=False))
    assert relative(model(pixels()), truth) < 1e-5
    other = ResNet(SPEC, classes=3, **arguments)
    head = "flowers" if kind == "flat" else "new"
    report = load_weights(other, path, skip_head=True)
    assert set(report.skipped) == {f"{head}/kernel", f"{head}/bias"}
    load_weights(ResNet(SPEC, include_top=False, **arguments), path)


def test_heads_that_are_none(tmp_path):
    base = applications_resnet(include_top=False)
    pooled = layers.GlobalAveragePooling2D()(base.output)
    heads = {
        "mlp": layers.Dense(3)(layers.Dense(64, activation="relu", name="hidden")(pooled)),
        "max": layers.Dense(3)(layers.GlobalMaxPooling2D(name="most")(base.output)),
    }
    for (name, output), told in zip(heads.items(), ("hidden", "most"), strict=True):
        keras.Model(base.input, output).save(tmp_path / f"{name}.keras")
        with pytest.raises(InputError, match=rf"no single linear layer.*Received: .*{told}"):
            convert(tmp_path / f"{name}.keras", tmp_path / "out.keras")
        caffe = ResNet(SPEC, classes=3, mean=(123.68, 116.779, 103.939), std=(1, 1, 1))
        assert load_weights(caffe, tmp_path / f"{name}.keras", skip_head=True).skipped


def test_preprocessing_that_is_not_known(tmp_path):
    base = applications_resnet(include_top=False)
    images = keras.Input((32, 32, 3))
    for n, x in enumerate((layers.Rescaling(2.0)(layers.Rescaling(3.0)(images)), images / 255.0)):
        keras.Model(images, base(x)).save(tmp_path / f"{n}.keras")
        with pytest.raises(
            InputError, match=rf"{n}\.keras prepares images by layers that no network here has"
        ):
            convert(tmp_path / f"{n}.keras", tmp_path / "out.keras")


def test_another_epsilon_is_folded(tmp_path):
    peer = transferred("rescaled")
    config = peer.get_config()
    text = json.dumps(config).replace("1.001e-05", "0.02")
    other = keras.Model.from_config(json.loads(text))
    other.set_weights(peer.get_weights())
    other.save(tmp_path / "x.keras")
    model = converted(tmp_path / "x.keras", tmp_path / "out.keras")
    truth = keras.ops.convert_to_numpy(other(pixels(), training=False))
    assert relative(model(pixels()), truth) < 1e-5
    assert relative(peer(pixels(), training=False), truth) > 1e-4


@pytest.mark.parametrize(
    ("container", "step"),
    [("layers", 1), ("_layer_checkpoint_dependencies", 1), ("_layer_checkpoint_dependencies", 2)],
)
@pytest.mark.parametrize("kind", ["flat", "rescaled"])
def test_files_without_layer_names(tmp_path, kind, container, step):
    peer = transferred(kind)
    peer.save(tmp_path / "x.keras")
    without_names(tmp_path / "x.keras", tmp_path / "old.keras", container, step)
    models = [converted(tmp_path / f"{n}.keras", tmp_path / "out.keras") for n in ("x", "old")]
    for old, new in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(old, new)


def test_weights_alone_without_layer_names(tmp_path):
    small().save(tmp_path / "x.keras")
    without_names(tmp_path / "x.keras", tmp_path / "old.keras")
    with zipfile.ZipFile(tmp_path / "old.keras") as archive:
        (tmp_path / "x.weights.h5").write_bytes(archive.read("model.weights.h5"))
    with pytest.raises(InputError, match="names no layers, as .* Keras 2 and Keras 3.0 to 3.5"):
        load_weights(small(), tmp_path / "x.weights.h5")


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_names_of_the_original_caffe_release(tmp_path, suffix):
    peer = old_resnet50(5)
    path = tmp_path / f"x{suffix}"
    peer.save_weights(path) if suffix == ".weights.h5" else peer.save(path)
    mean = (123.68, 116.779, 103.939)
    model = ResNet(SPEC, classes=5, input_shape=(64, 64, 3), mean=mean, std=(1, 1, 1))
    report = load_weights(model, path)
    assert report.naming == "keras.applications until 2019" and not report.skipped
    truth = keras.ops.convert_to_numpy(peer(preprocess_input(pixels(64))))
    assert relative(model(pixels(64)), truth) < 1e-5
    old_resnet50(5, pad=False).save(tmp_path / "unpadded.keras")
    with pytest.raises(InputError, match="pool1_pad is no layer. Received: ZeroPadding2D"):
        load_weights(model, tmp_path / "unpadded.keras")


def test_a_deeper_network_of_keras_hub_is_refused(tmp_path):
    write_preset(tmp_path / "preset", keras_hub_backbone("basic"), "basic_block")  # 2 blocks, and 1
    spec = replace(few("resnet50"), block="basic", depths=(1, 1), widths=(16, 32))
    model = ResNet(spec, include_top=False)
    before = model.get_weights()
    with pytest.raises(InputError, match="has 'stack0_block1_1_bn/gamma', which .* no place"):
        load_weights(model, tmp_path / "preset" / "model.weights.h5")
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "bottleneck_vd"])
def test_presets_of_keras_hub(tmp_path, kind):
    backbone = keras_hub_backbone(kind)
    x = layers.GlobalAveragePooling2D()(backbone.output)
    peer = keras.Model(backbone.input, layers.Dense(5, name="predictions")(x))
    write_preset(tmp_path / "preset", backbone, f"{kind.removesuffix('_vd')}_block"
                 f"{'_vd' if kind.endswith('_vd') else ''}", peer)  # fmt: skip
    report = convert(tmp_path / "preset", tmp_path / "out.keras")
    assert report.naming == "KerasHub" and not report.skipped
    scores = keras.saving.load_model(tmp_path / "out.keras")(pixels())
    prepared = pixels() * (0.02, 0.03, 0.04) + (-2.0, -1.0, 0.5)
    truth = keras.ops.convert_to_numpy(keras.ops.softmax(peer(prepared.astype("float32"))))
    assert truth.std() > 1e-3
    assert relative(scores, truth) < 1e-5
    found = read_metadata(tmp_path / "out.keras").preprocessing
    assert (found.size, found.resize, found.antialias) == ((32, 32), None, False)
    # A preset's file alone, without its head; a model that was saved whole by its weights.
    convert(tmp_path / "preset" / "model.weights.h5", tmp_path / "features.keras")
    assert keras.saving.load_model(tmp_path / "features.keras").output_shape[1] == 4
    peer.save_weights(tmp_path / "task.weights.h5")
    spec = few("resnetv1d50" if kind.endswith("_vd") else "resnet50")
    spec = replace(spec, block=kind.split("_")[0], depths=(2, 1), widths=(16, 32))
    model = ResNet(spec, classes=5, input_shape=(32, 32, 3), mean=(100, 100 / 3, -12.5),
                   std=(50, 100 / 3, 25), weights=tmp_path / "task.weights.h5")  # fmt: skip
    assert relative(model(pixels()), truth) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [({"use_pre_activation": True}, "use_pre_activation=False. Received: use_pre_activation=True"),
     ({"stackwise_num_strides": [1, 1]}, r"stackwise_num_strides=\[1, 2\]. Received: .*\[1, 1\]")],
    ids=["v2", "strides"],
)  # fmt: skip
def test_other_networks_of_keras_hub(tmp_path, change, message):
    write_preset(tmp_path / "preset", keras_hub_backbone("basic"), "basic_block", **change)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "preset", tmp_path / "out.keras")


def test_damaged_json_in_a_folder(tmp_path):
    save_file(small_state(), tmp_path / "model.safetensors")
    load_weights(small(), tmp_path)
    for text in ("{", "[" * 100_000, " " * (2 << 20)):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="a damaged config.json beside its weights. Received:"):
            load_weights(small(), tmp_path)


def test_relatives_are_refused_by_their_names(tmp_path):
    applications_resnet(2, include_top=False).save(tmp_path / "v2.keras")
    for name, shape in (
        ("v2_stack_0_block1_1_conv/kernel", (1, 1, 64, 64)),
        ("conv2_block1_2_conv/depthwise_kernel", (3, 3, 128, 32)),
    ):
        arrays = {"conv1_conv/kernel": (7, 7, 3, 64), name: shape}
        save_file(
            {key: np.zeros(shape, np.float32) for key, shape in arrays.items()},
            tmp_path / f"{name[:2]}.safetensors",
        )
    for path, what in (
        ("v2.keras", r"is a ResNet v2.*pre-activation"),
        ("v2.safetensors", "is a backbone of keras-cv.*'v2_stack"),
        ("co.safetensors", "is a ResNeXt"),
    ):
        with pytest.raises(InputError, match=what):
            convert(tmp_path / path, tmp_path / "out.keras")


OTHERS = {
    "mean": ({"mean": (1, 2, 3)}, r"with mean=\(1.0, 2.0, 3.0\)"),
    "std": ({"std": (50, 60, 70)}, r"std=\(50.0, 60.0, 70.0\)"),
    "none": ({"include_preprocessing": False}, "include_preprocessing=False.*Received: .*True"),
    "dilated": ({"output_stride": 8}, "output_stride=8.*Received: output_stride=32"),
    "sigmoid": ({"classifier_activation": "sigmoid"}, "classifier_activation=sigmoid.*softmax"),
}


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".safetensors", marks=pytest.mark.slow)])
@pytest.mark.parametrize("other", OTHERS)
def test_our_own_files_tell_their_network(tmp_path, other, suffix):
    """Another computation is refused by its field, both ways; converted, it is the same one."""
    arguments, message = OTHERS[other]
    shape = {"classes": 4, "input_shape": (64, 48, 3)}
    model = randomised(ResNet(few("resnet50"), **shape, **arguments))
    path = tmp_path / f"x{suffix}"
    model.save(path) if suffix == ".keras" else save_torch(model, path)
    with pytest.raises(InputError, match=message):
        load_weights(ResNet(few("resnet50"), **shape), path)
    load_weights(ResNet(few("resnet50"), **shape, **arguments), path)
    again = converted(path, tmp_path / "again.keras")
    assert again.input_shape == model.input_shape
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype("float32")
    assert relative(again(images), keras.ops.convert_to_numpy(model(images))) < 1e-5


def test_a_head_of_sigmoids_starts_a_training_of_logits_or_is_skipped(tmp_path):
    shape = {"classes": 4, "input_shape": (64, 48, 3)}
    model = randomised(ResNet(few("resnet50"), **shape, classifier_activation="sigmoid"))
    model.save(tmp_path / "x.keras")
    logits = ResNet(few("resnet50"), **shape, classifier_activation=None)
    load_weights(logits, tmp_path / "x.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype("float32")
    truth = keras.ops.convert_to_numpy(model(images))
    assert relative(keras.ops.sigmoid(logits(images)), truth) < 1e-5
    other = ResNet(few("resnet50"), **shape)
    report = load_weights(other, tmp_path / "x.keras", skip_head=True)
    assert set(report.skipped) == {"predictions/kernel", "predictions/bias"}


def test_a_plain_file_into_a_model_of_other_preprocessing(tmp_path):
    small().save(tmp_path / "x.keras")
    for arguments, message in (
        ({"include_preprocessing": False}, "include_preprocessing=True.*Received: .*False"),
        ({"mean": (1, 2, 3)}, r"with mean=\(125.307, 122.961, 113.8575\)"),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(small(**arguments), tmp_path / "x.keras")


IDLE = [
    (layers.Dropout, 0.5), (layers.SpatialDropout2D, 0.5), (layers.GaussianNoise, 0.5),
    (layers.GaussianDropout, 0.5), (layers.AlphaDropout, 0.5),
    (layers.ActivityRegularization, 0.1), (layers.Activation, "linear"),
    (layers.RandomFlip, "vertical"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "argument"), IDLE, ids=lambda value: str(value)[-30:])
def test_layers_that_do_nothing_in_inference_are_no_part_of_a_network(kind, argument):
    layer = kind(argument)
    images = pixels()
    assert np.array_equal(layer(images, training=False), images)
    listed = {
        name: {"class_name": kind, "config": config}
        for name, kind, config in [
            ("images", "InputLayer", {}),
            ("before", type(layer).__name__, layer.get_config()),
            ("conv1_conv", "Conv2D", {}),
            ("pool", "GlobalAveragePooling2D", {}),
            ("behind", type(layer).__name__, layer.get_config()),
            ("scores", "Dense", {"activation": "softmax"}),
        ]
    }
    parts = keras_layers.parts(listed)
    assert [list(part) for part in parts] == [[], ["conv1_conv"], ["pool", "scores"]]
    assert keras_layers.top(parts.top) == ("scores", "softmax", "")


@pytest.mark.parametrize(
    ("layer", "field", "change"),
    [("conv3_block1_1_conv", "strides", [1, 1]), ("conv3_block1_1_conv", "dilation_rate", [2, 2]),
     ("conv3_block1_1_conv", "padding", "same"), ("conv3_block1_1_conv", "groups", 2),
     ("conv3_block1_1_conv", "data_format", "channels_first"),
     ("conv3_block1_1_bn", "epsilon", 1e-3), ("conv3_block1_1_relu", "activation", "gelu"),
     ("pool1_pool", "pool_size", [2, 2])],
)  # fmt: skip
def test_whatever_a_layer_computes_otherwise_is_a_difference(layer, field, change):
    ours = keras_layers.parts(model_layers(ResNet(few("resnet18")))).backbone
    assert keras_layers.difference(ours, ours) is None
    theirs = {**ours, layer: {**ours[layer], "config": {**ours[layer]["config"], field: change}}}
    what, one, other = keras_layers.difference(theirs, ours)
    assert what == f"{field} of {layer}" and one != other


def test_names_of_layers_in_files_are_those_that_keras_gives_them():
    """A file without names has `layers/batch_normalization_7`; Keras names layers alike."""
    for layer in (
        layers.Conv2D(1, 1), layers.DepthwiseConv2D(1), layers.BatchNormalization(),
        layers.Dense(1), layers.ReLU(), layers.PReLU(), layers.LSTM(1), layers.MaxPooling2D(),
        layers.GlobalAveragePooling2D(), layers.ZeroPadding2D(), layers.ELU(),
    ):  # fmt: skip
        name = re.sub(r"_\d+$", "", layer.name)
        config = {"layers": [{"class_name": type(layer).__name__, "config": {"name": "mine"}}]}
        assert layer_names(config, [f"layers/{name}"]) == {f"layers/{name}": "mine"}


def hub_model(*front, pooling="GlobalAveragePooling2D"):
    """A network that somebody built around KerasHub's backbone, as its `.keras` lists it."""
    listed = [("images", "InputLayer", {"batch_shape": [None, 32, 48, 3]}), *front,
              ("res_net_backbone", "ResNetBackbone", {}), ("pool", pooling, {}),
              ("flowers", "Dense", {"activation": "sigmoid"})]  # fmt: skip
    arrays = {"stack0_block0_1_conv/kernel": (3, 3, 16, 16), "conv1_conv/kernel": (7, 7, 3, 16),
              "stack0_block0_2_conv/kernel": (3, 3, 16, 16), "flowers/kernel": (16, 5)}  # fmt: skip
    return Contents(
        "x.keras",
        {key: np.zeros(shape, np.float32) for key, shape in arrays.items()},
        {name: {"class_name": kind, "config": config} for name, kind, config in listed},
    )


def test_networks_around_a_backbone_of_keras_hub():
    found = recognise(hub_model(("scale", "Rescaling", {"scale": 1 / 50, "offset": -2.0})))
    assert (found.naming.title, found.naming.head, found.naming.problem) == (
        "KerasHub", "flowers", "",
    )  # fmt: skip
    told = found.told
    assert (told.mean, told.std, told.bgr) == ((100.0,) * 3, (50.0,) * 3, False)
    assert (told.normalised, told.activation, told.input_shape) == (True, "sigmoid", (32, 48, 3))
    plain = recognise(hub_model()).told
    assert (plain.mean, plain.normalised, plain.activation) == (None, None, "sigmoid")
    other = recognise(hub_model(pooling="GlobalMaxPooling2D"))
    assert "pool (GlobalMaxPooling2D)" in other.naming.problem
    with pytest.raises(InputError, match=r"^x\.keras prepares images by layers that no network"):
        recognise(hub_model(("resize", "Resizing", {})))


@pytest.mark.parametrize("field", ["pool_size", "epsilon", "padding", "activation"])
def test_a_layer_that_was_changed_is_named(tmp_path, field):
    model = ResNet(few("resnet18"))
    model.save(tmp_path / "x.keras")
    layer, change = {
        "pool_size": ("pool1_pool", [2, 2]), "epsilon": ("conv2_block1_1_bn", 1e-3),
        "padding": ("conv2_block1_1_conv", "valid"), "activation": ("conv1_relu", "gelu"),
    }[field]  # fmt: skip
    with (
        zipfile.ZipFile(tmp_path / "x.keras") as archive,
        zipfile.ZipFile(tmp_path / "y.keras", "w") as new,
    ):
        config = json.loads(archive.read("config.json"))
        for entry in config["config"]["layers"]:
            if entry["config"]["name"] == layer:
                entry["config"][field] = change
        new.writestr("config.json", json.dumps(config))
        new.writestr("model.weights.h5", archive.read("model.weights.h5"))
    load_weights(model, tmp_path / "x.keras")
    with pytest.raises(InputError, match=f"computes something else .*{field} of {layer} is"):
        load_weights(model, tmp_path / "y.keras")


def test_a_copy_keeps_its_metadata(tmp_path):
    small().save(tmp_path / "x.keras")
    written = Metadata(Preprocessing(32, resize=40), labels=tuple("abcdefghij"))
    written.write(tmp_path / "x.keras")
    convert(tmp_path / "x.keras", tmp_path / "y.keras")
    assert read_metadata(tmp_path / "y.keras") == written
    # A map of features has no classes.
    convert(tmp_path / "x.keras", tmp_path / "features.keras", backbone_only=True)
    expected = dataclasses.replace(written, labels=())
    assert read_metadata(tmp_path / "features.keras") == expected
    with pytest.raises(InputError, match="another file than SOURCE"):
        convert(tmp_path / "x.keras", tmp_path / "x.keras")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"spec": {"block": "x"}}', "[" * 100_000])
def test_a_description_that_is_damaged(tmp_path, text):
    save_torch(small(), tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    save_file(arrays, tmp_path / "x.safetensors", metadata={"resnet_keras": text})
    damaged = r"x\.safetensors has a damaged description of its network.*Received: "
    with pytest.raises(InputError, match=damaged):
        load_weights(small(), tmp_path / "x.safetensors")


def test_a_description_of_another_network_is_refused(tmp_path):
    save_torch(small(), tmp_path / "x.safetensors")
    save_torch(ResNet("resnet20_cifar"), tmp_path / "y.safetensors")
    with safe_open(tmp_path / "y.safetensors", "numpy") as file:
        metadata = file.metadata()
    save_file(load_file(tmp_path / "x.safetensors"), tmp_path / "x.safetensors", metadata)
    with pytest.raises(InputError, match="has no 'layer1.1.conv1.weight'"):
        convert(tmp_path / "x.safetensors", tmp_path / "out.keras")
