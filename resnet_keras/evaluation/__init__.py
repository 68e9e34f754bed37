"""Accuracy and calibration of a model file on a split; predictions for image files."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras import data
from resnet_keras.errors import InputError
from resnet_keras.evaluation import measures
from resnet_keras.evaluation.calibration import calibrate, fingerprint
from resnet_keras.evaluation.image_files import predict
from resnet_keras.evaluation.predictions import Gallery, Predictions, load_predictions
from resnet_keras.evaluation.splits import (
    batches,
    dataset_of,
    name_of,
    open_split_for,
    paths_of,
    require_channels,
    require_fit,
    source_for,
)
from resnet_keras.files import sha256
from resnet_keras.model_files import (
    ModelFile,
    open_model_file,
    require_scores,
    require_unchanged,
    warn_of_missing_metadata,
)
from resnet_keras.published import Pretrained, find
from resnet_keras.weights import model_file_of

__all__ = [
    "Predictions",
    "batches",
    "evaluate",
    "label_results",
    "load_predictions",
    "measures",
    "open_split_for",
    "predict",
    "predict_split",
    "require_channels",
    "require_fit",
    "source_for",
]


# With more classes, the table of all pairs is longer than anybody reads.
_MOST_CONFUSED = 100


def evaluate(
    model_file: str | Path | ModelFile,
    *,
    split: str | data.Split | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    batch_size: int | None = None,
    save: str | Path | None = None,
    calibrate_on: str | data.Split | None = None,
) -> dict[str, Any]:
    """Evaluate a model file on every image of a split, each of them once.

    Args:
        model_file: a model file, or one that is open; or a name of `pretrained`.
        split: "test", "train", or a split as TFDS writes it; "val" and "all" of images of one's
            own; or one that is open. By default "test" or, of the data set that the model was
            trained on, what it was tested on; all images of a folder without splits that it was not
            trained on.
        dataset: as of `data.Source`; by default what the model was trained on. Like `data_dir` and
            `skip_bad`, it is for splits that are named.
        data_dir: folder of the prepared data sets.
        skip_bad: leave out files of a folder that cannot be read, instead of refusing it.
        batch_size: images in a batch. None: as many as suit the machine.
        save: an `.npz` file for the scores of every image: see `Predictions`.
        calibrate_on: a split, named or open, on which a temperature is fitted (Guo et al. 2017, "On
            Calibration of Modern Neural Networks", section 4.2), without images evaluated, too.

    Returns:
        `top1` and `top5` (fractions; the latter is None for 5 classes or fewer),
        `balanced_accuracy`, `macro_precision`, `macro_recall` and `macro_f1` (see
        `measures.Averages`), `examples`, `images_per_second` (reading included), `ece`
        (a fraction, 15 bins) and `nll` (nats), both None where the scores are not probabilities,
        `published_top1` and `published_top5` (fractions) of published weights, `per_class`: top-1
        by the name of the class, None for a class without images, and `confusion`: images by true
        class (rows) and top class, None for more than 100 classes. With `calibrate_on` also
        `temperature`, `calibrated_on`, `calibration_examples`, `ece_calibrated`, `nll_calibrated`.
        Of a model that gives an image any number of labels: see `label_results`.

    Raises:
        InputError: the file gives features; a file, data set or split is missing or does not fit,
            `dataset` is given
            beside open splits only, or a temperature has no image, or several labels, to fit on.
    """
    _require_use(save, dataset, (split, calibrate_on))
    model_file, row = _opened(model_file)
    require_scores(model_file, "`evaluate`")
    _require_one_class(model_file, calibrate_on)
    warn_of_missing_metadata(model_file)

    def opened(name: str | data.Split | None) -> data.Split:
        if isinstance(name, data.Split):
            require_fit(model_file, name)
            return name
        source = source_for(
            model_file, split=name, dataset=dataset, data_dir=data_dir, skip_bad=skip_bad
        )
        return open_split_for(model_file, source)

    held_out = None if calibrate_on is None else opened(calibrate_on)
    fingerprints: set[bytes] = set()
    start = time.perf_counter()
    wanted = None if held_out is None else fingerprints
    predictions = predict_split(model_file, opened(split), batch_size, fingerprints=wanted)
    seconds = time.perf_counter() - start
    if save is not None:
        predictions.save(save)
    results = _measured(predictions, seconds)
    results |= {} if row is None else _published(row)
    if held_out is not None:
        name = calibrate_on if isinstance(calibrate_on, str) else name_of(held_out)
        results |= calibrate(
            model_file,
            predictions,
            fingerprints,
            split=held_out,
            name=name,
            batch_size=batch_size,
        )
    return results


def _require_use(save: str | Path | None, dataset: str | None, splits: tuple) -> None:
    """Refuse arguments of `evaluate` that do not fit together; `splits` as they were given."""
    if save is not None and Path(save).suffix != ".npz":
        raise InputError(f"`save` must end in .npz. Received: save={str(save)!r}")
    by_name = splits[0] is None or any(isinstance(split, str) for split in splits)
    if dataset is not None and not by_name:
        raise InputError(
            f"`dataset` is for splits by name, not for open ones. Received: dataset={dataset!r}"
        )


def _require_one_class(model_file: ModelFile, calibrate_on: str | data.Split | None) -> None:
    """Refuse to fit a temperature for a model that gives an image any number of labels."""
    if calibrate_on is not None and model_file.metadata.multi_label:
        name = calibrate_on if isinstance(calibrate_on, str) else name_of(calibrate_on)
        raise InputError(
            f"a temperature is for one class per image, but {model_file.path} gives an image any "
            f"number of labels. Received: calibrate_on={name!r}"
        )


def _opened(model_file: str | Path | ModelFile) -> tuple[ModelFile, Pretrained | None]:
    """An open model file, and the row of published weights whose name was given."""
    if isinstance(model_file, ModelFile):
        return model_file, None
    path = model_file_of(model_file)
    row = None if path == Path(model_file) else find(str(model_file))
    return open_model_file(path), row


def _published(row: Pretrained) -> dict[str, float | None]:
    """The published accuracy, as fractions."""
    percents = {"published_top1": row.top1, "published_top5": row.top5}
    return {name: percent and percent / 100 for name, percent in percents.items()}


def predict_split(
    model_file: ModelFile,
    split: data.Split,
    batch_size: int | None = None,
    *,
    fingerprints: set[bytes] | None = None,
) -> Predictions:
    """Predict every image of a split.

    Args:
        model_file: an open model file.
        split: images that fit it (`open_split_for`).
        batch_size: images in a batch; None: as many as suit the machine.
        fingerprints: a set that gets the `fingerprint` of every image.

    Raises:
        InputError: as from `batches`; or the model file was replaced meanwhile.
    """
    threshold = model_file.metadata.threshold
    gallery, scores, labels = Gallery(threshold), [], []
    for images, true in batches(model_file, split, batch_size):
        scores.append(np.asarray(model_file.predict(images), np.float32))
        labels.append(true)
        gallery.look(images, scores[-1], true)
        if fingerprints is not None:
            fingerprints.update(map(fingerprint, images))
    shown, shown_images = gallery.numbers_and_images(images.shape[1:])
    names = split.labels
    if len(set(names)) < len(names):  # ImageNet has two kinds of crane
        names = tuple(f"{i} {name}" for i, name in enumerate(names))
    return Predictions(
        scores=np.concatenate(scores),
        labels=np.concatenate(labels),
        classes=names,
        dataset=dataset_of(split),
        split=name_of(split),
        model_sha256=_digest(model_file),
        paths=paths_of(split),
        shown=shown,
        images=shown_images,
        threshold=threshold,
    )


def _digest(model_file: ModelFile) -> str:
    """The SHA-256 of the file that was opened, in hexadecimal digits; empty for a folder.

    Raises:
        InputError: another one has taken its place.
    """
    require_unchanged(model_file)
    digest = "" if model_file.path.is_dir() else sha256(model_file.path)
    require_unchanged(model_file)  # also while it was read for that
    return digest


def _measured(predictions: Predictions, seconds: float) -> dict[str, Any]:
    """Compute what `evaluate` returns without `calibrate_on`."""
    scores, labels = predictions.scores, predictions.labels
    speed = {"examples": len(labels), "images_per_second": round(len(labels) / seconds, 1)}
    if predictions.threshold is not None:
        return label_results(predictions, predictions.threshold) | speed
    places = measures.ranks(scores, labels)
    probabilities = measures.are_probabilities(scores)
    per_class = measures.per_class(places, labels, len(predictions.classes))
    counts, classes = measures.confusion(scores, labels), len(predictions.classes)
    return {
        "top1": float(np.mean(places < 1)),
        "top5": float(np.mean(places < 5)) if classes > 5 else None,
        **dataclasses.asdict(measures.averages(counts)),
        **speed,
        "ece": measures.reliability(scores, labels).ece if probabilities else None,
        "nll": measures.negative_log_likelihood(scores, labels) if probabilities else None,
        "per_class": dict(zip(predictions.classes, per_class, strict=True)),
        "confusion": counts.tolist() if classes <= _MOST_CONFUSED else None,
    }


def label_results(predictions: Predictions, threshold: float) -> dict[str, Any]:
    """Measure predictions of a model that gives an image any number of labels.

    Args:
        predictions: of a split.
        threshold: of the scores of labels that an image has.

    Returns:
        `map`, the mean of the average precisions of the labels that images have, as scikit-learn
        computes them; `micro_f1`, `macro_f1`, `macro_precision` and `macro_recall` at `threshold`
        (see `measures.Decisions`); `per_class`, the average precision of each label by its name,
        and `f1_per_class`, both None for a label that no image has. What is defined for one class
        per image alone is None: `top1`, `top5`, `balanced_accuracy`, `ece`, `nll`, `confusion`.
    """
    scores, labels = predictions.scores, predictions.labels
    found = measures.decisions(scores, labels, threshold)
    each = [measures.average_precision(*pair) for pair in zip(scores.T, labels.T, strict=True)]
    undefined = ("top1", "top5", "balanced_accuracy", "ece", "nll", "confusion")
    return {
        "map": measures.mean_average_precision(scores, labels),
        "micro_f1": found.micro_f1,
        "macro_f1": found.macro_f1,
        "macro_precision": found.macro_precision,
        "macro_recall": found.macro_recall,
        "threshold": threshold,
        "per_class": dict(zip(predictions.classes, each, strict=True)),
        "f1_per_class": dict(zip(predictions.classes, found.f1, strict=True)),
        **dict.fromkeys(undefined),
    }
