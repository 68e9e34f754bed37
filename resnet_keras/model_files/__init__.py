"""Open a model file of any format, to predict with it.

Beside each model file lies `NAME.json`, its metadata: how its images are prepared, and its labels.
`.tflite`, `.onnx`, `.xml` and SavedModel have it inside, too.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.model_files.formats import format_of
from resnet_keras.model_files.keras import load_keras, refuse_packed
from resnet_keras.model_files.metadata import (
    Metadata,
    label_lines,
    metadata_path,
    parse_metadata,
    read_metadata,
    require_replaceable_metadata,
)
from resnet_keras.preprocessing import LARGEST, Preprocessing

__all__ = [
    "Metadata",
    "ModelFile",
    "label_lines",
    "load_keras",
    "metadata_path",
    "open_model_file",
    "read_metadata",
    "refuse_packed",
    "require_replaceable_metadata",
    "require_scores",
    "require_unchanged",
    "warn_of_missing_metadata",
]

# Height or width of images where neither the model nor its metadata says.
_USUAL_EDGE = 224


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A model file that can predict.

    Attributes:
        path: the file or folder.
        predict: pixels 0-255, uint8 `(batch, height, width, channels)`, to scores, usually
            probabilities, float32 `(batch, classes)`; or to features, `(batch, ...)`.
        channels: of an image; where `metadata.rgb_input` says so 1, although the file takes 3.
        metadata: how its images are prepared, and its labels.
        has_metadata: whether there was metadata beside the file or inside it; otherwise it is
            assumed from the model's input.
        classes: number of classes; None where the file does not say, or gives features.
        any_size: whether height or width of the images is not fixed by the file.
        stamp: inode, size and time of change of the file when it was opened, see
            `require_unchanged`; None where it was not opened from a file.
    """

    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    channels: int
    metadata: Metadata
    has_metadata: bool
    classes: int | None = None
    any_size: bool = False
    stamp: tuple[int, ...] | None = None


def open_model_file(
    path: str | Path, *, threads: int | None = None, beside: bool = True, folded: bool = True
) -> ModelFile:
    """Open a model file of any format in `formats.FORMATS`.

    Args:
        path: a file, or the folder of a SavedModel.
        threads: of the interpreter of `.tflite`, `.onnx` and `.xml`; by default one for each core.
            Other formats run on the threads that TensorFlow has in this process.
        beside: read the metadata beside the file. False ignores it, where it is still that of an
            older file.
        folded: run a float32 `.keras` file with its batch norms folded into its convolutions, which
            is faster and differs by rounding alone. False runs it layer by layer, as Keras does.

    Returns:
        The model file.

    Raises:
        InputError: there is no such file, it is not a model, or its metadata belongs to another
            model; from `predict`: not enough memory.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such model file. Received: {path}")
    stamp = _stamp(path)  # before it is read: whoever replaces it meanwhile is seen
    opened = format_of(path).open(path, threads=threads or os.cpu_count() or 1, folded=folded)
    _, height, width, channels = opened.shape
    edges = height or _USUAL_EDGE, width or _USUAL_EDGE
    if not all(0 < edge <= LARGEST for edge in edges):
        raise InputError(
            f"{path} must take images of 1 to {LARGEST} pixels. Received: {opened.shape}"
        )
    if channels is None:
        raise InputError(
            f"{path} must take images of a known number of channels. Received: {opened.shape}"
        )
    metadata = read_metadata(path) if beside else None
    if metadata is None and opened.metadata is not None:
        metadata = parse_metadata(opened.metadata, path)
    described = metadata or Metadata(Preprocessing(edges))
    # A network without its top may have kept the JSON file of the whole.
    named = opened.classes is not None and len(described.labels) == opened.classes
    # A classifier may end in a pool or a Flatten: then its metadata says so.
    told = described.features is False or named
    features = described.features or (opened.features and not told)
    classes = None if features else opened.classes
    if features:
        labels = described.labels if described.heatmaps else ()  # of the key points
        described = dataclasses.replace(described, labels=labels, threshold=None, features=True)
    if metadata is not None:
        _require_fit(described, path, (height, width), classes)
    predict = opened.predict
    if described.rgb_input and channels == 3:
        predict, channels = _repeating(predict), 1
    return ModelFile(
        path,
        predict,
        channels,
        described,
        has_metadata=metadata is not None,
        classes=classes,
        any_size=None in (height, width),
        stamp=stamp,
    )


def require_unchanged(model_file: ModelFile) -> None:
    """Refuse to say of a file what another one did, whose place it has taken.

    A training that ends, or another export, may replace a file that is open.

    Args:
        model_file: an open model file, which was used.

    Raises:
        InputError: the file at its path is not the one that was opened.
    """
    path, stamp = model_file.path, model_file.stamp
    if stamp is not None and (not path.exists() or _stamp(path) != stamp):
        raise InputError(
            f"{path} was replaced while it was in use, perhaps by a training that has ended: run "
            "the same command again."
        )


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def require_scores(model_file: ModelFile, what: str) -> None:
    """Refuse a model file that gives features where scores of classes are needed.

    Args:
        model_file: an open model file.
        what: needs them, in a sentence.

    Raises:
        InputError: it gives features.
    """
    if model_file.metadata.features:
        raise InputError(
            f"{what} needs scores of classes, but {model_file.path} gives features: choose a model "
            "file with a classification head. If its outputs are scores, write their `labels`, or "
            f'"features": false, in {metadata_path(model_file.path).name}. Received: a model that '
            "ends in no layer of scores"
        )


def _repeating(predict: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Give a file that takes RGB grey images: their pixels three times."""
    return lambda images: predict(
        np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
    )


def warn_of_missing_metadata(model_file: ModelFile) -> None:
    """Say how images will be prepared for a model file that has no metadata."""
    if not model_file.has_metadata:
        height, width = model_file.metadata.preprocessing.size
        say(
            f"{model_file.path} has no {metadata_path(model_file.path).name} beside it: images are "
            f"scaled to cover {height} x {width} pixels and cropped in the centre, and classes are "
            "numbers"
        )


def _require_fit(
    metadata: Metadata,
    path: Path,
    size: tuple[int | None, int | None],
    classes: int | None,
) -> None:
    """Refuse metadata of another model."""
    wanted = metadata.preprocessing.size
    if any(own not in (None, other) for own, other in zip(size, wanted, strict=True)):
        raise InputError(
            f"{metadata_path(path)} belongs to another model than {path}, which takes images of "
            f"{size[0]} x {size[1]}. Received: size={wanted}"
        )
    if metadata.labels and classes is not None and len(metadata.labels) != classes:
        raise InputError(
            f"{metadata_path(path)} belongs to another model than {path}, which has {classes} "
            f"classes. Received: {len(metadata.labels)} labels"
        )
