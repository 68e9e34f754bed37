"""Accuracy and calibration of any model file on every image of a split."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras import data
from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.evaluation import measures
from resnet_keras.evaluation.predictions import Gallery, Predictions, digest, load_predictions
from resnet_keras.files import folder_of
from resnet_keras.model_files import ModelFile, open_model_file, warn_of_missing_metadata

__all__ = [
    "Predictions",
    "batches",
    "evaluate",
    "load_predictions",
    "measures",
    "open_split_for",
    "predict_split",
    "require_channels",
    "require_fit",
    "source_for",
    "test_batches",
]


def evaluate(
    model_file: str | Path | ModelFile,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
    save: str | Path | None = None,
    calibrate_on: str | None = None,
) -> dict[str, Any]:
    """Measure a model file on every image of a split, none dropped, none twice.

    Args:
        model_file: a model file, or one that is open.
        dataset: `digits`, a TFDS name or `folder:PATH`; by default what it was trained on.
        data_dir: where prepared data sets lie.
        split: "test", "train", or a split as TFDS writes it.
        skip_bad: go on without the bad files of a folder, rather than refuse it.
        batch_size: images at a time.
        save: an `.npz` file for the scores of every image: see `Predictions`.
        calibrate_on: a split on which a temperature is fitted (Guo et al. 2017, section 4.2);
            images of it that are also among those evaluated are left out.

    Returns:
        `top1` and `top5` (fractions), `examples`, `images_per_second` (reading included), `ece`
        (a fraction, 15 bins) and `nll` (nats), both None where the scores are no probabilities,
        and `per_class`: top-1 by the class' name, None without images. With `calibrate_on` also
        `temperature`, `calibrated_on`, `calibration_examples`, `ece_calibrated` and
        `nll_calibrated`.

    Raises:
        InputError: a file, data set or split that is not there, or no image to calibrate on.
    """
    if save is not None and Path(save).suffix != ".npz":
        raise InputError(f"`save` must end in .npz. Received: save={str(save)!r}")
    model_file = model_file if isinstance(model_file, ModelFile) else open_model_file(model_file)
    warn_of_missing_metadata(model_file)
    source = {
        "dataset": dataset,
        "data_dir": data_dir,
        "skip_bad": skip_bad,
        "batch_size": batch_size,
    }
    start = time.perf_counter()
    pixels = None if calibrate_on is None else set()
    said = predict_split(model_file, split=split, pixels=pixels, **source)
    seconds = time.perf_counter() - start
    if save is not None:
        said.save(save)
    places = measures.ranks(said.scores, said.labels)
    sure = measures.are_probabilities(said.scores)
    by_class = measures.per_class(places, said.labels, len(said.classes))
    answer = {
        "top1": float(np.mean(places < 1)),
        "top5": float(np.mean(places < 5)),
        "examples": len(places),
        "images_per_second": round(len(places) / seconds, 1),
        "ece": measures.reliability(said.scores, said.labels).ece if sure else None,
        "nll": measures.negative_log_likelihood(said.scores, said.labels) if sure else None,
        "per_class": dict(zip(said.classes, by_class, strict=True)),
    }
    if calibrate_on is None:
        return answer
    if not sure:
        raise InputError(
            f"{model_file.path} gives no probabilities: there is no temperature to fit."
        )
    return answer | _calibration(model_file, said, calibrate_on, pixels, source)


def predict_split(
    model_file: ModelFile,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
    pixels: set[bytes] | None = None,
) -> Predictions:
    """The scores of every image of a split; arguments as of `evaluate`.

    Args:
        model_file: one that is open.
        dataset: as of `evaluate`.
        data_dir: likewise.
        split: likewise.
        skip_bad: likewise.
        batch_size: likewise.
        pixels: gets what tells each image from others.

    Raises:
        InputError: as `test_batches`.
    """
    source = {"dataset": dataset, "data_dir": data_dir, "split": split, "skip_bad": skip_bad}
    opened = _open(model_file, **source)
    gallery, scores, labels = Gallery(), [], []
    for images, true in batches(model_file, opened, batch_size):
        scores.append(np.asarray(model_file.predict(images), np.float32))
        labels.append(true)
        gallery.look(images, scores[-1], true)
        if pixels is not None:
            pixels.update(map(_tell, images))
    shown, kept = gallery.numbers_and_images(images.shape[1:])
    names = opened.labels
    if len(set(names)) < len(names):  # two kinds of crane
        names = tuple(f"{i} {name}" for i, name in enumerate(names))
    return Predictions(
        scores=np.concatenate(scores),
        labels=np.concatenate(labels),
        classes=names,
        dataset=dataset or model_file.metadata.dataset,
        split=split,
        model_file=digest(model_file.path),
        paths=_paths(opened),
        shown=shown,
        images=kept,
    )


def test_batches(
    model_file: ModelFile,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The images of a split as a model file wants them; arguments as of `evaluate`.

    Yields:
        uint8 `(batch, size, size, channels)`, integer `(batch,)`.

    Raises:
        InputError: no data set is named, or its images or classes do not fit the model file; while
            it goes on, a file of data is gone or damaged.
    """
    source = {"dataset": dataset, "data_dir": data_dir, "split": split, "skip_bad": skip_bad}
    return batches(model_file, _open(model_file, **source), batch_size)


