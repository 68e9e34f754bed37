"""Quantization-aware fine-tuning: a trained network -> a clone that computes as its int8 file will.

After Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference": batch norm is folded; in the forward pass weights and
activations are rounded to what int8 can hold; gradients go straight through the rounding.

The rounding is done by TensorFlow's fake-quant operators, because TFLite's converter reads the
scales of an int8 file from them: such a file needs no calibration, but a clone needs TensorFlow.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from keras import ops

from resnet_keras.clones import cloned, fold
from resnet_keras.errors import InputError
from resnet_keras.files import sha256, write_text
from resnet_keras.internals.keras import producer

# How slowly a range moves, once it has seen some batches.
MOMENTUM = 0.99

Ranges = Mapping[str, tuple[float, float]]


class FakeQuant(keras.layers.Layer):
    """Activations, rounded to the 256 levels of a range; zero is one of them.

    In training the range follows the extremes of the batches. Beyond it gradients are zero.

    Args:
        fixed: `(low, high)` of a range that does not move.
        **arguments: of `keras.layers.Layer`.
    """

    def __init__(self, fixed: tuple[float, float] | None = None, **arguments):
        super().__init__(**{"dtype": "float32", **arguments})
        self.fixed = fixed

    def build(self, input_shape):
        """Make the range, and the count of the batches that it has seen."""
        low, high = self.fixed or (0.0, 0.0)
        for name, start in (("low", low), ("high", high), ("seen", 0.0)):
            # Replicas agree on a range as they agree on gradients.
            variable = self.add_weight(
                (), keras.initializers.Constant(start), trainable=False, aggregation="mean",
                name=name,
            )  # fmt: skip
            setattr(self, name, variable)

    def call(self, inputs, training=False):
        """Round; in training, move the range before."""
        import tensorflow as tf

        if training and self.fixed is None:
            # Slower and slower, so that a range soon forgets where it began.
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
    """A convolution whose kernel is rounded to int8, each channel for itself."""

    @property
    def kernel(self):
        """The kernel, rounded."""
        return round_weights(super().kernel)


class Int8Dense(keras.layers.Dense):
    """A dense layer whose kernel is rounded to int8."""

    @property
    def kernel(self):
        """The kernel, rounded; as a whole, because the converter takes it in no other way."""
        return round_weights(super().kernel, per_channel=False)


class Int8Rescaling(keras.layers.Rescaling):
    """`Rescaling` as a convolution: one int8 operator, where a product and a sum were two."""

    def call(self, inputs):
        """Normalise; the rounding of one weight a channel changes nothing."""
        scale, offset = self._by_channel(inputs)
        return ops.conv(inputs, round_weights(np.diag(scale)[None, None])) + offset

    def range(self, inputs) -> tuple[float, float]:
        """What pixels of 0-255 become."""
        scale, offset = self._by_channel(inputs)
        ends = np.concatenate([offset, offset + 255 * scale, [0.0]])
        return float(ends.min()), float(ends.max())

    def _by_channel(self, inputs):
        values = (np.asarray(value, np.float32) for value in (self.scale, self.offset))
        return [np.broadcast_to(value, inputs.shape[-1]) for value in values]


def round_weights(kernel, *, per_channel: bool = True):
    """Weights, rounded to 255 levels: zero, and as many on both sides up to the largest weight.

    Args:
        kernel: float32 `(..., channels)`.
        per_channel: whether each channel has levels of its own.

    Returns:
        The same shape; gradients go straight through.
    """
    import tensorflow as tf

    kernel = ops.convert_to_tensor(kernel)
    axes = tuple(range(len(kernel.shape) - 1)) if per_channel else None
    largest = ops.max(ops.abs(ops.stop_gradient(kernel)), axis=axes)
    largest = ops.maximum(largest, 1e-6)  # zeros have a scale, too
    operator = (
        tf.quantization.fake_quant_with_min_max_vars_per_channel
        if per_channel
        else tf.quantization.fake_quant_with_min_max_vars
    )
    return operator(kernel, -largest, largest, narrow_range=True)


def aware(model: keras.Model, ranges: Ranges | None = None) -> keras.Model:
    """A clone to fine-tune and to convert, that computes as the int8 file of a network will.

    Args:
        model: a network of `ResNet` with its normalisation and its top.
        ranges: of `ranges` of an earlier clone; None: fine-tuning finds them.

    Returns:
        A model from pixels to logits: batch norm is folded, kernels are rounded, and activations
        wherever the file will hold int8. Pixels are 0-255 in steps of 1: raw bytes.

    Raises:
        InputError: the network does not normalise its pixels, or `ranges` are not its own.
    """
    folded = fold(model)
    for layer in folded.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            raise InputError(f"int8 needs a convolution before the batch norm {layer.name}.")
    kinds = {
        keras.layers.Rescaling: Int8Rescaling,
        keras.layers.Conv2D: Int8Conv2D,
        keras.layers.Dense: Int8Dense,
    }
    if not any(isinstance(layer, keras.layers.Rescaling) for layer in folded.layers):
        raise InputError("int8 needs a network that normalises its pixels itself.")
    rounded = (*kinds, keras.layers.Activation, keras.layers.GlobalAveragePooling2D)
    # A ReLU is one operator with what is before it.
    fused = {
        producer(layer.input).name
        for layer in folded.layers
        if isinstance(layer, keras.layers.Activation)
    }

    def clone(layer):
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

    clone = cloned(folded, clone, call)
    for layer in folded.layers:
        clone.get_layer(layer.name).set_weights(layer.get_weights())
    if ranges is not None:
        moving = _moving(clone)
        if moving.keys() != ranges.keys():
            odd = min(moving.keys() ^ ranges.keys())
            raise InputError(f"these ranges are of another network. Received: {odd}")
        for name, (low, high) in ranges.items():
            moving[name].set_weights(np.float32([low, high, 1e6]))
    return clone


def ranges(clone: keras.Model) -> dict[str, tuple[float, float]]:
    """The moving ranges of a clone, by the names of the layers that they follow."""
    return {
        name: (float(layer.low.numpy()), float(layer.high.numpy()))
        for name, layer in _moving(clone).items()
    }


def stock(clone: keras.Model) -> keras.Model:
    """The float network that a clone has become: of stock layers, with probabilities.

    `aware(stock(clone), ranges(clone))` is the clone again.
    """
    kinds = {
        Int8Rescaling: keras.layers.Rescaling,
        Int8Conv2D: keras.layers.Conv2D,
        Int8Dense: keras.layers.Dense,
    }

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, Int8Dense):
            config["activation"] = "softmax"
        return kinds.get(type(layer), type(layer)).from_config(config)

    def call(layer, inputs, *others, **arguments):
        if isinstance(layer, FakeQuant):
            return inputs
        return layer(inputs, *others, **arguments)

    model = cloned(clone, clone, call)
    for layer in model.layers:
        layer.set_weights(clone.get_layer(layer.name).get_weights())
    return model


def to_convert(clone: keras.Model) -> keras.Model:
    """The clone with probabilities, as TFLite's converter makes a file of integers of it."""
    outputs = keras.layers.Softmax(name="probabilities", dtype="float32")(clone.output)
    return keras.Model(clone.input, outputs, name=clone.name)


