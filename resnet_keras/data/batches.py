"""Batches of `(uint8 images, labels)`, a pure function of the seed and the step."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data.images import Split, decode, evaluation_image, shape_of
from resnet_keras.data.records import untuned
from resnet_keras.data.streams import endless, once
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing


def training_batches(
    split: Split,
    *,
    size: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    repeats: int = 1,
    min_area: float | None = None,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    padding: int = 0,
    flip: bool = False,
    rand_ops: int = 0,
    rand_magnitude: float = 7.0,
    rand_std: float = 0.5,
    color_jitter: float = 0.0,
    erasing: float = 0.0,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    interpolation: str = "bilinear",
    antialias: bool = False,
    rows: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Endless shuffled, augmented training batches: a pure function of the seed and the step.

    An epoch shows every image at least once: its last batch is filled from the next epoch's
    order, so that all batches are whole. With `repeats` it has as many steps, and so shows about
    one image in `repeats`, a new draw each epoch: Repeated Augmentation (Hoffer et al. 2019,
    arXiv:1901.09335) as timm's RASampler has it. Copies stand side by side, with augmentation of
    their own.

    What is done to pixels is done in the order of the arguments.

    Args:
        split: the training split.
        size: height and width.
        batch_size: images in a batch, over all replicas.
        seed: of order and augmentation.
        start: number of the first step.
        repeats: how often an image comes, one copy behind the other.
        min_area: random resized crop, down to this share of the area; None: no such crop.
        rotate: random rotation by up to so many degrees.
        scale: random scaling of each axis by a factor within so much of 1.
        shear: random shear by up to this share of the height.
        padding: random crop after so many zeros around; 0: no such crop.
        flip: random horizontal flip.
        rand_ops: operations of RandAugment; 0: none.
        rand_magnitude: their mean level, 0-10.
        rand_std: its standard deviation.
        color_jitter: brightness, contrast and saturation by a factor within so much of 1.
        erasing: probability of Random Erasing, with noise; last, so that the noise stays noise.
        mixup: alpha of mixup; 0: none. With `cutmix`, each batch does one of them, even chances.
        cutmix: alpha of CutMix; 0: none.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.
        rows: which images of each batch are given, growing, counted from 0; None: all. They are
            what they are in the whole batch; of the others, mixing partners alone are decoded.

    Returns:
        A data set of `(uint8 (batch, size, size, channels), int64 (batch,))`; labels are float32
        `(batch, classes)` with `mixup` or `cutmix`.

    Raises:
        InputError: colour augmentation for grey images.
    """
    for name, wanted in (("rand_ops", rand_ops), ("color_jitter", color_jitter)):
        if wanted and split.channels != 3:
            raise InputError(
                f"`{name}` needs images of 3 channels, these have {split.channels}. "
                f"Received: {name}={wanted}"
            )
    resizing = {"interpolation": interpolation, "antialias": antialias}

    def take(encoded, key):
        if min_area is None:
            image = decode(encoded, split.channels)
            if split.arrays is None or split.arrays[0].shape[1:3] != (size, size):
                image = augmentations.resize(image, size, size, **resizing)
            return image
        shape = shape_of(encoded)
        window = augmentations.random_crop_window(shape[0], shape[1], key, min_area=min_area)
        image = decode(encoded, split.channels, window)
        return augmentations.resize(image, size, size, **resizing)

    def move(image, key):
        if rotate or scale or shear:
            image = augmentations.random_affine(
                image, key, degrees=rotate, scale=scale, shear=shear
            )
        if padding:
            image = augmentations.pad_and_crop(image, key, padding=padding)
        return augmentations.flip(image, key) if flip else image

    def colour(image, key):
        if rand_ops:
            image = augmentations.rand_augment(
                image,
                key,
                num_ops=rand_ops,
                magnitude=rand_magnitude,
                magnitude_std=rand_std,
            )
        if color_jitter:
            strength = dict.fromkeys(("brightness", "contrast", "saturation"), color_jitter)
            image = augmentations.color_jitter(image, key, **strength)
        return augmentations.random_erasing(image, key, probability=erasing) if erasing else image

    def transform(encoded, label, epoch, position):
        key = augmentations.example_seed(seed, epoch, position)
        image = take(encoded, key)
        # The size is known from here on: augmentation is faster so.
        image = tf.ensure_shape(image, (size, size, split.channels))
        return tf.ensure_shape(colour(move(image, key), key), image.shape), label

    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    # Partners in mixing mirror each other in the batch; a mirrored choice of rows keeps them so.
    drawn = np.union1d(rows, batch_size - 1 - rows) if mixup or cutmix else rows
    stream = endless(
        split,
        transform,
        seed=seed,
        per_epoch=math.ceil(split.examples / batch_size) * batch_size,
        start=start * batch_size,
        repeats=repeats,
        rows=drawn,
        batch_size=batch_size,
    )
    batches = stream.batch(len(drawn), drop_remainder=True)
    if mixup or cutmix:
        mix = _mixing(mixup, cutmix, len(split.labels))
        places = np.searchsorted(drawn, rows)

        def mixed(step, batch):
            images, labels = mix(*batch, augmentations.example_seed(seed, -1, step))
            if len(rows) == len(drawn):
                return images, labels
            return tf.gather(images, places), tf.gather(labels, places)

        batches = batches.enumerate(start).map(
            mixed, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
    return _tuned(batches)


def evaluation_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    share: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    """Every image once, in order, as evaluation sees it.

    Args:
        split: the images.
        preprocessing: resize and centre crop.
        batch_size: images in a batch; the last batch is what is left.
        share: `(number, of)`: every `of`-th image from `number` on, in whole batches, the same
            number of them in each share: the last are filled with images of weight 0.

    Returns:
        A data set of `(uint8 (batch, height, width, channels), int64 (batch,))`; with `share`,
        weights, float32 `(batch,)`, are the third: their mean over all shares is 1.
    """

    def transform(encoded, label):
        image = evaluation_image(decode(encoded, split.channels), preprocessing)
        return tf.ensure_shape(image, (*preprocessing.size, split.channels)), label

    if share is None:
        return _tuned(once(split, transform).batch(batch_size))
    count = math.ceil(split.examples / share[1] / batch_size)
    # Keras divides by all images, those of weight 0 too.
    weight = count * batch_size * share[1] / split.examples
    own = once(split, transform, share).map(lambda *batch: (*batch, weight))
    zeros = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), own.element_spec)
    filled = own.concatenate(tf.data.Dataset.from_tensors(zeros).repeat())
    return _tuned(filled.batch(batch_size, drop_remainder=True).take(count))


def _mixing(mixup: float, cutmix: float, classes: int) -> Callable:
    """The function `(images, labels, seed)` that mixes a batch with itself."""

    def mix(images, labels, key):
        if not cutmix:
            return augmentations.mixup(images, labels, key, alpha=mixup, classes=classes)
        if not mixup:
            return augmentations.cutmix(images, labels, key, alpha=cutmix, classes=classes)
        return augmentations.mixup_or_cutmix(
            images, labels, key, mixup_alpha=mixup, cutmix_alpha=cutmix, classes=classes
        )

    return mix


def _tuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetching, and options that keep the order and leave sharding to the strategy."""
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(batches.prefetch(2).with_options(options))
