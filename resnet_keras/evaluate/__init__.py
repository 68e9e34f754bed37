"""Accuracy and calibration of any artefact on every picture of a split."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras import data
from resnet_keras.artefact import Artefact, open_artefact, say_what_is_made_up
from resnet_keras.disk import folder_of
from resnet_keras.evaluate import measures
from resnet_keras.evaluate.predictions import Gallery, Predictions, digest, load_predictions
from resnet_keras.terminal import InputError, say

__all__ = [
    "Predictions",
    "evaluate",
    "load_predictions",
    "measures",
    "predict_split",
    "require_channels",
    "test_batches",
]


def evaluate(
    artefact: str | Path | Artefact,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
    save: str | Path | None = None,
    calibrate_on: str | None = None,
) -> dict[str, Any]:
    """Measure an artefact on every picture of a split, none dropped, none twice.

    Args:
        artefact: a model file, or one that is open.
        dataset: `digits`, a TFDS name or `folder:PATH`; by default what it was trained on.
        data_dir: where prepared data sets lie.
        split: "test", "train", or a split as TFDS writes it.
        skip_bad: go on without the bad files of a folder, rather than refuse it.
        batch_size: pictures at a time.
        save: an `.npz` file for the scores of every picture: see `Predictions`.
        calibrate_on: a split on which a temperature is fitted (Guo et al. 2017, section 4.2);
            pictures of it that are also among those evaluated are left out.

    Returns:
        `top1` and `top5` (fractions), `examples`, `images_per_second` (reading included), `ece`
        (a fraction, 15 bins) and `nll` (nats), both None where the scores are no probabilities,
        and `per_class`: top-1 by the class' name, None without pictures. With `calibrate_on` also
        `temperature`, `calibrated_on`, `calibration_examples`, `ece_calibrated` and
        `nll_calibrated`.

    Raises:
        InputError: a file, data set or split that is not there, or no picture to calibrate on.
    """
    if save is not None and Path(save).suffix != ".npz":
        raise InputError(f"`save` must end in .npz. Received: save={str(save)!r}")
    artefact = artefact if isinstance(artefact, Artefact) else open_artefact(artefact)
    say_what_is_made_up(artefact)
    source = {
        "dataset": dataset,
        "data_dir": data_dir,
        "skip_bad": skip_bad,
        "batch_size": batch_size,
    }
    start = time.perf_counter()
    pixels = None if calibrate_on is None else set()
    said = predict_split(artefact, split=split, pixels=pixels, **source)
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
        raise InputError(f"{artefact.path} gives no probabilities: there is no temperature to fit.")
    return answer | _calibration(artefact, said, calibrate_on, pixels, source)


def predict_split(
    artefact: Artefact,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
    pixels: set[bytes] | None = None,
) -> Predictions:
    """The scores of every picture of a split; arguments as of `evaluate`.

    Args:
        artefact: one that is open.
        dataset: as of `evaluate`.
        data_dir: likewise.
        split: likewise.
        skip_bad: likewise.
        batch_size: likewise.
        pixels: gets what tells each picture from others.

    Raises:
        InputError: as `test_batches`.
    """
    source = {"dataset": dataset, "data_dir": data_dir, "split": split, "skip_bad": skip_bad}
    pictures = _open(artefact, **source)
    gallery, scores, labels = Gallery(), [], []
    for images, true in _batches(artefact, pictures, batch_size):
        scores.append(np.asarray(artefact.predict(images), np.float32))
        labels.append(true)
        gallery.look(images, scores[-1], true)
        if pixels is not None:
            pixels.update(map(_tell, images))
    shown, kept = gallery.numbers_and_pictures(images.shape[1:])
    names = pictures.labels
    if len(set(names)) < len(names):  # two kinds of crane
        names = tuple(f"{i} {name}" for i, name in enumerate(names))
    return Predictions(
        scores=np.concatenate(scores),
        labels=np.concatenate(labels),
        classes=names,
        dataset=dataset or artefact.card.dataset,
        split=split,
        artefact=digest(artefact.path),
        paths=_paths(pictures),
        shown=shown,
        pictures=kept,
    )


def test_batches(
    artefact: Artefact,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pictures of a split as an artefact wants them; arguments as of `evaluate`.

    Yields:
        uint8 `(batch, size, size, channels)`, integer `(batch,)`.

    Raises:
        InputError: no data set is named, or its pictures or classes do not fit the artefact; while
            it goes on, a file of data is gone or damaged.
    """
    source = {"dataset": dataset, "data_dir": data_dir, "split": split, "skip_bad": skip_bad}
    return _batches(artefact, _open(artefact, **source), batch_size)


