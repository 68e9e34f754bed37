"""Random changes of one image, and their order: `augment`.

Here is all that a new augmentation of one image needs, besides its column in `recipe/columns.py`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from resnet_keras.augmentations import pillow
from resnet_keras.augmentations.geometry import (
    boxes,
    flip,
    pad_and_crop,
    random_crop_window,
    resize,
    resize_and_center_crop,
    to_uint8,
)
from resnet_keras.augmentations.policies import POLICIES
from resnet_keras.augmentations.seeds import stream, uniform
from resnet_keras.errors import InputError

# Mean and standard deviation of pixels, 0-255, each one number per channel.
_Normalisation = tuple[Sequence[float], Sequence[float]]

# Numbers of channels that an augmentation takes, where not every one will do.
_CHANNELS = {"rand_ops": (3,), "color_jitter": (3,), "policy": (1, 3)}


def augment(
    shape: Callable[[], tf.Tensor],
    pixels: Callable[..., tf.Tensor],
    seed: tf.Tensor,
    columns: Any,
    normalisation: _Normalisation | None = None,
) -> tf.Tensor:
    """Make an image of a training step, in the order in which this function is written.

    Args:
        shape: gives the image's height, width and channels, int32 `(3,)`.
        pixels: decodes the image, or only the window `(top, left, height, width)` if that is its
            argument: uint8 `(height, width, channels)`.
        seed: int [2].
        columns: the columns of `recipe.columns.Augmentation`, such as a recipe. Those of mixing and
            `repeats` concern batches, not this function.
        normalisation: the network's mean and standard deviation of pixels, 0-255, each one number
            per channel; needed where `erasing_fill` is not "noise".

    Returns:
        uint8 `(train_size, train_size, channels)`.
    """
    size = columns.train_size
    resizing = {"interpolation": columns.interpolation, "antialias": columns.antialias}
    if columns.min_area is not None:
        height, width = tf.unstack(shape()[:2])
        window = random_crop_window(height, width, seed, min_area=columns.min_area)
        image = resize(pixels(window), size, size, **resizing)
    elif columns.train_resize is not None:
        cut = {"resize": columns.train_resize, "crop": (size, size)}
        image = resize_and_center_crop(pixels(), **cut, **resizing)
    else:
        image = pixels()
        if tuple(image.shape[:2]) != (size, size):
            image = resize(image, size, size, **resizing)
    # From here on the size is known, which makes augmentation faster.
    known = (size, size, image.shape[-1])
    image = tf.ensure_shape(image, known)
    if columns.rotate or columns.scale or columns.shear:
        image = random_affine(
            image, seed, degrees=columns.rotate, scale=columns.scale, shear=columns.shear
        )
    if columns.padding:
        image = pad_and_crop(image, seed, padding=columns.padding)
    if columns.flip:
        image = flip(image, seed)
    if columns.policy is not None:
        image = POLICIES[columns.policy](image, seed)
    if columns.rand_ops:
        image = rand_augment(
            image,
            seed,
            num_ops=columns.rand_ops,
            magnitude=columns.rand_magnitude,
            magnitude_std=columns.rand_std,
        )
    if columns.color_jitter:
        strength = dict.fromkeys(("brightness", "contrast", "saturation"), columns.color_jitter)
        image = color_jitter(image, seed, **strength)
    if columns.erasing:  # last, so that the noise stays noise
        fill = _erasing_fill(columns.erasing_fill, normalisation)
        image = random_erasing(image, seed, probability=columns.erasing, **fill)
    return tf.ensure_shape(image, known)


def _erasing_fill(name: str, normalisation: _Normalisation | None) -> dict[str, Any]:
    """What each value of the column `erasing_fill` means to `random_erasing`."""
    if name == "noise":
        return {}
    if normalisation is None:
        raise ValueError(f"erasing_fill needs a normalisation. Received: erasing_fill={name!r}")
    mean, std = normalisation
    if name == "normal":  # timm's mode "pixel"
        return {"value": mean, "std": std}
    return {"value": mean, "max_area": 0.33, "max_aspect": 3.3}  # torchvision's defaults


def require_channels(columns: Any, channels: int) -> None:
    """Refuse augmentations that do not take the number of channels, such as 1 of grey images.

    Args:
        columns: see `augment`.
        channels: of the images.

    Raises:
        InputError: by the name of the column.
    """
    for name, taken in _CHANNELS.items():
        if getattr(columns, name) and channels not in taken:
            raise InputError(
                f"`{name}` needs images of {' or '.join(map(str, taken))} channels, these have "
                f"{channels}. Received: {name}={getattr(columns, name)}"
            )


def rand_augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    num_ops: int = 2,
    magnitude: float = 7.0,
    magnitude_std: float = 0.5,
    increasing: bool = True,
    fill: Sequence[int] = (124, 116, 104),
) -> tf.Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) as timm and OpenMMLab trained with it.

    `rand-m7-mstd0.5-inc1` of "ResNet strikes back" (Wightman et al. 2021, table 2) by default:
    `num_ops` times one of 15 operations is drawn, with replacement, and done with probability 1/2,
    at a level drawn from normal(magnitude, magnitude_std), cut to 0..10. They interpolate
    bicubically (OpenMMLab) or either way at random (timm); here it is always bilinear, the better
    of what TensorFlow's operation offers.

    Args:
        image: uint8 `(height, width, 3)`.
        seed: int [2].
        num_ops: operations drawn.
        magnitude: mean of the level, 0-10.
        magnitude_std: standard deviation of the level.
        increasing: higher levels always change more ("inc1"); else posterize, solarize, colour,
            contrast, brightness and sharpness follow the older, mixed scales.
        fill: pixel value of what moves in from outside; by default ImageNet's mean.

    Returns:
        uint8 of the same shape.
    """
    draws = uniform(seed, "rand_augment", [num_ops, 2])
    noise = tf.random.stateless_normal([num_ops], stream(seed, "rand_augment level"))
    levels = tf.clip_by_value(magnitude + magnitude_std * noise, 0, 10) / 10
    signs = tf.where(draws[:, 1] < 0.5, -1.0, 1.0)
    for draw, level, sign in zip(
        tf.unstack(draws[:, 0]), tf.unstack(levels), tf.unstack(signs), strict=True
    ):
        operations = _rand_augment_operations(image, level, sign, increasing, fill)
        # One draw decides both: the upper half of the numbers is "do nothing".
        choice = tf.cast(draw * 2 * len(operations), tf.int32)
        image = tf.switch_case(choice, operations, default=lambda image=image: image)
    return image


