"""Losses are the papers' formulas, in NumPy's float64, for class numbers and mixed labels."""

from functools import partial
from typing import get_args, get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight
from slopes import slopes

from resnet_keras import Recipe
from resnet_keras.losses import (
    LOSSES,
    Accuracy,
    CrossEntropy,
    DecisionAccuracy,
    Distillation,
    _right_decisions,
    balanced_weights,
    positive_weights,
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 4, (6, 10))
NUMBERS = RNG.integers(0, 10, 6)
ONE_HOT = np.eye(10)[NUMBERS]
MIXED = 0.7 * ONE_HOT + 0.3 * ONE_HOT[::-1]


def softmax_by_hand(targets, logits):
    return np.mean(np.sum(-targets * (logits - np.log(np.sum(np.exp(logits), 1))[:, None]), 1))


def sigmoid_by_hand(targets, logits):
    p = 1 / (1 + np.exp(-logits))
    return np.mean(np.sum(-targets * np.log(p) - (1 - targets) * np.log(1 - p), 1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("labels", "weights"),
    [(NUMBERS, ONE_HOT), (NUMBERS.astype("float32"), ONE_HOT), (MIXED, MIXED)],
    ids=["integers", "floats", "mixed"],
)
@pytest.mark.parametrize(
    ("sigmoid", "by_hand"), [(False, softmax_by_hand), (True, sigmoid_by_hand)]
)
def test_losses_are_the_formulas(sigmoid, by_hand, labels, weights, smoothing):
    loss = CrossEntropy(sigmoid=sigmoid, label_smoothing=smoothing)
    expected = by_hand((1 - smoothing) * weights + smoothing / 10, LOGITS)
    assert float(loss(labels, LOGITS.astype("float32"))) == pytest.approx(expected, rel=1e-6)


def weighted_by_hand(by_hand, targets, logits, smoothing, weights):
    """The mean over images, each multiplied with the mean weight of its labels."""
    smooth = (1 - smoothing) * targets + smoothing / targets.shape[1]
    losses = [by_hand(t[None], x[None]) for t, x in zip(smooth, logits, strict=True)]
    return np.mean(np.array(losses) * (targets @ weights))


def decisions_by_hand(targets, logits, smoothing, weights):
    """Sums of binary cross-entropies; positives are weighted, labels smoothed towards 1/2."""
    t = (1 - smoothing) * targets + smoothing / 2
    p = 1 / (1 + np.exp(-logits))
    return np.mean(np.sum(-weights * t * np.log(p) - (1 - t) * np.log(1 - p), 1))


def divergence_by_hand(teacher, logits, temperature, sigmoid):
    """KL of softened predictions times temperature^2 (Hinton et al. 2015, section 2)."""
    t, s = teacher / temperature, logits / temperature
    if sigmoid:
        p, q = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(-s))
        each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    else:
        p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (t, s))
        each = p * np.log(p / q)
    return temperature**2 * each.sum(1).mean()


