"""The papers' losses and accuracy, for class numbers and for mixed labels.

A new loss is a class and a row of `LOSSES` here, and its choice among a recipe's columns.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("resnet_keras")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits, with label smoothing as the papers have it.

    The targets are `(1 - label_smoothing) * label + label_smoothing / classes` (Szegedy et al.
    2015, section 7), for both forms. Labels are class numbers `(batch,)`, integer or float, or
    weights of the classes `(batch, classes)`, as mixup and CutMix give them. The arithmetic is
    float32 or wider under every policy. Stock Keras smooths binary targets towards 1/2, averages
    over the classes, and takes only one of the two kinds of labels.

    Args:
        sigmoid: False: softmax over the classes. True: each class against all others, binary
            cross-entropies summed over the classes ("ResNet strikes back", section 3; the sum is
            that of OpenMMLab, whose head divides by the number of images alone).
        label_smoothing: in [0, 1).
        name: of the loss.

    Raises:
        ValueError: `label_smoothing` is out of its range.
    """

    def __init__(
        self, *, sigmoid: bool = False, label_smoothing: float = 0.0, name: str = "cross_entropy"
    ):
        super().__init__(name=name)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"`label_smoothing` must be in [0, 1). Received: label_smoothing={label_smoothing}"
            )
        self.sigmoid = sigmoid
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the losses `(batch,)` of labels and of logits `(batch, classes)`."""
        classes = y_pred.shape[-1]
        targets = y_true
        if len(y_true.shape) < len(y_pred.shape):
            targets = ops.one_hot(ops.cast(y_true, "int32"), classes, dtype=y_pred.dtype)
        if self.label_smoothing:
            targets = (1 - self.label_smoothing) * targets + self.label_smoothing / classes
        if self.sigmoid:
            return ops.sum(ops.binary_crossentropy(targets, y_pred, from_logits=True), axis=-1)
        return -ops.sum(targets * ops.log_softmax(y_pred), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "name": self.name,
            "sigmoid": self.sigmoid,
            "label_smoothing": self.label_smoothing,
        }


# A recipe's name for a loss, and how the loss is made from the recipe's columns.
LOSSES: dict[str, Callable[[Any], keras.losses.Loss]] = {
    "softmax": lambda recipe: CrossEntropy(label_smoothing=recipe.label_smoothing),
    "sigmoid": lambda recipe: CrossEntropy(sigmoid=True, label_smoothing=recipe.label_smoothing),
}


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
