"""Files of records as TFDS writes them: which one is damaged, for TensorFlow does not say it."""

import os
import re
import struct
from collections.abc import Iterable

import tensorflow as tf

# What TensorFlow says: where in a file, in no file of a name.
_PLACE = re.compile(r"(?:corrupted|truncated) record at (\d+)")

# A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of them (4).
_HEADER, _AROUND = 12, 16


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A data set without tf.data's thread that tunes; `AUTOTUNE` is a thread a core then.

    That thread sleeps up to as long as its iterator has lived, and the iterator's end waits for it:
    half of a short `fit` was that. It asks the wall clock; where that jumps, it never wakes.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def damaged(paths: Iterable[str], message: str) -> str | None:
    """The file that an error is about.

    Only the headers of records are read, and the whole of a file that has one at that place.

    Args:
        paths: of all the files that were read.
        message: of TensorFlow's `DataLossError`.

    Returns:
        The path; None where all of them are whole now.
    """
    if (place := _PLACE.search(message)) is None:
        return None
    # Of a record whose data are wrong TensorFlow names the place of the data.
    places = {int(place[1]), int(place[1]) - _HEADER}
    return next((path for path in paths if _begins(path, places) and not _whole(path)), None)


def _begins(path: str, places: set[int]) -> bool:
    """Whether a record begins at one of these places."""
    at = 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < min(max(places), size) and at not in places:
            file.seek(at)
            header = file.read(8)
            at += struct.unpack("<Q", header)[0] + _AROUND if len(header) == 8 else size
    return at in places


def _whole(path: str) -> bool:
    try:
        for _ in untuned(tf.data.TFRecordDataset(path, buffer_size=2**20)):
            pass
    except tf.errors.DataLossError:
        return False
    return True
