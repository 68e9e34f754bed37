"""Convert: write a trained model as a file of a format; for int8, calibrate it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from resnet_keras.clones import Rescaling, fold, of_size
from resnet_keras.console import say
from resnet_keras.data import Split
from resnet_keras.errors import InputError
from resnet_keras.evaluation import batches, require_channels
from resnet_keras.exporting.options import Settings
from resnet_keras.model_files import (
    Metadata,
    ModelFile,
    load_keras,
    metadata_path,
    require_scores,
)
from resnet_keras.model_files.keras import last_activation, plain
from resnet_keras.quantize import (
    head_activation,
    quantization_aware,
    read_ranges,
    with_probabilities,
    with_rgb_input,
)

# How many training images the ranges are taken from, and how many there must be at least.
CALIBRATION_IMAGES, LEAST_IMAGES = 200, 100


class Calibration(NamedTuple):
    """Where the ranges of an int8 file come from: `images`, or the `ranges` of fine-tuning.

    Attributes:
        origin: the same in words, for the report.
        images: uint8 `(n, height, width, channels)`.
        ranges: of `quantize.activation_ranges`.
    """

    origin: dict[str, Any]
    images: np.ndarray | None = None
    ranges: Mapping[str, tuple[float, float]] | None = None


def folded(model: keras.Model, *, rescaling: Rescaling = "layer") -> keras.Model:
    """Clone `plain(model)` without batch norm: what is converted. Its layers keep their names.

    Args:
        model: any that `fold` takes.
        rescaling: as of `fold`; what a format wants, its row says.
    """
    return fold(plain(model), rescaling=rescaling)


def exportable(original: ModelFile, settings: Settings) -> keras.Model:
    """Load the model of a file for conversion; of one size, where the format needs one.

    Args:
        original: the model file that is exported.
        settings: how.

    Raises:
        InputError: nobody could use the result.
    """
    if settings.rgb_input and original.channels != 1:
        raise InputError(
            "`rgb_input` is for a network of grey images. "
            f"Received: {original.path}, whose images have {original.channels} channels"
        )
    if settings.page:
        require_scores(original, "the page")
    model = load_keras(original.path)
    if model.output_shape[1:] == (1,) and last_activation(model) == "softmax":
        raise InputError(
            f"{original.path} ends in a softmax of one class, which is 1.0 for every image: give "
            f"the layer a sigmoid. Received: {model.layers[-1].name}"
        )
    if not settings.format.fixed_size or not original.any_size:
        return model
    if not original.has_metadata:
        raise InputError(
            f"{settings.format.described} takes images of one size, and neither {original.path} "
            f"nor {metadata_path(original.path).name} beside it names one: write that file, "
            f'{{"size": [HEIGHT, WIDTH]}}. Received: input_shape={model.input_shape[1:]}'
        )
    return of_size(model, original.metadata.preprocessing.size)


def tuned_calibration(source: Path, original: ModelFile, settings: Settings) -> Calibration | None:
    """Return the ranges that quantization-aware training has left beside a model.

    Returns:
        None where there are none, the format has no use for them, or the options ask for a
        calibration of its own.

    Raises:
        InputError: they are damaged, or belong to another model.
    """
    wanted = settings.quantize == "int8" and not settings.calibrate and not settings.keep_float
    if not wanted or not settings.format.takes_ranges or (ranges := read_ranges(source)) is None:
        return None
    origin = {"dataset": original.metadata.dataset, "split": "train", "fine_tuned": True}
    return Calibration(origin, ranges=ranges)


def image_calibration(original: ModelFile, split: Split, seed: int) -> Calibration:
    """Choose training images, and prepare them as in evaluation.

    Args:
        original: the model file that is exported.
        split: the training split.
        seed: of the choice.

    Raises:
        InputError: the images have other channels, or there are too few.
    """
    source = split.source
    name = source.dataset if source else "the given split"
    require_channels(original, split)
    chosen = split.sample(CALIBRATION_IMAGES, seed=seed)
    say(f"calibrating on {chosen.examples} training images of {name}")
    images = np.concatenate([some for some, _ in batches(original, chosen)])
    if len(images) < LEAST_IMAGES:
        raise InputError(
            f"int8 needs at least {LEAST_IMAGES} training images to calibrate on. Received: "
            f"{len(images)} of {name}"
        )
    origin = {"dataset": source and source.dataset, "split": source and source.split}
    return Calibration(origin | {"examples": len(images), "seed": seed}, images=images)


def convert(
    model: keras.Model,
    path: Path,
    metadata: Metadata,
    settings: Settings,
    calibration: Calibration | None = None,
) -> dict[str, float]:
    """Write a model in the format of the settings, with its metadata beside it.

    Args:
        model: of a `.keras` file.
        path: the file or folder.
        metadata: what travels with it.
        settings: how.
        calibration: of int8.

    Returns:
        For int8 by images, the error of each layer, as of `LayerErrors`; else nothing.
    """
    options = settings.writing()
    if calibration is not None:
        options["images"] = calibration.images
        if settings.rgb_input and calibration.images is not None:
            options["images"] = np.repeat(calibration.images, 3, axis=-1)
    network = _network(model, settings, calibration)
    errors = settings.format.module.write(network, path, metadata, **options)
    metadata.write(path)
    return errors


def _network(
    model: keras.Model, settings: Settings, calibration: Calibration | None
) -> keras.Model:
    """Clone a model into what the format's `write` takes."""
    ranges = calibration and calibration.ranges
    if ranges is not None:
        clone = quantization_aware(model, ranges)
        network = with_probabilities(clone, head_activation(model))
    elif settings.format.keeps_batch_norm:
        return model
    else:
        network = folded(model, rescaling=settings.format.rescaling)
    return with_rgb_input(network, rounded=ranges is not None) if settings.rgb_input else network
