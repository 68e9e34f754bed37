"""Where pixels go: crops, resizing, flips."""

import math

import tensorflow as tf

from resnet_keras.augmentations.seeds import uniform

_Pair = tuple[int | tf.Tensor, int | tf.Tensor]  # height, width

# RandomResizedCrop: least and largest width / height of a window; number of windows drawn.
_ASPECTS, _TRIES = (3 / 4, 4 / 3), 10


def random_crop_window(
    height: tf.Tensor,
    width: tf.Tensor,
    seed: tf.Tensor,
    *,
    min_area: float,
    max_area: float = 1.0,
) -> tuple[tf.Tensor, ...]:
    """Draw the window of torchvision's and OpenMMLab's RandomResizedCrop.

    Its width / height is from 3/4 to 4/3, uniform in the logarithm. The first of ten draws that
    fits in the image is taken; if none does, the largest central window whose aspect is in range.
    (Szegedy et al. 2014, "Going Deeper with Convolutions", section 6, described the crop.)

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        seed: int [2].
        min_area: least share of the image's area that the window covers.
        max_area: largest share; between the two, uniform.

    Returns:
        `(top, left, height, width)`, scalar int32, in pixels.
    """
    image = tf.cast(tf.stack([height, width]), tf.float32)
    draws = uniform(seed, "random_crop_window", [4, _TRIES])
    candidates, fits = boxes(image, draws, (min_area, max_area), _ASPECTS)
    central = tf.round(tf.minimum(image, image[::-1] * [1 / _ASPECTS[0], _ASPECTS[1]]))
    last_resort = tf.concat([(image - central) // 2, central], 0)
    first = tf.argmax(tf.concat([fits, [True]], 0))
    window = tf.concat([candidates, [last_resort]], 0)[first]
    return tuple(tf.unstack(tf.cast(window, tf.int32)))


def boxes(
    image: tf.Tensor,
    draws: tf.Tensor,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lay out boxes of random area, aspect and place; say which fit in the image.

    All tries at once: the loop of the originals would be slow in a graph.

    Args:
        image: float32 [2], its height and width.
        draws: float32 `(4, tries)`, uniform in [0, 1).
        area: least and largest share of the image's area.
        aspect: least and largest width / height.

    Returns:
        float32 `(tries, 4)` of `(top, left, height, width)`, and bool `(tries,)`.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    sides = tf.sqrt(tf.reduce_prod(image) * (area[0] + (area[1] - area[0]) * draws[0]))
    stretch = tf.exp((low + (high - low) * draws[1]) / 2)
    sizes = tf.round(tf.stack([sides / stretch, sides * stretch]))
    free = image[:, tf.newaxis] - sizes
    fits = tf.reduce_all((sizes > 0) & (free >= 0), 0)
    return tf.transpose(tf.concat([tf.floor(draws[2:] * (free + 1)), sizes], 0)), fits


def center_crop_window(
    height: tf.Tensor, width: tf.Tensor, *, resize: int | None, crop: tuple[int, int]
) -> tuple[tf.Tensor, ...]:
    """Compute the window of single-crop evaluation, as torchvision and OpenMMLab do.

    The short edge becomes `resize` pixels, the long edge keeps the aspect (rounded down), then
    `crop` pixels are taken from the centre.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        resize: the short edge after resizing, in pixels; None: the image just covers the window.
        crop: height and width of the window, in pixels.

    Returns:
        `(height, width)` after resizing, then `(top, left)` of the window, all scalar int32. Where
        the resized image is smaller than the window, `top` or `left` is negative: that many rows or
        columns are padding, as torchvision pads.
    """
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    if resize is None:
        tall = crop[0] * width >= crop[1] * height  # its height decides
        edge, fitted = tf.where(tall, crop[0], crop[1]), tf.where(tall, height, width)
    else:
        edge, fitted = resize, tf.minimum(height, width)
    resized_h, resized_w = edge * height // fitted, edge * width // fitted
    return resized_h, resized_w, _center(resized_h, crop[0]), _center(resized_w, crop[1])


def _center(size: tf.Tensor, crop: int) -> tf.Tensor:
    """Return the first pixel of the window; half a pixel is rounded to even, as in Python."""
    cut = tf.cast(tf.round(tf.cast(size - crop, tf.float32) / 2), tf.int32)
    return tf.where(size < crop, -((crop - size) // 2), cut)


def resize_and_center_crop(
    image: tf.Tensor,
    *,
    resize: int | None,
    crop: tuple[int, int],
    interpolation: str,
    antialias: bool,
) -> tf.Tensor:
    """Resize the short edge and take the central window: single-crop evaluation.

    See `center_crop_window` for the geometry and `resize` for the arguments; only the pixels of
    the window are computed.

    Returns:
        uint8 `(*crop, channels)`; zeros where the resized image does not reach.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    resized_h, resized_w, top, left = center_crop_window(height, width, resize=resize, crop=crop)
    return _sample(image, (resized_h, resized_w), (top, left), crop, interpolation, antialias)


def resize(
    image: tf.Tensor,
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    *,
    interpolation: str = "bilinear",
    antialias: bool,
) -> tf.Tensor:
    """Resize an image to `height` x `width` pixels.

    Bilinear without antialias gives what OpenCV gives, bilinear and bicubic with antialias what
    Pillow gives, all within one level of 255. Bicubic differs more in fewer than one value in
    2,000: Pillow cuts what overshoots 0..255 between its two passes. (Bicubic without antialias is
    like no other library's: OpenCV has other coefficients.)

    Args:
        image: uint8 `(any, any, channels)`.
        height: of the result, in pixels.
        width: of the result, in pixels.
        interpolation: "bilinear" or "bicubic".
        antialias: when shrinking, average over all pixels that fall into one.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        ValueError: if `interpolation` is neither.
    """
    if interpolation == "bilinear" and not antialias:  # what _sample does, in half the time
        pixels = tf.raw_ops.ResizeBilinear(
            images=tf.cast(image, tf.float32)[tf.newaxis],  # whose kernel is faster than uint8's
            size=tf.stack([height, width]),
            half_pixel_centers=True,
        )
        # Between pixels, so nothing to clip.
        return tf.cast(pixels[0] + 0.5, tf.uint8)
    return _sample(image, (height, width), (0, 0), (height, width), interpolation, antialias)


def _sample(
    image: tf.Tensor,
    resized: _Pair,
    offset: _Pair,
    size: _Pair,
    interpolation: str,
    antialias: bool,
) -> tf.Tensor:
    """Compute a window, at `offset` and of `size`, of the image resized to `resized`."""
    kernels = {"bilinear": "triangle", "bicubic": "keyscubic"}
    if interpolation not in kernels:
        raise ValueError(
            f"interpolation must be one of {sorted(kernels)}. Received: {interpolation!r}"
        )
    width, channels = tf.shape(image)[1], image.shape[2] or tf.shape(image)[2]

    def along(axis: int, image: tf.Tensor, other: int | tf.Tensor) -> tf.Tensor:
        # A row is one wide pixel here, whose numbers are all multiplied in one go. Those of pixels
        # of three channels would be multiplied three at a time, which takes twice as long.
        length = tf.shape(image)[0]
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(image, [1, length, 1, -1]),
            size=tf.stack([size[axis], 1]),
            scale=[tf.cast(resized[axis], tf.float32) / tf.cast(length, tf.float32), 1.0],
            translation=[-tf.cast(offset[axis], tf.float32), 0.0],
            kernel_type=kernels[interpolation],
            antialias=antialias,
        )
        return tf.reshape(rows, [size[axis], other, channels])

    turned = tf.transpose(along(0, image, width), [1, 0, 2])
    pixels = tf.transpose(along(1, turned, size[0]), [1, 0, 2])
    # Only bicubic may leave 0..255.
    return tf.cast(pixels + 0.5, tf.uint8) if interpolation == "bilinear" else to_uint8(pixels)


def to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    """Round float pixels to the nearest of 0..255."""
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0) + 0.5, tf.uint8)


def flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirror left and right, with probability 1/2."""
    # A condition, because reversing along no axis is a slow copy.
    return tf.cond(
        uniform(seed, "flip", []) < 0.5, lambda: tf.reverse(image, [1]), lambda: tf.identity(image)
    )


def pad_and_crop(image: tf.Tensor, seed: tf.Tensor, *, padding: int = 4) -> tf.Tensor:
    """Take a random window of the image's own size after padding every side with zeros.

    The crop of CIFAR training (He et al. 2015, section 4.2). All `(2 padding + 1)^2` windows are
    equally likely.

    Args:
        image: uint8 `(height, width, channels)`.
        seed: int [2].
        padding: pixels of raw value 0 on each side.

    Returns:
        uint8 of the same shape.
    """
    padded = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
    places = tf.constant([2 * padding + 1, 2 * padding + 1, 1], tf.float32)
    corner = tf.cast(uniform(seed, "pad_and_crop", [3]) * places, tf.int32)
    return tf.ensure_shape(tf.slice(padded, corner, tf.shape(image)), image.shape)
