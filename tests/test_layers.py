"""The fused batch norm computes PyTorch's numbers."""

import keras
import numpy as np
import pytest

from resnet_keras.layers import BatchNormalization

IMAGES = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7))


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
def test_one_step_is_the_definition(dtype):
    layer = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype)
    layer.build(IMAGES.shape)
    layer.gamma.assign(np.linspace(0.5, 2, 7))
    layer.beta.assign(np.linspace(-1, 1, 7))
    outputs = np.asarray(layer(IMAGES, training=True), "float64")

    mean, biased = IMAGES.mean((0, 1, 2)), IMAGES.var((0, 1, 2))
    expected = (IMAGES - mean) / np.sqrt(biased + 1e-5) * np.linspace(0.5, 2, 7)
    expected += np.linspace(-1, 1, 7)
    # A half has 8 (bfloat16) or 11 (float16) bits; outputs go up to 8.
    bound = {"float32": 1e-5, "float64": 1e-12, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}[
        dtype
    ]
    assert np.abs(outputs - expected).max() < bound
    n = 4 * 5 * 6
    unbiased = IMAGES.var((0, 1, 2)) * n / (n - 1)
    assert np.abs(np.asarray(layer.moving_mean) - 0.1 * mean).max() < bound
    assert np.abs(np.asarray(layer.moving_variance) - (0.9 + 0.1 * unbiased)).max() < bound
    assert layer.moving_mean.dtype == ("float64" if dtype == "float64" else "float32")


def test_gradients_of_the_kernel_are_those_of_the_definition():
    import tensorflow as tf

    def gradients(dtype):
        layer = BatchNormalization(epsilon=1e-5, dtype=dtype)
        x = tf.Variable(tf.cast(IMAGES, dtype))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        weights = [x, layer.gamma.value, layer.beta.value]
        return [np.asarray(g, "float64") for g in tape.gradient(loss, weights)]

    for fused, composed in zip(gradients("float32"), gradients("float64"), strict=True):
        assert np.abs(fused - composed).max() < 1e-5 * np.abs(composed).max() + 1e-3


def test_inference_and_frozen_layers_are_the_stock_layer():
    ours, stock = BatchNormalization(epsilon=1e-5), keras.layers.BatchNormalization(epsilon=1e-5)
    for layer in (ours, stock):
        layer.build(IMAGES.shape)
        layer.moving_mean.assign(np.arange(7.0))
        layer.moving_variance.assign(np.arange(1.0, 8))
    x = IMAGES.astype("float32")
    assert np.array_equal(ours(x, training=False), stock(x, training=False))
    ours.trainable = False
    assert np.array_equal(ours(x, training=True), stock(x, training=False))


def test_one_value_a_channel_has_no_variance():
    layer = BatchNormalization(epsilon=1e-5, momentum=0.5, dtype="float64")
    layer(np.full((1, 1, 1, 7), 3.0), training=True)
    assert np.array_equal(layer.moving_variance, np.full(7, 0.5))
    assert np.array_equal(layer.moving_mean, np.full(7, 1.5))
