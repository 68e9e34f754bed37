"""The order of images: endless and shuffled, or each once; a function of the seed alone."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data import files
from resnet_keras.data.images import Split

# Images are shuffled on disk when TFDS writes them; files in random order, so many of them at a
# time and a buffer of so many compressed images make neighbours strangers.
INTERLEAVED_FILES, SHUFFLE_BUFFER = 16, 4096

_PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


def endless(
    split: Split,
    transform: Callable,
    *,
    seed: int,
    per_epoch: int,
    start: int,
    repeats: int = 1,
    rows: np.ndarray | None = None,
    batch_size: int = 1,
) -> tf.data.Dataset:
    """What `transform` makes of images, endlessly, each epoch in a new order.

    Args:
        split: the split.
        transform: of `(image, label, epoch, position in it)`; images are encoded where they
            are kept so.
        seed: of the order.
        per_epoch: images in an epoch, repeats counted; what the order of one epoch has too few of
            comes from the next one's.
        start: number of the first image.
        repeats: how often each image comes, one copy behind the other.
        rows: which of each `batch_size` images are given, growing; None: all. The others are
            not read where images can be read in any order.
        batch_size: `per_epoch` and `start` are multiples of it.

    Returns:
        The stream.
    """
    if rows is None:
        rows, batch_size = np.zeros(1, np.int64), 1
    if split.records:
        wanted = np.isin(np.arange(batch_size), rows)
        records = _from_records(split, seed, per_epoch, start, repeats, wanted)
        return records.map(transform, **_PARALLEL)
    read = _reader(split)

    def draw(place):
        number = place // len(rows) * batch_size + tf.gather(rows, place % len(rows))
        epoch, position = number // per_epoch, number % per_epoch
        place = position // repeats
        # The n images behind the end of an epoch's order are the first of the next one's.
        index = tf.random.experimental.index_shuffle(
            place % split.examples,
            seed=tf.stack([tf.cast(seed, tf.int64), epoch + place // split.examples]),
            max_index=split.examples - 1,
        )
        return transform(*read(index), epoch, position)

    first = start // batch_size * len(rows)
    # Read and transformed in one function: handing images from thread to thread takes time.
    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).map(draw, **_PARALLEL)


def once(split: Split, transform: Callable, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
    """What `transform` makes of every `(image, label)`, once, in order.

    Args:
        split: the split.
        transform: of `(image, label)`.
        share: of each `share[1]` images only the one at `share[0]`.

    Returns:
        The stream.
    """
    number, of = share
    if split.records:
        pieces, parse = split.records
        records = _read_pieces(_piece_tensors(pieces)).shard(of, number).map(parse)
        return records.map(transform, **_PARALLEL)
    read = _reader(split)
    numbers = tf.data.Dataset.range(number, split.examples, of)
    return numbers.map(lambda number: transform(*read(number)), **_PARALLEL)


def _reader(split: Split) -> Callable:
    """A function from the number of an image to `(image, label)`."""
    if split.files:
        return files.reader(split.files)
    images, labels = (tf.constant(array) for array in split.arrays)
    return lambda index: (tf.gather(images, index), tf.gather(labels, index))


def _from_records(
    split: Split, seed: int, per_epoch: int, start: int, repeats: int, wanted: np.ndarray
) -> tf.data.Dataset:
    """Endless `(encoded image, label, epoch, position in it)` from TFRecord files.

    Args:
        split: see `endless`, and so the next four.
        seed: of the order.
        per_epoch: images in an epoch.
        start: number of the first image.
        repeats: how often each image comes.
        wanted: bool; which of each `len(wanted)` images are given.
    """
    pieces, parse = split.records
    tensors = _piece_tensors(pieces)
    first = start // per_epoch
    distinct = math.ceil(per_epoch / repeats)

    def order(epoch):
        """The records of one epoch's order."""
        numbers = tf.range(len(pieces), dtype=tf.int64)
        key = tf.stack([tf.cast(seed, tf.int64), epoch])
        shuffled = tf.random.experimental.index_shuffle(numbers, key, len(pieces) - 1)
        records = _read_pieces([tf.gather(t, shuffled) for t in tensors])
        number = augmentations.example_seed(seed, epoch, -1)[0]
        # The seed of this graph alone; the process's would change the order, and where it is 0
        # TensorFlow asks whether `number` is, too, which a graph can't answer.
        tf.random.set_seed(1)
        return records.shuffle(SHUFFLE_BUFFER, seed=number, reshuffle_each_iteration=False)

    def epoch_records(epoch):
        records = order(epoch)
        for turn in range(1, math.ceil(distinct / split.examples)):
            records = records.concatenate(order(epoch + turn))
        if repeats > 1:
            records = records.map(lambda record: tf.repeat(record[tf.newaxis], repeats)).unbatch()
        records = records.take(per_epoch).enumerate()
        skip = tf.where(epoch == first, tf.constant(start % per_epoch, tf.int64), 0)
        records = records.skip(skip)
        if not wanted.all():
            here = tf.constant(wanted)
            records = records.filter(lambda position, _: tf.gather(here, position % len(wanted)))
        return records.map(lambda position, record: (*parse(record), epoch, position))

    return tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_records)


def _piece_tensors(pieces: Sequence) -> list[tf.Tensor]:
    """Files, records to skip, records to take."""
    paths, skip, take = zip(*pieces, strict=True)
    return [tf.constant(paths), tf.constant(skip, tf.int64), tf.constant(take, tf.int64)]


def _read_pieces(tensors: list[tf.Tensor]) -> tf.data.Dataset:
    """The records of pieces of files, some files at a time, in an order that does not vary."""

    def read(file, skip, take):
        return tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)

    return tf.data.Dataset.from_tensor_slices(tuple(tensors)).interleave(
        read, cycle_length=INTERLEAVED_FILES, block_length=16, **_PARALLEL
    )
