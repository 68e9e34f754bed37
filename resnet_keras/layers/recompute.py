"""What a convolution reads, computed again in the backward pass instead of being kept."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from resnet_keras.internals.keras import calls, producer, readers


def norm_computed_again(layer: keras.Layer) -> keras.layers.BatchNormalization | None:
    """Find the batch norm that a convolution of a model computes again in the backward pass.

    Args:
        layer: any. Only our `Conv2D` with `recompute` computes something again, where nothing else
            reads it: else it would be kept all the same, and two parts of a gradient would be
            rounded before they are added.

    Returns:
        The layer; None where there is none.
    """
    if not getattr(layer, "recompute", False) or calls(layer) != 1:
        return None
    before = producer(layer.input)
    while _is_relu(before) or isinstance(before, keras.layers.ZeroPadding2D):
        if readers(before) != 1:
            return None
        before = producer(before.input)
    normalises = isinstance(before, keras.layers.BatchNormalization) and readers(before) == 1
    return before if normalises else None


def _is_relu(layer: keras.Operation) -> bool:
    """Whether a layer is `Activation("relu")`."""
    activation = isinstance(layer, keras.layers.Activation)
    return activation and layer.activation is keras.activations.relu


def steps_from_batch_norm(tensor: Any) -> list[Any]:
    """List the cheap operations that made a tensor of a TensorFlow graph, batch norm the first.

    Returns:
        A training's FusedBatchNormV3 and each `Relu` and `Pad` after it; an empty list where the
        tensor was made in another way, or belongs to no graph.
    """
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    steps: list[Any] = []
    if not tf.is_tensor(tensor) or not tf.is_symbolic_tensor(tensor):
        return steps
    while tensor.op.type in ("Relu", "Pad"):
        steps.insert(0, tensor.op)
        tensor = tensor.op.inputs[0]
    if tensor.op.type != "FusedBatchNormV3" or not tensor.op.get_attr("is_training"):
        return []
    return [tensor.op, *steps] if tensor.op.get_attr("data_format") == b"NHWC" else []


def recomputing(convolve: Callable[[Any, Any], Any], steps: Sequence[Any], kernel: Any) -> Any:
    """Convolve the outputs of some operations, which the backward pass computes again.

    The gradient goes from the convolution to the batch norm's own arguments at once, past the
    operations of the forward pass: if they had one, it would keep their outputs.

    Args:
        convolve: of images and a kernel.
        steps: as `steps_from_batch_norm` lists them.
        kernel: `(height, width, c, filters)`.
    """
    import tensorflow as tf

    norm, *others = steps
    epsilon = norm.get_attr("epsilon")

    def again(images, gamma, beta, kernel):
        none = tf.zeros([0])
        images = tf.raw_ops.FusedBatchNormV3(
            x=images, scale=gamma, offset=beta, mean=none, variance=none, epsilon=epsilon
        ).y
        for step in others:
            images = tf.nn.relu(images) if step.type == "Relu" else tf.pad(images, step.inputs[1])
        return convolve(images, kernel)

    @tf.custom_gradient
    def convolution(*arguments):
        def gradients(upstream):
            # Not before the backward pass is here; else its results would be kept from the start.
            with tf.control_dependencies([upstream]):
                arguments_then = [tf.identity(argument) for argument in arguments]
            with tf.GradientTape() as tape:
                tape.watch(arguments_then)
                # TensorFlow leaves out the convolution itself, which no gradient reads.
                outputs = again(*arguments_then)
            return tape.gradient(outputs, arguments_then, upstream)

        return convolve(steps[-1].outputs[0], arguments[-1]), gradients

    return convolution(*norm.inputs[:3], tf.convert_to_tensor(kernel))
