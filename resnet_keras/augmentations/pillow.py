"""Pillow's operations on uint8 images `(height, width, channels)`, in TensorFlow.

Channels are 3, or 1 for grey images; `affine` and `rotate` take any number. All are equal to the
last bit, but for bilinear `affine` and `rotate`: to one level of 255.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255, as `PIL.ImageOps.autocontrast`."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = tf.where(high > low, 255 / (high - low), 1)
    offset = tf.where(high > low, -low * scale, 0)
    # Pillow does this for a table of 256 levels; looking each pixel up costs more than computing.
    height, width = tf.unstack(tf.shape(image)[:2])
    rows = tf.cast(tf.reshape(image, [height, -1]), tf.float64)
    rows = rows * tf.tile(scale, [width]) + tf.tile(offset, [width])
    return tf.reshape(tf.cast(tf.clip_by_value(rows, 0, 255), tf.uint8), tf.shape(image))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flatten the histogram of each channel, as `PIL.ImageOps.equalize`."""
    counts = tf.math.bincount(_channel_levels(image), minlength=image.shape[2] * 256)
    histogram = tf.reshape(counts, [image.shape[2], 256])
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    # The brightest pixels do not count towards the step.
    step = tf.reduce_max(tf.where(histogram > 0, below, 0), axis=1, keepdims=True) // 255
    table = tf.where(step > 0, (step // 2 + below) // tf.maximum(step, 1), tf.range(256))
    return _look_up(image, tf.cast(tf.minimum(table, 255), tf.uint8))


def _channel_levels(image: tf.Tensor) -> tf.Tensor:
    """Number the levels: pixel + 256 x channel, int32 `(height, width * channels)`."""
    rows = tf.reshape(tf.cast(image, tf.int32), [tf.shape(image)[0], -1])
    return rows + tf.tile(256 * tf.range(image.shape[2]), [tf.shape(image)[1]])


def _look_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Map each channel through its row of `table`, uint8 `(channels, 256)`."""
    pixels = tf.gather(tf.reshape(table, [-1]), _channel_levels(image))
    return tf.reshape(pixels, tf.shape(image))


def invert(image: tf.Tensor) -> tf.Tensor:
    """Take the negative, as `PIL.ImageOps.invert`."""
    return 255 - image


def posterize(image: tf.Tensor, bits: int | tf.Tensor) -> tf.Tensor:
    """Keep the highest `bits`, 0-8, of each pixel, as `PIL.ImageOps.posterize`."""
    mask = 256 - tf.bitwise.left_shift(1, 8 - bits)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: tf.Tensor, threshold: float | tf.Tensor) -> tf.Tensor:
    """Invert pixels at or above `threshold`, 0-256, as `PIL.ImageOps.solarize`."""
    lowest = tf.cast(tf.math.ceil(tf.cast(threshold, tf.float32)), tf.int32)
    bright = tf.cast(tf.cast(image, tf.int32) >= lowest, tf.uint8)
    return tf.bitwise.bitwise_xor(image, 255 * bright)


def solarize_add(image: tf.Tensor, amount: int | tf.Tensor) -> tf.Tensor:
    """Add `amount`, 0-128, to pixels below 128, as timm does."""
    return image + tf.cast(amount, tf.uint8) * tf.cast(image < 128, tf.uint8)


def brightness(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Blend with black, as `PIL.ImageEnhance.Brightness`."""
    return _blend(0.0, tf.cast(image, tf.float32), factor)


def contrast(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Blend with the image's mean grey, as `PIL.ImageEnhance.Contrast`."""
    pixels = tf.cast(image, tf.float32)
    mean = tf.reduce_mean(tf.cast(_grey(pixels), tf.float64))
    return _blend(tf.cast(tf.floor(mean + 0.5), tf.float32), pixels, factor)


def color(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Blend with the grey image, as `PIL.ImageEnhance.Color`."""
    pixels = tf.cast(image, tf.float32)
    return _blend(_grey(pixels), pixels, factor)


def sharpness(image: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Blend with the smoothed image, as `PIL.ImageEnhance.Sharpness`; the border stays."""
    pixels = tf.cast(image, tf.float32)
    rows = pixels[:-2] + pixels[1:-1] + pixels[2:]
    squares = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    middle = pixels[1:-1, 1:-1]
    smooth = tf.floor((squares + 4 * middle) / 13 + 0.5)
    detail = tf.pad(middle - smooth, [[1, 1], [1, 1], [0, 0]])
    return _blend(pixels - detail, pixels, factor)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    """Compute Pillow's grey of float32 pixels in all channels; that of grey pixels are they.

    In 65536ths; every sum stays below 2^24, where float32 still counts (a GPU's TF32 does not).
    """
    if pixels.shape[2] == 1:
        return pixels
    weights = tf.repeat([[19595.0], [38470.0], [7471.0]], 3, axis=1)
    return tf.floor((tf.tensordot(pixels, weights, 1) + 32768) / 65536)


def _blend(zero: float | tf.Tensor, one: tf.Tensor, factor: float | tf.Tensor) -> tf.Tensor:
    """Go from `zero` (factor 0) through `one` (factor 1), cut to uint8 as `PIL.Image.blend`."""
    return tf.cast(tf.clip_by_value(zero + factor * (one - zero), 0, 255), tf.uint8)


def rotate(
    image: tf.Tensor,
    degrees: float | tf.Tensor,
    fill: int | Sequence[int],
    interpolation: str = "bilinear",
) -> tf.Tensor:
    """Rotate counter-clockwise about the centre, as `PIL.Image.rotate`; see `affine`."""
    angle = -tf.cast(degrees, tf.float64) * (math.pi / 180)
    # As Pillow rounds them: at 90 degrees they are 0 and 1.
    cos, sin = (tf.round(value * 1e15) / 1e15 for value in (tf.cos(angle), tf.sin(angle)))
    y, x = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64) / 2)
    matrix = (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)
    return affine(image, matrix, fill, interpolation)


def affine(
    image: tf.Tensor,
    matrix: Sequence[float | tf.Tensor],
    fill: int | Sequence[int],
    interpolation: str = "bilinear",
) -> tf.Tensor:
    """Move pixels as `PIL.Image.transform(AFFINE)`.

    Args:
        image: uint8 `(height, width, channels)`; for "nearest" no side of 32,768 pixels or more.
        matrix: `(a, b, c, d, e, f)`: the pixel with its centre at `(x, y)` comes from
            `(a x + b y + c, d x + e y + f)`.
        fill: value of pixels that come from outside, one for all channels or one per channel.
        interpolation: "bilinear" or "nearest".

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: if `interpolation` is neither.
    """
    # In float32, a pixel that comes from the very edge may be taken for one from outside.
    numbers = [tf.cast(value, tf.float64) for value in matrix]
    ways = {"bilinear": _bilinear, "nearest": _nearest}
    if interpolation not in ways:
        raise ValueError(
            f"interpolation must be one of {sorted(ways)}. Received: {interpolation!r}"
        )
    moved, inside = ways[interpolation](image, numbers)
    return _filled(moved, inside, fill, image)


def shear(
    image: tf.Tensor,
    amount: float | tf.Tensor,
    fill: int | Sequence[int],
    interpolation: str = "bilinear",
) -> tf.Tensor:
    """Do what `affine` does with `(1, amount, 0, 0, 1, 0)`, in less than half of the time."""
    if interpolation != "bilinear":
        return affine(image, (1, amount, 0, 0, 1, 0), fill, interpolation)
    height, width, channels = tf.unstack(tf.shape(image))
    centres = tf.range(tf.cast(height, tf.float64))[:, tf.newaxis] + 0.5
    moves = tf.cast(amount, tf.float64) * centres
    # Each row is an image of its own, of which one box is taken. It begins and ends with a pixel
    # more, because beyond the centre of the last pixel Pillow repeats it.
    rows = tf.concat([image[:, :1], image, image[:, -1:]], 1)[:, tf.newaxis]
    ends = tf.concat([moves + 1, moves + tf.cast(width, tf.float64)], 1)
    ends = tf.cast(ends / tf.cast(width + 1, tf.float64), tf.float32)
    moved = tf.raw_ops.CropAndResize(
        image=tf.cast(rows, tf.float32),
        boxes=tf.stack([tf.zeros([height]), ends[:, 0], tf.zeros([height]), ends[:, 1]], 1),
        box_ind=tf.range(height),
        crop_size=tf.stack([1, width]),
    )
    length = tf.cast(width, tf.float64)
    from_x = moves + tf.repeat(tf.range(length) + 0.5, channels)
    return _filled(tf.cast(moved, tf.uint8), (from_x >= 0) & (from_x < length), fill, image)


def _filled(
    moved: tf.Tensor, inside: tf.Tensor, fill: int | Sequence[int], image: tf.Tensor
) -> tf.Tensor:
    """Put `fill` where pixels of `image` do not come from `inside`, bool as in `select`."""
    rows = tf.reshape(moved, tf.shape(inside))
    if np.any(fill):
        rows = select(inside, rows, row_of(fill, image))
    else:
        rows *= tf.cast(inside, tf.uint8)
    return tf.ensure_shape(tf.reshape(rows, tf.shape(image)), image.shape)


def translate(
    image: tf.Tensor, right: tf.Tensor, down: tf.Tensor, fill: int | Sequence[int]
) -> tf.Tensor:
    """Move pixels by whole ones, as `affine` would, but faster.

    Args:
        image: uint8 `(height, width, channels)`.
        right: how far, scalar int32; negative: to the left.
        down: likewise; negative: up.
        fill: value of pixels that come from outside, one for all channels or one per channel.

    Returns:
        uint8 of the same shape.
    """
    size = tf.shape(image)[:2]
    move = tf.clip_by_value(tf.stack([down, right]), -size, size)
    before, after = tf.maximum(move, 0), tf.maximum(-move, 0)
    kept = tf.slice(image, tf.pad(after, [[0, 1]]), tf.concat([size - before - after, [-1]], 0))
    # `tf.pad` has one value for all channels; bytes wrap around.
    colour = tf.cast(fill, tf.uint8)
    padding = tf.pad(tf.stack([before, after], 1), [[0, 1], [0, 0]])
    moved = tf.pad(kept - colour, padding) + colour if np.any(fill) else tf.pad(kept, padding)
    return tf.ensure_shape(moved, image.shape)


def _bilinear(image: tf.Tensor, matrix: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Move pixels; tell which come from inside, bool `(height, width * channels)`."""
    a, b, c, d, e, f = matrix
    # TensorFlow counts from the centre of the first pixel, Pillow from its corner.
    transform = [a, b, c + (a + b - 1) / 2, d, e, f + (d + e - 1) / 2, 0.0, 0.0]
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[tf.newaxis],  # whose kernel is faster than uint8's
        transforms=[[tf.cast(value, tf.float32) for value in transform]],
        output_shape=tf.shape(image)[:2],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
    y, x = tf.range(height)[:, tf.newaxis] + 0.5, tf.repeat(tf.range(width) + 0.5, image.shape[2])
    from_x, from_y = a * x + (b * y + c), d * x + (e * y + f)
    return tf.cast(moved, tf.uint8), (from_x >= 0) & (from_x < width) & (from_y >= 0) & (
        from_y < height
    )


def _nearest(image: tf.Tensor, matrix: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Do what `_bilinear` does, in Pillow's own arithmetic: with 16 bits after the binary point."""
    a, b, c, d, e, f = matrix

    def fixed(value: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.floor(value * 65536 + 0.5), tf.int32)

    height, width, channels = tf.unstack(tf.shape(image))
    y, x = tf.range(height)[:, tf.newaxis], tf.range(width)
    from_x = tf.bitwise.right_shift(fixed(a) * x + fixed(b) * y + fixed(c + (a + b) / 2), 16)
    from_y = tf.bitwise.right_shift(fixed(d) * x + fixed(e) * y + fixed(f + (d + e) / 2), 16)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    places = tf.where(inside, from_y * width + from_x, 0)
    return tf.gather(tf.reshape(image, [-1, channels]), places), tf.repeat(inside, channels, 1)


def select(inside: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
    """Take `new` where `inside`, bool, is true, else `old`; uint8 `(height, width * channels)`."""
    mask = tf.cast(inside, tf.uint8)  # products of bytes cost a fifth of tf.where
    return new * mask + old * (1 - mask)


def row_of(value: float | Sequence[float], image: tf.Tensor) -> tf.Tensor:
    """Fill a row of `image` with a pixel value: uint8 `(width * channels,)`."""
    _, width, channels = tf.unstack(tf.shape(image))
    return tf.tile(tf.broadcast_to(tf.cast(value, tf.uint8), [channels]), [width])
