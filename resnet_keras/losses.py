"""The papers' losses and accuracy, for class numbers and for mixed labels.

A new loss is a class and a row of `LOSSES` here, and its choice among a recipe's columns.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("resnet_keras")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits, with label smoothing as the papers have it.

    The targets are `(1 - label_smoothing) * label + label_smoothing / classes` (Szegedy et al.
    2015, section 7), for both forms, where an image has one class. Labels are class numbers
    `(batch,)`, integer or float, or weights of the classes `(batch, classes)`, as mixup and CutMix
    give them. The arithmetic is
    float32 or wider under every policy. Stock Keras smooths binary targets towards 1/2, averages
    over the classes, and takes only one of the two kinds of labels.

    Args:
        sigmoid: False: softmax over the classes. True: each class against all others, binary
            cross-entropies summed over the classes ("ResNet strikes back", section 3; the sum is
            that of OpenMMLab, whose head divides by the number of images alone).
        multi_label: the images have any number of labels, and each is a decision of its own, of a
            sigmoid: label smoothing goes towards 1/2, as that of Keras' `BinaryCrossentropy`, and
            `class_weights` multiply the loss of positives alone, as PyTorch's `pos_weight`.
        label_smoothing: in [0, 1).
        class_weights: a number for each class, with which the loss of its images is multiplied; of
            mixed images, in the proportion of their labels. None: 1.
        name: of the loss.

    Raises:
        ValueError: `label_smoothing` is out of its range, or `multi_label` without `sigmoid`.
    """

    def __init__(
        self,
        *,
        sigmoid: bool = False,
        multi_label: bool = False,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        name: str = "cross_entropy",
    ):
        super().__init__(name=name)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"`label_smoothing` must be in [0, 1). Received: label_smoothing={label_smoothing}"
            )
        if multi_label and not sigmoid:
            raise ValueError("`multi_label` needs `sigmoid`. Received: sigmoid=False")
        self.sigmoid = sigmoid
        self.multi_label = multi_label
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the losses `(batch,)` of labels and of logits `(batch, classes)`."""
        classes = y_pred.shape[-1]
        targets = y_true
        if len(y_true.shape) < len(y_pred.shape):
            targets = ops.one_hot(ops.cast(y_true, "int32"), classes, dtype=y_pred.dtype)
        if self.multi_label:
            return self._of_decisions(targets, y_pred)
        scale: Any = 1.0
        if self.class_weights is not None:
            weights = ops.convert_to_tensor(self.class_weights, dtype=targets.dtype)
            scale = ops.sum(targets * weights, axis=-1)
        if self.label_smoothing:
            targets = (1 - self.label_smoothing) * targets + self.label_smoothing / classes
        if self.sigmoid:
            losses = ops.binary_crossentropy(targets, y_pred, from_logits=True)
            return scale * ops.sum(losses, axis=-1)
        return -scale * ops.sum(targets * ops.log_softmax(y_pred), axis=-1)

    def _of_decisions(self, targets: Any, logits: Any) -> Any:
        """Compute the losses `(batch,)` of images with any number of labels."""
        targets = ops.cast(targets, logits.dtype)
        targets = (1 - self.label_smoothing) * targets + self.label_smoothing / 2
        weights = 1.0 if self.class_weights is None else self.class_weights
        positives = targets * ops.convert_to_tensor(weights, dtype=targets.dtype)
        # -log sigmoid(x) = softplus(-x), and -log(1 - sigmoid(x)) = softplus(x)
        losses = positives * ops.softplus(-logits) + (1 - targets) * ops.softplus(logits)
        return ops.sum(losses, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "name": self.name,
            "sigmoid": self.sigmoid,
            "multi_label": self.multi_label,
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
        }


@keras.saving.register_keras_serializable("resnet_keras")
class Distillation(keras.losses.Loss):
    """Divergence of a network's predictions from those of its teacher, both softened.

    After Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2:
    `temperature^2 * KL(softmax(teacher / temperature), softmax(logits / temperature))`. Its
    gradient is that of the cross-entropy with the teacher's soft targets; the square keeps its size
    at any temperature. The arithmetic is float32 or wider under every policy.

    The targets are the teacher's logits `(batch, classes)`; logarithms of its probabilities are
    logits, too.

    Args:
        sigmoid: False: softmax over the classes. True: the same of each class against all others,
            summed over the classes.
        temperature: above 0.
        name: of the loss.

    Raises:
        ValueError: `temperature` is out of its range.
    """

    def __init__(
        self, *, sigmoid: bool = False, temperature: float = 1.0, name: str = "distillation"
    ):
        super().__init__(name=name)
        if not temperature > 0:
            raise ValueError(f"`temperature` must be above 0. Received: temperature={temperature}")
        self.sigmoid = sigmoid
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the losses `(batch,)` of the teacher's logits and of logits, alike in shape."""
        teacher, student = (logits / self.temperature for logits in (y_true, y_pred))
        if self.sigmoid:
            # log sigmoid(x) = -softplus(-x), and log(1 - sigmoid(x)) = -softplus(x)
            share = ops.sigmoid(teacher)
            yes = ops.softplus(-student) - ops.softplus(-teacher)
            no = ops.softplus(student) - ops.softplus(teacher)
            divergence = share * yes + (1 - share) * no
        else:
            wanted = ops.log_softmax(teacher)
            divergence = ops.exp(wanted) * (wanted - ops.log_softmax(student))
        return self.temperature**2 * ops.sum(divergence, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name, "sigmoid": self.sigmoid, "temperature": self.temperature}


