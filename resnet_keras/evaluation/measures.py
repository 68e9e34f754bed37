"""Measures of scores against true classes: ranks, calibration, temperature; of several labels."""

import dataclasses
from collections.abc import Iterable

import numpy as np

# Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4, have 15 bins.
BINS = 15

# The logarithm of 0 is taken as that of the smallest normal float32.
_SMALLEST = float(np.finfo(np.float32).tiny)

# The range of temperatures. Where every top class is right, the best one would be 0.
COLDEST, HOTTEST = 0.05, 20.0


def ranks(scores: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Rank the true class among the scores, from 0; of equal scores the first class leads.

    So top-1 agrees with `argmax`, which is what applications run; scores of an int8 file, in steps
    of 1/256, are often equal.

    Args:
        scores: `(n, classes)`.
        labels: integers `(n,)`.

    Returns:
        Integers `(n,)`; `classes` where the score of the true class is NaN.
    """
    labels = np.asarray(labels)[:, None]
    true = np.take_along_axis(scores, labels, axis=1)
    before = np.arange(scores.shape[1]) < labels
    # NaN counts as higher than any number, so that a broken model is never right.
    better = np.sum(~(scores <= true) | ((scores == true) & before), axis=1)
    return np.where(np.isnan(true[:, 0]), scores.shape[1], better)


def per_class(places: np.ndarray, labels: np.ndarray, classes: int) -> list[float | None]:
    """Compute the top-1 of each class, a fraction; None for a class without images.

    Args:
        places: what `ranks` returned, `(n,)`.
        labels: integers `(n,)`.
        classes: number of classes.
    """
    seen = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[places < 1], minlength=classes)
    return [float(r / n) if n else None for r, n in zip(right, seen, strict=True)]


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count the images of each true class (rows) by their top class (columns).

    Args:
        scores: `(n, classes)`.
        labels: integers `(n,)`.

    Returns:
        int64 `(classes, classes)`.
    """
    classes = scores.shape[1]
    places = labels * classes + scores.argmax(axis=1)
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


@dataclasses.dataclass(frozen=True)
class Averages:
    """Averages over classes, in which a small class counts as much as a large one; fractions.

    The definitions are scikit-learn's, `balanced_accuracy_score` and `average="macro"`: a class
    that is never predicted has precision 0, and classes that are neither there nor predicted are
    left out.

    Attributes:
        balanced_accuracy: mean recall of the classes that have images.
        macro_precision: mean precision of the classes that have images or are predicted.
        macro_recall: mean recall of these.
        macro_f1: mean of their harmonic means of precision and recall.
    """

    balanced_accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float


def averages(counts: np.ndarray) -> Averages:
    """Average over the classes of what `confusion` returned."""
    right = counts.diagonal().astype(np.float64)
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    recall = right / np.maximum(true, 1)
    there = true + predicted > 0
    return Averages(
        float(recall[true > 0].mean()),
        float((right / np.maximum(predicted, 1))[there].mean()),
        float(recall[there].mean()),
        float((2 * right / np.maximum(true + predicted, 1))[there].mean()),
    )


@dataclasses.dataclass(frozen=True)
class Decisions:
    """Measures of decisions, one for each image and label; fractions, as scikit-learn has them.

    Labels that no image has are left out of all averages but `micro_f1`, which has no classes; so
    are, of the precision, those that are never predicted either.

    Attributes:
        macro_precision: mean precision of the labels; of one that is never predicted 0.
        macro_recall: mean recall of the labels.
        macro_f1: mean of their harmonic means of precision and recall.
        micro_f1: of all decisions together.
        f1: of each label, None where no image has it.
    """

    macro_precision: float
    macro_recall: float
    macro_f1: float
    micro_f1: float
    f1: tuple[float | None, ...]


def decided(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which labels have a score of `threshold` or more, bool; NaN is none."""
    return scores.astype(np.float64) >= threshold  # NumPy would round the threshold to float32


def decisions(scores: np.ndarray, labels: np.ndarray, threshold: float) -> Decisions:
    """Compare the labels of `threshold` or more with the true ones.

    Args:
        scores: `(n, classes)`.
        labels: 0 or 1, `(n, classes)`.
        threshold: of a score.
    """
    predicted, true = decided(scores, threshold), labels > 0.5
    right = np.sum(predicted & true, axis=0).astype(np.float64)
    found, there = predicted.sum(axis=0), true.sum(axis=0)
    f1 = 2 * right / np.maximum(found + there, 1)
    seen = there > 0

    def mean(values: np.ndarray) -> float:
        return float(values[seen].mean()) if seen.any() else 0.0

    return Decisions(
        mean(right / np.maximum(found, 1)),
        mean(right / np.maximum(there, 1)),
        mean(f1),
        float(2 * right.sum() / max(found.sum() + there.sum(), 1)),
        tuple(float(x) if some else None for x, some in zip(f1, seen, strict=True)),
    )


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Compute the average precision of one label, as scikit-learn's `average_precision_score`.

    It is the sum of the precisions at each distinct score, weighted by the recall that it adds.
    Images of equal score are taken together. NaN counts as lower than any number.

    Args:
        scores: `(n,)`.
        labels: 0 or 1, `(n,)`.

    Returns:
        A fraction; None where no image has the label.
    """
    true = labels > 0.5
    if not true.any():
        return None
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    right = np.cumsum(true[order])[ends]
    recall = right / right[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * right / (ends + 1)))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Average `average_precision` over the labels that images have; None where there are none."""
    each = [average_precision(*pair) for pair in zip(scores.T, labels.T, strict=True)]
    there = [x for x in each if x is not None]
    return float(np.mean(there)) if there else None


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """Find the threshold with the highest micro F1.

    Candidates are the means of neighbouring distinct scores, and that of the lowest and 0; of
    several that are equally good, the one nearest 1/2.

    Args:
        scores: probabilities `(n, classes)`.
        labels: 0 or 1, `(n, classes)`.
    """
    flat = np.nan_to_num(scores.ravel().astype(np.float64), nan=0.0)
    order = np.argsort(-flat, kind="stable")
    ordered = flat[order]
    ends = np.flatnonzero(np.diff(ordered, append=-1.0))
    right = np.cumsum(labels.ravel()[order] > 0.5)[ends]
    f1 = 2 * right / np.maximum(ends + 1 + right[-1], 1)
    middles = (ordered[ends] + np.append(ordered[ends[1:]], 0.0)) / 2
    best = middles[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def are_probabilities(scores: np.ndarray) -> bool:
    """Tell whether all scores are in [0, 1]; logits are not, and cannot be calibrated."""
    return bool(scores.min() >= 0 and scores.max() <= 1 + 1e-3)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence (Guo et al. 2017, section 2), in equal bins over (0, 1].

    Attributes:
        counts: images in each bin, integers `(bins,)`.
        accuracy: fraction of them whose top class is right; NaN in an empty bin.
        confidence: their mean score of the top class; NaN in an empty bin.
    """

    counts: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction: equation 3 of Guo et al. 2017."""
        there = self.counts > 0
        gaps = np.abs(self.accuracy - self.confidence)[there]
        return float(np.sum(self.counts[there] / self.counts.sum() * gaps))


def reliability(scores: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin images by the score of their top class; a bin includes its upper end.

    Args:
        scores: probabilities `(n, classes)`.
        labels: integers `(n,)`.
        bins: number of bins.
    """
    confidence = scores.max(axis=1).astype(np.float64)
    right = ranks(scores, labels) < 1
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts,
            np.bincount(place, right, minlength=bins) / counts,
            np.bincount(place, confidence, minlength=bins) / counts,
        )


