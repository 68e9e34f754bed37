"""Images of one split, and how one of them is decoded."""

import dataclasses
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data.files import Files
from resnet_keras.data.formats import MOST_BYTES, UnreadableError, tidy
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        examples: number of images.
        labels: names of the classes, in the order of their numbers.
        channels: 1 or 3.
        arrays: `(uint8 (n, h, w, c), int64 (n,))` where images are kept in memory; else None.
        records: else, `(file, records to skip, records to take)` of the split and the parser of
            one record to `(encoded image, label)`.
        files: else, the files of a folder.
        skipped: `(path, reason)` of the bad files of a folder that were left out.
        source: the `Source` that it was opened from.
    """

    examples: int
    labels: tuple[str, ...]
    channels: int
    arrays: tuple[np.ndarray, np.ndarray] | None = None
    records: tuple[Sequence, Callable] | None = None
    files: Files | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    source: Any = None

    @property
    def record_files(self) -> tuple[str, ...]:
        """Paths of the files of records; none where images are kept otherwise."""
        return tuple(path for path, *_ in self.records[0]) if self.records else ()

    @property
    def identity(self) -> str:
        """What tells these images, in their order, from others: for a reader and for `==`."""
        if self.files:
            order = [self.files.labels, self.files.fingerprints]
        elif self.records:  # a data set of TFDS, told apart by its version, which is in the names
            pieces = [(Path(path).name, *place) for path, *place in self.records[0]]
            order = [np.array(repr(pieces))]
        else:
            order = self.arrays
        number = zlib.crc32("\n".join(self.labels).encode(errors="surrogateescape"))
        for array in order:
            number = zlib.crc32(np.ascontiguousarray(array), number)  # reads it where it lies
        return f"{self.examples:,} of {len(self.labels):,} classes (checksum {number:08x})"


def sample(split: Split, examples: int, *, seed: int) -> Split:
    """Some images of a split, drawn by a seed.

    Of records the first ones of so many files, drawn by the seed, are taken, of each file as many
    as of any other that has them: TFDS shuffled them when it wrote them.

    Args:
        split: the split.
        examples: how many; all, if the split has no more.
        seed: of the draw.

    Returns:
        The same split with these images alone, in its order.
    """
    draw = np.random.default_rng(seed)
    if split.records:
        pieces, parse = split.records
        chosen = sorted(draw.permutation(len(pieces))[:examples])
        pieces = _shared_out([pieces[i] for i in chosen], examples)
        few = sum(take for _, _, take in pieces)
        return dataclasses.replace(split, examples=few, records=(pieces, parse))
    chosen = np.sort(draw.permutation(split.examples)[:examples])
    few = dataclasses.replace(split, examples=len(chosen))
    if split.files:
        fields = dataclasses.asdict(split.files)
        return dataclasses.replace(few, files=Files(**{k: v[chosen] for k, v in fields.items()}))
    return dataclasses.replace(few, arrays=tuple(array[chosen] for array in split.arrays))


def _shared_out(pieces: Sequence, examples: int) -> list:
    """Pieces of files with so many records in all, or as many as there are."""
    pieces = list(pieces)
    # The short ones first: what they lack is shared out among the others.
    order = sorted(range(len(pieces)), key=lambda i: pieces[i][2])
    for done, i in enumerate(order):
        file, skip, take = pieces[i]
        take = min(take, examples // (len(order) - done))
        pieces[i] = (file, skip, take)
        examples -= take
    return pieces


def evaluation_image(image, preprocessing: Preprocessing) -> tf.Tensor:
    """One image as evaluation sees it, before normalisation.

    Args:
        image: uint8 `(height, width, channels)`.
        preprocessing: resize and centre crop.

    Returns:
        uint8 `(*preprocessing.size, channels)`.
    """
    if preprocessing.resize is None and tuple(image.shape[:2]) == preprocessing.size:
        return tf.convert_to_tensor(image)
    cropped = augmentations.resize_and_center_crop(
        image,
        resize=preprocessing.resize,
        crop=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
    )
    return tf.ensure_shape(cropped, (*preprocessing.size, None))


def read_image(path: str | Path, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, BMP, GIF (first frame) or WebP file, as a folder's are: see `tidy`.

    Args:
        path: the file.
        channels: 1 or 3.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        InputError: the file is not there or is not an image.
    """
    try:
        return decode(tidy_file(path), channels)
    except FileNotFoundError:
        raise InputError(f"no such image. Received: {path}") from None
    except UnreadableError as error:
        raise InputError(
            f"no JPEG, PNG, BMP, GIF or WebP image: {error}. Received: {path}"
        ) from None


def tidy_file(path: str | Path) -> bytes:
    """The bytes of a file, or those of a tidier PNG.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is not an image.
    """
    with warnings.catch_warnings():
        # Of large images and odd metadata; what is wrong is an error.
        warnings.simplefilter("ignore")
        return tidy(read_bytes(path))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, unless they are too many for an image.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it cannot be read.
    """
    try:
        if Path(path).stat().st_size > MOST_BYTES:
            raise UnreadableError(f"larger than {MOST_BYTES // 2**20} MiB")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError((error.strerror or "unreadable").lower()) from None


def shape_of(encoded) -> tf.Tensor:
    """Height, width, channels of a decoded or encoded image."""
    if encoded.dtype != tf.string:
        return tf.shape(encoded)
    # TFDS keeps some PNG in data sets of JPEG (ImageNet has one); decoding them twice is rare.
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(tf.io.decode_image(encoded, expand_animations=False)),
    )


def decode(encoded, channels: int, window: tuple | None = None) -> tf.Tensor:
    """uint8 pixels, of the window `(top, left, height, width)` only if there is one."""

    def crop(image):
        if window is None:
            return image
        top, left, height, width = window
        return image[top : top + height, left : left + width]

    if isinstance(encoded, bytes):
        encoded = tf.constant(encoded)
    if encoded.dtype != tf.string:
        return crop(encoded)
    # "INTEGER_ACCURATE" is libjpeg's default, which Pillow and OpenCV use.
    jpeg = {"channels": channels, "dct_method": "INTEGER_ACCURATE"}

    def decode_jpeg():
        if window is None:
            return tf.io.decode_jpeg(encoded, **jpeg)
        return tf.io.decode_and_crop_jpeg(encoded, tf.stack(window), **jpeg)

    def decode_other():
        return crop(tf.io.decode_image(encoded, channels, expand_animations=False))

    image = tf.cond(tf.io.is_jpeg(encoded), decode_jpeg, decode_other)
    return tf.ensure_shape(image, (None, None, channels))
