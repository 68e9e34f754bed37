"""What scores and true classes tell: ranks, calibration, temperature. NumPy alone."""

import dataclasses
from collections.abc import Iterable

import numpy as np

# Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4, have 15 bins.
BINS = 15

# A logarithm needs more than 0: the smallest normal float32.
_SMALLEST = float(np.finfo(np.float32).tiny)

# Temperatures that are looked at. The best one of scores that are all right is 0.
COLDEST, HOTTEST = 0.05, 20.0


def ranks(scores: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Place of the true class among the scores, from 0; of equal scores the first class leads.

    So top-1 is what `argmax` gives, which is what people run on a phone: scores in steps of 1/256,
    of an int8 file, are often equal.

    Args:
        scores: `(n, classes)`.
        labels: integers `(n,)`.

    Returns:
        Integers `(n,)`; `classes` where the true class has no number as its score.
    """
    labels = np.asarray(labels)[:, None]
    true = np.take_along_axis(scores, labels, axis=1)
    before = np.arange(scores.shape[1]) < labels
    # NaN is in front of everything: a broken model has no top-1.
    better = np.sum(~(scores <= true) | ((scores == true) & before), axis=1)
    return np.where(np.isnan(true[:, 0]), scores.shape[1], better)


def per_class(places: np.ndarray, labels: np.ndarray, classes: int) -> list[float | None]:
    """Top-1 of the images of each class, a fraction; None where a class has no image.

    Args:
        places: as `ranks` gives them, `(n,)`.
        labels: integers `(n,)`.
        classes: how many there are.
    """
    seen = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[places < 1], minlength=classes)
    return [float(r / n) if n else None for r, n in zip(right, seen, strict=True)]


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether all scores are in [0, 1]; logits are not, and have no calibration."""
    return bool(scores.min() >= 0 and scores.max() <= 1 + 1e-3)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy against confidence (Guo et al. 2017, section 2), in equal bins over (0, 1].

    Attributes:
        counts: images in each bin, integers `(bins,)`.
        accuracy: share of them whose top class is right; NaN in an empty bin.
        confidence: mean score of the top class; likewise.
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
    """Bin images by the score of their top class; a bin holds its upper end.

    Args:
        scores: probabilities `(n, classes)`.
        labels: integers `(n,)`.
        bins: how many.
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
    """Mean of -log of the true class' probability, in nats; a probability of 0 counts as 1e-38.

    Args:
        scores: probabilities `(n, classes)`.
        labels: integers `(n,)`.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    return float(-np.log(np.maximum(true.astype(np.float64), _SMALLEST)).mean())


def at_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as if the logits had been divided by `temperature` (Guo et al. 2017, eq. 9).

    Logarithms of probabilities are the logits but for a constant of each image, which softmax
    does not see: no logits are needed.

    Args:
        scores: probabilities `(n, classes)`.
        temperature: above 0; 1 changes nothing.

    Returns:
        float64 `(n, classes)`.
    """
    return _softmax(_logits(scores) / temperature)


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest negative log-likelihood on images held out for it.

    Args:
        scores: probabilities `(n, classes)`.
        labels: integers `(n,)`.

    Returns:
        It, within COLDEST..HOTTEST; at an end, the minimum lies beyond.
    """
    logits = _logits(scores)
    true = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]

    def slope_and_curvature(inverse):
        """Of the loss along 1 / temperature, in which it is convex."""
        powers = _softmax(logits * inverse)
        mean = np.einsum("nc,nc->n", powers, logits)
        squares = np.einsum("nc,nc,nc->n", powers, logits, logits)
        return float(np.mean(mean - true)), float(np.mean(squares - mean**2))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope_and_curvature(low)[0] >= 0:
        return HOTTEST
    if slope_and_curvature(high)[0] <= 0:
        return COLDEST
    inverse = 1.0
    while high / low > 1 + 1e-9:
        slope, curvature = slope_and_curvature(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else 0.0  # Newton's
        if abs(step / inverse - 1) < 1e-9:
            break
        inverse = step if low < step < high else float(np.sqrt(low * high))
    return 1 / inverse


def _logits(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores.astype(np.float64), _SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