def _rand_augment_operations(
    image: tf.Tensor, level: tf.Tensor, sign: tf.Tensor, increasing: bool, fill: Sequence[int]
) -> list[Callable[[], tf.Tensor]]:
    """List timm's operations on `image` at `level`, 0-1, and `sign`, -1 or 1."""
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    shift, shear = sign * level * 0.45, sign * level * 0.3
    if increasing:
        bits, threshold = 4 - tf.cast(level * 4, tf.int32), 256 - tf.cast(level * 256, tf.int32)
        factor = tf.maximum(0.1, 1 + sign * level * 0.9)
    else:
        bits, threshold = tf.cast(level * 4, tf.int32), tf.cast(level * 256, tf.int32)
        factor = 0.1 + level * 1.8
    return [
        lambda: pillow.autocontrast(image),
        lambda: pillow.equalize(image),
        lambda: pillow.invert(image),
        lambda: pillow.rotate(image, sign * level * 30, fill),
        lambda: pillow.posterize(image, bits),
        lambda: pillow.solarize(image, threshold),
        lambda: pillow.solarize_add(image, tf.cast(level * 110, tf.int32)),
        lambda: pillow.color(image, factor),
        lambda: pillow.contrast(image, factor),
        lambda: pillow.brightness(image, factor),
        lambda: pillow.sharpness(image, factor),
        lambda: pillow.affine(image, (1, shear, 0, 0, 1, 0), fill),
        lambda: pillow.affine(image, (1, 0, 0, shear, 1, 0), fill),
        lambda: pillow.affine(image, (1, 0, shift * width, 0, 1, 0), fill),
        lambda: pillow.affine(image, (1, 0, 0, 0, 1, shift * height), fill),
    ]


