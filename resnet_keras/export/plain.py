"""A trained model -> the twins that leave: a plain one to train on, a folded one to convert."""

import os
import re
from pathlib import Path

import keras
import numpy as np


def plain(model: keras.Model) -> keras.Model:
    """A twin of a trained model that anybody can load: float32, stock layers, softmax, uncompiled.

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
        if layer.name == "predictions":
            config["activation"] = "softmax"
        return kind.from_config(config)

    # Keras clones how a model was compiled, too; the graph alone is not compiled.
    graph = keras.Model(model.input, model.output, name=model.name)
    twin = keras.models.clone_model(graph, clone_function=stock)
    twin.set_weights(model.get_weights())
    return twin


def save_plain(model: keras.Model, path: Path) -> None:
    """Write `plain(model)` as `.keras`, whole or not at all."""
    part = path.with_name(f"part-{path.name}")  # Keras wants the suffix
    plain(model).save(part)
    os.replace(part, path)


def folded(model: keras.Model) -> keras.Model:
    """`plain(model)` without batch norm: each one becomes the bias and scale of its convolution.

    In inference `gamma (w x - mean) / sqrt(variance + epsilon) + beta` is a convolution again; it
    is computed in float64, so that the twin differs by float32's rounding alone. A batch norm that
    follows no convolution stays.

    Args:
        model: any.

    Returns:
        The twin; its layers keep their names.
    """
    graph = plain(model)
    norms = {}  # convolution -> the batch norm behind it
    for layer in graph.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            before = layer.input._keras_history.operation
            if _folds(before):
                norms[before.name] = layer
    gone = {layer.name for layer in norms.values()}

    def clone(layer):
        config = layer.get_config()
        if layer.name in norms:
            config["use_bias"] = True
        return type(layer).from_config(config)

    def call(layer, inputs, *args, **kwargs):
        return inputs if layer.name in gone else layer(inputs, *args, **kwargs)

    twin = keras.models.clone_model(graph, clone_function=clone, call_function=call)
    for layer in graph.layers:
        if layer.name not in gone:
            weights = layer.get_weights()
            if layer.name in norms:
                weights = _fold(weights, norms[layer.name])
            twin.get_layer(layer.name).set_weights(weights)
    return twin


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


def _folds(layer) -> bool:
    """Whether a layer is a linear convolution that one batch norm alone reads."""
    return (
        type(layer) is keras.layers.Conv2D
        and layer.activation is keras.activations.linear
        and len(layer._outbound_nodes) == 1
    )


def _fold(weights: list[np.ndarray], norm) -> list[np.ndarray]:
    """Kernel and bias of a convolution and its batch norm in one."""
    kernel, bias = weights if len(weights) == 2 else (weights[0], 0.0)
    gamma, beta, mean, variance = (
        np.asarray(weight, np.float64)
        for weight in (
            norm.gamma if norm.scale else np.ones(kernel.shape[-1]),
            norm.beta if norm.center else 0.0,
            norm.moving_mean,
            norm.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return [
        (kernel * scale).astype(np.float32),
        ((bias - mean) * scale + beta).astype(np.float32),
    ]
