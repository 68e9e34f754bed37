"""Any model file -> one `predict`: `.keras`, `.tflite`, `.onnx`, SavedModel.

Beside each model file lies `NAME.json`: how its images are prepared, and its labels. `.tflite`,
`.onnx` and SavedModel have them inside, too.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.model_files.metadata import (
    Metadata,
    label_lines,
    metadata_path,
    parse_metadata,
    read_metadata,
    require_place,
)
from resnet_keras.model_files.openers import load_keras, open_file, refuse_packed
from resnet_keras.preprocessing import LARGEST, Preprocessing

__all__ = [
    "ModelFile",
    "Metadata",
    "metadata_path",
    "label_lines",
    "load_keras",
    "open_model_file",
    "read_metadata",
    "refuse_packed",
    "require_place",
    "say_what_is_made_up",
]


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model file that can predict.

    Attributes:
        path: the file or folder.
        predict: pixels 0-255 `(batch, size, size, channels)`, uint8, to probabilities, float32
            `(batch, classes)`.
        channels: of an image.
        metadata: how its images are prepared.
        has_metadata: whether the metadata was there, beside the file or inside, rather than
            assumed from the model's input.
        classes: that the model tells apart; None where the file does not say.
    """

    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    channels: int
    metadata: Metadata
    has_metadata: bool
    classes: int | None = None


def open_model_file(
    path: str | Path, *, threads: int | None = None, beside: bool = True, folded: bool = True
) -> ModelFile:
    """Open a model file.

    Args:
        path: `.keras`, `.tflite`, `.onnx` or the folder of a SavedModel.
        threads: of the interpreter of `.tflite` and `.onnx`; by default one a core. TensorFlow's,
            which run the others, are the process's.
        beside: heed the metadata beside the file; not where it is still that of an older one.
        folded: run a `.keras` file of float32 with its batch norms within its convolutions: faster,
            and apart by rounding alone. False: layer by layer, as Keras runs it.

    Returns:
        The model_file.

    Raises:
        InputError: there is no such file, it is not a model, or its metadata is of another
            model; from `predict`, it computes more than there is memory for.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such model file. Received: {path}")
    predict, shape, classes, inside = open_file(path, threads or os.cpu_count(), folded)
    _, height, width, channels = shape
    if not (0 < (height or 224) <= LARGEST and 0 < (width or 224) <= LARGEST):
        raise InputError(f"{path} must take images of 1 to {LARGEST} pixels. Received: {shape}")
    metadata = read_metadata(path) if beside else None
    if metadata is None and inside is not None:
        metadata = parse_metadata(inside, path)
    if metadata is not None:
        _require_fit(metadata, path, (height, width), classes)
    made_up = Metadata(Preprocessing((height or 224, width or 224)))
    return ModelFile(path, predict, channels, metadata or made_up, metadata is not None, classes)


def say_what_is_made_up(model_file: ModelFile) -> None:
    """Tell, of a model file without a metadata, how its images will be prepared."""
    if not model_file.has_metadata:
        height, width = model_file.metadata.preprocessing.size
        say(
            f"{model_file.path} has no {metadata_path(model_file.path).name} beside it: images are "
            f"resized to {height} x {width} and cropped in the centre, classes are numbers"
        )


def _require_fit(
    metadata: Metadata,
    path: Path,
    size: tuple[int | None, int | None],
    classes: int | None,
) -> None:
    """Refuse metadata of another model."""
    asked = metadata.preprocessing.size
    if any(own not in (None, other) for own, other in zip(size, asked, strict=True)):
        raise InputError(
            f"{metadata_path(path)} is of another model than {path}, which takes images of "
            f"{size[0]} x {size[1]}. Received: size={asked}"
        )
    if metadata.labels and classes is not None and len(metadata.labels) != classes:
        raise InputError(
            f"{metadata_path(path)} is of another model than {path}, which has {classes} classes. "
            f"Received: {len(metadata.labels)} labels"
        )