def require_channels(artefact: Artefact, pictures: data.Pictures, dataset: str) -> None:
    """Refuse grey pictures for a network that sees colours, and the other way round.

    Raises:
        InputError: they are.
    """
    if pictures.channels != artefact.channels:
        raise InputError(
            f"{artefact.path} takes pictures of {artefact.channels} channels, "
            f"{dataset} has {pictures.channels}."
        )


def _open(artefact: Artefact, *, dataset, data_dir, split, skip_bad) -> data.Pictures:
    """A split, if it fits an artefact."""
    card = artefact.card
    dataset = dataset or card.dataset
    if dataset is None:
        raise InputError(f"no data set is known for {artefact.path}; name one with --dataset.")
    pictures = data.open_split(dataset, split, data_dir=data_dir, skip_bad=skip_bad)
    require_channels(artefact, pictures, dataset)
    if artefact.classes is not None and artefact.classes < len(pictures.labels):
        raise InputError(
            f"{artefact.path} tells {artefact.classes} classes apart, {dataset} has "
            f"{len(pictures.labels)}."
        )
    if card.labels and len(pictures.labels) != len(card.labels):
        raise InputError(
            f"{artefact.path} knows {len(card.labels)} classes, {dataset} has "
            f"{len(pictures.labels)}."
        )
    if folder_of(dataset) and card.labels and pictures.labels != card.labels:
        other = next(a for a, b in zip(pictures.labels, card.labels, strict=True) if a != b)
        raise InputError(f"{artefact.path} knows no class {other!r}, which {dataset} has.")
    return pictures


def _batches(artefact: Artefact, pictures: data.Pictures, batch_size: int) -> Iterator:
    if batch_size < 1:
        raise InputError(f"`batch_size` must be above 0. Received: batch_size={batch_size}")
    batches = data.evaluation_batches(pictures, batch_size=batch_size, **artefact.card.preparation)
    with data.naming_files(pictures.record_files):
        yield from batches.as_numpy_iterator()


def _calibration(
    artefact: Artefact, said: Predictions, split: str, pixels: set[bytes], source: dict
) -> dict[str, Any]:
    """Fit a temperature on another split; what it makes of the first."""
    source = dict(source)
    batch_size = source.pop("batch_size")
    pictures = _open(artefact, split=split, **source)
    scores, labels = [], []
    for images, true in _batches(artefact, pictures, batch_size):
        # By the pixels, because splits have several names ("test" may be "validation").
        own = np.array([_tell(image) not in pixels for image in images])
        if own.any():
            scores.append(np.asarray(artefact.predict(images[own]), np.float32))
            labels.append(true[own])
    left = sum(map(len, labels))
    if left < pictures.examples:
        say(
            f"{pictures.examples - left:,} of {pictures.examples:,} pictures of {split} are among "
            "those evaluated, and were left out of the calibration"
        )
    if not left:
        raise InputError(
            f"a temperature is fitted on other pictures than it is judged by. "
            f"Received: calibrate_on={split!r}, split={said.split!r}"
        )
    temperature = measures.fit_temperature(np.concatenate(scores), np.concatenate(labels))
    if temperature in (measures.COLDEST, measures.HOTTEST):
        say(
            f"the best temperature is not within {measures.COLDEST}..{measures.HOTTEST}: "
            f"the pictures of {split} were learnt by heart, or tell nothing"
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
    """What tells a picture's pixels from others'."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _paths(pictures: data.Pictures) -> np.ndarray | None:
    if pictures.files is None:
        return None
    return np.array([p.decode(errors="surrogateescape") for p in pictures.files.paths.tolist()])
