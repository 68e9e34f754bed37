"""Quantization-aware training: clone a trained network so that it computes as its int8 file will.

After Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference": batch norm is folded; in the forward pass weights and
activations are rounded to the values of int8; gradients go straight through the rounding.

TensorFlow's fake-quantization operators do the rounding, because TFLite's converter reads the
scales of an int8 file from them: such a file needs no calibration, but a clone needs TensorFlow.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.clones import cloned, fold
from resnet_keras.errors import InputError
from resnet_keras.files import sha256, write_text
from resnet_keras.internals.keras import producer

# The share of a range that each batch leaves as it is, after the first hundreds of batches.
MOMENTUM = 0.99

# The weights of red, green and blue in grey: ITU-R BT.601, section 2.5.1.
_BT601 = (0.299, 0.587, 0.114)

# The lowest and the highest activation, by the name of the layer that they follow.
Ranges = Mapping[str, tuple[float, float]]


class FakeQuant(keras.layers.Layer):
    """Rounds activations to the 256 levels of a range; zero is one of them.

    In training the range follows the extremes of the batches. Outside of it gradients are zero.

    Args:
        fixed: `(low, high)` of a range that does not move; None: one that does.
        **arguments: of `keras.layers.Layer`.
    """

    low: keras.Variable
    high: keras.Variable
    seen: keras.Variable

    def __init__(self, fixed: tuple[float, float] | None = None, **arguments):
        super().__init__(**{"dtype": "float32", **arguments})
        self.fixed = fixed

    def build(self, input_shape):
        """Create the range, and the count of the batches that it has seen."""
        low, high = self.fixed or (0.0, 0.0)
        for name, start in (("low", low), ("high", high), ("seen", 0.0)):
            # Replicas agree on a range as they agree on gradients.
            variable = self.add_weight(
                (), keras.initializers.Constant(start), trainable=False, aggregation="mean",
                name=name,
            )  # fmt: skip
            setattr(self, name, variable)

    def call(self, inputs, training=False):
        """Round; in training, after moving the range."""
        import tensorflow as tf

        if training and self.fixed is None:
            # Slower and slower, so that where a range began is soon forgotten.
            keep = ops.minimum(MOMENTUM, self.seen / (self.seen + 9.0))
            low, high = ops.minimum(ops.min(inputs), 0.0), ops.maximum(ops.max(inputs), 0.0)
            self.low.assign(keep * self.low + (1 - keep) * ops.stop_gradient(low))
            self.high.assign(keep * self.high + (1 - keep) * ops.stop_gradient(high))
            self.seen.assign_add(1.0)
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high)

    def get_config(self):
        """Return the arguments."""
        return {**super().get_config(), "fixed": self.fixed}


class Int8Conv2D(keras.layers.Conv2D):
    """A convolution whose kernel is rounded to int8, channel by channel."""

    @property
    def kernel(self):
        """The kernel, rounded."""
        return round_weights(super().kernel)


class Int8Dense(keras.layers.Dense):
    """A dense layer whose kernel is rounded to int8."""

    @property
    def kernel(self):
        """The kernel, rounded as a whole: the converter supports nothing else."""
        return round_weights(super().kernel, per_channel=False)


class Int8Rescaling(keras.layers.Rescaling):
    """`Rescaling` as a convolution: one int8 operator, where a product and a sum were two."""

    def call(self, inputs):
        """Normalise; rounding changes nothing where a channel has one weight."""
        scale, offset = self._by_channel(inputs)
        return ops.conv(inputs, round_weights(np.diag(scale)[None, None])) + offset

    def range(self, inputs) -> tuple[float, float]:
        """Return the least and the greatest value that pixels of 0-255 can have."""
        scale, offset = self._by_channel(inputs)
        ends = np.concatenate([offset, offset + 255 * scale, [0.0]])
        return float(ends.min()), float(ends.max())

    def _by_channel(self, inputs) -> list[np.ndarray]:
        """Return scale and offset, each with a number for every channel."""
        values = (np.asarray(value, np.float32) for value in (self.scale, self.offset))
        return [np.broadcast_to(value, inputs.shape[-1]) for value in values]


def round_weights(kernel, *, per_channel: bool = True):
    """Round weights to 255 levels: zero, and 127 on each side up to the largest weight.

    Args:
        kernel: float32 `(..., channels)`.
        per_channel: whether each channel has levels of its own.

    Returns:
        The rounded weights, of the same shape; gradients go straight through.
    """
    import tensorflow as tf

    kernel = ops.convert_to_tensor(kernel)
    axes = tuple(range(len(kernel.shape) - 1)) if per_channel else None
    largest = ops.max(ops.abs(ops.stop_gradient(kernel)), axis=axes)
    largest = ops.maximum(largest, 1e-6)  # a channel of zeros needs a scale, too
    operator = (
        tf.quantization.fake_quant_with_min_max_vars_per_channel
        if per_channel
        else tf.quantization.fake_quant_with_min_max_vars
    )
    return operator(kernel, -largest, largest, narrow_range=True)


def quantization_aware(model: keras.Model, ranges: Ranges | None = None) -> keras.Model:
    """Clone a network such that it computes as its int8 file will, to be fine-tuned or converted.

    Args:
        model: a network of `ResNet` with its normalisation and its top.
        ranges: of `activation_ranges` of an earlier clone; None: fine-tuning finds them.

    Returns:
        A model from pixels to logits: batch norm is folded, kernels are rounded, and so are
        activations wherever the file will hold int8. Pixels are 0-255 in steps of 1: raw bytes.

    Raises:
        InputError: the network does not normalise its pixels, has a batch norm that cannot be
            folded, or `ranges` belong to another network.
    """
    folded = fold(model)
    _require_quantizable(folded)
    kinds: dict[type, Any] = {
        keras.layers.Rescaling: Int8Rescaling,
        keras.layers.Conv2D: Int8Conv2D,
        keras.layers.Dense: Int8Dense,
    }
    rounded = (*kinds, keras.layers.Activation, keras.layers.GlobalAveragePooling2D)
    # An activation is one operator with the layer before it.
    fused = {
        producer(layer.input).name
        for layer in folded.layers
        if isinstance(layer, keras.layers.Activation)
    }

    def int8(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            config["activation"] = None
        return kinds.get(type(layer), type(layer)).from_config(config)

    def call(layer, inputs, *others, **arguments):
        fixed = None
        if isinstance(layer, Int8Rescaling):
            fixed = layer.range(inputs)
            inputs = FakeQuant((0.0, 255.0), name="pixels_range")(inputs)
        outputs = layer(inputs, *others, **arguments)
        if isinstance(layer, rounded) and layer.name not in fused:
            outputs = FakeQuant(fixed, name=f"{layer.name}_range")(outputs)
        return outputs

    clone = cloned(folded, int8, call)
    for layer in folded.layers:
        clone.get_layer(layer.name).set_weights(layer.get_weights())
    if ranges is not None:
        _set_ranges(clone, ranges)
    return clone


def activation_ranges(clone: keras.Model) -> dict[str, tuple[float, float]]:
    """Return the ranges that fine-tuning has found, by the names of the layers they follow."""
    return {
        name: (float(layer.low.numpy()), float(layer.high.numpy()))
        for name, layer in _moving(clone).items()
    }


def dequantized(clone: keras.Model, activation: str = "softmax") -> keras.Model:
    """Clone a fine-tuned network back to float: stock layers, and probabilities.

    Args:
        clone: of `quantization_aware`.
        activation: which turns its logits into probabilities, "softmax" or "sigmoid".

    Returns:
        The network.

    `quantization_aware(dequantized(clone), activation_ranges(clone))` is the clone again.
    """
    kinds: dict[type, Any] = {
        Int8Rescaling: keras.layers.Rescaling,
        Int8Conv2D: keras.layers.Conv2D,
        Int8Dense: keras.layers.Dense,
    }

    def stock(layer):
        config = layer.get_config()
        if isinstance(layer, Int8Dense):
            config["activation"] = activation
        return kinds.get(type(layer), type(layer)).from_config(config)

    def call(layer, inputs, *others, **arguments):
        if isinstance(layer, FakeQuant):
            return inputs
        return layer(inputs, *others, **arguments)

    model = cloned(clone, stock, call)
    for layer in model.layers:
        layer.set_weights(clone.get_layer(layer.name).get_weights())
    return model


def with_probabilities(clone: keras.Model, activation: str = "softmax") -> keras.Model:
    """Put an activation behind a clone: the model that TFLite's converter turns into integers.

    Args:
        clone: of `quantization_aware`, which gives logits.
        activation: any of Keras', by name.
    """
    if activation == "softmax":
        end = keras.layers.Softmax(name="probabilities", dtype="float32")
    else:
        end = keras.layers.Activation(activation, name="probabilities", dtype="float32")
    return keras.Model(clone.input, end(clone.output), name=clone.name)


def with_rgb_input(network: keras.Model, *, rounded: bool = False) -> keras.Model:
    """Put what makes grey images of RGB ones in front of a network of grey images.

    Grey is `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601), as in JPEG and in Pillow. It is not
    rounded to whole numbers: a colour image may differ by a level of 255 from what the decoder of
    its file makes of it. Where R, G and B are equal, grey is the same.

    Args:
        network: whose images have one channel; its layers become part of the result.
        rounded: whether it is a clone with fake-quantization operators; then this is rounded, too.

    Returns:
        A model of the same layers, with `grey` in front.
    """
    pixels = keras.Input((*network.input_shape[1:3], 3), name=network.inputs[0].name)
    kind = Int8Conv2D if rounded else keras.layers.Conv2D
    grey = kind(1, 1, use_bias=False, name="grey")
    images = grey(FakeQuant((0.0, 255.0), name="rgb_range")(pixels) if rounded else pixels)
    grey.set_weights([np.array(_BT601, np.float32).reshape(1, 1, 3, 1)])
    # `call`: the layers one by one, whose names the formats look for; `network(...)` would be one.
    return keras.Model(pixels, network.call(images), name=network.name)


def head_activation(model: keras.Model) -> str:
    """Return the name of the activation of a network's last layer, which is dense."""
    return keras.activations.serialize(model.layers[-1].activation)


def write_ranges(model: Path, ranges: Ranges) -> None:
    """Write ranges beside the `.keras` file that they belong to, as `NAME.quantization.json`.

    Args:
        model: the file of `dequantized(clone)`.
        ranges: of `activation_ranges(clone)`.
    """
    text = json.dumps({"model_sha256": sha256(model), "ranges": ranges}, indent=1)
    write_text(_beside(model), text + "\n")


def read_ranges(model: Path) -> dict[str, tuple[float, float]] | None:
    """Read the ranges beside a `.keras` file.

    Returns:
        None for a file that was not fine-tuned for int8, and so has none.

    Raises:
        InputError: they are damaged, or belong to another model.
    """
    path = _beside(model)
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        digest = held["model_sha256"]
        found = {name: (float(low), float(high)) for name, (low, high) in held["ranges"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} contains no activation ranges: {error}") from None
    if digest != sha256(model):
        raise InputError(f"{path} belongs to another model than {model}; remove one of them.")
    return found


def _beside(model: Path) -> Path:
    """Return where the ranges lie: `model.keras` -> `model.quantization.json`."""
    return Path(model).with_suffix(".quantization.json")


def _require_quantizable(folded: keras.Model) -> None:
    """Refuse a folded network that cannot become integers."""
    for layer in folded.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            raise InputError(
                "int8 needs a convolution before each batch norm. "
                f"Received: {layer.name} without one"
            )
    if not any(isinstance(layer, keras.layers.Rescaling) for layer in folded.layers):
        raise InputError(
            "int8 needs a network that normalises its pixels itself. "
            f"Received: {folded.name} without a Rescaling layer"
        )


def _moving(clone: keras.Model) -> dict[str, FakeQuant]:
    """Find the ranges that are not fixed, by the names of the layers they follow."""
    return {
        layer.name.removesuffix("_range"): layer
        for layer in clone.layers
        if isinstance(layer, FakeQuant) and layer.fixed is None
    }


def _set_ranges(clone: keras.Model, ranges: Ranges) -> None:
    """Give a clone its ranges, as if it had seen a million batches.

    Raises:
        InputError: they belong to another network.
    """
    moving = _moving(clone)
    if moving.keys() != ranges.keys():
        odd = min(moving.keys() ^ ranges.keys())
        raise InputError(f"these ranges belong to another network. Received: {odd}")
    for name, (low, high) in ranges.items():
        moving[name].set_weights(np.array([low, high, 1e6], np.float32))
