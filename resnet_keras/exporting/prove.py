"""Prove: how far a file differs from its model on real test images, and how fast both are."""

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.data import Split
from resnet_keras.evaluation import batches, measures
from resnet_keras.exporting.options import Settings
from resnet_keras.model_files import ModelFile, open_model_file
from resnet_keras.model_files.formats import format_of

# What each kind of file must satisfy: the largest difference of a probability must be below the
# bound, or the fraction of images with the same top class at least the bound; of models that give
# an image any number of labels, the fraction of decisions, one for each image and label.
BOUNDS = {
    "none": ("max_difference", 1e-4),
    "float16": ("max_difference", 5e-3),
    "dynamic": ("top1_agreement", 0.99),
    "int8": ("top1_agreement", 0.99),
}

# Of the interpreters whose threads can be chosen.
THREADS = (1, 4)
# Latency is measured in up to this many rounds, or seconds for each file, after the warm-up rounds.
ROUNDS, SECONDS, WARM_UP = 30, 3.0, 3


def prove(
    original: ModelFile,
    candidate: ModelFile,
    split: Split,
    settings: Settings,
    *,
    examples: int,
    bound: float | None,
) -> dict[str, Any]:
    """Compare a file with its model, and judge it.

    Args:
        original: the model, in float32 and not folded.
        candidate: the file.
        split: the test split.
        settings: how the file was made.
        examples: how many images.
        bound: of the measure that `BOUNDS` has for the quantization; None: its value there.

    Returns:
        What `compare` finds, `measure`, `bound`, `kept`, `reason` (None if it is kept),
        `operators` and `bytes`.
    """
    report = compare(original, candidate, split, examples=examples)
    measure, default = BOUNDS[settings.quantize]
    if measure == "top1_agreement" and original.metadata.multi_label:
        measure = "decision_agreement"
    bound = default if bound is None else bound
    operators = settings.format.module.operators(candidate.path)
    reason = reason_to_refuse(report, measure, bound)
    unwelcome = settings.format.module.unwelcome(operators or {}, settings.layout)
    if reason is None and unwelcome:
        reason = f"it needs {', '.join(unwelcome)}, which not every runtime has or folding removes"
    return report | {
        "measure": measure,
        "bound": bound,
        "kept": reason is None,
        "reason": reason,
        "operators": operators,
        "bytes": size(settings.format.files(candidate.path)),
    }


def compare(
    original: ModelFile, candidate: ModelFile, split: Split, *, examples: int = 256
) -> dict[str, Any]:
    """Measure how far two model files differ on the same images.

    Args:
        original: the file that is right.
        candidate: the file that is compared with it.
        split: images and their labels, which both can be given.
        examples: how many images; all, if there are no more.

    Returns:
        `examples`; `max_difference` and `mean_difference` of a probability; `top1_agreement`, the
        share of images with the same likeliest class; `top1` of the candidate and `top1_source`
        on these images. Of a model that gives an image any number of labels these three are None,
        and there are `decision_agreement`, the share of decisions, one for each image and label,
        that are the same at the threshold of the original; `map` and `map_source`. Differences are
        None where the candidate gives no finite number.

    Raises:
        InputError: a file of the data is gone or damaged.
    """
    largest, total, seen = 0.0, 0.0, 0
    answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for images, labels in batches(original, split):
        images, labels = images[: examples - seen], labels[: examples - seen]
        expected, got = original.predict(images), candidate.predict(images)
        difference = np.abs(got.astype(np.float64) - expected)
        largest = np.maximum(largest, difference.max())  # Python's max would drop a NaN
        total += difference.mean() * len(images)
        answers.append((got, expected, labels))
        seen += len(images)
        if seen >= examples:
            break
    got, expected, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    threshold = original.metadata.threshold
    return {
        "examples": seen,
        "max_difference": float(largest) if np.isfinite(largest) else None,
        "mean_difference": float(total / seen) if np.isfinite(total) else None,
        **(
            _of_classes(got, expected, labels)
            if threshold is None
            else _of_labels(got, expected, labels, threshold)
        ),
    }


def _of_classes(got: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compare likeliest classes, `(n, classes)` scores both."""
    # A row of NaN has no likeliest class; argmax would give the first.
    agreed = (got.argmax(1) == expected.argmax(1)) & np.isfinite(got).all(1)
    return {
        "top1_agreement": float(np.mean(agreed)),
        "top1": float(np.mean(measures.ranks(got, labels) < 1)),
        "top1_source": float(np.mean(measures.ranks(expected, labels) < 1)),
    }


def _of_labels(
    got: np.ndarray, expected: np.ndarray, labels: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Compare decisions, of `(n, classes)` scores both."""
    agreed = measures.decided(got, threshold) == measures.decided(expected, threshold)
    return {
        **dict.fromkeys(("top1_agreement", "top1", "top1_source")),
        "decision_agreement": float(np.mean(agreed & np.isfinite(got))),
        "map": measures.mean_average_precision(got, labels),
        "map_source": measures.mean_average_precision(expected, labels),
    }


def reason_to_refuse(report: Mapping[str, Any], measure: str, bound: float) -> str | None:
    """Say why a candidate is not equal enough; None if it is.

    Args:
        report: of `compare`.
        measure: "max_difference", "top1_agreement" or "decision_agreement".
        bound: as in `BOUNDS`.
    """
    value = report[measure]
    if report["max_difference"] is None:
        return "some of its probabilities are not finite"
    if measure == "max_difference" and not value < bound:
        return f"its probabilities differ by up to {value:.1e}, not by less than {bound:.0e}"
    if measure == "top1_agreement" and not value >= bound:
        return (
            f"its top class is the same on {100 * value:.2f} % of {report['examples']} images, "
            f"not on {100 * bound:.2f} % or more"
        )
    if measure == "decision_agreement" and not value >= bound:
        return (
            f"{100 * value:.2f} % of its decisions about {report['examples']} images are the "
            f"same, not {100 * bound:.2f} % or more"
        )
    return None


def latencies(
    model_files: Mapping[str, ModelFile], image: np.ndarray
) -> dict[str, dict[str, float]]:
    """Measure the median milliseconds of one image for each of some model files, in turns.

    In turns, so that whatever else the machine does slows all of them alike.

    Args:
        model_files: by any name.
        image: uint8 `(1, height, width, channels)`.

    Returns:
        For each model file, by the number of threads ("1", "4"); under "all" where the format runs
        on the threads that TensorFlow has in this process.
    """
    runs: list[tuple[str, str, Any, list[float]]] = []
    for name, model_file in model_files.items():
        if format_of(model_file.path).threads:
            for threads in THREADS:
                predict = open_model_file(model_file.path, threads=threads).predict
                runs.append((name, str(threads), predict, []))
        else:
            runs.append((name, "all", model_file.predict, []))
    start = time.perf_counter()
    for turn in range(WARM_UP + ROUNDS):
        for *_, predict, times in runs:
            before = time.perf_counter()
            predict(image)
            if turn >= WARM_UP:
                times.append(time.perf_counter() - before)
        if turn >= WARM_UP and time.perf_counter() - start > SECONDS * len(runs):
            break
    found: dict[str, dict[str, float]] = {name: {} for name in model_files}
    for name, label, _, times in runs:
        found[name][label] = round(1000 * float(np.median(times)), 3)
    return found


def size(files: Iterable[Path]) -> int:
    """Add up the bytes of files."""
    return sum(os.path.getsize(file) for file in files)
