"""Clone a model with other layers that compute the same; `fold`: without batch norm."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from resnet_keras.internals.keras import calls, producer, readers

# What `fold` makes of a `Rescaling`.
Rescaling = Literal["layer", "rows", "convolution"]


def cloned(
    model: keras.Model,
    clone: Callable[[keras.Layer], keras.Layer],
    call: Callable[..., Any] | None = None,
    size: tuple[int, int] | None = None,
) -> keras.Model:
    """Make a model of the same graph with other layers.

    Args:
        model: with one input and one output.
        clone: returns the layer that takes the place of the given one. Operations that are not
            layers (`x + y`, those of `keras.ops`) have no weights and stay.
        call: `(layer, *inputs, **arguments)` to outputs; by default it calls the layer.
        size: height and width of the images that the new model takes; None: as the old one.

    Returns:
        A model that is not compiled and has new weights.

    Raises:
        RuntimeError: Keras did not call `clone` and `call` for every layer.
    """
    # Keras clones how a model was compiled, too; the graph alone is not compiled.
    # By its ends, because a Sequential has no `input`.
    graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    clones: dict[str, keras.Layer] = {}
    called: set[int] = set()

    def make(part: keras.Operation) -> keras.Operation:
        if not isinstance(part, keras.Layer):
            return part
        clones[part.name] = clone(part)
        return clones[part.name]

    def note(layer: keras.Operation, *inputs: Any, **arguments: Any) -> Any:
        called.add(id(layer))
        return call(layer, *inputs, **arguments) if call else layer(*inputs, **arguments)

    sized = None
    if size is not None:
        images = graph.inputs[0]
        sized = keras.Input((*size, images.shape[-1]), dtype=images.dtype, name=images.name)
    result = keras.models.clone_model(
        graph, input_tensors=sized, clone_function=make, call_function=note
    )
    for layer in graph.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer.name not in clones or id(clones[layer.name]) not in called:
            raise RuntimeError(
                "`keras.models.clone_model` did not call `clone_function` and `call_function` for "
                f"the layer {layer.name}. Received: Keras {keras.__version__}"
            )
    return result


def of_size(model: keras.Model, size: tuple[int, int]) -> keras.Model:
    """Make a clone that takes images of one size, of a model that takes them of any.

    Args:
        model: any.
        size: height and width, in pixels.
    """
    clone = cloned(model, lambda layer: type(layer).from_config(layer.get_config()), size=size)
    set_weights(clone, model.get_weights())
    return clone


def set_weights(model: keras.Model, weights: list[np.ndarray]) -> None:
    """Set the weights of a model, and what its `Normalization` layers derive from theirs.

    Args:
        model: any.
        weights: of `get_weights`.
    """
    model.set_weights(weights)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # else it computes with the statistics of its beginning


def is_network(layer: keras.Layer) -> bool:
    """Tell whether a layer is a model of one input and one output, which can be cloned itself."""
    ends = getattr(layer, "inputs", None), getattr(layer, "outputs", None)
    return isinstance(layer, keras.Model) and all(end and len(end) == 1 for end in ends)


def in_float32(config: Any) -> Any:
    """Return a layer's configuration with the type float32, also of the layers within it."""
    if isinstance(config, list):
        return [in_float32(each) for each in config]
    if not isinstance(config, dict):
        return config
    inner = {name: in_float32(value) for name, value in config.items()}
    return inner | {"dtype": "float32"} if "dtype" in inner and "name" in inner else inner


def all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Walk through the layers of a model, and of the models in it."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)


