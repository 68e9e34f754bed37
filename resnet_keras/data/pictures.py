"""Pictures of one split, and how one of them is decoded."""

import dataclasses
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_keras import augment
from resnet_keras.data.files import Files
from resnet_keras.data.formats import MOST_BYTES, UnreadableError, tidy
from resnet_keras.terminal import InputError


@dataclasses.dataclass(frozen=True)
class Pictures:
    """One split of a data set.

    Attributes:
        examples: number of pictures.
        labels: names of the classes, in the order of their numbers.
        channels: 1 or 3.
        arrays: `(uint8 (n, h, w, c), int64 (n,))` where pictures are kept in memory; else None.
        records: else, `(file, records to skip, records to take)` of the split and the parser of
            one record to `(encoded picture, label)`.
        files: else, the files of a folder.
        skipped: `(path, reason)` of the bad files of a folder that were left out.
    """

    examples: int
    labels: tuple[str, ...]
    channels: int
    arrays: tuple[np.ndarray, np.ndarray] | None = None
    records: tuple[Sequence, Callable] | None = None
    files: Files | None = None
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def record_files(self) -> tuple[str, ...]:
        """Paths of the files of records; none where pictures are kept otherwise."""
        return tuple(path for path, *_ in self.records[0]) if self.records else ()

    @property
    def identity(self) -> str:
        """What tells these pictures, in their order, from others: for a reader and for `==`."""
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


def sample(pictures: Pictures, examples: int, *, seed: int) -> Pictures:
    """Some pictures of a split, drawn by a seed.

    Of records the first ones of so many files, drawn by the seed, are taken, of each file as many
    as of any other that has them: TFDS shuffled them when it wrote them.

    Args:
        pictures: the split.
        examples: how many; all, if the split has no more.
        seed: of the draw.

    Returns:
        The same split with these pictures alone, in its order.
    """
    draw = np.random.default_rng(seed)
    if pictures.records:
        pieces, parse = pictures.records
        chosen = sorted(draw.permutation(len(pieces))[:examples])
        pieces = _shared_out([pieces[i] for i in chosen], examples)
        few = sum(take for _, _, take in pieces)
        return dataclasses.replace(pictures, examples=few, records=(pieces, parse))
    chosen = np.sort(draw.permutation(pictures.examples)[:examples])
    few = dataclasses.replace(pictures, examples=len(chosen))
    if pictures.files:
        fields = dataclasses.asdict(pictures.files)
        return dataclasses.replace(few, files=Files(**{k: v[chosen] for k, v in fields.items()}))
    return dataclasses.replace(few, arrays=tuple(array[chosen] for array in pictures.arrays))


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


def evaluation_picture(
    image,
    *,
    size: int,
    resize: int | None = None,
    interpolation: str = "bilinear",
    antialias: bool = False,
) -> tf.Tensor:
    """One picture as evaluation sees it.

    Args:
        image: uint8 `(height, width, channels)`.
        size: height and width of the crop.
        resize: the short edge becomes this before; None: `size`, unless the picture has it.
        interpolation: "bilinear" or "bicubic".
        antialias: resize as Pillow does, rather than as OpenCV.

    Returns:
        uint8 `(size, size, channels)`.
    """
    if resize is None and image.shape[:2] == (size, size):
        return tf.convert_to_tensor(image)
    return augment.resize_and_center_crop(
        image, resize=resize or size, crop=size, interpolation=interpolation, antialias=antialias
    )


def read_picture(path: str | Path, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, BMP, GIF (first frame) or WebP file, as a folder's are: see `tidy`.

    Args:
        path: the file.
        channels: 1 or 3.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        InputError: the file is not there or is not a picture.
    """
    try:
        return decode(tidy_file(path), channels)
    except FileNotFoundError:
        raise InputError(f"no such picture. Received: {path}") from None
    except UnreadableError as error:
        raise InputError(
            f"no JPEG, PNG, BMP, GIF or WebP picture: {error}. Received: {path}"
        ) from None


def tidy_file(path: str | Path) -> bytes:
    """The bytes of a file, or those of a tidier PNG.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is not a picture.
    """
    with warnings.catch_warnings():
        # Of large pictures and odd metadata; what is wrong is an error.
        warnings.simplefilter("ignore")
        return tidy(read_bytes(path))


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, unless they are too many for a picture.

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


def shape_of(picture) -> tf.Tensor:
    """Height, width, channels of a decoded or encoded picture."""
    if picture.dtype != tf.string:
        return tf.shape(picture)
    # TFDS keeps some PNG in data sets of JPEG (ImageNet has one); decoding them twice is rare.
    return tf.cond(
        tf.io.is_jpeg(picture),
        lambda: tf.io.extract_jpeg_shape(picture),
        lambda: tf.shape(tf.io.decode_image(picture, expand_animations=False)),
    )


def decode(picture, channels: int, window: tuple | None = None) -> tf.Tensor:
    """uint8 pixels, of the window `(top, left, height, width)` only if there is one."""

    def crop(image):
        if window is None:
            return image
        top, left, height, width = window
        return image[top : top + height, left : left + width]

    if isinstance(picture, bytes):
        picture = tf.constant(picture)
    if picture.dtype != tf.string:
        return crop(picture)
    # "INTEGER_ACCURATE" is libjpeg's default, which Pillow and OpenCV use.
    jpeg = {"channels": channels, "dct_method": "INTEGER_ACCURATE"}

    def decode_jpeg():
        if window is None:
            return tf.io.decode_jpeg(picture, **jpeg)
        return tf.io.decode_and_crop_jpeg(picture, tf.stack(window), **jpeg)

    def decode_other():
        return crop(tf.io.decode_image(picture, channels, expand_animations=False))

    image = tf.cond(tf.io.is_jpeg(picture), decode_jpeg, decode_other)
    return tf.ensure_shape(image, (None, None, channels))
