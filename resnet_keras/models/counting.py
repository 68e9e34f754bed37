"""Parameters and multiply-adds, as the published tables count them."""

import math

import keras

from resnet_keras.errors import InputError


def count(model: keras.Model) -> dict[str, int]:
    """Count parameters and multiply-adds (each once) of one forward pass of one image.

    Args:
        model: a model of `ResNet` with a known input size.

    Returns:
        `params`: trainable parameters. `macs`: convolutions and dense layers. `flops_mmcv`: as
        OpenMMLab's tables: convolutions, 2 x batch-norm outputs, ReLU outputs and pooling inputs,
        without the dense layer. `flops_fvcore`: as fvcore counts: convolutions, dense layer,
        2 x batch-norm outputs and the global pooling's inputs.

    Raises:
        InputError: (a ValueError) the model takes images of any size.
    """
    if None in model.input_shape[1:]:
        raise InputError(
            f"`count` needs a model of one input size. Received: input_shape={model.input_shape}"
        )
    paddings = {
        id(layer.output): layer
        for layer in model.layers
        if isinstance(layer, keras.layers.ZeroPadding2D)
    }
    conv = dense = norm = relu = pool = global_pool = 0
    for layer in model.layers:
        outputs = _size(layer.output)
        if isinstance(layer, keras.layers.Conv2D):
            height, width, channels, _ = layer.kernel.shape
            conv += outputs * height * width * channels
        elif isinstance(layer, keras.layers.Dense):
            dense += layer.kernel.shape[0] * layer.kernel.shape[1]
        elif isinstance(layer, keras.layers.BatchNormalization):
            norm += outputs
        elif isinstance(layer, keras.layers.Activation):
            relu += outputs
        elif isinstance(layer, keras.layers.MaxPooling2D | keras.layers.AveragePooling2D):
            # The tables count what is pooled, not the zeros around it.
            pool += _size(paddings.get(id(layer.input), layer).input)
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
            global_pool += _size(layer.input)
    return {
        "params": sum(math.prod(w.shape) for w in model.trainable_variables),
        "macs": conv + dense,
        "flops_mmcv": conv + 2 * norm + relu + pool + global_pool,
        "flops_fvcore": conv + dense + 2 * norm + global_pool,
    }


def _size(tensor) -> int:
    """Number of values of one image's tensor."""
    return math.prod(tensor.shape[1:])
