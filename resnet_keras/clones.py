"""A model -> a clone of other layers with the same work; the one without batch norm is here."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops


def cloned(model: keras.Model, clone: Callable, call: Callable | None = None) -> keras.Model:
    """A model of the same graph and other layers.

    Args:
        model: of one input and one output.
        clone: a layer to the one in its place. What a graph has beside layers (`x + y`, of
            `keras.ops`) has no weights and is in both.
        call: `(layer, *inputs, **arguments)` to outputs; by default it calls the layer.

    Returns:
        A model that is not compiled, and has not the weights.
    """
    # Keras clones how a model was compiled, too; the graph alone is not compiled.
    # By its ends, because a Sequential has no `input`.
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.models.clone_model(
        graph,
        clone_function=lambda part: clone(part) if isinstance(part, keras.Layer) else part,
        call_function=call,
    )


def fold(model: keras.Model, *, rescale_rows: bool = False) -> keras.Model:
    """A clone without batch norm: each one becomes the bias and scale of its convolution.

    In inference `gamma (w x - mean) / sqrt(variance + epsilon) + beta` is a convolution again; it
    is computed in float64, so that the clone differs by float32's rounding alone. A batch norm that
    is not of the channels of one convolution stays.

    Args:
        model: any, of stock layers or our batch norm.
        rescale_rows: give each `Rescaling` its numbers anew for every place of a row: the same
            products and sums, but three numbers at a time are slow in TensorFlow, TFLite and ONNX
            Runtime alike.

    Returns:
        A float32 model that computes the same in inference; its layers keep their names.
    """
    norms = {}  # convolution -> the batch norm behind it
    for layer in model.layers:
        if convolution := _convolution_before(layer):
            norms[convolution] = layer
    gone = {norm.name for norm in norms.values()}
    clones = {}

    def clone(layer):
        config = {**layer.get_config(), "dtype": "float32"}
        if layer in norms:
            config["use_bias"] = True
        if rescale_rows and type(layer) is keras.layers.Rescaling:
            for name in ("scale", "offset"):
                config[name] = _rows(config[name], layer.output.shape)
        clones[layer] = type(layer).from_config(config)
        return clones[layer]

    def call(layer, inputs, *others, **arguments):
        return inputs if layer.name in gone else layer(inputs, *others, **arguments)

    clone = cloned(model, clone, call)
    for layer, copy in clones.items():
        if layer.name not in gone:
            weights = layer.get_weights()
            copy.set_weights(_folded(weights, norms[layer]) if layer in norms else weights)
    return clone


def _convolution_before(norm) -> keras.layers.Conv2D | None:
    """The linear convolution that a batch norm alone reads; None where there is none."""
    if not isinstance(norm, keras.layers.BatchNormalization) or len(norm._inbound_nodes) != 1:
        return None
    layer = norm.input._keras_history.operation
    if type(layer) is not keras.layers.Conv2D or len(layer._outbound_nodes) != 1:
        return None
    channels = 3 if layer.data_format == "channels_last" else 1
    linear = layer.activation is keras.activations.linear
    return layer if linear and norm.axis % 4 == channels else None


def _rows(numbers, shape: tuple[int | None, ...]):
    """Numbers of channels for every place of a row, `(width, channels)`; others as they are."""
    if len(shape) != 4 or shape[2] is None or np.shape(numbers) != shape[3:]:
        return numbers
    return np.tile(numbers, (shape[2], 1)).tolist()


def _folded(weights: list[np.ndarray], norm) -> list[np.ndarray]:
    """Kernel and bias of a convolution that does the work of its batch norm, too."""
    kernel, bias = weights if len(weights) == 2 else (weights[0], 0.0)
    gamma, beta, mean, variance = (
        np.float64(ops.convert_to_numpy(variable))
        for variable in (
            norm.gamma if norm.scale else np.ones(kernel.shape[-1]),
            norm.beta if norm.center else np.zeros(kernel.shape[-1]),
            norm.moving_mean,
            norm.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return [np.float32(kernel * scale), np.float32((bias - mean) * scale + beta)]
