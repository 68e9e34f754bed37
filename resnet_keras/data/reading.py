"""Errors while images are read, with the name of the file that TensorFlow does not tell."""

import contextlib
import os
import re
import struct
from collections.abc import Iterable, Iterator

import tensorflow as tf

from resnet_keras.data.files import CHANGED
from resnet_keras.data.splits import Split, untuned
from resnet_keras.errors import InputError

# What TensorFlow says: an operation about a file; the assertion in data/files.py; a reader of
# records about a place, without the name of the file.
_MISSING = re.compile(r"(?:^|: |\}\} )(/[^\n]*); (\w[^\n;]*)$", re.MULTILINE)
_CHANGED = re.compile(rf"\[{CHANGED}\] \[([^\n]*)\]$", re.MULTILINE)
_PLACE = re.compile(r"(?:corrupted|truncated) record at (\d+)")

# A record is its length (8 bytes), a checksum of that (4), the data, and a checksum of them (4).
_HEADER, _AROUND = 12, 16


@contextlib.contextmanager
def reading(*splits: Split) -> Iterator[None]:
    """Around what reads batches: an error about a file of data becomes one line that names it.

    Args:
        splits: whose batches are read.

    Raises:
        InputError: a file is gone, cannot be read, or is not what it was.
    """
    records = [path for split in splits for path in split.record_files]
    try:
        yield
    except tf.errors.OpError as error:
        if broken := _damaged(records, error.message):
            raise InputError(
                f"{broken} is damaged. Restore it from a copy, or delete its folder and prepare "
                "the data set again; then run the same command again."
            ) from None
        if changed := _CHANGED.search(error.message):
            path, reason = changed[1], "has changed since it was checked"
        elif missing := _MISSING.search(error.message):
            path, reason = missing[1], f"can no longer be read ({missing[2].lower()})"
        else:
            raise
        kind = "file" if path in records else "image"
        raise InputError(
            f"the {kind} {path} {reason}. Fix it, then run the same command again."
        ) from None


def _damaged(paths: Iterable[str], message: str) -> str | None:
    """The file of records that an error is about; None where all of them are whole now.

    Only the headers of records are read, and the whole of a file that has one at that place.

    Args:
        paths: all files that were read.
        message: of TensorFlow's `DataLossError`.
    """
    if (place := _PLACE.search(message)) is None:
        return None
    # If a record's data are wrong, TensorFlow names the place of the data, not of the record.
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