def negative_log_likelihood(scores: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean of -log p(true class), in nats; a probability of 0 counts as 1.2e-38.

    Args:
        scores: probabilities `(n, classes)`.
        labels: integers `(n,)`.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    return float(-np.log(np.maximum(true.astype(np.float64), _SMALLEST)).mean())


def at_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logits behind probabilities by `temperature` (Guo et al. 2017, equation 9).

    The logarithms of probabilities differ from the logits by one constant for each image, which
    softmax ignores, so the logits themselves are not needed.

    Args:
        scores: probabilities `(n, classes)`.
        temperature: above 0; 1 changes nothing.

    Returns:
        float64 `(n, classes)`.
    """
    return _softmax(_logits(scores) / temperature)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature with the smallest negative log-likelihood.

    Args:
        scores: probabilities `(n, classes)` of images that the network was not trained on.
        labels: integers `(n,)`.

    Returns:
        The temperature, within COLDEST..HOTTEST; one of these where the minimum is outside.
    """
    from scipy.optimize import brentq  # takes longer to import than all of the rest

    logits = _logits(scores)
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def slope(inverse: float) -> float:
        """Differentiate the loss by 1 / temperature, in which it is convex."""
        expected = np.einsum("nc,nc->n", _softmax(logits * inverse), logits)
        return float(np.mean(expected - true))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    return 1 / brentq(slope, low, high)


def _logits(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores.astype(np.float64), _SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