# A recipe's name for a loss, and how the loss is made from the recipe's columns and the weights of
# the classes.
LOSSES: dict[str, Callable[[Any, Sequence[float] | None], keras.losses.Loss]] = {
    "softmax": lambda recipe, weights: CrossEntropy(
        label_smoothing=recipe.label_smoothing, class_weights=weights
    ),
    "sigmoid": lambda recipe, weights: CrossEntropy(
        sigmoid=True, label_smoothing=recipe.label_smoothing, class_weights=weights
    ),
}


def balanced_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Weigh classes by 1 / their number of images, such that the mean over the images is 1.

    As scikit-learn's `class_weight="balanced"`; a class without images has weight 0.

    Args:
        counts: images of each class, integers `(classes,)`.
    """
    there = np.count_nonzero(counts)
    weights = np.where(counts > 0, counts.sum() / (there * np.maximum(counts, 1)), 0.0)
    return tuple(map(float, weights))


def positive_weights(counts: np.ndarray, examples: int) -> tuple[float, ...]:
    """Weigh the positives of each label such that they count as much as its negatives.

    The weight is negatives / positives, as the documentation of PyTorch's `BCEWithLogitsLoss` has
    it for `pos_weight`; where there are none of one kind, as if there were one.

    Args:
        counts: images with each label, integers `(classes,)`.
        examples: number of images.
    """
    weights = np.maximum(examples - counts, 1) / np.maximum(counts, 1)
    return tuple(map(float, weights))


@keras.saving.register_keras_serializable("resnet_keras")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """Share of images whose highest logit is that of their label.

    Labels are class numbers `(batch,)`, or weights of the classes `(batch, classes)`, of which the
    largest counts.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "accuracy"):
        super().__init__(fn=_hits, name=name)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name}


def _hits(y_true: Any, y_pred: Any) -> Any:
    """Whether each image is classified right, `(batch,)`."""
    if len(y_true.shape) == len(y_pred.shape):
        y_true = ops.argmax(y_true, axis=-1)
    return ops.equal(ops.cast(y_true, "int32"), ops.cast(ops.argmax(y_pred, axis=-1), "int32"))


@keras.saving.register_keras_serializable("resnet_keras")
class DecisionAccuracy(keras.metrics.MeanMetricWrapper):
    """Share of decisions, one for each image and label, that are right at probability 1/2.

    Labels are 0 or 1, or mixed, `(batch, classes)`: of a mixed one, 1/2 or more counts as 1.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "accuracy"):
        super().__init__(fn=_right_decisions, name=name)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name}


def _right_decisions(y_true: Any, y_pred: Any) -> Any:
    """The share of an image's decisions that are right, `(batch,)`."""
    right = ops.equal(ops.greater_equal(y_true, 0.5), ops.greater_equal(y_pred, 0.0))
    return ops.mean(ops.cast(right, "float32"), axis=-1)
