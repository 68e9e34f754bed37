"""Photographs to change, seeds to change them by, and how far two images may be apart."""

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from resnet_keras import augmentations

PHOTOS = load_sample_images().images  # china.jpg and flower.jpg, 427 x 640
SMALL = np.asarray(Image.fromarray(PHOTOS[0]).resize((64, 48)))
DULL = SMALL // 2 + 37
LUCK = 0.001  # least p-value; the draws are the same in every run


def seed(number):
    return augmentations.example_seed(0, 0, number)


def many(function, count):
    """Stack `function(seed)` of `count` seeds, computed in tf.data."""
    data = tf.data.Dataset.range(count).map(lambda i: function(seed(i)), tf.data.AUTOTUNE)
    return next(iter(data.batch(count).as_numpy_iterator()))


def assert_levels(ours, theirs, most):
    """Assert that no pixel differs by more than `most` levels."""
    difference = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))
    assert difference.max() <= most
