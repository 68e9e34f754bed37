"""Any model file -> one `predict`: `.keras`, `.tflite`, `.onnx`, SavedModel.

Beside each artefact lies `NAME.json`: how its pictures are prepared, and its labels. `.tflite`,
`.onnx` and SavedModel have them inside, too.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_keras.artefact.card import (
    LARGEST,
    Card,
    card_path,
    label_lines,
    parse_card,
    read_card,
    require_place,
)
from resnet_keras.artefact.openers import load_keras, open_file, refuse_packed
from resnet_keras.terminal import InputError, say

__all__ = [
    "Artefact",
    "Card",
    "card_path",
    "label_lines",
    "load_keras",
    "open_artefact",
    "read_card",
    "refuse_packed",
    "require_place",
    "say_what_is_made_up",
]


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A model file that can predict.

    Attributes:
        path: the file or folder.
        predict: pixels 0-255 `(batch, size, size, channels)`, uint8, to probabilities, float32
            `(batch, classes)`.
        channels: of a picture.
        card: how its pictures are prepared.
        has_card: whether the card was there, beside the file or inside, rather than made up from
            the model's input.
        classes: that the model tells apart; None where the file does not say.
    """

    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    channels: int
    card: Card
    has_card: bool
    classes: int | None = None


def open_artefact(
    path: str | Path, *, threads: int | None = None, beside: bool = True, folded: bool = True
) -> Artefact:
    """Open a model file.

    Args:
        path: `.keras`, `.tflite`, `.onnx` or the folder of a SavedModel.
        threads: of the interpreter of `.tflite` and `.onnx`; by default one a core. TensorFlow's,
            which run the others, are the process's.
        beside: heed the card beside the file; not where it is still that of an older one.
        folded: run a `.keras` file of float32 with its batch norms within its convolutions: faster,
            and apart by rounding alone. False: layer by layer, as Keras runs it.

    Returns:
        The artefact.

    Raises:
        InputError: there is no such file, it is not a model, or its card is of another model; from
            `predict`, it computes more than there is memory for.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such model file. Received: {path}")
    predict, shape, classes, inside = open_file(path, threads or os.cpu_count(), folded)
    _, height, _, channels = shape
    size = height or 224
    if not 0 < size <= LARGEST:
        raise InputError(f"{path} must take pictures of 1 to {LARGEST} pixels. Received: {shape}")
    card = read_card(path) if beside else None
    if card is None and inside is not None:
        card = parse_card(inside, path)
    if card is not None:
        _require_fit(card, path, height, classes)
    made_up = Card(input_size=size, eval_resize=None, crop=size)
    return Artefact(path, predict, channels, card or made_up, card is not None, classes)


def say_what_is_made_up(artefact: Artefact) -> None:
    """Tell, of an artefact without a card, how its pictures will be prepared."""
    if not artefact.has_card:
        crop = artefact.card.crop
        say(
            f"{artefact.path} has no {card_path(artefact.path).name} beside it: pictures are "
            f"resized to {crop} and cropped in the centre, classes are numbers"
        )


def _require_fit(card: Card, path: Path, height: int | None, classes: int | None) -> None:
    """Refuse a card that is of another model."""
    if height is not None and card.crop != height:
        raise InputError(
            f"the card of {path} (see {card_path(path).name}) is of another model: this one takes "
            f"pictures of {height} x {height}. Received: crop={card.crop}"
        )
    if card.labels and classes is not None and len(card.labels) != classes:
        raise InputError(
            f"the card of {path} (see {card_path(path).name}) is of another model: this one tells "
            f"{classes} classes apart. Received: {len(card.labels)} labels"
        )
