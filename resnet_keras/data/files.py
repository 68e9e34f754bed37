"""Image files in a tf.data graph: the bytes that were checked, or an error with the name."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Collection, Iterator

import numpy as np
import tensorflow as tf

from resnet_keras.data.formats import tidy
from resnet_keras.data.records import damaged
from resnet_keras.errors import InputError

_CHANGED = "this image has changed since it was checked:"
# What an operation of TensorFlow says about a file, and the assertion below.
_MISSING_FILE = re.compile(r"(?:^|: |\}\} )(/[^\n]*); (\w[^\n;]*)$", re.MULTILINE)
_CHANGED_FILE = re.compile(rf"\[{_CHANGED}\] \[([^\n]*)\]$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Files:
    """Files that were decoded once and found good.

    Attributes:
        paths: strings `(n,)`, absolute.
        labels: int64 `(n,)`.
        fingerprints: int64 `(n,)`, of their bytes.
        plain: bool `(n,)`, whether TensorFlow decodes them without `tidy`.
    """

    paths: np.ndarray
    labels: np.ndarray
    fingerprints: np.ndarray
    plain: np.ndarray


def fingerprint(data) -> tf.Tensor:
    """A number, int64, that tells a file's bytes from others."""
    return tf.strings.to_hash_bucket_fast(data, 2**62)


def reader(files: Files) -> Callable:
    """A graph function from the number of a file to `(encoded image, label)`.

    Before an image is decoded its bytes are compared with those that were checked, so that no
    decoder fails without saying on which file.
    """
    paths, plain = tf.constant(files.paths), tf.constant(files.plain)
    numbers = tf.constant(np.stack([files.labels, files.fingerprints], 1))

    def read(index):
        path = tf.gather(paths, index)
        label, expected = tf.unstack(tf.gather(numbers, index))
        data = tf.io.read_file(path)
        same = tf.debugging.Assert(fingerprint(data) == expected, [_CHANGED, path])
        with tf.control_dependencies([same]):
            data = tf.identity(data)
        if not files.plain.all():
            data = tf.cond(tf.gather(plain, index), lambda: data, lambda: _tidy_in_graph(data))
        return data, label

    return read


def _tidy_in_graph(data) -> tf.Tensor:
    tidied = tf.numpy_function(tidy, [data], tf.string, stateful=False)
    return tf.ensure_shape(tidied, ())


@contextlib.contextmanager
def naming_files(records: Collection[str] = ()) -> Iterator[None]:
    """Around what draws batches: an error about a file of data becomes one line that names it.

    Args:
        records: paths of the files of records that may be read.

    Raises:
        InputError: a file is gone, cannot be read, or is not what it was.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if broken := damaged(records, error.message):
            raise InputError(
                f"{broken} is damaged. Put a whole copy there, or delete its folder and prepare "
                "the data set again; then go on."
            ) from None
        if changed := _CHANGED_FILE.search(error.message):
            path, reason = changed[1], "has changed since it was checked"
        elif missing := _MISSING_FILE.search(error.message):
            path, reason = missing[1], f"cannot be read any more ({missing[2].lower()})"
        else:
            raise
        kind = "file" if path in records else "image"
        raise InputError(f"the {kind} {path} {reason}. Fix it, then go on.") from None
