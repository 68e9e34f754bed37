"""The images of one split, in an order that is a function of the seed alone."""

from __future__ import annotations

import abc
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from resnet_keras.data.sources import Source

PARALLEL: dict[str, Any] = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """The order of training images: endless, and a new one each epoch.

    An epoch consists of whole batches: its last one is filled from the next epoch's order.

    Attributes:
        seed: of the shuffling.
        batch_size: images in a step.
        rows: int64 `(n,)`, ascending: which images of each step are drawn, counted from 0.
        start: number of the first step.
        repeats: how often each image comes, one copy behind the other. An epoch has as many steps
            as without repeats.
        balanced: every class comes as often as every other. An epoch has as many steps as without
            it: of a large class it shows a part, of a small one each image several times.
    """

    seed: int
    batch_size: int
    rows: np.ndarray
    start: int
    repeats: int
    balanced: bool

    def per_epoch(self, examples: int) -> int:
        """Images in an epoch of whole batches, repeats included, of a split of `examples`."""
        return math.ceil(examples / self.batch_size) * self.batch_size


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split(abc.ABC):
    """One split of a data set; a subclass for each way in which images are kept.

    Attributes:
        labels: names of the classes, in the order of their numbers.
        channels: 1 or 3.
        skipped: `(path, reason)` of the bad files that were left out.
        source: the `Source` that the split was opened from.
        name: of images of one's own, which split it is: "train", "val", "test" or "all".
    """

    labels: tuple[str, ...]
    channels: int
    skipped: tuple[tuple[str, str], ...] = ()
    source: Source | None = None
    name: str = ""

    @property
    @abc.abstractmethod
    def examples(self) -> int:
        """The number of images."""

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels: float32 `(classes,)` of 0 and 1, not one."""
        return False

    @property
    def record_files(self) -> tuple[str, ...]:
        """Paths of the TFRecord files that images are read from."""
        return ()

    @property
    def paths(self) -> tuple[str, ...] | None:
        """Path of each image, where images are files."""
        return None

    @property
    def counts(self) -> np.ndarray | None:
        """Images of each class, integers `(classes,)`; None where only reading them all tells.

        An image with several labels counts for each of them.
        """
        return None

    @property
    def identity(self) -> str:
        """A text that is equal for equal images with equal labels in the same order."""
        number = zlib.crc32("\n".join(self.labels).encode(errors="surrogateescape"))
        for array in self._contents():
            number = zlib.crc32(np.ascontiguousarray(array).data, number)  # without a copy
        return f"{self.examples:,} of {len(self.labels):,} classes (checksum {number:08x})"

    @abc.abstractmethod
    def _contents(self) -> Iterable[np.ndarray]:
        """Arrays that differ where images, labels or their order differ."""

    @abc.abstractmethod
    def sample(self, examples: int, *, seed: int) -> Self:
        """Draw some of the images; they stay in order.

        Args:
            examples: how many; if the split has fewer, all.
            seed: of the draw.

        Returns:
            A split with these images only.
        """

    @abc.abstractmethod
    def endless(self, transform: Callable, order: Order) -> tf.data.Dataset:
        """Return what `transform` makes of training images, without end.

        Args:
            transform: of `(image, label, epoch, position in the epoch)`, a graph function. Images
                are uint8 `(height, width, channels)`, or the bytes of a file (a string tensor).
            order: of the images.
        """

    @abc.abstractmethod
    def once(self, transform: Callable, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """Return what `transform` makes of each image, once and in order.

        Args:
            transform: of `(image, label)`, a graph function; images as in `endless`.
            share: `(number, of)`: only every `of`-th image, from `number` on.
        """


class IndexedSplit(Split):
    """A split whose images can be read in any order, by their number."""

    @abc.abstractmethod
    def reader(self) -> Callable:
        """Return a graph function from the number of an image to `(image, label)`."""

    @abc.abstractmethod
    def _only(self, numbers: np.ndarray) -> Self:
        """The split with these images only."""

    @property
    @abc.abstractmethod
    def numbers(self) -> np.ndarray:
        """The number of each image's class, int64 `(n,)`; its labels, uint8 `(n, classes)`."""

    @property
    def multi_label(self) -> bool:
        """See `Split`."""
        return self.numbers.ndim == 2

    def _label_reader(self) -> Callable:
        """Return a graph function from the number of an image to its label."""
        numbers = tf.constant(self.numbers)
        if self.multi_label:  # a byte each until they are read
            return lambda index: tf.cast(tf.gather(numbers, index), tf.float32)
        return lambda index: tf.gather(numbers, index)

    @property
    def counts(self) -> np.ndarray:
        """See `Split`."""
        if self.multi_label:
            return self.numbers.sum(axis=0, dtype=np.int64)
        return np.bincount(self.numbers, minlength=len(self.labels))

    def sample(self, examples: int, *, seed: int) -> Self:
        """See `Split`."""
        drawn = np.random.default_rng(seed).permutation(self.examples)[:examples]
        return self._only(np.sort(drawn))

    def endless(self, transform: Callable, order: Order) -> tf.data.Dataset:
        """See `Split`."""
        read, rows = self.reader(), order.rows
        per_epoch = order.per_epoch(self.examples)
        of_class = self._of_class(order) if order.balanced else None

        def draw(place):
            number = place // len(rows) * order.batch_size + tf.gather(rows, place % len(rows))
            epoch, position = number // per_epoch, number % per_epoch
            place = position // order.repeats
            # Beyond the end of an epoch's order come the first images of the next one's.
            index = tf.random.experimental.index_shuffle(
                place % self.examples,
                seed=tf.stack([tf.cast(order.seed, tf.int64), epoch + place // self.examples]),
                max_index=self.examples - 1,
            )
            if of_class is not None:
                index = of_class(index, epoch + place // self.examples)
            return transform(*read(index), epoch, position)

        places = tf.data.Dataset.range(order.start * len(rows), np.iinfo(np.int64).max)
        # Read and transformed in one function: handing images from thread to thread takes time.
        return places.map(draw, **PARALLEL)

    def _of_class(self, order: Order) -> Callable:
        """Return a graph function from a place in an epoch, already shuffled, to an image.

        Neighbouring places are of different classes; within a class each image comes once before
        any comes again.
        """
        counts = self.counts
        there = np.flatnonzero(counts)
        members = tf.constant(np.argsort(self.numbers, kind="stable"))
        sizes = tf.constant(counts[there], tf.int64)
        starts = tf.constant((np.cumsum(counts) - counts)[there], tf.int64)

        def image(place, epoch):
            kind, turn = place % len(there), place // len(there)
            size = tf.gather(sizes, kind)
            # A seed for each class and each round through it.
            round_ = (epoch * self.examples + turn // size) * len(there) + kind
            within = tf.random.experimental.index_shuffle(
                turn % size,
                seed=tf.stack([tf.cast(order.seed, tf.int64), round_]),
                max_index=size - 1,
            )
            return tf.gather(members, tf.gather(starts, kind) + within)

        return image

    def once(self, transform: Callable, share: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """See `Split`."""
        read, (number, of) = self.reader(), share
        numbers = tf.data.Dataset.range(number, self.examples, of)
        return numbers.map(lambda index: transform(*read(index)), **PARALLEL)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ArraySplit(IndexedSplit):
    """Images in memory, decoded.

    Attributes:
        arrays: the images, uint8 `(n, height, width, channels)`, and the numbers of their classes,
            int64 `(n,)`; uint8 `(n, classes)` where images have several labels.
    """

    arrays: tuple[np.ndarray, np.ndarray]

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.arrays[0])

    @property
    def numbers(self) -> np.ndarray:
        """See `IndexedSplit`."""
        return self.arrays[1]

    def _contents(self) -> Iterable[np.ndarray]:
        return self.arrays

    def _only(self, numbers: np.ndarray) -> Self:
        images, labels = self.arrays
        return dataclasses.replace(self, arrays=(images[numbers], labels[numbers]))

    def reader(self) -> Callable:
        """See `IndexedSplit`."""
        images, label_of = tf.constant(self.arrays[0]), self._label_reader()
        return lambda index: (tf.gather(images, index), label_of(index))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Turn off tf.data's tuning thread; `AUTOTUNE` then means one thread per core.

    That thread sleeps for up to as long as its iterator has lived, and the iterator's end waits for
    it: half of a short `fit` was spent so. It asks the wall clock; where that jumps, it never
    wakes.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
