"""Batches of `(uint8 images, labels)`, a pure function of the seed and the step."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data.features import FeatureSplit
from resnet_keras.data.images import decode, evaluation_image, shape_of
from resnet_keras.data.splits import PARALLEL, Order, Split, untuned
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation


def training_batches(
    split: Split,
    augmentation: Augmentation,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    rows: np.ndarray | None = None,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> tf.data.Dataset:
    """Return endless shuffled, augmented batches: a pure function of the seed and the step.

    An epoch shows every image at least once: its last batch is filled from the next epoch's
    order, so that all batches are whole. With `repeats` it has the same number of steps, and so
    shows about one image in `repeats`, drawn anew each epoch: Repeated Augmentation (Hoffer et al.
    2019, arXiv:1901.09335) as timm's RASampler has it. Copies stand side by side, and each is
    augmented in its own way.

    Of a `FeatureSplit` come the features of the same images in the same order, float32
    `(batch, features)`, in another view each epoch.

    Args:
        split: the training split.
        augmentation: what is done to its images, such as a recipe; `augmentations.augment` has the
            order.
        batch_size: images in a batch, over all replicas.
        seed: of order and augmentation.
        start: number of the first step.
        rows: which images of each batch are given, ascending, counted from 0; None: all. They are
            what they are in the whole batch; of the others, only mixing partners are decoded.
        normalisation: the network's mean and standard deviation of pixels, 0-255, each one number
            per channel; needed where `erasing_fill` is not "noise".

    Returns:
        A data set of `(uint8 (batch, train_size, train_size, channels), int64 (batch,))`; labels
        are float32 `(batch, classes)` with mixup or CutMix, and of a split that is `multi_label`.

    Raises:
        InputError: colour augmentation for grey images, or balanced sampling of records or of
            images with several labels.
        ValueError: `normalisation` is missing.
    """
    augmentations.require_channels(augmentation, split.channels)
    _require_sampling(split, augmentation)
    features = isinstance(split, FeatureSplit)

    def transform(encoded, label, epoch, position):
        if features:  # the number of the image, for `lookup`
            return encoded, label, epoch
        key = augmentations.example_seed(seed, epoch, position)
        shape, pixels = partial(shape_of, encoded), partial(decode, encoded, split.channels)
        return augmentations.augment(shape, pixels, key, augmentation, normalisation), label

    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    mixed = augmentations.mixes(augmentation)
    drawn = augmentations.with_partners(rows, batch_size) if mixed else rows
    order = Order(
        seed=seed,
        batch_size=batch_size,
        rows=drawn,
        start=start,
        repeats=augmentation.repeats,
        balanced=augmentation.sampling == "balanced",
    )
    batches = split.endless(transform, order).batch(len(drawn), drop_remainder=True)
    if isinstance(split, FeatureSplit):
        return _ordered(batches.map(split.lookup, **PARALLEL))
    if mixed:
        batches = _mixed(batches, augmentation, len(split.labels), seed, start)
        if len(rows) < len(drawn):
            places = np.searchsorted(drawn, rows)
            batches = batches.map(partial(_some, places), **PARALLEL)
    return _ordered(batches)


def _require_sampling(split: Split, augmentation: Augmentation) -> None:
    """Refuse balanced sampling where the classes of the images do not allow it."""
    if augmentation.sampling == "balanced" and split.counts is None:
        raise InputError(
            "`sampling` must be all for data sets that are kept as records, whose classes are "
            f"known when they are read. Received: sampling={augmentation.sampling!r}"
        )
    if augmentation.sampling == "balanced" and split.multi_label:
        raise InputError(
            "`sampling` must be all where images have several labels, so that no batch can have as "
            "many images of each; try --class-weights balanced. "
            f"Received: sampling={augmentation.sampling!r}"
        )


def view_batches(
    split: Split,
    augmentation: Augmentation,
    preprocessing: Preprocessing | None,
    *,
    view: int,
    seed: int,
    batch_size: int,
    start: int = 0,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
) -> tf.data.Dataset:
    """Return every image once, in order, as one fixed view shows it.

    Args:
        split: the images.
        augmentation: what is done to an image, where `preprocessing` is None.
        preprocessing: show images as evaluation does; None: augment them.
        view: number of the view, from 0; each draws other random numbers for an image.
        seed: of the augmentation, which is a function of the seed, the view and the image's number.
        batch_size: images in a batch; the last batch has what is left.
        start: number of the first image.
        normalisation: see `training_batches`.

    Returns:
        A data set of `(uint8 (batch, height, width, channels), int64 (batch,))`.

    Raises:
        InputError: colour augmentation for grey images.
        ValueError: `normalisation` is missing.
    """
    if preprocessing is None:
        augmentations.require_channels(augmentation, split.channels)

    def transform(number, image):
        encoded, label = image
        if preprocessing is not None:
            pixels = evaluation_image(decode(encoded, split.channels), preprocessing)
            return tf.ensure_shape(pixels, (*preprocessing.size, split.channels)), label
        # Epochs are numbered from 0, and -1 is taken by what concerns a whole epoch.
        key = augmentations.example_seed(seed, -2 - view, number)
        shape, pixels = partial(shape_of, encoded), partial(decode, encoded, split.channels)
        return augmentations.augment(shape, pixels, key, augmentation, normalisation), label

    images = split.once(lambda encoded, label: (encoded, label)).skip(start)
    batches = images.enumerate(start).map(transform, **PARALLEL).batch(batch_size)
    return _ordered(batches, math.ceil((split.examples - start) / batch_size))


def _mixed(
    batches: tf.data.Dataset, augmentation: Augmentation, classes: int, seed: int, start: int
) -> tf.data.Dataset:
    """Batches mixed with themselves, from step `start` on."""

    def mix(step, batch):
        images, labels = batch
        key = augmentations.example_seed(seed, -1, step)
        return augmentations.mix(images, labels, key, augmentation, classes=classes)

    return batches.enumerate(start).map(mix, **PARALLEL)


def _some(places: np.ndarray, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """The images and labels at these places of a batch."""
    return tuple(tf.gather(part, places) for part in batch)


def evaluation_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    share: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    """Return every image once, in order, as evaluation sees it.

    Args:
        split: the images.
        preprocessing: resize and centre crop; the model itself normalises. Of a `FeatureSplit`, the
            first view of each image comes.
        batch_size: images in a batch; the last batch has what is left.
        share: `(number, of)`: every `of`-th image, from `number` on, in whole batches. All shares
            have the same number of batches: the last ones are filled with images of weight 0.

    Returns:
        A data set of `(uint8 (batch, height, width, channels), int64 (batch,))`; labels are float32
        `(batch, classes)` of a split that is `multi_label`; with `share`, weights, float32
        `(batch,)`, are the third: their mean over all shares is 1.
    """

    def transform(encoded, label):
        image = evaluation_image(decode(encoded, split.channels), preprocessing)
        return tf.ensure_shape(image, (*preprocessing.size, split.channels)), label

    if share is None:
        count = math.ceil(split.examples / batch_size)
        if isinstance(split, FeatureSplit):
            numbers = split.once(lambda index, label: (index, label, -index))  # always the first
            return _ordered(numbers.batch(batch_size).map(split.lookup, **PARALLEL), count)
        return _ordered(split.once(transform).batch(batch_size), count)
    count = math.ceil(split.examples / share[1] / batch_size)
    # Keras divides by all images, those of weight 0 too.
    weight = count * batch_size * share[1] / split.examples
    own = split.once(transform, share).map(lambda *batch: (*batch, weight))
    zeros = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), own.element_spec)
    filled = own.concatenate(tf.data.Dataset.from_tensors(zeros).repeat())
    return _ordered(filled.batch(batch_size, drop_remainder=True).take(count), count)


def _ordered(batches: tf.data.Dataset, count: int | None = None) -> tf.data.Dataset:
    """Prefetch, keep the order, and leave sharding to the strategy.

    TensorFlow does not count records by itself, and Keras warns where data of unknown size end.
    """
    if count is not None:
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(batches.prefetch(2).with_options(options))
