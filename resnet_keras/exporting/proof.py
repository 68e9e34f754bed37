"""How far two model files are apart on real test images, and how fast each of them is."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.evaluation import batches, measures, open_split_for, source_for
from resnet_keras.model_files import ModelFile, open_model_file

# What each kind of file must keep: the largest difference of a probability must be below, or the
# share of images on which the likeliest class is the same must be at least.
BOUNDS = {
    "none": ("max_difference", 1e-4),
    "float16": ("max_difference", 5e-3),
    "dynamic": ("top1_agreement", 0.99),
    "int8": ("top1_agreement", 0.99),
}

# Of the interpreters whose threads can be chosen.
THREADS = (1, 4)
# Latency is measured in so many rounds, or for so many seconds, after the warm-up.
ROUNDS, SECONDS, WARM_UP = 30, 3.0, 3


def compare(
    original: ModelFile,
    candidate: ModelFile,
    *,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    examples: int = 256,
    skip_bad: bool = False,
) -> dict[str, Any]:
    """How far two model files are apart on real test images.

    Args:
        original: what is right.
        candidate: what is held against it.
        dataset: whose test images; by default what the original was trained on.
        data_dir: where prepared data sets lie.
        examples: how many images; all, if there are no more.
        skip_bad: go on without the bad files of a folder.

    Returns:
        `examples`; `max_difference` and `mean_difference` of a probability; `top1_agreement`, the
        share of images with the same likeliest class; `top1` of the candidate and `top1_source`
        on these images. Differences are None where the candidate gives no finite number.

    Raises:
        InputError: a data set that is not there or does not fit.
    """
    largest, total, agreed, right, right_source, seen = 0.0, 0.0, 0, 0, 0, 0
    source = source_for(original, dataset=dataset, data_dir=data_dir, skip_bad=skip_bad)
    for images, labels in batches(original, open_split_for(original, source), 32):
        images, labels = images[: examples - seen], labels[: examples - seen]
        expected, got = original.predict(images), candidate.predict(images)
        difference = np.abs(got.astype(np.float64) - expected)
        largest = np.maximum(largest, difference.max())  # Python's max would drop a NaN
        total += difference.mean() * len(images)
        # A row of NaN has no likeliest class; argmax would say the first.
        agreed += int(np.sum((got.argmax(1) == expected.argmax(1)) & np.isfinite(got).all(1)))
        right += int(np.sum(measures.ranks(got, labels) < 1))
        right_source += int(np.sum(measures.ranks(expected, labels) < 1))
        seen += len(images)
        if seen >= examples:
            break
    return {
        "examples": seen,
        "max_difference": float(largest) if np.isfinite(largest) else None,
        "mean_difference": float(total / seen) if np.isfinite(total) else None,
        "top1_agreement": agreed / seen,
        "top1": right / seen,
        "top1_source": right_source / seen,
    }


def reason_to_refuse(report: dict[str, Any], measure: str, bound: float) -> str | None:
    """Why a candidate is not equal enough, in words; None if it is.

    Args:
        report: of `compare`.
        measure: "max_difference" or "top1_agreement".
        bound: as in `BOUNDS`.
    """
    value = report[measure]
    if report["max_difference"] is None:
        return "some of its probabilities are no finite numbers"
    if measure == "max_difference" and not value < bound:
        return f"its probabilities differ by up to {value:.1e}, allowed is below {bound:.0e}"
    if measure == "top1_agreement" and not value >= bound:
        return (
            f"its likeliest class is the same on {100 * value:.2f} % of "
            f"{report['examples']} images, asked for are {100 * bound:.2f} %"
        )
    return None


def latencies(model_files: dict[str, ModelFile], image: np.ndarray) -> dict[str, dict[str, float]]:
    """Median milliseconds of one image for each of some model_files, measured in turns.

    In turns, so that whatever else the machine does meets all of them alike.

    Args:
        model_files: by any name.
        image: uint8 `(1, height, width, channels)`.

    Returns:
        For each model_file, by the number of threads ("1", "4"); `.keras` and SavedModel run on the
        threads that TensorFlow has in this process, under "all".
    """
    runs = []
    for name, model_file in model_files.items():
        if model_file.path.suffix in (".tflite", ".onnx"):
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
    found = {name: {} for name in model_files}
    for name, threads, _, times in runs:
        found[name][threads] = round(1000 * float(np.median(times)), 3)
    return found


def size(path: Path) -> int:
    """Bytes of a file, or of all the files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
