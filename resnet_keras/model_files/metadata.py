"""The metadata of a model file, `NAME.json`: how its images are prepared, and its labels."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.files import local_path, write_text
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.text import printable, shortened


@dataclasses.dataclass(frozen=True)
class Metadata:
    """How a model file wants its images, and what its scores mean: `NAME.json` beside it.

    Attributes:
        preprocessing: how images are prepared; in the JSON its fields stand beside the others.
        labels: names of the classes, in the order of the scores, or of the key points, in the order
            of the heatmaps; empty where they are not known.
        dataset: the data set that the model was trained on, by the name that `--dataset` takes.
        split: the images of it that the model was not trained on, where the usual split is another:
            a fold, or what was held out.
        threshold: of a model that gives an image any number of labels: all whose score, a
            probability, is this or more. None: an image has one class.
        features: whether the model gives features, an embedding or a map, not scores of classes;
            None: what its last layer gives.
        heatmaps: whether the features are heatmaps, `(height, width, key points)`, of an image that
            shows one object; `vision.keypoints.decode` finds the key points.
        rgb_input: whether the file takes RGB images for a network of grey ones, and makes these of
            them itself. Images are prepared in grey, and each pixel is given three times.
    """

    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    dataset: str | None = None
    split: str | None = None
    threshold: float | None = None
    features: bool | None = None
    heatmaps: bool = False
    rgb_input: bool = False

    @property
    def multi_label(self) -> bool:
        """Whether the model gives an image any number of labels."""
        return self.threshold is not None

    @property
    def output(self) -> str:
        """The name of the output in the formats that name it."""
        if self.features:
            return "heatmaps" if self.heatmaps else "features"
        return "probabilities"

    def write(self, model_file: Path) -> None:
        """Write it beside a model file, whole or not at all."""
        write_text(metadata_path(model_file), json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the preprocessing and its own ones, as JSON holds them."""
        own: dict[str, Any] = {"labels": list(self.labels), "dataset": self.dataset}
        own["threshold"] = self.threshold
        if self.split is not None:
            own["split"] = self.split
        if self.features is not None:
            own["features"] = self.features
        if self.heatmaps:
            own["heatmaps"] = True
        if self.rgb_input:
            own["rgb_input"] = True
        return self.preprocessing.to_json() | own

    def public(self) -> str:
        """Return the JSON that travels inside a file: it names no folder of this machine."""
        local = local_path(self.dataset) is not None
        told = dataclasses.replace(self, dataset=None, split=None) if local else self
        return json.dumps(told.to_json())


def read_metadata(model_file: Path) -> Metadata | None:
    """Read the metadata beside a model file, if there is any.

    Raises:
        InputError: `NAME.json` cannot be read, or is something else.
    """
    path = metadata_path(model_file)
    if not path.exists():
        return None
    try:
        return parse_metadata(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def require_replaceable_metadata(model_file: Path) -> None:
    """Refuse to write a model file whose metadata would overwrite another JSON file.

    Raises:
        InputError: `NAME.json` is there and is not metadata.
    """
    try:
        read_metadata(model_file)
    except InputError as error:
        raise InputError(
            f"{metadata_path(model_file)} exists, is not the metadata of a model, and would be "
            f"overwritten: choose another name than {model_file.name}. Received: {error}"
        ) from None


def metadata_path(model_file: Path) -> Path:
    """Return where the metadata is: `model.tflite` -> `model.json`."""
    return Path(model_file).with_suffix(".json")


def label_lines(labels: Iterable[str]) -> str:
    """Return the text of `labels.txt`, one line per class; names of folders may be anything."""
    return "".join(f"{printable(label)}\n" for label in labels)


def parse_metadata(text: bytes, path: Path) -> Metadata:
    """Read metadata from JSON that anybody may have written, in the file `path`.

    Raises:
        InputError: it is not metadata.
    """
    try:
        fields = json.loads(text.decode())
        own = {name: fields.pop(name) for name in _OWN if name in fields}
        texts = [own.get(name) for name in ("dataset", "split")]
        known = _are_words(own.get("labels", [])) and all(isinstance(t, str | None) for t in texts)
        flags = ("features", "heatmaps", "rgb_input")
        known = known and all(type(own.get(name, False)) is bool for name in flags)
        if not known or not _is_threshold(own.get("threshold")):
            raise ValueError(f"Received: {shortened(str(own))}")
        own["labels"] = tuple(own.get("labels", ()))
        return Metadata(Preprocessing.from_json(fields), **own)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not describe a model: {error}") from None


# The fields of `Metadata` that are not of the preprocessing.
_OWN = ("labels", "dataset", "split", "threshold", "features", "heatmaps", "rgb_input")


def _is_threshold(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value <= 1)


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(type(word) is str for word in value)
