"""The card of an artefact, `NAME.json`: how its pictures are prepared, and its labels."""

import dataclasses
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_keras.disk import folder_of, write_text
from resnet_keras.terminal import InputError, shortened

# The largest picture that a card may ask for; networks see a tenth of it.
LARGEST = 4096


@dataclasses.dataclass(frozen=True)
class Card:
    """What lies beside an artefact as `NAME.json`.

    Attributes:
        input_size: height and width of a picture.
        eval_resize: the short edge becomes this before the centre crop; None: `input_size`,
            unless a picture already has that size.
        crop: height and width of the centre crop.
        interpolation: "bilinear" or "bicubic".
        antialias: whether pictures are resized as Pillow does.
        mean: of the pixels, 0-255, per channel; already inside the artefact.
        std: likewise.
        labels: names of the classes.
        dataset: what it was trained on, so that it can be held against the same pictures.
    """

    input_size: int
    eval_resize: int | None
    crop: int
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()
    dataset: str | None = None

    def write(self, artefact: Path) -> None:
        """Write it beside an artefact."""
        write_text(card_path(artefact), json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @property
    def preparation(self) -> dict[str, Any]:
        """How `data` prepares its pictures: arguments of `evaluation_batches` and its kin."""
        return {
            "size": self.crop,
            "resize": self.eval_resize,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }

    def public(self) -> str:
        """It as JSON, to travel inside a file: without the name of a folder of this machine."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields | {"dataset": None} if folder_of(self.dataset) else fields)


def read_card(artefact: Path) -> Card | None:
    """The card beside an artefact, if there is one.

    Raises:
        InputError: it is there but is not a card.
    """
    path = card_path(artefact)
    if not path.exists():
        return None
    try:
        return parse_card(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def require_place(artefact: Path) -> None:
    """Refuse to write an artefact whose card would replace a file that is none.

    Raises:
        InputError: `NAME.json` is there and is no card.
    """
    try:
        read_card(artefact)
    except InputError as error:
        raise InputError(
            f"the card of {artefact.name} would replace {card_path(artefact)}, which is none: take "
            f"another name. Received: {error}"
        ) from None


def card_path(artefact: Path) -> Path:
    """`model.tflite` -> `model.json`."""
    return Path(artefact).with_suffix(".json")


def label_lines(labels: Iterable[str]) -> str:
    """`labels.txt`: a line a class; what would end a line, or is no character, as Python writes it.

    Names of folders may have both.
    """
    strange = ("Cc", "Cs", "Zl", "Zp")
    return "".join(
        "".join(repr(c)[1:-1] if unicodedata.category(c) in strange else c for c in label) + "\n"
        for label in labels
    )


def parse_card(text: bytes, path: Path) -> Card:
    """The card that JSON of anybody's holds; `path` is where it comes from.

    Raises:
        InputError: it is not a card.
    """
    try:
        fields = json.loads(text.decode())
        card = Card(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        if wrong := [name for name, right in _checks(card).items() if not right]:
            raise ValueError(f"Received: {wrong[0]}={shortened(repr(getattr(card, wrong[0])))}")
        return card
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not describe a model: {error}") from None


def _checks(card: Card) -> dict[str, bool]:
    """Whether each field is what it must be; a card may be anybody's."""

    def size(value):
        return type(value) is int and 0 < value <= LARGEST

    def numbers(value):
        return value is None or (
            isinstance(value, tuple) and all(type(n) in (int, float) for n in value)
        )

    return {
        "input_size": size(card.input_size),
        "eval_resize": card.eval_resize is None or size(card.eval_resize),
        "crop": size(card.crop),
        "interpolation": card.interpolation in ("bilinear", "bicubic"),
        "antialias": type(card.antialias) is bool,
        "mean": numbers(card.mean),
        "std": numbers(card.std),
        "labels": isinstance(card.labels, tuple) and all(type(n) is str for n in card.labels),
        "dataset": isinstance(card.dataset, str | None),
    }
