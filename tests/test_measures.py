"""Accuracy, calibration and averages are what their definitions give, and scikit-learn."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from resnet_keras.evaluation import (
    Predictions,
    label_results,
    measures,
)


def test_ranks_count_the_classes_that_are_better():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert measures.ranks(scores, [2, 0]).tolist() == [1, 0]


def test_among_equal_scores_the_first_leads_as_in_argmax():
    scores = np.random.default_rng(0).integers(0, 4, (200, 5)) / 4
    labels = np.arange(200) % 5
    places = measures.ranks(scores, labels)
    assert ((places == 0) == (scores.argmax(1) == labels)).all()
    order = np.argsort(-scores, axis=1, kind="stable")
    assert (order[np.arange(200), places] == labels).all()


def test_nan_is_never_right():
    nan = np.nan
    scores = np.array([[nan, nan, nan], [0.5, nan, 0.1], [0.5, nan, 0.1]])
    assert measures.ranks(scores, [0, 0, 1]).tolist() == [3, 1, 3]


def test_top1_of_a_class_without_images_is_none():
    places, labels = np.array([0, 1, 0]), np.array([0, 0, 2])
    assert measures.per_class(places, labels, 4) == [0.5, None, 1.0, None]


def test_ece_by_hand():
    # Two bins of 15 are used: (0.8, 0.8667] holds .85 and .82, (0.5333, 0.6] holds .6, its end.
    scores = np.array([[0.85, 0.15], [0.18, 0.82], [0.6, 0.4]])
    labels = np.array([0, 0, 0])
    binned = measures.reliability(scores, labels)
    assert binned.counts[12] == 2 and binned.counts[8] == 1 and binned.counts.sum() == 3
    assert binned.accuracy[12] == 0.5 and binned.accuracy[8] == 1
    expected = 2 / 3 * abs(0.5 - (0.85 + 0.82) / 2) + 1 / 3 * abs(1 - 0.6)
    assert binned.ece == pytest.approx(expected, abs=1e-12)


def test_ece_of_extreme_scores():
    """A score of 1 is in the last bin; certain and always wrong is an error of 1, a coin of 0."""
    certain = np.array([[1.0, 0.0]] * 4)
    assert measures.reliability(certain, np.zeros(4, int)).ece == 0
    assert measures.reliability(certain, np.ones(4, int)).ece == 1
    coin = np.array([[0.5 + 1e-12, 0.5 - 1e-12]] * 4)
    assert measures.reliability(coin, np.array([0, 1, 0, 1])).ece == pytest.approx(0, abs=1e-9)


def test_a_score_of_the_threshold_is_enough_in_float64():
    """0.7 as float32 is 0.699999988, 0.1 is 0.100000001; NaN is no score."""
    scores = np.float32([[0.25, 0.7, 0.1, np.nan]])
    assert measures.decided(scores[:, :1], 0.25).all()
    assert not measures.decided(scores[:, 1:2], 0.7).any()
    assert measures.decided(scores, 0.1).tolist() == [[True, True, True, False]]


def test_negative_log_likelihood_by_hand():
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    found = measures.negative_log_likelihood(scores, np.array([0, 1]))
    assert found == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-7)
    impossible = measures.negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert impossible == pytest.approx(126 * math.log(2))  # the smallest normal float32: 2 ** -126


def test_a_temperature_divides_logits():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 3

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    np.testing.assert_allclose(
        measures.at_temperature(softmax(logits), 2.5), softmax(logits / 2.5), rtol=1e-12
    )


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_labels_is_found(truth):
    """Labels drawn from softmax(z / T): the maximum of the likelihood is near T."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 5)) * 2
    scores = measures.at_temperature(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), 1.0)
    drawn = measures.at_temperature(scores, truth).cumsum(1) > rng.random((20_000, 1))
    labels = drawn.argmax(1)
    found = measures.fit_temperature(scores, labels)
    # Four standard deviations of the estimate, by the Fisher information: the mean variance of
    # the logits under the prediction at the truth.
    p = measures.at_temperature(scores, truth)
    spread = (p * logits**2).sum(1) - (p * logits).sum(1) ** 2
    assert abs(1 / found - 1 / truth) < 4 / math.sqrt(spread.sum())
    losses = [
        measures.negative_log_likelihood(measures.at_temperature(scores, t), labels)
        for t in (found / 1.02, found, found * 1.02)
    ]
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_the_temperature_of_scores_that_are_all_right_or_all_wrong_is_an_end_of_the_range():
    scores = np.array([[0.9, 0.1]] * 3)
    assert measures.fit_temperature(scores, np.zeros(3, int)) == measures.COLDEST
    assert measures.fit_temperature(scores, np.ones(3, int)) == measures.HOTTEST


