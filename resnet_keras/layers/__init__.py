"""Faster layers for training; `export` puts the stock layers back in."""

from resnet_keras.layers.batch_norm import BatchNormalization
from resnet_keras.layers.convolution import Conv2D
from resnet_keras.layers.recompute import norm_computed_again

__all__ = ["BatchNormalization", "Conv2D", "norm_computed_again"]
