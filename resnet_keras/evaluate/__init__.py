"""Top-1 and top-5 of any artefact on every picture of a split."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras import data
from resnet_keras.artefact import Artefact, open_artefact
from resnet_keras.terminal import InputError


def evaluate(
    artefact: str | Path | Artefact,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    split: str = "test",
    skip_bad: bool = False,
    batch_size: int = 128,
) -> dict[str, Any]:
    """Measure an artefact on every picture of a split, none dropped, none twice.

    Args:
        artefact: a model file, or one that is open.
        dataset: `digits` or a TFDS name; by default what the artefact was trained on.
        data_dir: where prepared data sets lie.
        split: "test", "train", or a split as TFDS writes it.
        skip_bad: go on without the bad files of a folder, rather than refuse it.
        batch_size: pictures at a time.

    Returns:
        `top1` and `top5` (fractions), `examples`, `images_per_second` (reading included).

    Raises:
        InputError: a file, data set or split that is not there.
    """
    artefact = artefact if isinstance(artefact, Artefact) else open_artefact(artefact)
    start = time.perf_counter()
    batches = test_batches(
        artefact,
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        skip_bad=skip_bad,
        batch_size=batch_size,
    )
    with data.naming_files():
        ranks = [_ranks(artefact.predict(images), labels) for images, labels in batches]
    ranks = np.concatenate(ranks)
    return {
        "top1": float(np.mean(ranks < 1)),
        "top5": float(np.mean(ranks < 5)),
        "examples": len(ranks),
        "images_per_second": round(len(ranks) / (time.perf_counter() - start), 1),
    }


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
        InputError: no data set is named, or its pictures or classes do not fit the artefact.
    """
    card = artefact.card
    dataset = dataset or card.dataset
    if dataset is None:
        raise InputError(f"no data set is known for {artefact.path}; name one with --dataset.")
    pictures = data.open_split(dataset, split, data_dir=data_dir, skip_bad=skip_bad)
    if pictures.channels != artefact.channels:
        raise InputError(
            f"{artefact.path} takes pictures of {artefact.channels} channels, "
            f"{dataset} has {pictures.channels}."
        )
    if card.labels and len(pictures.labels) != len(card.labels):
        raise InputError(
            f"{artefact.path} knows {len(card.labels)} classes, {dataset} has "
            f"{len(pictures.labels)}."
        )
    if dataset.startswith("folder:") and card.labels and pictures.labels != card.labels:
        other = next(a for a, b in zip(pictures.labels, card.labels, strict=True) if a != b)
        raise InputError(f"{artefact.path} knows no class {other!r}, which {dataset} has.")
    batches = data.evaluation_batches(
        pictures,
        size=card.crop,
        batch_size=batch_size,
        resize=card.eval_resize,
        interpolation=card.interpolation,
        antialias=card.antialias,
    )
    return batches.as_numpy_iterator()


def _ranks(scores: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Place of the true class among the scores, from 0; equal scores count against it."""
    true = np.take_along_axis(scores, np.asarray(labels)[:, None], axis=1)
    # NaN is behind everything: a broken model has no top-1.
    better = np.sum(~(scores < true), axis=1) - 1
    return np.where(np.isnan(true[:, 0]), scores.shape[1], better)
