"""Grad-CAM: which parts of an image speak for a class."""

import keras
import numpy as np


def grad_cam(model: keras.Model, images: np.ndarray) -> np.ndarray | None:
    """Map the output of the last stage for each class (Selvaraju et al. 2017, equation 2).

    In a network that ends in global average pooling and one dense layer, the gradient of a class'
    logit is that layer's weight divided by the number of pixels (section 3.1 of the paper), so no
    gradient is computed.

    Args:
        model: a network with this ending, whatever its last activation.
        images: uint8 `(n, height, width, channels)`.

    Returns:
        float32 `(n, rows, columns, classes)`, 0 or more; None if the network ends otherwise.
    """
    pool, head = model.layers[-2:]
    averages = isinstance(pool, keras.layers.GlobalAveragePooling2D)
    if not averages or not isinstance(head, keras.layers.Dense):
        return None
    stage = keras.Model(model.input, pool.input)
    maps = keras.ops.convert_to_numpy(stage(images, training=False)).astype(np.float32)
    weights = keras.ops.convert_to_numpy(head.kernel) / (maps.shape[1] * maps.shape[2])
    return np.maximum(maps @ weights, 0)
