"""Mixing of a batch with itself: mixup, CutMix, one or the other.

Image i is mixed with image n - 1 - i, as in timm: the batch is shuffled already, and copies of one
image that stand side by side (repeated augmentation) do not meet. One draw holds for the whole
batch. A new way of mixing needs nothing but this file and its column in `recipe/columns.py`.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.augmentations.geometry import to_uint8
from resnet_keras.augmentations.seeds import stream, uniform


def mixes(columns: Any) -> bool:
    """Tell whether `mix` does anything; `columns` as of `augment`."""
    return bool(columns.mixup or columns.cutmix)


def with_partners(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Add to some rows of a batch those that they are mixed with.

    The partners of what this returns are in it too, and mirror each other in it as in the batch:
    mixed alone, its rows become what they become in the whole batch.

    Args:
        rows: int `(n,)`, counted from 0.
        batch_size: rows of the whole batch.

    Returns:
        int `(m,)`, ascending.
    """
    return np.union1d(rows, batch_size - 1 - rows)


def mix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, columns: Any, *, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix a batch as the columns say; with `mixup` and `cutmix`, each does half of the batches.

    Args:
        images: uint8 `(batch, height, width, channels)`.
        labels: class numbers `(batch,)`, or a distribution over classes `(batch, classes)`.
        seed: int [2].
        columns: see `augment`; here `mixup` and `cutmix` count, each an alpha.
        classes: number of classes.

    Returns:
        Images, uint8, and labels, float32 `(batch, classes)`.
    """
    if not columns.cutmix:
        return mixup(images, labels, seed, alpha=columns.mixup, classes=classes)
    if not columns.mixup:
        return cutmix(images, labels, seed, alpha=columns.cutmix, classes=classes)
    return mixup_or_cutmix(
        images,
        labels,
        seed,
        mixup_alpha=columns.mixup,
        cutmix_alpha=columns.cutmix,
        classes=classes,
    )


def mixup(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, alpha: float, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image with its partner (Zhang et al. 2017, "mixup", arXiv:1710.09412).

    Args:
        images: uint8 `(batch, height, width, channels)`.
        labels: class numbers `(batch,)`, or a distribution over classes `(batch, classes)`.
        seed: int [2].
        alpha: the image's own weight is drawn from Beta(alpha, alpha); above 0.
        classes: number of classes.

    Returns:
        Images, uint8 (rounded, as timm does: bytes cross the bus), and labels, float32
        `(batch, classes)`, mixed with the same weights.

    Raises:
        ValueError: if `alpha` is not above 0.
    """
    own = _beta(alpha, stream(seed, "mixup"))
    places = tf.range(tf.shape(images)[0])

    def blend(place: tf.Tensor) -> tf.Tensor:
        image, partner = images[place], images[-1 - place]
        return to_uint8(own * tf.cast(image, tf.float32) + (1 - own) * tf.cast(partner, tf.float32))

    # One image at a time stays in the cache: a fifth of the time of the whole batch at once.
    blended = tf.map_fn(blend, places, fn_output_signature=tf.uint8)
    return tf.ensure_shape(blended, images.shape), _mix_labels(labels, classes, own, 1 - own)


def cutmix(
    images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, alpha: float, classes: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Paste a box of its partner into each image (Yun et al. 2019, "CutMix", algorithm A1).

    The box has the image's aspect and a share of its area drawn from Beta(alpha, alpha). Its
    centre is uniform; what sticks out is cut off. A label's weight is the share of its pixels.

    Args:
        images: uint8 `(batch, height, width, channels)`.
        labels: class numbers `(batch,)`, or a distribution over classes `(batch, classes)`.
        seed: int [2].
        alpha: above 0.
        classes: number of classes.

    Returns:
        Images, uint8, and labels, float32 `(batch, classes)`.

    Raises:
        ValueError: if `alpha` is not above 0.
    """
    size = tf.shape(images)[1:3]
    edge = tf.sqrt(_beta(alpha, stream(seed, "cutmix"))) * tf.cast(size, tf.float32)
    half = tf.cast(edge, tf.int32) // 2
    centre = tf.cast(uniform(seed, "cutmix place", [2]) * tf.cast(size, tf.float32), tf.int32)
    top, left = tf.unstack(tf.maximum(centre - half, 0))
    bottom, right = tf.unstack(tf.minimum(centre + half, size))
    box = tf.reverse(images[:, top:bottom, left:right], [0])
    band = tf.concat([images[:, top:bottom, :left], box, images[:, top:bottom, right:]], 2)
    pasted = tf.concat([images[:, :top], band, images[:, bottom:]], 1)
    area, cut = tf.reduce_prod(size), (bottom - top) * (right - left)
    own, other = ((tf.cast(share / area, tf.float32)) for share in (area - cut, cut))
    return tf.ensure_shape(pasted, images.shape), _mix_labels(labels, classes, own, other)


def mixup_or_cutmix(
    images: tf.Tensor,
    labels: tf.Tensor,
    seed: tf.Tensor,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    classes: int,
    switch_probability: float = 0.5,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Do `cutmix` with probability `switch_probability`, else `mixup` ("ResNet strikes back").

    Arguments and results are theirs.
    """
    return tf.cond(
        uniform(seed, "mixup_or_cutmix", []) < switch_probability,
        lambda: cutmix(images, labels, seed, alpha=cutmix_alpha, classes=classes),
        lambda: mixup(images, labels, seed, alpha=mixup_alpha, classes=classes),
    )


def _beta(alpha: float, seed: tf.Tensor) -> tf.Tensor:
    """Draw from Beta(alpha, alpha), float32."""
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0. Received: {alpha}")
    # In float32 both gammas of a small alpha may be 0.
    one, other = tf.unstack(tf.random.stateless_gamma([2], seed, alpha, dtype=tf.float64))
    return tf.cast(one / (one + other), tf.float32)


def _mix_labels(labels: tf.Tensor, classes: int, own: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Weigh the labels of the batch and of their partners."""
    if labels.shape.rank == 1:
        labels = tf.one_hot(labels, classes)
    labels = tf.cast(labels, tf.float32)
    return own * labels + other * tf.reverse(labels, [0])