WEIGHTS = np.linspace(0.25, 2.5, 10)
TEACHER = RNG.normal(0, 3, (6, 10))
MANY = RNG.integers(0, 2, (6, 10)).astype("float64")
FORMULAS = {
    "softmax": (CrossEntropy(), MIXED, partial(softmax_by_hand, MIXED)),
    "sigmoid": (CrossEntropy(sigmoid=True), MIXED, partial(sigmoid_by_hand, MIXED)),
    "softmax, numbers, smoothed, weighted": (
        CrossEntropy(label_smoothing=0.1, class_weights=WEIGHTS), NUMBERS,
        lambda x: weighted_by_hand(softmax_by_hand, ONE_HOT, x, 0.1, WEIGHTS),
    ),
    "sigmoid, smoothed, weighted": (
        CrossEntropy(sigmoid=True, label_smoothing=0.2, class_weights=WEIGHTS), MIXED,
        lambda x: weighted_by_hand(sigmoid_by_hand, MIXED, x, 0.2, WEIGHTS),
    ),
    "decisions": (
        CrossEntropy(sigmoid=True, multi_label=True), MANY,
        lambda x: decisions_by_hand(MANY, x, 0.0, np.ones(10)),
    ),
    "decisions, smoothed, weighted": (
        CrossEntropy(sigmoid=True, multi_label=True, label_smoothing=0.1, class_weights=WEIGHTS),
        MANY, lambda x: decisions_by_hand(MANY, x, 0.1, WEIGHTS),
    ),
    "distillation": (Distillation(), TEACHER, lambda x: divergence_by_hand(TEACHER, x, 1.0, False)),
    "distillation at 3": (
        Distillation(temperature=3.0), TEACHER,
        lambda x: divergence_by_hand(TEACHER, x, 3.0, False),
    ),
    "distillation of sigmoids": (
        Distillation(sigmoid=True, temperature=2.0), TEACHER,
        lambda x: divergence_by_hand(TEACHER, x, 2.0, True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_losses_and_gradients_are_those_of_the_formula_in_float64(name):
    loss, labels, formula = FORMULAS[name]
    labels = tf.constant(labels)
    logits = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.call(labels, logits))
    assert value.dtype == tf.float64 and float(value) == pytest.approx(formula(LOGITS), rel=1e-12)
    (slope,) = slopes(formula, LOGITS)
    np.testing.assert_allclose(tape.gradient(value, logits), slope, rtol=1e-6, atol=1e-8)


def test_a_distillation_is_refused_without_a_temperature_and_made_again():
    for wrong in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"`temperature` must be above 0.*={wrong}"):
            Distillation(temperature=wrong)
    again = Distillation.from_config(
        Distillation(sigmoid=True, temperature=0.5, name="x").get_config()
    )
    assert (again.sigmoid, again.temperature, again.name) == (True, 0.5, "x")
    # The defaults are the loss of the formula without softening, for one class per image.
    assert Distillation().get_config() == {
        "name": "distillation", "sigmoid": False, "temperature": 1.0,
    }  # fmt: skip


def test_a_loss_is_made_again_with_all_its_arguments():
    plain = {
        "name": "cross_entropy", "sigmoid": False, "multi_label": False, "label_smoothing": 0.0,
        "class_weights": None,
    }  # fmt: skip
    assert CrossEntropy().get_config() == plain
    given = {
        "name": "x", "sigmoid": True, "multi_label": True, "label_smoothing": 0.25,
        "class_weights": (1.0, 2.0),
    }  # fmt: skip
    assert CrossEntropy.from_config(given).get_config() == given


def test_values_that_need_no_computer():
    # Logits of 0: a softmax of 1/K, so log K; sigmoids of 1/2, so K log 2, whatever the targets.
    zeros = np.zeros((2, 10), "float32")
    for smoothing in (0.0, 0.1):
        softmax = CrossEntropy(label_smoothing=smoothing)
        sigmoid = CrossEntropy(sigmoid=True, label_smoothing=smoothing)
        assert float(softmax(np.array([1, 2]), zeros)) == pytest.approx(np.log(10), rel=1e-6)
        assert float(sigmoid(np.array([1, 2]), zeros)) == pytest.approx(10 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_half_precision_logits_lose_nothing_more(sigmoid):
    logits = np.full((1, 301), -6.0, "float16")
    logits[0, 0] = 6
    by_hand = sigmoid_by_hand if sigmoid else softmax_by_hand
    expected = by_hand(np.eye(301)[:1], logits.astype("float64"))
    found = float(CrossEntropy(sigmoid=sigmoid)(np.array([0]), logits))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_large_logits_stay_finite(sigmoid):
    loss = CrossEntropy(sigmoid=sigmoid)
    logits = np.array([[1000.0, -1000.0]], "float32")
    assert float(loss(np.array([0]), logits)) == 0
    assert float(loss(np.array([1]), logits)) == 2000


def test_accuracy_of_both_kinds_of_labels():
    logits = np.array([[3, 1, 2], [0, 5, 4], [9, 8, 7], [1, 2, 3]], "float32")
    for labels in (
        np.array([0, 1, 1, 0]),
        np.array([0, 1, 1, 0], "float32"),
        np.array([[0.7, 0, 0.3], [0.4, 0.6, 0], [0.2, 0.8, 0], [1, 0, 0]], "float32"),
    ):
        metric = Accuracy()
        metric.update_state(labels, logits)
        metric.update_state(labels[:1], logits[:1])
        assert float(metric.result()) == pytest.approx(3 / 5)


def test_compiled_and_saved():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    loss = CrossEntropy.from_config(CrossEntropy(sigmoid=True, label_smoothing=0.1).get_config())
    model.compile(loss=loss, metrics=[Accuracy.from_config(Accuracy().get_config())])
    x, y = RNG.normal(size=(8, 3)).astype("float32"), RNG.integers(0, 4, 8)
    logits = model.predict(x, verbose=0).astype("float64")
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(
        sigmoid_by_hand(0.9 * np.eye(4)[y] + 0.025, logits), rel=1e-5
    )
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == y))


