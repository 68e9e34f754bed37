"""Prove: how far a file differs from its model on real test images, and how fast both are."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.data import Split
from resnet_keras.evaluation import batches, measures
from resnet_keras.exporting.options import Settings
from resnet_keras.model_files import ModelFile, open_model_file
from resnet_keras.model_files.formats import format_of

# What each kind of file must satisfy: the largest difference of an output must be below the bound,
# or the fraction of images with the same top class at least the bound; of models that give an image
# any number of labels, the fraction of decisions, one for each image and label. See `compare`.
BOUNDS = {
    "none": ("max_difference", 1e-4),
    "float16": ("max_difference", 5e-3),
    "dynamic": ("top1_agreement", 0.99),
    "int8": ("top1_agreement", 0.99),
}
# What files in float must satisfy beside that, because one huge score makes all differences small
# as a share of it, and thousands of classes have small probabilities: the fraction of images
# with the same top class, or of decisions.
AGREEMENT_BOUNDS = {"none": 0.99, "float16": 0.95}
# What quantized files must satisfy beside that, because the top class says nothing of how sure the
# model is: the mean over the images of the largest difference of an output must be below this.
OUTPUT_BOUNDS = {"dynamic": 0.05, "int8": 0.05}
# And because rounding hides other differences, such as those of a softmax that is too sharp: the
# largest difference of an output of the same file before it is quantized.
UNQUANTIZED_BOUND = 5e-3
# The threshold of a sigmoid whose model file names none.
_USUAL_THRESHOLD = 0.5

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
    unquantized: ModelFile | None,
    examples: int,
    bound: float | None,
) -> dict[str, Any]:
    """Compare a file with its model, and judge it.

    Args:
        original: the model, in float32 and not folded.
        candidate: the file.
        split: the test split.
        settings: how the file was made.
        unquantized: of a quantized file, the same in float32.
        examples: how many images.
        bound: of the measure that `BOUNDS` has for the quantization; None: its value there.

    Returns:
        What `compare` finds, and `unquantized_max_difference`; `measure`, `bound`, `further_bounds`
        (of other measures, by name), `kept`, `reason` (None if it is kept), `operators`, `bytes`.
    """
    files = [candidate] if unquantized is None else [candidate, unquantized]
    report, *others = _compared(original, files, split, examples)
    for other in others:
        report["unquantized_max_difference"] = other["max_difference"]
    (measure, default), further = _bounds(report, settings.quantize)
    bounds = {measure: default if bound is None else bound} | further
    operators = settings.format.module.operators(candidate.path)
    reasons = (reason_to_refuse(report, *pair) for pair in bounds.items())
    reason = next(filter(None, reasons), None)
    unwelcome = settings.format.module.unwelcome(operators or {}, settings.layout)
    if reason is None and unwelcome:
        reason = f"it needs {', '.join(unwelcome)}, which not every runtime has or folding removes"
    return report | {
        "measure": measure,
        "bound": bounds[measure],
        "further_bounds": further,
        "kept": reason is None,
        "reason": reason,
        "operators": operators,
        "bytes": size(settings.format.files(candidate.path)),
    }


def _bounds(report: Mapping[str, Any], quantize: str) -> tuple[tuple[str, float], dict[str, float]]:
    """Choose the measure that judges a file, with its bound, and the bounds of further measures."""
    measure, bound = BOUNDS[quantize]
    agreement = AGREEMENT_BOUNDS.get(quantize, bound)
    bounds = {
        name: agreement
        for name in ("top1_agreement", "decision_agreement")
        if report[name] is not None
    }
    if measure == "max_difference":
        return (measure, bound), bounds
    bounds["mean_largest_difference"] = OUTPUT_BOUNDS[quantize]
    if "unquantized_max_difference" in report:
        bounds["unquantized_max_difference"] = UNQUANTIZED_BOUND
    main = next(iter(bounds))
    return (main, bounds.pop(main)), bounds


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
        `examples`; `max_difference` and `mean_difference` of an output, and
        `mean_largest_difference`, the mean over the images of the largest difference of an image;
        `difference_of`: "probabilities", where all outputs of the original are in [0, 1], or
        "scores" or "features", whose differences are shares of the largest absolute output.
        Differences are None where the candidate gives no finite number.

        `top1_agreement`, the share of images with the same likeliest class; `top1` of the candidate
        and `top1_source` on these images. `decision_agreement`, the share of decisions, one for
        each image and class, that are the same at the threshold of the original, or 0.5: of
        probabilities that do not sum to 1. Of a model that gives an image any number of labels,
        `map` and `map_source`. None where the model has no such thing.

    Raises:
        InputError: a file of the data is gone or damaged.
    """
    (report,) = _compared(original, [candidate], split, examples)
    return report


