"""The metadata of an model_file, `NAME.json`: how its images are prepared, and its labels."""

import dataclasses
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_keras.console import shortened
from resnet_keras.errors import InputError
from resnet_keras.files import local_path, write_text
from resnet_keras.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What lies beside a model file as `NAME.json`.

    Attributes:
        preprocessing: how images are prepared; its fields stand in the JSON beside the others.
        labels: names of the classes.
        dataset: what the model was trained on, so that it can be evaluated on the same images.
    """

    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    dataset: str | None = None

    def write(self, model_file: Path) -> None:
        """Write it beside a model file."""
        write_text(metadata_path(model_file), json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """The fields of the preprocessing, `labels` and `dataset`, as JSON can hold them."""
        own = {"labels": list(self.labels), "dataset": self.dataset}
        return self.preprocessing.to_json() | own

    def public(self) -> str:
        """JSON to travel inside a file: without the name of a folder of this machine."""
        fields = self.to_json()
        return json.dumps(fields | {"dataset": None} if local_path(self.dataset) else fields)


def read_metadata(model_file: Path) -> Metadata | None:
    """The metadata beside an model_file, if there is one.

    Raises:
        InputError: it is there but is not a metadata.
    """
    path = metadata_path(model_file)
    if not path.exists():
        return None
    try:
        return parse_metadata(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def require_place(model_file: Path) -> None:
    """Refuse to write a model file whose metadata would replace a file that is none.

    Raises:
        InputError: `NAME.json` is there and is no metadata.
    """
    try:
        read_metadata(model_file)
    except InputError as error:
        raise InputError(
            f"{metadata_path(model_file)} is there, is not metadata and would be replaced: take "
            f"another name than {model_file.name}. Received: {error}"
        ) from None


def metadata_path(model_file: Path) -> Path:
    """`model.tflite` -> `model.json`."""
    return Path(model_file).with_suffix(".json")


def label_lines(labels: Iterable[str]) -> str:
    """`labels.txt`: a line a class; what would end a line, or is no character, as Python writes it.

    Names of folders may have both.
    """
    strange = ("Cc", "Cs", "Zl", "Zp")
    return "".join(
        "".join(repr(c)[1:-1] if unicodedata.category(c) in strange else c for c in label) + "\n"
        for label in labels
    )


def parse_metadata(text: bytes, path: Path) -> Metadata:
    """The metadata that JSON of anybody's holds; `path` is where it comes from.

    Raises:
        InputError: it is not a metadata.
    """
    try:
        fields = json.loads(text.decode())
        own = {name: fields.pop(name) for name in ("labels", "dataset") if name in fields}
        if not _are_words(own.get("labels", [])) or not isinstance(own.get("dataset"), str | None):
            raise ValueError(f"Received: {shortened(str(own))}")
        own["labels"] = tuple(own.get("labels", ()))
        return Metadata(Preprocessing.from_json(fields), **own)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not describe a model: {error}") from None


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(type(word) is str for word in value)