def test_results_of_several_labels_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, (40, 5)), rng.uniform(size=(40, 5))
    labels[:, 3:] = 0  # no image has d
    labels[7, 4] = 1  # one image alone has e
    saved = Predictions(
        scores=scores, labels=labels, classes=tuple("abcde"), dataset="d", split="s",
        model_sha256="", paths=None, shown=np.zeros(0), images=np.zeros((0, 1, 1, 1)),
    )  # fmt: skip
    found = label_results(saved, 0.4)
    there = labels.any(0)
    true, said = labels[:, there], scores[:, there] >= 0.4
    each = metrics.average_precision_score(true, scores[:, there], average=None)
    f1 = metrics.f1_score(true, said, average=None)
    for name, values in (("per_class", each), ("f1_per_class", f1)):
        by_name = found.pop(name)
        assert list(by_name) == list("abcde") and by_name.pop("d") is None
        assert list(by_name.values()) == pytest.approx(values)
    undefined = ("top1", "top5", "balanced_accuracy", "ece", "nll", "confusion")
    assert [found.pop(name) for name in undefined] == [None] * 6
    assert found == pytest.approx({
        "map": each.mean(),
        "micro_f1": metrics.f1_score(labels, scores >= 0.4, average="micro"),
        "macro_f1": f1.mean(),
        "macro_precision": metrics.precision_score(true, said, average="macro"),
        "macro_recall": metrics.recall_score(true, said, average="macro"),
        "threshold": 0.4,
    })  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_averages_over_classes_are_scikit_learns(seed):
    """With classes that are missing, never predicted, or both."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 7))
    true, predicted = (
        rng.choice(classes, 30, p=rng.dirichlet(np.full(classes, 0.4))) for _ in range(2)
    )
    scores = np.eye(classes)[predicted]
    counts = measures.confusion(scores, true)
    theirs = metrics.confusion_matrix(true, predicted, labels=range(classes))
    assert np.array_equal(counts, theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and not there
        expected = (
            metrics.balanced_accuracy_score(true, predicted),
            *(
                score(true, predicted, average="macro", zero_division=0)
                for score in (metrics.precision_score, metrics.recall_score, metrics.f1_score)
            ),
        )
    assert dataclasses.astuple(measures.averages(counts)) == pytest.approx(expected)


@st.composite
def scored(draw):
    """Probabilities of some images without equal ones, and true classes, of which some may lack."""
    classes, images = draw(st.integers(2, 6)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, draw(st.sampled_from([0.1, 1, 5])), (images, classes))
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return scores, rng.choice(classes, images, p=rng.dirichlet(np.full(classes, 0.5)))


@settings(max_examples=60, deadline=None)
@given(scored())
def test_measures_are_scikit_learns(drawn):
    scores, labels = drawn
    classes = scores.shape[1]
    numbers = range(classes)
    places = measures.ranks(scores, labels)
    for k in range(1, classes):
        theirs = (
            metrics.top_k_accuracy_score(labels, scores, k=k, labels=numbers)
            if (classes > 2)
            else metrics.accuracy_score(labels, scores.argmax(1))
        )
        assert np.mean(places < k) == pytest.approx(theirs)
    assert measures.negative_log_likelihood(scores, labels) == pytest.approx(
        metrics.log_loss(labels, scores, labels=numbers)
    )
    recalls = metrics.recall_score(
        labels, scores.argmax(1), labels=numbers, average=None, zero_division=np.nan
    )
    found = measures.per_class(places, labels, classes)
    assert [np.nan if x is None else x for x in found] == pytest.approx(recalls, nan_ok=True)
    # Scores of eighths: many are equal.
    coarse, many = np.round(8 * scores) / 8, np.eye(classes)[labels]
    many[:, 0] = np.arange(len(labels)) % 2
    for kind in (scores, coarse):
        each = [measures.average_precision(kind[:, c], many[:, c]) for c in numbers]
        there = many.any(0)
        assert [x is not None for x in each] == there.tolist()
        theirs = metrics.average_precision_score(many[:, there], kind[:, there], average=None)
        assert [x for x in each if x is not None] == pytest.approx(np.atleast_1d(theirs))
        assert measures.mean_average_precision(kind, many) == pytest.approx(np.mean(theirs))
