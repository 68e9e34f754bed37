"""Other people's Keras networks in small, built as their libraries build them, and their files."""

import io
import json
import re
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers
from keras.src.applications import resnet as applications

from resnet_keras import Spec

# What `applications_resnet` is here.
SPEC = Spec("bottleneck", (2, 1), (64, 16), stride_in_1x1=True)


def randomised(model: keras.Model) -> keras.Model:
    """Random in all variables, always alike; logits stay small enough to tell classes apart."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) > 1:  # Glorot and Bengio 2010, as Keras' own
            *window, fan_in, fan_out = variable.shape
            scale = np.sqrt(2 / (np.prod(window) * (fan_in + fan_out)))
            variable.assign(rng.normal(0, scale, variable.shape))
        elif len(variable.shape) == 1 and "seed" not in variable.path:
            low, high = (0.2, 0.5) if variable.name == "gamma" else (0.5, 1.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def applications_resnet(version: int = 1, **arguments) -> keras.Model:
    """keras.applications' own code, with few blocks."""
    stack = getattr(applications, f"stack_residual_blocks_v{version}")

    def stages(x):
        return stack(stack(x, 64, 2, stride1=1, name="conv2"), 16, version, name="conv3")

    shape = arguments.pop("input_shape", (32, 32, 3))
    return randomised(
        applications.ResNet(
            stages, version == 2, True, weights=None, input_shape=shape, name="resnet50",
            weights_name="resnet50", **arguments,
        )
    )  # fmt: skip


def old_resnet50(classes: int, *, pad: bool = True, size: int = 64) -> keras.Model:
    """Keras' ResNet-50 until 2019 in small: names of Caffe, epsilon 1e-3, stride in the 1x1."""

    def conv_bn(x, filters, kernel, name, relu=True, **arguments):
        x = layers.Conv2D(filters, kernel, name=f"res{name}", **arguments)(x)
        x = layers.BatchNormalization(name=f"bn{name}")(x)
        return layers.Activation("relu")(x) if relu else x

    def block(x, filters, name, stride=1, project=False):
        y = conv_bn(x, filters, 1, f"{name}_branch2a", strides=stride)
        y = conv_bn(y, filters, 3, f"{name}_branch2b", padding="same")
        y = conv_bn(y, 4 * filters, 1, f"{name}_branch2c", relu=False)
        if project:
            x = conv_bn(x, 4 * filters, 1, f"{name}_branch1", relu=False, strides=stride)
        return layers.Activation("relu")(layers.add([y, x]))

    images = keras.Input((size, size, 3))
    x = layers.ZeroPadding2D(3, name="conv1_pad")(images)
    x = layers.Conv2D(64, 7, strides=2, name="conv1")(x)
    x = layers.Activation("relu")(layers.BatchNormalization(name="bn_conv1")(x))
    if pad:
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, strides=2)(x)
    x = block(block(x, 64, "2a", project=True), 64, "2b")
    x = block(x, 16, "3a", stride=2, project=True)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    x = layers.Dense(classes, activation="softmax", name="fc1000")(x)
    return randomised(keras.Model(images, x))


def keras_hub_backbone(kind: str) -> keras.Model:
    """KerasHub's ResNetBackbone of two stages: `kind` "basic", "bottleneck" or "bottleneck_vd"."""
    vd = kind.endswith("_vd")

    def conv_bn(x, filters, kernel, name, stride=1, relu=True):
        if stride > 1 and kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        padding = "valid" if stride > 1 else "same"
        x = layers.Conv2D(
            filters, kernel, stride, padding, use_bias=False, name=f"{name}_conv"
        )(x)  # fmt: skip
        x = layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x

    def block(x, filters, name, stride, project):
        out = filters * (1 if kind == "basic" else 4)
        shortcut = x
        if project:
            if vd and stride > 1:
                shortcut = layers.AveragePooling2D(2, stride, padding="same")(shortcut)
            stride_0 = 1 if vd else stride
            shortcut = conv_bn(shortcut, out, 1, f"{name}_0", stride_0, relu=False)
        if kind == "basic":
            x = conv_bn(x, filters, 3, f"{name}_1", stride)
            x = conv_bn(x, out, 3, f"{name}_2", relu=False)
        else:
            x = conv_bn(x, filters, 1, f"{name}_1")
            x = conv_bn(x, filters, 3, f"{name}_2", stride)
            x = conv_bn(x, out, 1, f"{name}_3", relu=False)
        x = layers.Add(name=f"{name}_add")([shortcut, x])
        return layers.Activation("relu", name=f"{name}_out")(x)

    images = keras.Input((None, None, 3))
    if vd:
        x = conv_bn(images, 8, 3, "conv1", stride=2)
        x = conv_bn(conv_bn(x, 8, 3, "conv2"), 16, 3, "conv3")
    else:
        x = conv_bn(images, 16, 7, "conv1", stride=2)
    x = layers.MaxPooling2D(3, 2, name="pool1_pool")(layers.ZeroPadding2D(1, name="pool1_pad")(x))
    x = block(x, 16, "stack0_block0", 1, kind != "basic")
    x = block(x, 16, "stack0_block1", 1, False)
    return randomised(keras.Model(images, block(x, 32, "stack1_block0", 2, True)))


def write_preset(folder: Path, backbone: keras.Model, kind: str, head=None, **changes) -> None:
    """A preset as KerasHub's `save_to_preset` writes it; `head` is the model with a classifier."""
    folder.mkdir()
    backbone.save_weights(folder / "model.weights.h5")
    config = {"stackwise_num_strides": [1, 2], "block_type": kind, "use_pre_activation": False}
    saved = {"class_name": "ResNetBackbone", "config": config | changes}
    (folder / "config.json").write_text(json.dumps(saved))
    converter = {"image_size": [32, 32], "scale": [0.02, 0.03, 0.04], "offset": [-2.0, -1.0, 0.5]}
    inner = {"class_name": "ResNetImageConverter", "config": converter}
    saved = {"class_name": "Preprocessor", "config": {"image_converter": inner}}
    (folder / "preprocessor.json").write_text(json.dumps(saved))
    if head is not None:
        last = head.get_layer("predictions")
        keras.Model(last.input, last.output).save_weights(folder / "task.weights.h5")


def without_names(path: Path, out: Path, container: str = "layers", step: int = 1) -> None:
    """Write a `.keras` file as Keras 3.0 to 3.5 does, or Keras 2.

    Args:
        path: a file of today's Keras.
        out: the file.
        container: what the groups of layers are in.
        step: between the numbers of layers.
    """

    def renamed(group: str) -> str:
        parts = [container if part == "layers" else part for part in group.split("/")]
        return "/".join(
            re.sub(r"_(\d+)$", lambda m: f"_{int(m[1]) * step}", part) for part in parts
        )

    new = io.BytesIO()

    def copy(group: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            file.create_dataset(renamed(group), data=item[()])

    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as older:
        older.writestr("config.json", archive.read("config.json"))
        weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as source, h5py.File(new, "w") as file:
            source.visititems(copy)
        older.writestr("model.weights.h5", new.getvalue())
