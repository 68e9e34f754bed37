"""Batches of `(uint8 pictures, integer labels)`, a pure function of the seed and the step."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from resnet_keras import augment
from resnet_keras.data.pictures import Pictures, decode, evaluation_picture, shape_of

# Pictures are shuffled on disk when TFDS writes them; files in random order, so many of them at a
# time and a buffer of so many compressed pictures make neighbours strangers.
INTERLEAVED_FILES, SHUFFLE_BUFFER = 16, 4096


def training_batches(
    pictures: Pictures,
    *,
    size: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    min_area: float | None = None,
    padding: int = 0,
    flip: bool = False,
    rotate: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.data.Dataset:
    """Endless shuffled, augmented training batches: a pure function of the seed and the step.

    An epoch shows every picture at least once: its last batch is filled from the next epoch's
    order, so that all batches are whole.

    Args:
        pictures: the training split.
        size: height and width.
        batch_size: pictures in a batch, over all replicas.
        seed: of order and augmentation.
        start: number of the first step.
        min_area: random resized crop, down to this share of the area; None: no such crop.
        padding: random crop after so many zeros around; 0: no such crop.
        flip: random horizontal flip.
        rotate: random rotation by up to so many degrees.
        scale: random scaling of each axis by a factor within so much of 1.
        shear: random shear by up to this share of the height.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        A data set of `(uint8 (batch, size, size, channels), int64 (batch,))`.
    """

    def transform(picture, label, epoch, position):
        key = augment.example_seed(seed, epoch, position)
        resizing = {"interpolation": interpolation, "antialias": antialias}
        if min_area is not None:
            shape = shape_of(picture)
            window = augment.random_crop_window(shape[0], shape[1], key, min_area=min_area)
            image = decode(picture, pictures.channels, window)
            image = augment.resize(image, size, size, **resizing)
        else:
            image = decode(picture, pictures.channels)
            if pictures.arrays is None or pictures.arrays[0].shape[1:3] != (size, size):
                image = augment.resize(image, size, size, **resizing)
        if rotate or scale or shear:
            image = augment.random_affine(image, key, degrees=rotate, scale=scale, shear=shear)
        if padding:
            image = augment.pad_and_crop(image, key, padding=padding)
        if flip:
            image = augment.flip(image, key)
        return tf.ensure_shape(image, (size, size, pictures.channels)), label

    steps = math.ceil(pictures.examples / batch_size)
    stream = _from_arrays if pictures.arrays else _from_records
    stream = stream(pictures, seed, steps * batch_size, start * batch_size)
    stream = stream.map(transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _tuned(stream.batch(batch_size, drop_remainder=True))


def evaluation_batches(
    pictures: Pictures,
    *,
    size: int,
    batch_size: int,
    resize: int | None = None,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.data.Dataset:
    """Every picture once, in order: the short edge becomes `resize`, then a centre crop.

    Args:
        pictures: the split.
        size: height and width of the crop.
        batch_size: pictures in a batch; the last batch is what is left.
        resize: None: pictures as they are, where they have the right size.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        A data set of `(uint8 (batch, size, size, channels), int64 (batch,))`.
    """

    def transform(picture, label):
        image = evaluation_picture(
            decode(picture, pictures.channels),
            size=size,
            resize=resize,
            interpolation=interpolation,
            antialias=antialias,
        )
        return tf.ensure_shape(image, (size, size, pictures.channels)), label

    if pictures.arrays:
        images, labels = (tf.constant(array) for array in pictures.arrays)
        stream = tf.data.Dataset.range(pictures.examples)
        stream = stream.map(lambda i: (tf.gather(images, i), tf.gather(labels, i)))
    else:
        pieces, parse = pictures.records
        stream = _read_pieces(_piece_tensors(pieces)).map(parse)
    stream = stream.map(transform, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _tuned(stream.batch(batch_size))


def _from_arrays(pictures: Pictures, seed: int, per_epoch: int, start: int) -> tf.data.Dataset:
    """Endless `(picture, label, epoch, position in it)` by random access."""
    images, labels = (tf.constant(array) for array in pictures.arrays)

    def read(number):
        epoch, position = number // per_epoch, number % per_epoch
        # The n pictures behind the end of an epoch's order are the first of the next one's.
        order = epoch + position // pictures.examples
        index = tf.random.experimental.index_shuffle(
            position % pictures.examples,
            seed=tf.stack([tf.cast(seed, tf.int64), order]),
            max_index=pictures.examples - 1,
        )
        return tf.gather(images, index), tf.gather(labels, index), epoch, position

    return tf.data.Dataset.range(start, np.iinfo(np.int64).max).map(read)


def _from_records(pictures: Pictures, seed: int, per_epoch: int, start: int) -> tf.data.Dataset:
    """Endless `(encoded picture, label, epoch, position in it)`, each epoch in a new order."""
    pieces, parse = pictures.records
    tensors = _piece_tensors(pieces)
    first = start // per_epoch

    def order(epoch):
        """The records of one epoch's order."""
        numbers = tf.range(len(pieces), dtype=tf.int64)
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        shuffled = tf.random.experimental.index_shuffle(numbers, key, len(pieces) - 1)
        records = _read_pieces([tf.gather(t, shuffled) for t in tensors])
        number = augment.example_seed(seed, epoch, -1)[0]
        return records.shuffle(SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    def epoch_records(epoch):
        records = order(epoch)
        for turn in range(1, math.ceil(per_epoch / pictures.examples)):
            records = records.concatenate(order(epoch + turn))
        records = records.take(per_epoch).enumerate()
        skip = tf.where(epoch == first, tf.constant(start % per_epoch, tf.int64), 0)
        return records.skip(skip).map(lambda position, record: (*parse(record), epoch, position))

    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_records)


def _piece_tensors(pieces: Sequence) -> list[tf.Tensor]:
    """Files, records to skip, records to take (-1: all)."""
    files, skip, take = zip(*pieces, strict=True)
    return [tf.constant(files), tf.constant(skip, tf.int64), tf.constant(take, tf.int64)]


def _read_pieces(tensors: list[tf.Tensor]) -> tf.data.Dataset:
    """The records of pieces of files, some files at a time, in an order that does not vary."""

    def read(file, skip, take):
        return tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)

    return tf.data.Dataset.from_tensor_slices(tuple(tensors)).interleave(
        read,
        cycle_length=INTERLEAVED_FILES,
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _tuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetching, and options that keep the order and leave sharding to the strategy."""
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(2).with_options(options)