def source_for(
    model_file: ModelFile,
    *,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
) -> data.Source:
    """Name the images for a model file; by default of the data set that it was trained on.

    Raises:
        InputError: no data set is given, and the model file names none.
    """
    dataset = dataset or model_file.metadata.dataset
    if dataset is None:
        raise InputError(f"no data set is known for {model_file.path}; name one with --dataset.")
    return data.Source(dataset, split, data_dir=data_dir, skip_bad=skip_bad)


def open_split_for(model_file: ModelFile, source: data.Source) -> data.Split:
    """Open a split that a model file can be evaluated on.

    Raises:
        InputError: there is no such data set or split, or `require_fit` refuses it.
    """
    split = source.open()
    require_fit(model_file, split)
    return split


def require_fit(model_file: ModelFile, split: data.Split) -> None:
    """Refuse images that a model file cannot be evaluated on.

    Raises:
        InputError: they differ from the model's in channels, or in their classes.
    """
    require_channels(model_file, split)
    metadata, dataset = model_file.metadata, split.source.dataset
    if model_file.classes is not None and model_file.classes < len(split.labels):
        raise InputError(
            f"{model_file.path} tells {model_file.classes} classes apart, {dataset} has "
            f"{len(split.labels)}."
        )
    if metadata.labels and len(split.labels) != len(metadata.labels):
        raise InputError(
            f"{model_file.path} knows {len(metadata.labels)} classes, {dataset} has "
            f"{len(split.labels)}."
        )
    if folder_of(dataset) and metadata.labels and split.labels != metadata.labels:
        other = next(a for a, b in zip(split.labels, metadata.labels, strict=True) if a != b)
        raise InputError(f"{model_file.path} knows no class {other!r}, which {dataset} has.")


def require_channels(model_file: ModelFile, split: data.Split) -> None:
    """Refuse grey images for a model of colour images, and the reverse.

    Raises:
        InputError: the numbers of channels differ.
    """
    if split.channels != model_file.channels:
        raise InputError(
            f"{model_file.path} takes images of {model_file.channels} channels, "
            f"{split.source.dataset} has {split.channels}."
        )


def _open(model_file: ModelFile, **source) -> data.Split:
    return open_split_for(model_file, source_for(model_file, **source))


def batches(
    model_file: ModelFile, split: data.Split, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Prepare every image of a split once, in order, as a model file takes them.

    Yields:
        Images, uint8 `(batch, height, width, channels)`, and labels, int64 `(batch,)`.
    """
    if batch_size < 1:
        raise InputError(f"`batch_size` must be above 0. Received: batch_size={batch_size}")
    prepared = data.evaluation_batches(
        split, model_file.metadata.preprocessing, batch_size=batch_size
    )
    with data.naming_files(split.record_files):
        yield from prepared.as_numpy_iterator()


def _calibration(
    model_file: ModelFile, said: Predictions, split: str, pixels: set[bytes], source: dict
) -> dict[str, Any]:
    """Fit a temperature on another split; what it makes of the first."""
    source = dict(source)
    batch_size = source.pop("batch_size")
    opened = _open(model_file, split=split, **source)
    scores, labels = [], []
    for images, true in batches(model_file, opened, batch_size):
        # By the pixels, because splits have several names ("test" may be "validation").
        own = np.array([_tell(image) not in pixels for image in images])
        if own.any():
            scores.append(np.asarray(model_file.predict(images[own]), np.float32))
            labels.append(true[own])
    left = sum(map(len, labels))
    if left < opened.examples:
        say(
            f"{opened.examples - left:,} of {opened.examples:,} images of {split} are among "
            "those evaluated, and were left out of the calibration"
        )
    if not left:
        raise InputError(
            f"a temperature is fitted on other images than it is judged by. "
            f"Received: calibrate_on={split!r}, split={said.split!r}"
        )
    temperature = measures.fit_temperature(np.concatenate(scores), np.concatenate(labels))
    if temperature in (measures.COLDEST, measures.HOTTEST):
        say(
            f"the best temperature is not within {measures.COLDEST}..{measures.HOTTEST}: "
            f"the images of {split} were learnt by heart, or tell nothing"
        )
    calibrated = measures.at_temperature(said.scores, temperature)
    return {
        "temperature": temperature,
        "calibrated_on": split,
        "calibration_examples": left,
        "ece_calibrated": measures.reliability(calibrated, said.labels).ece,
        "nll_calibrated": measures.negative_log_likelihood(calibrated, said.labels),
    }


def _tell(image: np.ndarray) -> bytes:
    """What tells an image's pixels from others'."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _paths(opened: data.Split) -> np.ndarray | None:
    if opened.files is None:
        return None
    return np.array([p.decode(errors="surrogateescape") for p in opened.files.paths.tolist()])
