"""One image: from a file or from bytes to pixels, and to what evaluation sees of it."""

import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from resnet_keras import augmentations
from resnet_keras.data.formats import MOST_BYTES, UnreadableError, tidy
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing


def evaluation_image(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resize and crop one image for evaluation; the model normalises it.

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


def prepared_or_black(
    files: tf.Tensor, preprocessing: Preprocessing, channels: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode and prepare a batch of files within a graph, where some cannot be read.

    An operation that fails fails for the whole batch, but a data set can leave out what fails.

    Args:
        files: the bytes of each, strings `(n,)`; n may be 0.
        preprocessing: of the images.
        channels: 1 or 3.

    Returns:
        uint8 `(n, height, width, channels)`, black where a file cannot be read; and bool `(n,)`,
        whether it can.
    """
    shape = (*preprocessing.size, channels)

    def pixels(index: tf.Tensor, file: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = evaluation_image(decode(file, channels), preprocessing)
        return index, tf.ensure_shape(image, shape)

    number = tf.shape(files, tf.int64)[0]
    images = tf.data.Dataset.from_tensor_slices(files).enumerate()
    images = images.map(pixels, num_parallel_calls=tf.data.AUTOTUNE).ignore_errors()
    # One more, so that there is a batch where no file can be read.
    spare = tf.data.Dataset.from_tensors((number, tf.zeros(shape, tf.uint8)))
    indices, found = images.concatenate(spare).batch(number + 1).get_single_element()
    places = indices[:, None]
    prepared = tf.scatter_nd(places, found, (number + 1, *shape))
    readable = tf.scatter_nd(places, tf.ones_like(indices), [number + 1]) > 0
    return prepared[:number], readable[:number]


def read_image(path: str | Path, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, BMP, GIF (first frame), WebP or TIFF file; others where Pillow can.

    Rotation in its EXIF is applied, as to all images of a folder: see `tidy`.

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
        raise InputError(f"not a readable image: {error}. Received: {path}") from None


def tidy_file(path: str | Path) -> bytes:
    """Read an image file, as bytes that TensorFlow decodes: see `tidy`.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it is not an image.
    """
    with warnings.catch_warnings():
        # Pillow warns of large images and odd metadata; what is wrong is an error.
        warnings.simplefilter("ignore")
        return tidy(read_bytes(path))


def read_bytes(path: str | Path) -> bytes:
    """Read a file, unless it is too large for an image.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it cannot be read.
    """
    try:
        status = Path(path).stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise UnreadableError("not a file")  # but a pipe, which nobody may write to
        if status.st_size > MOST_BYTES:
            raise UnreadableError(f"larger than {MOST_BYTES // 2**20} MiB")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError((error.strerror or "unreadable").lower()) from None


def shape_of(encoded: tf.Tensor) -> tf.Tensor:
    """Return height, width and channels, int32 `(3,)`, of a decoded or encoded image."""
    if encoded.dtype != tf.string:
        return tf.shape(encoded)
    # Some TFDS data sets of JPEG contain PNG (ImageNet has one); decoding them twice is rare.
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded),
        lambda: tf.shape(tf.io.decode_image(encoded, expand_animations=False)),
    )


def decode(
    encoded: tf.Tensor | bytes, channels: int, window: Sequence[int | tf.Tensor] | None = None
) -> tf.Tensor:
    """Decode an image, or a window of it.

    Args:
        encoded: the bytes of a JPEG, PNG, BMP or GIF; or uint8 `(height, width, channels)`, which
            is decoded already.
        channels: 1 or 3.
        window: `(top, left, height, width)` in pixels; None: the whole image. Of a JPEG, nothing
            else is decoded.

    Returns:
        uint8 `(height, width, channels)`.
    """

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