def fold(model: keras.Model, *, rescaling: Rescaling = "layer") -> keras.Model:
    """Make a clone without batch norm: each becomes the scale and bias of its convolution.

    In inference `gamma (w x - mean) / sqrt(variance + epsilon) + beta` is a convolution again; it
    is computed in float64, so that the clone differs by float32's rounding alone. A batch norm that
    does not follow a convolution, channel by channel, stays. A `Normalization` of channels becomes
    a `Rescaling`. Models within the model are folded, too.

    Args:
        model: any, of stock layers or our batch norm.
        rescaling: what a `Rescaling` with a number for each channel becomes, because products and
            sums with three numbers are slow in TensorFlow, TFLite and ONNX Runtime where these are
            the last axis. "layer": it stays. "rows": the same with the numbers of every place of a
            row, `(width, channels)`, where the width is known. "convolution": a `Conv2D` of 1x1,
            whose numbers every importer reads alike.

    Returns:
        A float32 model that computes the same in inference; its layers keep their names.
    """
    norms: dict[keras.Layer, keras.Layer] = {}  # convolution -> the batch norm after it
    for layer in model.layers:
        if convolution := _convolution_before(layer):
            norms[convolution] = layer
    gone = {norm.name for norm in norms.values()}
    clones: dict[keras.Layer, keras.Layer] = {}

    def clone(layer: keras.Layer) -> keras.Layer:
        if (constants := _constants(layer)) is not None:
            return constants
        if is_network(layer):
            return fold(layer, rescaling=rescaling)
        config = in_float32({**layer.get_config(), "dtype": "float32"})
        if layer in norms:
            config["use_bias"] = True
        kind = type(layer)
        if kind is keras.layers.Rescaling and rescaling == "rows":
            for name in ("scale", "offset"):
                config[name] = _rows(config[name], layer.output.shape)
        if _becomes_convolution(layer, rescaling):
            kind = keras.layers.Conv2D
            config = {"filters": layer.output.shape[-1], "kernel_size": 1, "name": layer.name}
            config |= {"dtype": "float32", "data_format": "channels_last"}
        clones[layer] = kind.from_config(config)
        return clones[layer]

    def call(layer: keras.Operation, inputs: Any, *others: Any, **arguments: Any) -> Any:
        return inputs if layer.name in gone else layer(inputs, *others, **arguments)

    folded = cloned(model, clone, call)
    for layer, copy in clones.items():
        weights = layer.get_weights()
        if _becomes_convolution(layer, rescaling):
            copy.set_weights(_diagonal(layer))
        elif layer in norms:
            transposed = isinstance(layer, keras.layers.Conv2DTranspose)
            copy.set_weights(_folded(weights, norms[layer], transposed))
        elif layer.name not in gone and copy.weights:
            copy.set_weights(weights)
        if isinstance(copy, keras.layers.Normalization):  # of rows or columns; see `set_weights`
            copy.finalize_state()
            # As tensors they would be further inputs of a traced graph.
            copy.mean, copy.variance = map(ops.convert_to_numpy, (copy.mean, copy.variance))
    return folded


def _convolution_before(norm: keras.Layer) -> keras.Layer | None:
    """The linear convolution, transposed or not, whose output only this batch norm reads."""
    if not isinstance(norm, keras.layers.BatchNormalization) or calls(norm) != 1:
        return None
    layer = producer(norm.input)
    if type(layer) not in (keras.layers.Conv2D, keras.layers.Conv2DTranspose):
        return None
    if readers(layer) != 1:
        return None
    channels = 3 if layer.data_format == "channels_last" else 1
    linear = layer.activation is keras.activations.linear
    return layer if linear and norm.axis % 4 == channels else None


def _constants(layer: keras.Layer) -> keras.layers.Rescaling | None:
    """A `Rescaling` that does what a `Normalization` of channels does; None of other layers."""
    if type(layer) is not keras.layers.Normalization or layer.invert:
        return None
    mean, variance = (
        np.float64(ops.convert_to_numpy(tensor)) for tensor in (layer.mean, layer.variance)
    )
    if mean.shape[-1:] != (mean.size,):
        return None  # of rows or columns
    std = np.maximum(np.sqrt(variance), keras.config.epsilon()).ravel()
    return keras.layers.Rescaling(
        (1 / std).tolist(), (-mean.ravel() / std).tolist(), name=layer.name, dtype="float32"
    )


def _becomes_convolution(layer: keras.Layer, rescaling: Rescaling) -> bool:
    """Tell whether a layer multiplies and adds a number for each of several channels."""
    if rescaling != "convolution" or type(layer) is not keras.layers.Rescaling:
        return False
    shape = layer.output.shape
    several = len(shape) == 4 and shape[-1] not in (None, 1)
    return several and shape[3:] in (np.shape(layer.scale), np.shape(layer.offset))


def _diagonal(layer: keras.layers.Rescaling) -> list[np.ndarray]:
    """Kernel and bias of the convolution that takes the place of a `Rescaling`."""
    channels = layer.output.shape[-1]
    scale, offset = (
        np.broadcast_to(np.asarray(numbers, np.float32), channels)
        for numbers in (layer.scale, layer.offset)
    )
    return [np.diag(scale)[None, None], offset]


def _rows(numbers: Any, shape: tuple[int | None, ...]) -> Any:
    """Numbers of channels for every place of a row, `(width, channels)`; others unchanged."""
    if len(shape) != 4 or shape[2] is None or np.shape(numbers) != shape[3:]:
        return numbers
    return np.tile(numbers, (shape[2], 1)).tolist()


def _folded(
    weights: list[np.ndarray], norm: keras.layers.BatchNormalization, transposed: bool
) -> list[np.ndarray]:
    """Kernel and bias of a convolution that does the work of its batch norm too."""
    kernel, bias = weights if len(weights) == 2 else (weights[0], 0.0)
    if transposed:  # output channels before input channels
        kernel = kernel.swapaxes(2, 3)
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
    kernel, bias = kernel * scale, (bias - mean) * scale + beta
    kernel = kernel.swapaxes(2, 3) if transposed else kernel
    return [array.astype(np.float32) for array in (kernel, bias)]