def write_ranges(model: Path, ranges: Ranges) -> None:
    """Write them beside the `.keras` file whose activations they hold.

    Args:
        model: the file of `stock(clone)`, as it is written.
        ranges: of `ranges(clone)`.
    """
    text = json.dumps({"model_sha256": sha256(model), "ranges": ranges}, indent=1)
    write_text(_beside(model), text + "\n")


def read_ranges(model: Path) -> dict[str, tuple[float, float]] | None:
    """What lies beside a `.keras` file; None for one that was not fine-tuned for int8.

    Raises:
        InputError: what lies there is damaged, or belongs to another model.
    """
    path = _beside(model)
    if not path.exists():
        return None
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        digest = held["model_sha256"]
        found = {name: (float(low), float(high)) for name, (low, high) in held["ranges"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} holds no ranges of activations: {error}") from None
    if digest != sha256(model):
        raise InputError(f"{path} belongs to another model than {model}; remove one of them.")
    return found


def _beside(model: Path) -> Path:
    """`model.keras` -> `model.quantization.json`."""
    return Path(model).with_suffix(".quantization.json")


def _moving(clone: keras.Model) -> dict[str, FakeQuant]:
    return {
        layer.name.removesuffix("_range"): layer
        for layer in clone.layers
        if isinstance(layer, FakeQuant) and layer.fixed is None
    }
