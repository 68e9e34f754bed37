"""A split of features that a frozen network has computed once, instead of images."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import numpy as np
import tensorflow as tf

from resnet_keras.data.splits import IndexedSplit, Split


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplit(IndexedSplit):
    """The features of each image of a split, in several views; in files, or in memory.

    Attributes:
        images: the split of the images.
        views: of each view the features in pieces of equal length, the last one shorter: float32
            `(n, features)`.
        classes: the number of each image's class, int64 `(n,)`; its labels, uint8 `(n, classes)`.
    """

    images: Split
    views: Sequence[Sequence[np.ndarray]]
    classes: np.ndarray

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.classes)

    @property
    def numbers(self) -> np.ndarray:
        """See `IndexedSplit`."""
        return self.classes

    @property
    def identity(self) -> str:
        """That of the images."""
        return self.images.identity

    def _contents(self) -> Iterable[np.ndarray]:
        return (piece for view in self.views for piece in view)

    def _only(self, numbers: np.ndarray) -> Self:
        views = [[self._rows(np.full(len(numbers), v), numbers)] for v in range(len(self.views))]
        return dataclasses.replace(self, views=views, classes=self.classes[numbers])

    def reader(self) -> Callable:
        """See `IndexedSplit`; gives the number of an image in its place, for `lookup`."""
        label = self._label_reader()
        return lambda index: (index, label(index))

    def lookup(self, index: tf.Tensor, label: tf.Tensor, epoch: tf.Tensor) -> tuple:
        """Put features in the place of numbers of images, in a graph.

        Args:
            index: numbers of images, int64 `(batch,)`.
            label: numbers of their classes, int64 `(batch,)`, or their rows of labels.
            epoch: in which they are seen, int64 `(batch,)`; the view is that of the number
                `(epoch + index) % views`.

        Returns:
            Features, float32 `(batch, features)`, and `label`.
        """
        view = (epoch + index) % len(self.views)
        # A whole batch in one call of Python: the files are larger than memory may be.
        rows = tf.numpy_function(self._rows, [view, index], tf.float32, stateful=False)
        return tf.ensure_shape(rows, (index.shape[0], self.views[0][0].shape[1])), label

    def _rows(self, views: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The features of images in views, float32 `(n, features)`."""
        length, width = self.views[0][0].shape
        rows = np.empty((len(numbers), width), np.float32)
        places = zip(views.tolist(), numbers.tolist(), strict=True)
        for row, (view, number) in enumerate(places):
            rows[row] = self.views[view][number // length][number % length]
        return rows