def test_a_recipe_names_its_loss():
    assert set(get_args(get_type_hints(Recipe)["loss"])) == set(LOSSES)
    for name, by_hand in {"softmax": softmax_by_hand, "sigmoid": sigmoid_by_hand}.items():
        recipe = Recipe(model="resnet18", dataset="cifar10", loss=name, label_smoothing=0.1)
        expected = by_hand(0.9 * MIXED + 0.01, LOGITS)
        found = float(LOSSES[name](recipe, None)(MIXED, LOGITS.astype("float32")))
        assert found == pytest.approx(expected, rel=1e-6)


def test_impossible_smoothing_is_refused():
    with pytest.raises(ValueError, match="`label_smoothing`.*Received: "):
        CrossEntropy(label_smoothing=1.0)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_class_weights_scale_the_loss_of_an_image(sigmoid):
    weights = (2.0, 0.5, 1.0)
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    labels = np.array([0, 1, 2, 1])
    options = {"sigmoid": sigmoid, "label_smoothing": 0.1}
    plain = CrossEntropy(**options).call(labels, keras.ops.convert_to_tensor(logits))
    loss = CrossEntropy(**options, class_weights=weights)
    weighted = loss.call(labels, keras.ops.convert_to_tensor(logits))
    np.testing.assert_allclose(weighted, np.array(weights)[labels] * np.array(plain), rtol=1e-6)
    # Of a mixed image, in the proportion of its labels.
    mixed = np.array([[0.3, 0.7, 0.0]], "float32")
    whole = CrossEntropy(**options).call(mixed, keras.ops.convert_to_tensor(logits[:1]))
    found = loss.call(mixed, keras.ops.convert_to_tensor(logits[:1]))
    np.testing.assert_allclose(found, (0.3 * 2 + 0.7 * 0.5) * np.array(whole), rtol=1e-6)
    again = CrossEntropy.from_config(loss.get_config())
    assert again.class_weights == weights


def test_balanced_weights_are_scikit_learns():
    labels = np.random.default_rng(0).choice(4, 200, p=(0.7, 0.2, 0.06, 0.04))
    theirs = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    ours = balanced_weights(np.bincount(labels))
    np.testing.assert_allclose(ours, theirs)
    assert np.mean(np.array(ours)[labels]) == pytest.approx(1)
    assert balanced_weights(np.array([3, 0, 1])) == pytest.approx((2 / 3, 0, 2))


def test_positives_count_as_much_as_negatives():
    """PyTorch's `pos_weight`: 100 positives and 300 negatives make 300 / 100, as it says there."""
    counts = np.array([100, 200, 0, 400])
    assert positive_weights(counts, 400) == (3.0, 1.0, 400.0, 1 / 400)


def test_accuracy_of_decisions():
    """At probability 1/2, which is logit 0; a mixed label of 1/2 or more counts as 1."""
    labels = np.array([[1, 0, 1, 0], [0.5, 0.49, 1, 0]], "float32")
    logits = np.array([[0.0, -0.1, -3, 5], [2, -1, 3, -4]], "float32")
    metric = DecisionAccuracy()
    metric.update_state(labels[:1], logits[:1])
    assert float(metric.result()) == 0.5
    metric.update_state(labels[1:], logits[1:])
    assert float(metric.result()) == 0.75 and metric.name == "accuracy"
    # Also where Keras' default is a half, which has 11 bits.
    floatx = keras.config.floatx()
    try:
        keras.config.set_floatx("float16")
        right = np.ones((1, 2049), "float32")
        right[0, :1049] = -1
        share = _right_decisions(np.ones((1, 2049), "float32"), right)
    finally:
        keras.config.set_floatx(floatx)
    assert float(share[0]) == pytest.approx(1000 / 2049, rel=1e-6)
    again = DecisionAccuracy.from_config(DecisionAccuracy(name="right").get_config())
    assert again.name == "right"
