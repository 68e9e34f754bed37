"""Scenes: handwritten digits pasted on noise, whose boxes, masks and centres are known exactly.

A scene is a pure function of its split, a seed and its number, and so is every batch of a training:
whoever resumes at a step sees what an unbroken run would have seen. Nothing is stored.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from resnet_keras.data import read_digits
from resnet_keras.vision.recipe import UNCHANGED, Deformation

# Digits in a scene: from one to this many, as far as there is room for them.
MOST = 4
# Edge of the square of a digit's image, in pixels; the ink fills most of its height.
SMALLEST, LARGEST = 24, 56
# Pixels between the boxes of two digits, at least.
_GAP = 2
# How often a place is drawn for a digit before it is left out.
_TRIES = 20

_SPLITS = {"train": 0, "test": 1}


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image, and what is in it.

    Pixel `(row, column)` covers `row` to `row + 1` and `column` to `column + 1` of the coordinates;
    `x` counts columns, `y` rows.

    Attributes:
        image: uint8 `(size, size, 3)`, RGB.
        boxes: float32 `(n, 4)`: x and y of the upper left and of the lower right corner of each
            digit's ink, in pixels. Boxes do not overlap.
        classes: int64 `(n,)`: which digit each is, 0 to 9.
        instances: uint8 `(size, size)`: 0 where there is no ink, k + 1 where it is digit k's.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    instances: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Class of each pixel, uint8 `(size, size)`: 0 is the background, 1 + d the digit d."""
        return np.concatenate([[0], self.classes + 1]).astype(np.uint8)[self.instances]

    @property
    def centres(self) -> np.ndarray:
        """Centre of each box, float32 `(n, 2)`: x and y in pixels."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


def digit_scene(
    split: str,
    number: int,
    *,
    seed: int = 0,
    size: int = 128,
    deformation: Deformation = UNCHANGED,
) -> Scene:
    """Make a scene of scikit-learn's handwritten digits.

    Of each split there are only digits of its own people: see `data.Digits`.

    Args:
        split: "train" or "test".
        number: of the scene, from 0; there is no last one.
        seed: of the split; another one gives other scenes.
        size: height and width, in pixels; 64 or more.
        deformation: of the digits, for more of them than were written.

    Returns:
        A scene with at least one digit.
    """
    rng = np.random.default_rng([seed, _SPLITS[split], number])
    images, labels = _digits(split)
    image = _noise(rng, size)
    instances = np.zeros((size, size), np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for _ in range(rng.integers(1, MOST + 1)):
        which = rng.integers(len(images))
        ink = _enlarged(images[which], int(rng.integers(SMALLEST, LARGEST + 1)))
        if any(deformation):
            ink = _deformed(ink, deformation, rng)
        colour = rng.uniform(130, 255, 3)
        place = _free_place(rng, ink, boxes, size)
        if place is None:
            continue
        top, left, box = place
        area = np.s_[top : top + len(ink), left : left + len(ink)]
        image[area] += ink[..., None] * (colour - image[area])
        boxes.append(box)
        classes.append(int(labels[which]))
        instances[area][ink >= 0.5] = len(boxes)
    return Scene(
        np.clip(image.round(), 0, 255).astype(np.uint8),
        np.array(boxes, np.float32),
        np.array(classes, np.int64),
        instances,
    )


def scene_batches(
    split: str,
    example: Callable[[Scene], Any],
    *,
    batch_size: int,
    seed: int = 0,
    size: int = 128,
    deformation: Deformation = UNCHANGED,
    start: int = 0,
) -> tf.data.Dataset:
    """Return endless batches of scenes, a pure function of the seed and the step.

    Step `s` has the scenes `s * batch_size` to `(s + 1) * batch_size - 1`: none comes twice.

    Args:
        split: "train" or "test".
        example: makes of a scene what a model is trained on, such as `(image, targets)`: arrays,
            or tuples and dicts of arrays, each of one shape and type for all scenes.
        batch_size: scenes in a batch.
        seed: of the scenes.
        size: of the scenes.
        deformation: of their digits.
        start: number of the first step.

    Returns:
        A data set of what `example` gives, `(batch, ...)` each.
    """
    scene = functools.partial(digit_scene, split, seed=seed, size=size, deformation=deformation)
    first = example(scene(0))
    kinds = [(part.dtype, part.shape) for part in map(np.asarray, tf.nest.flatten(first))]

    def make(number: np.ndarray) -> list[np.ndarray]:
        made = example(scene(int(number)))
        return [np.asarray(part) for part in tf.nest.flatten(made)]

    def load(number: tf.Tensor) -> Any:
        # Python runs in one thread only, beside the training's; a scene takes a millisecond.
        parts = tf.numpy_function(make, [number], [kind for kind, _ in kinds], stateful=False)
        parts = [
            tf.ensure_shape(part, shape) for part, (_, shape) in zip(parts, kinds, strict=True)
        ]
        return tf.nest.pack_sequence_as(first, parts)

    numbers = tf.data.Dataset.range(start * batch_size, np.iinfo(np.int64).max)
    return numbers.map(load).batch(batch_size, drop_remainder=True).prefetch(4)


@functools.cache
def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split, and what they are."""
    return read_digits(split)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background, float64 `(size, size, 3)`: dark, with blotches of colour and grain."""
    cells = rng.uniform(10, 110, (8, 8, 3))
    rows = _interpolation(8, size)
    blotches = np.einsum("yi,ijc,xj->yxc", rows, cells, rows, optimize=True)
    return blotches + rng.integers(-20, 21, (size, size, 3))


def _enlarged(grey: np.ndarray, edge: int) -> np.ndarray:
    """A digit's ink, float64 `(edge, edge)` from 0 to 1, bilinear."""
    rows = _interpolation(len(grey), edge)
    ink = rows @ (grey / 255.0) @ rows.T
    return ink / ink.max()  # the strongest ink is opaque: no digit lacks a box


