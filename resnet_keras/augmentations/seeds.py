"""Random numbers that depend on an explicit seed alone."""

import zlib

import tensorflow as tf


def example_seed(
    run_seed: int | tf.Tensor, epoch: int | tf.Tensor, index: int | tf.Tensor
) -> tf.Tensor:
    """Return the seed, int64 [2], of one example in one epoch of one run."""
    run_and_epoch = tf.stack([tf.cast(run_seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.fold_in(run_and_epoch, tf.cast(index, tf.int64))


def stream(seed: tf.Tensor, name: str) -> tf.Tensor:
    """Make the seed of one named function: different names draw unrelated numbers."""
    return seed + tf.constant([zlib.crc32(name.encode()) >> 1, 0], seed.dtype)


def uniform(seed: tf.Tensor, name: str, shape: list[int]) -> tf.Tensor:
    """Draw float32 numbers, uniform in [0, 1)."""
    return tf.random.stateless_uniform(shape, stream(seed, name))