def color_jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Change the colours as torchvision's ColorJitter does, in random order.

    Args:
        image: uint8 `(height, width, 3)`.
        seed: int [2].
        brightness: the factor is uniform in `1 - brightness .. 1 + brightness`, not below 0.
        contrast: likewise.
        saturation: likewise.
        hue: the shift is uniform in `-hue .. hue`, at most 0.5: turns of the colour circle.

    Returns:
        uint8 of the same shape.
    """
    ranges = {
        pillow.brightness: (max(0.0, 1 - brightness), 1 + brightness),
        pillow.contrast: (max(0.0, 1 - contrast), 1 + contrast),
        pillow.color: (max(0.0, 1 - saturation), 1 + saturation),
        tf.image.adjust_hue: (-hue, hue),
    }
    changes = [(change, low, high) for change, (low, high) in ranges.items() if low < high]
    places, draws = tf.unstack(uniform(seed, "color_jitter", [2, len(changes)]))
    for place in tf.unstack(tf.argsort(places)):
        image = tf.switch_case(
            place,
            [
                partial(change, image, low + (high - low) * draw)
                for (change, low, high), draw in zip(changes, tf.unstack(draws), strict=True)
            ],
        )
    return image


def random_affine(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    degrees: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
) -> tf.Tensor:
    """Rotate, scale and shear about the centre, bilinear; what comes from outside is 0.

    Args:
        image: uint8 `(height, width, channels)`.
        seed: int [2].
        degrees: the angle is uniform in -degrees..degrees.
        scale: the factor is uniform in 1 - scale..1 + scale, drawn for each axis.
        shear: columns move by a share of their height, uniform in -shear..shear.

    Returns:
        uint8 of the same shape.
    """
    angle, wide, high, lean = tf.unstack(2 * uniform(seed, "random_affine", [4]) - 1)
    angle, wide, high, lean = (
        angle * degrees * math.pi / 180,
        1 + wide * scale,
        1 + high * scale,
        lean * shear,
    )
    # From a pixel of the result to where it comes from: scale and shear, then rotate.
    a, b = tf.cos(angle) * wide, tf.cos(angle) * lean - tf.sin(angle) * high
    d, e = tf.sin(angle) * wide, tf.sin(angle) * lean + tf.cos(angle) * high
    y, x = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) / 2)
    matrix = (a, b, x - a * x - b * y, d, e, y - d * x - e * y)
    return tf.ensure_shape(pillow.affine(image, matrix, 0), image.shape)


def random_erasing(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    probability: float = 0.25,
    min_area: float = 0.02,
    max_area: float = 1 / 3,
    min_aspect: float = 0.3,
    max_aspect: float | None = None,
    value: float | Sequence[float] | str = "noise",
    std: float | Sequence[float] = 0.0,
) -> tf.Tensor:
    """Erase a random box (Zhong et al. 2017, "Random Erasing Data Augmentation", algorithm 1).

    As torchvision draws it: ten tries for a box that fits, the aspect uniform in the logarithm.

    Args:
        image: uint8 `(height, width, channels)`.
        seed: int [2].
        probability: of erasing at all.
        min_area: least share of the image's area.
        max_area: largest share; between the two, uniform.
        min_aspect: least height / width of the box.
        max_aspect: largest height / width; None: the inverse of the least.
        value: what the box becomes: a pixel value for all channels, one a channel, or "noise",
            uniform in 0..255 (the paper's choice).
        std: standard deviation of normal noise that is added to `value`, likewise; what leaves
            0..255 is cut. With the training images' mean and standard deviation that is the noise
            of timm.

    Returns:
        uint8 of the same shape.
    """
    shape = tf.shape(image)
    size = tf.cast(shape[:2], tf.float32)
    draws = uniform(seed, "random_erasing", [5, 10])
    # `boxes` wants width / height.
    aspects = (min_aspect if max_aspect is None else 1 / max_aspect, 1 / min_aspect)
    candidates, fits = boxes(size, draws[1:], (min_area, max_area), aspects)
    fits &= tf.reduce_all(candidates[:, 2:] < size, 1)  # smaller than the image both ways
    top, left, height, width = tf.unstack(candidates[tf.argmax(fits)])

    def erased() -> tf.Tensor:
        y, x = tf.range(size[0])[:, tf.newaxis], tf.repeat(tf.range(size[1]), shape[2])
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        old = tf.reshape(image, tf.shape(inside))
        if isinstance(value, str):
            noise_seed = stream(seed, "random_erasing noise")
            noise = tf.random.stateless_uniform(tf.shape(old), noise_seed, 0, 256, tf.int32)
            new = tf.cast(noise, tf.uint8)
        elif np.any(std):
            noise = tf.random.stateless_normal(shape, stream(seed, "random_erasing normal"))
            new = tf.reshape(to_uint8(value + std * noise), tf.shape(inside))
        else:
            new = pillow.row_of(tf.round(value), image)
        return tf.reshape(pillow.select(inside, new, old), shape)

    return tf.cond((draws[0, 0] < probability) & tf.reduce_any(fits), erased, lambda: image)