def _deformed(ink: np.ndarray, most: Deformation, rng: np.random.Generator) -> np.ndarray:
    """Deform a digit's ink as `augmentations.random_affine` does images, about the middle."""
    angle, wide, high, lean = rng.uniform(-1, 1, 4)
    angle, lean = math.radians(angle * most.rotate), lean * most.shear
    wide, high = 1 + wide * most.scale, 1 + high * most.scale
    # From a pixel of the result to where it comes from: scale and shear, then rotate.
    a, b = math.cos(angle) * wide, math.cos(angle) * lean - math.sin(angle) * high
    d, e = math.sin(angle) * wide, math.sin(angle) * lean + math.cos(angle) * high
    middle = len(ink) / 2
    matrix = (a, b, middle * (1 - a - b), d, e, middle * (1 - d - e))
    image = Image.fromarray(ink.astype(np.float32))
    moved = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    ink = np.asarray(moved, np.float64)
    return np.clip(ink / ink.max(), 0, 1)  # opaque again


@functools.cache
def _interpolation(old: int, new: int) -> np.ndarray:
    """What enlarges `old` samples to `new`, `(new, old)`: bilinear, centres of pixels at .5."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


def _free_place(
    rng: np.random.Generator, ink: np.ndarray, boxes: list[tuple[int, int, int, int]], size: int
) -> tuple[int, int, tuple[int, int, int, int]] | None:
    """Find a place for a digit.

    Returns:
        Row and column of the upper left pixel of its image, and the box of its ink; None where no
        place was found among the other boxes.
    """
    ys, xs = np.nonzero(ink >= 0.5)
    for _ in range(_TRIES):
        top, left = (int(n) for n in rng.integers(0, size - len(ink) + 1, 2))
        x1, y1 = left + int(xs.min()), top + int(ys.min())
        x2, y2 = left + int(xs.max()) + 1, top + int(ys.max()) + 1
        if all(
            x1 >= b[2] + _GAP or b[0] >= x2 + _GAP or y1 >= b[3] + _GAP or b[1] >= y2 + _GAP
            for b in boxes
        ):
            return top, left, (x1, y1, x2, y2)
    return None
