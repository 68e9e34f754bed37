"""The policies of torchvision, each a function of one image, and their table: `POLICIES`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from resnet_keras.augmentations import pillow
from resnet_keras.augmentations.seeds import uniform


class _Strengths(NamedTuple):
    """The strengths at which an operation of torchvision is drawn: one, where it has none.

    Attributes:
        values: float64 `(bins,)`.
        signed: whether half of the draws change the sign.
    """

    values: np.ndarray = np.zeros(1)
    signed: bool = False


def _linspace(low: float, high: float, bins: int) -> np.ndarray:
    """Compute `torch.linspace`, whose last bits decide which pixels are beyond the edge."""
    step, place = float(np.float32(high - low) / np.float32(bins - 1)), np.arange(bins)
    low, high = float(np.float32(low)), float(np.float32(high))
    values = np.where(place < bins // 2, low + step * place, high - step * (bins - 1 - place))
    return values.astype(np.float32).astype(np.float64)


def _space(bins: int, shear: float, degrees: float, factor: float, bits: int) -> dict:
    """List the strengths of torchvision's operations but for translations, by name."""
    sheared, rotated, blended = (
        _Strengths(_linspace(0, most, bins), signed=True) for most in (shear, degrees, factor)
    )
    return {
        **dict.fromkeys(("identity", "autocontrast", "equalize", "invert"), _Strengths()),
        **dict.fromkeys(("shear_x", "shear_y"), sheared),
        "rotate": rotated,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blended),
        "posterize": _Strengths(8 - np.round(np.arange(bins) * bits / (bins - 1))),
        "solarize": _Strengths(_linspace(255, 0, bins)),
    }


# TrivialAugmentWide draws all of them; translations are by whole pixels, 0 to 32.
_BINS = 31
_MOVED = _Strengths(np.floor(np.arange(_BINS) * 32 / (_BINS - 1)), signed=True)
_WIDE = {
    **_space(_BINS, shear=0.99, degrees=135, factor=0.99, bits=6),
    **dict.fromkeys(("translate_x", "translate_y"), _MOVED),
}
del _WIDE["invert"]

# AutoAugment draws one of 25 pairs; each operation has a probability and the number of a strength.
_LEARNED = _space(10, shear=0.3, degrees=30, factor=0.9, bits=4)
_IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def trivial_augment_wide(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    interpolation: str = "bilinear",
    fill: int | Sequence[int] = 0,
) -> tf.Tensor:
    """TrivialAugmentWide (Mueller & Hutter 2021, arXiv:2103.10158) as torchvision does it.

    One of 14 operations, one of its 31 strengths and, where it has one, its sign are drawn, each of
    them uniformly. torchvision's recipes interpolate bilinearly; its class by default does not.

    Args:
        image: uint8 `(height, width, channels)`, with 1 channel or 3.
        seed: int [2].
        interpolation: of what moves pixels, "bilinear" or "nearest".
        fill: value of what moves in from outside, one for all channels or one per channel.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: if `interpolation` is neither.
    """
    draws = uniform(seed, "trivial_augment_wide", [3])
    chosen = tf.cast(draws[0] * len(_WIDE), tf.int32)
    place = tf.cast(draws[1] * _BINS, tf.int32)
    values = np.stack([np.broadcast_to(each.values, _BINS) for each in _WIDE.values()])
    signed = tf.constant([each.signed for each in _WIDE.values()])[chosen]
    strength = tf.constant(values)[chosen, place] * _sign(signed, draws[2])
    operations = _torchvision_operations(image, strength, list(_WIDE), interpolation, fill)
    return tf.switch_case(chosen, operations)


def auto_augment(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    interpolation: str = "bilinear",
    fill: int | Sequence[int] = 0,
) -> tf.Tensor:
    """AutoAugment (Cubuk et al. 2018, arXiv:1805.09501): ImageNet's policy as torchvision has it.

    One of 25 pairs of operations is drawn; each operation of it is done with its own probability,
    at its own strength and, where it has one, with either sign.

    Args:
        image: uint8 `(height, width, channels)`, with 1 channel or 3.
        seed: int [2].
        interpolation: of what moves pixels, "bilinear" or "nearest".
        fill: value of what moves in from outside, one for all channels or one per channel.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: if `interpolation` is neither.
    """
    names = sorted({name for pair in _IMAGENET for name, _, _ in pair})
    pair = tf.cast(uniform(seed, "auto_augment", []) * len(_IMAGENET), tf.int32)
    draws = uniform(seed, "auto_augment each", [2, 2])
    for number, operations in enumerate(zip(*_IMAGENET, strict=True)):
        chosen = tf.constant([names.index(name) for name, _, _ in operations])[pair]
        probability = tf.constant([likely for _, likely, _ in operations])[pair]
        rows = [(_LEARNED[name], place) for name, _, place in operations]
        strength = tf.constant([float(row.values[place]) for row, place in rows], tf.float64)[pair]
        strength *= _sign(tf.constant([row.signed for row, _ in rows])[pair], draws[number, 0])
        image = tf.switch_case(
            tf.where(draws[number, 1] < probability, chosen, len(names)),
            _torchvision_operations(image, strength, names, interpolation, fill),
            default=partial(tf.identity, image),
        )
    return image


def _sign(signed: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """Return -1 for a `signed` operation in half of the draws, otherwise 1."""
    return tf.where(signed & (draw < 0.5), tf.constant(-1.0, tf.float64), 1.0)


def _torchvision_operations(
    image: tf.Tensor,
    strength: tf.Tensor,
    names: Sequence[str],
    interpolation: str,
    fill: int | Sequence[int],
) -> list[Callable[[], tf.Tensor]]:
    """List torchvision's operations on `image` at `strength`, float64, its "magnitude"."""
    turned = partial(tf.transpose, perm=[1, 0, 2])
    factor = tf.cast(1 + strength, tf.float32)
    operations = {
        "identity": lambda: tf.identity(image),
        "shear_x": lambda: pillow.shear(image, strength, fill, interpolation),
        "shear_y": lambda: turned(pillow.shear(turned(image), strength, fill, interpolation)),
        "translate_x": lambda: pillow.translate(image, tf.cast(strength, tf.int32), 0, fill),
        "translate_y": lambda: pillow.translate(image, 0, tf.cast(strength, tf.int32), fill),
        "rotate": lambda: pillow.rotate(image, strength, fill, interpolation),
        "brightness": lambda: pillow.brightness(image, factor),
        "color": lambda: pillow.color(image, factor),
        "contrast": lambda: pillow.contrast(image, factor),
        "sharpness": lambda: pillow.sharpness(image, factor),
        "posterize": lambda: pillow.posterize(image, tf.cast(strength, tf.int32)),
        "solarize": lambda: pillow.solarize(image, strength),
        "autocontrast": lambda: pillow.autocontrast(image),
        "equalize": lambda: pillow.equalize(image),
        "invert": lambda: pillow.invert(image),
    }
    return [operations[name] for name in names]


# Values of the column `policy`.
POLICIES = {"trivial_augment_wide": trivial_augment_wide, "auto_augment": auto_augment}
