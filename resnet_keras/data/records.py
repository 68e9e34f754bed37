"""A split in TFRecord files, as TFDS writes them."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data.splits import PARALLEL, Order, Split

# TFDS shuffles images when it writes them. Files in random order, this many of them read at a time,
# and a buffer of this many compressed images make neighbours strangers.
INTERLEAVED_FILES, SHUFFLE_BUFFER = 16, 4096

Piece = tuple[str, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordSplit(Split):
    """Compressed images in TFRecord files, which are read from their beginning.

    Attributes:
        pieces: `(file, records to skip, records to take)`.
        parse: a graph function from a record to `(encoded image, label)`.
    """

    pieces: Sequence[Piece]
    parse: Callable

    @property
    def examples(self) -> int:
        """The number of images."""
        return sum(take for _, _, take in self.pieces)

    @property
    def record_files(self) -> tuple[str, ...]:
        """Paths of the TFRecord files that images are read from."""
        return tuple(path for path, _, _ in self.pieces)

    def _contents(self) -> Iterable[np.ndarray]:
        # The names of TFDS' files contain the data set; its version is that of the folder.
        places = [(Path(path).name, skip, take) for path, skip, take in self.pieces]
        return [np.array(repr(places))]

    def sample(self, examples: int, *, seed: int) -> Self:
        """See `Split`; the first records of files that are drawn by the seed.

        As many of each file as of any other that has them: TFDS shuffled them when it wrote them.
        """
        drawn = np.random.default_rng(seed).permutation(len(self.pieces))[:examples]
        pieces = _shared_out([self.pieces[i] for i in sorted(drawn)], examples)
        return dataclasses.replace(self, pieces=pieces)

    def endless(self, transform: Callable, order: Order) -> tf.data.Dataset:
        """See `Split`."""
        tensors = _tensors(self.pieces)
        per_epoch = order.per_epoch(self.examples)
        first, skipped = divmod(order.start * order.batch_size, per_epoch)
        distinct = math.ceil(per_epoch / order.repeats)
        wanted = np.isin(np.arange(order.batch_size), order.rows)

        def shuffled(epoch):
            """The records in one epoch's order."""
            numbers = tf.range(len(self.pieces), dtype=tf.int64)
            key = tf.stack([tf.cast(order.seed, tf.int64), epoch])
            numbers = tf.random.experimental.index_shuffle(numbers, key, len(self.pieces) - 1)
            records = _read([tf.gather(tensor, numbers) for tensor in tensors])
            seed = augmentations.example_seed(order.seed, epoch, -1)[0]
            # The seed of this graph alone; the process's would change the order, and where it is 0
            # TensorFlow asks whether `seed` is, too, which a graph can't answer.
            tf.random.set_seed(1)
            return records.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)

        def epoch_records(epoch):
            records = shuffled(epoch)
            for later in range(1, math.ceil(distinct / self.examples)):
                records = records.concatenate(shuffled(epoch + later))
            if order.repeats > 1:
                records = records.map(lambda record: tf.repeat(record[tf.newaxis], order.repeats))
                records = records.unbatch()
            records = records.take(per_epoch).enumerate()
            records = records.skip(tf.where(epoch == first, tf.constant(skipped, tf.int64), 0))
            if not wanted.all():
                mask = tf.constant(wanted)
                records = records.filter(
                    lambda position, _: tf.gather(mask, position % len(wanted))
                )
            return records.map(lambda position, record: (*self.parse(record), epoch, position))

        epochs = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        return epochs.flat_map(epoch_records).map(transform, **PARALLEL)

    def once(self, transform: Callable, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """See `Split`."""
        number, of = share
        records = _read(_tensors(self.pieces)).shard(of, number)
        return records.map(self.parse).map(transform, **PARALLEL)


def _tensors(pieces: Sequence[Piece]) -> list[tf.Tensor]:
    """Files, records to skip, records to take."""
    paths, skip, take = zip(*pieces, strict=True)
    return [tf.constant(paths), tf.constant(skip, tf.int64), tf.constant(take, tf.int64)]


def _read(tensors: list[tf.Tensor]) -> tf.data.Dataset:
    """The records of pieces of files, some files at a time, always in the same order."""

    def read(file, skip, take):
        return tf.data.TFRecordDataset(file, buffer_size=2**20).skip(skip).take(take)

    return tf.data.Dataset.from_tensor_slices(tuple(tensors)).interleave(
        read, cycle_length=INTERLEAVED_FILES, block_length=16, **PARALLEL
    )


def _shared_out(pieces: Sequence[Piece], examples: int) -> list[Piece]:
    """Pieces cut to `examples` records together; all records, if there are fewer."""
    pieces = list(pieces)
    # The short ones first: what they lack is shared out among the others.
    order = sorted(range(len(pieces)), key=lambda i: pieces[i][2])
    for done, i in enumerate(order):
        file, skip, take = pieces[i]
        take = min(take, examples // (len(order) - done))
        pieces[i] = (file, skip, take)
        examples -= take
    return pieces
