"""A split of image files: the bytes that were checked, or an error that names the file."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Self

import numpy as np
import tensorflow as tf

from resnet_keras.data.formats import tidy
from resnet_keras.data.splits import IndexedSplit

# What the graph says before the path of a file whose bytes are others than those checked.
CHANGED = "this image has changed since it was checked:"


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Files that were decoded once and found good.

    Attributes:
        paths: bytes `(n,)`, absolute paths.
        labels: int64 `(n,)`, numbers of the classes; uint8 `(n, classes)`, 1 for each label of an
            image, where images have several.
        fingerprints: int64 `(n,)`, of the files' bytes.
        plain: bool `(n,)`, whether TensorFlow decodes them without `tidy`.
    """

    paths: np.ndarray
    labels: np.ndarray
    fingerprints: np.ndarray
    plain: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FileSplit(IndexedSplit):
    """Images in files of any of the formats that `tidy` reads.

    Attributes:
        files: in the order of the split.
    """

    files: Files

    @property
    def examples(self) -> int:
        """The number of images."""
        return len(self.files.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """Path of each image."""
        return tuple(path.decode(errors="surrogateescape") for path in self.files.paths.tolist())

    @property
    def numbers(self) -> np.ndarray:
        """See `IndexedSplit`."""
        return self.files.labels

    def relabelled(self, labels: tuple[str, ...]) -> Self:
        """The same images, their classes numbered as in `labels`, which has all of them."""
        numbers = np.array([labels.index(label) for label in self.labels], np.int64)
        if self.multi_label:
            moved = np.zeros((self.examples, len(labels)), np.uint8)
            moved[:, numbers] = self.files.labels
        else:
            moved = numbers[self.files.labels]
        files = dataclasses.replace(self.files, labels=moved)
        return dataclasses.replace(self, labels=labels, files=files)

    def _contents(self) -> Iterable[np.ndarray]:
        return self.files.labels, self.files.fingerprints

    def _only(self, numbers: np.ndarray) -> Self:
        columns = (getattr(self.files, field.name) for field in dataclasses.fields(Files))
        return dataclasses.replace(self, files=Files(*(column[numbers] for column in columns)))

    def reader(self) -> Callable:
        """See `IndexedSplit`; gives the bytes of a file.

        They are compared with those that were checked before an image is decoded, so that no
        decoder fails without telling which file it was.
        """
        files = self.files
        paths, plain = tf.constant(files.paths), tf.constant(files.plain)
        fingerprints, label_of = tf.constant(files.fingerprints), self._label_reader()

        def read(index):
            path, expected = tf.gather(paths, index), tf.gather(fingerprints, index)
            data = tf.io.read_file(path)
            same = tf.debugging.Assert(fingerprint(data) == expected, [CHANGED, path])
            with tf.control_dependencies([same]):
                data = tf.identity(data)
            if not files.plain.all():
                data = tf.cond(tf.gather(plain, index), lambda: data, lambda: _tidy_in_graph(data))
            return data, label_of(index)

        return read


def fingerprint(data: tf.Tensor | bytes) -> tf.Tensor:
    """Hash a file's bytes to a number, int64."""
    return tf.strings.to_hash_bucket_fast(data, 2**62)


def _tidy_in_graph(data: tf.Tensor) -> tf.Tensor:
    tidied = tf.numpy_function(tidy, [data], tf.string, stateful=False)
    return tf.ensure_shape(tidied, ())
