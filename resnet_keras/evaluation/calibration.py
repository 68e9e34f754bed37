"""A temperature for a model file, fitted on images other than those it is judged by."""

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np

from resnet_keras.console import say
from resnet_keras.data import Split
from resnet_keras.errors import InputError
from resnet_keras.evaluation import measures
from resnet_keras.evaluation.predictions import Predictions
from resnet_keras.evaluation.splits import batches
from resnet_keras.model_files import ModelFile


def calibrate(
    model_file: ModelFile,
    predictions: Predictions,
    evaluated: Collection[bytes],
    *,
    split: Split,
    name: str,
    batch_size: int | None,
) -> dict[str, Any]:
    """Fit a temperature on one split, and apply it to predictions of another.

    Args:
        model_file: an open model file.
        predictions: probabilities to calibrate.
        evaluated: the `fingerprint` of every image they were predicted from; these are left out
            of the fit.
        split: images to fit on.
        name: of this split, for messages and the result.
        batch_size: images in a batch; None: as many as suit the machine.

    Returns:
        `temperature`, `calibrated_on`, `calibration_examples`, `ece_calibrated`, `nll_calibrated`.

    Raises:
        InputError: the predictions are not probabilities, or no image is left to fit on.
    """
    if not measures.are_probabilities(predictions.scores):
        raise InputError(
            f"{model_file.path} gives no probabilities, so no temperature can be fitted. "
            f"Received: calibrate_on={name!r}"
        )
    scores, labels = [], []
    for images, true in batches(model_file, split, batch_size):
        # By the pixels, because one split may have several names ("test" may be "validation").
        new = np.array([fingerprint(image) not in evaluated for image in images])
        if new.any():
            scores.append(np.asarray(model_file.predict(images[new]), np.float32))
            labels.append(true[new])
    examples = sum(map(len, labels))
    if examples < split.examples:
        say(
            f"left {split.examples - examples:,} of {split.examples:,} images of {name} out of "
            "the calibration, because they are among those evaluated"
        )
    if not examples:
        raise InputError(
            "a temperature must be fitted on images other than those evaluated. "
            f"Received: calibrate_on={name!r}, split={predictions.split!r}"
        )
    temperature = measures.fit_temperature(np.concatenate(scores), np.concatenate(labels))
    if temperature in (measures.COLDEST, measures.HOTTEST):
        say(
            f"the best temperature is outside {measures.COLDEST} to {measures.HOTTEST}: the "
            f"model is right on nearly all images of {name}, or hardly better than chance"
        )
    calibrated = measures.at_temperature(predictions.scores, temperature)
    return {
        "temperature": temperature,
        "calibrated_on": name,
        "calibration_examples": examples,
        "ece_calibrated": measures.reliability(calibrated, predictions.labels).ece,
        "nll_calibrated": measures.negative_log_likelihood(calibrated, predictions.labels),
    }


def fingerprint(image: np.ndarray) -> bytes:
    """Hash the pixels of an image; 16 bytes."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
