"""A trained model -> the clones that leave: a plain one to train on, a folded one to convert."""

import re
from pathlib import Path

import keras

from resnet_keras.clones import cloned, fold
from resnet_keras.files import whole
from resnet_keras.layers import Conv2D


def plain(model: keras.Model) -> keras.Model:
    """A clone of a trained model that anybody can load: float32, stock layers, softmax, uncompiled.

    Args:
        model: as `train` builds it: any precision, any batch norm, logits or probabilities.

    Returns:
        A model with the same weights.
    """

    def stock(layer):
        config = {**layer.get_config(), "dtype": "float32"}
        kind = type(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            kind, config = keras.layers.BatchNormalization, {**config, "synchronized": False}
            config.pop("replicas", None)
        if isinstance(layer, Conv2D):
            kind = keras.layers.Conv2D
        if layer.name == "predictions":
            config["activation"] = "softmax"
        return kind.from_config(config)

    clone = cloned(model, stock)
    clone.set_weights(model.get_weights())
    return clone


def save_plain(model: keras.Model, path: Path) -> None:
    """Write `plain(model)` as `.keras`, whole or not at all."""
    with whole(path) as part:
        plain(model).save(part)


def folded(model: keras.Model, *, rescale_rows: bool = False) -> keras.Model:
    """`plain(model)` without batch norm: what is converted. Its layers keep their names.

    Args:
        model: as `train` builds it.
        rescale_rows: see `fold`; not for a file whose rows are of one colour.
    """
    return fold(plain(model), rescale_rows=rescale_rows)


def layer_of(text: str, names: list[str]) -> str | None:
    """The layer that a converted operator computes.

    Args:
        text: names of operators and tensors, as TensorFlow writes scopes, joined with `;`:
            `conv1_relu_1/Relu;conv1_conv_1/BiasAdd`. Keras counts the calls of a layer (`_1`).
        names: of the layers, in the order of the model.

    Returns:
        Of several, the first of the model, which is the convolution of a fused operator; None if
        no layer is named.
    """
    number = {name: i for i, name in enumerate(names)}
    found = set()
    for scope in re.findall(r"[^/;:]+(?=/)", text):
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in number:
                found.add(name)
                break
    return min(found, key=number.get, default=None)
