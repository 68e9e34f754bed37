"""What the file of each format gives when it is opened, and the checks that all formats share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.text import one_line, shortened

T = TypeVar("T")


class Opened(NamedTuple):
    """An open model file.

    Attributes:
        predict: pixels 0-255, uint8 `(batch, height, width, channels)`, to scores, float32
            `(batch, classes)`; or to features, of any shape `(batch, ...)`.
        shape: `(batch, height, width, channels)` of the input, None where it may vary.
        classes: how many there are; None where the file does not say, or gives a feature map.
        metadata: JSON of the metadata inside the file, if there is any.
        features: whether the outputs are not scores of classes as far as the file shows: a feature
            map always, an embedding where its last layer tells.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int | None, ...]
    classes: int | None
    metadata: bytes | None
    features: bool = False


def only(path: Path, inputs: Sequence[T], outputs: Sequence[T]) -> tuple[T, T]:
    """Return the input and the output of a model that has one of each.

    Raises:
        InputError: it has more, or none: nobody can tell which one is meant.
    """
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path} must have one input, images, and one output, scores of classes or features: "
            "save a model of one of each, such as keras.Model(model.inputs[0], model.outputs[-1]). "
            f"Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    return inputs[0], outputs[0]


def require_images(path: Path, shape: Sequence) -> None:
    """Refuse a model of anything but images, such as text.

    Raises:
        InputError: the input does not have four axes.
    """
    if len(shape) != 4:
        raise InputError(
            f"{path} must take images, (batch, height, width, channels). "
            f"Received: an input of shape {tuple(shape)}"
        )


def reason(error: Exception) -> str:
    """Return the message of a parser's error in one short line; Keras puts the cause last."""
    cause = str(error).rpartition("Exception encountered: ")[2]
    return shortened(one_line(cause) or type(error).__name__)