def _compared(
    original: ModelFile, candidates: Sequence[ModelFile], split: Split, examples: int
) -> list[dict[str, Any]]:
    """Return what `compare` does, of several candidates: the original predicts once."""
    found = [_Differences() for _ in candidates]
    outputs: list[list[np.ndarray]] = [[] for _ in range(len(candidates) + 2)]
    seen = 0
    for images, labels in batches(original, split):
        images, labels = images[: examples - seen], labels[: examples - seen]
        seen += len(images)
        expected = original.predict(images)
        got = [candidate.predict(images) for candidate in candidates]
        for differences, given in zip(found, got, strict=True):
            differences.add(given, expected)
        if not original.metadata.features:  # maps are too large to keep, and have no classes
            for parts, part in zip(outputs, (expected, labels, *got), strict=True):
                parts.append(part)
        if seen >= examples:
            break
    if original.metadata.features:
        return [differences.measured("features") | _NOT_OF_FEATURES for differences in found]
    expected, labels, *got = (np.concatenate(parts) for parts in outputs)
    kind = "probabilities" if measures.are_probabilities(expected) else "scores"
    threshold = original.metadata.threshold
    return [
        differences.measured(kind) | _of_scores(given, expected, labels, threshold)
        for differences, given in zip(found, got, strict=True)
    ]


# What features have no classes for.
_NOT_OF_FEATURES = dict.fromkeys(("top1_agreement", "top1", "top1_source", "decision_agreement"))


def _of_scores(
    got: np.ndarray, expected: np.ndarray, labels: np.ndarray, threshold: float | None
) -> dict[str, Any]:
    """Compare likeliest classes and decisions, of `(n, classes)` scores both."""
    measured: dict[str, Any] = dict(_NOT_OF_FEATURES)
    probabilities = measures.are_probabilities(expected)
    if threshold is None and expected.shape[1] > 1:
        measured |= _of_classes(got, expected, labels)
    if threshold is not None or (probabilities and not _sum_to_one(expected)):
        measured |= _of_decisions(got, expected, threshold)
    if threshold is not None:
        measured["map"] = measures.mean_average_precision(got, labels)
        measured["map_source"] = measures.mean_average_precision(expected, labels)
    return measured


class _Differences:
    """Collects the differences of outputs while the batches of a split go by.

    Attributes:
        seen: images.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._largest, self._total, self._total_of_largest = 0.0, 0.0, 0.0
        self._scale = 0.0

    def add(self, got: np.ndarray, expected: np.ndarray) -> None:
        """Take the outputs of one batch, `(n, ...)`."""
        each = np.abs(got.astype(np.float64) - expected).reshape(len(got), -1)
        # Python's max would drop a NaN.
        self._largest = np.maximum(self._largest, each.max())
        self._total += each.mean() * len(got)
        self._total_of_largest += each.max(axis=1).sum()
        self._scale = max(self._scale, float(np.abs(expected).max()))
        self.seen += len(got)

    def measured(self, kind: str) -> dict[str, Any]:
        """Return what `compare` does of any outputs; `kind` is its `difference_of`."""
        # Where all outputs are 0, there is nothing to be a share of.
        scale = 1.0 if kind == "probabilities" else self._scale or 1.0
        differences = {
            "max_difference": self._largest,
            "mean_difference": self._total / self.seen,
            "mean_largest_difference": self._total_of_largest / self.seen,
        }
        return {"examples": self.seen, "difference_of": kind} | {
            name: float(value / scale) if np.isfinite(value) else None
            for name, value in differences.items()
        }


def _sum_to_one(probabilities: np.ndarray) -> bool:
    """Tell whether probabilities, `(n, classes)`, are of classes that exclude each other."""
    return bool(np.abs(probabilities.sum(axis=1) - 1).max() < 1e-3)


def _of_classes(got: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compare likeliest classes, `(n, classes)` scores both."""
    # A row of NaN has no likeliest class; argmax would give the first.
    agreed = (got.argmax(1) == expected.argmax(1)) & np.isfinite(got).all(1)
    return {
        "top1_agreement": float(np.mean(agreed)),
        "top1": float(np.mean(measures.ranks(got, labels) < 1)),
        "top1_source": float(np.mean(measures.ranks(expected, labels) < 1)),
    }


def _of_decisions(got: np.ndarray, expected: np.ndarray, threshold: float | None) -> dict[str, Any]:
    """Compare decisions, of `(n, classes)` scores both."""
    threshold = _USUAL_THRESHOLD if threshold is None else threshold
    agreed = measures.decided(got, threshold) == measures.decided(expected, threshold)
    return {"decision_agreement": float(np.mean(agreed & np.isfinite(got)))}


def reason_to_refuse(report: Mapping[str, Any], measure: str, bound: float) -> str | None:
    """Say why a candidate is not equal enough; None if it is.

    Args:
        report: of `compare`.
        measure: "max_difference", "mean_largest_difference", "unquantized_max_difference",
            "top1_agreement" or "decision_agreement".
        bound: as in `BOUNDS`.
    """
    value, kind = report[measure], report.get("difference_of", "probabilities")
    share = "" if kind == "probabilities" else " of the largest one"
    if report["max_difference"] is None:
        return f"some of its {kind} are not finite"
    if measure == "max_difference" and not value < bound:
        return f"its {kind} differ by up to {value:.1e}{share}, not by less than {bound:.0e}"
    if measure == "unquantized_max_difference" and (value is None or not value < bound):
        return f"even without quantization its {kind} differ by {bound:.0e} or more{share}"
    if measure == "mean_largest_difference" and not value < bound:
        return (
            f"the largest difference of its {kind} is {value:.1e}{share} in the mean of "
            f"{report['examples']} images, not less than {bound:.0e}"
        )
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
