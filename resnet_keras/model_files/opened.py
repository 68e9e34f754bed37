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


def pixel_layout(
    shape: Sequence[int | None], told: str | None
) -> tuple[tuple[int, ...], list[int | None]]:
    """Find the order of an input's axes.

    Args:
        shape: of the input, as the file has it.
        told: "nhwc" or "nchw", where the file says so. Another program's file tells it by where
            the colours are.

    Returns:
        What transposes `(batch, height, width, channels)` to the input, and its shape as these.
    """
    channels_first = shape[1] in (1, 3) and shape[3] not in (1, 3)
    if (told or ("nchw" if channels_first else "nhwc")) == "nhwc":
        return (0, 1, 2, 3), list(shape)
    return (0, 3, 1, 2), [shape[i] for i in (0, 2, 3, 1)]


def batched(
    path: Path, run: Callable[[np.ndarray], np.ndarray], batch: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """Let a model take any number of images, where it takes one at a time too.

    Args:
        path: of the file.
        run: the model.
        batch: how many images it takes; None for any number.

    Raises:
        InputError: another number of images.
    """
    if batch not in (None, 1):
        raise InputError(
            f"{path} must take a batch of any size, or one image at a time. "
            f"Received: a batch of {batch}"
        )
    if batch is None:
        return run
    return lambda images: np.concatenate([run(images[i : i + 1]) for i in range(len(images))])


def reason(error: Exception) -> str:
    """Return the message of a parser's error in one short line; Keras puts the cause last."""
    cause = str(error).rpartition("Exception encountered: ")[2]
    return shortened(one_line(cause) or type(error).__name__)
