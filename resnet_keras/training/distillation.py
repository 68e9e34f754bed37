"""Distillation: a trained network, the teacher, from whose predictions another one learns, too."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
from keras import ops

from resnet_keras.clones import cloned, fold, set_weights
from resnet_keras.errors import InputError
from resnet_keras.internals.keras import producer, producer_inputs
from resnet_keras.losses import Distillation
from resnet_keras.model_files import (
    ModelFile,
    load_keras,
    open_model_file,
    require_scores,
)
from resnet_keras.model_files.keras import last_activation, plain
from resnet_keras.recipe import Recipe

if TYPE_CHECKING:
    from resnet_keras.data import Split

# The activations of heads whose outputs can be softened, and the loss that they go with.
_HEADS = {"softmax": (False,), "sigmoid": (True,), "linear": (False, True)}


class Teacher(NamedTuple):
    """A trained network in inference mode.

    Attributes:
        logits: of images of the training, pixels 0-255 `(batch, height, width, channels)`.
        params: number of its weights.
    """

    logits: Callable[[Any], Any]
    params: int


def open_teacher(recipe: Recipe, train: "Split", policy: str) -> Teacher | None:
    """Open the teacher of a training, to be called in the strategy's scope.

    Its batch norms are folded. It computes in the precision of the training, but its head in
    float32, as that of the network that is trained.

    Args:
        recipe: names the file; whoever trains without a teacher names none.
        train: the images to train on.
        policy: "float32", "mixed_bfloat16" or "mixed_float16".

    Raises:
        InputError: the file is no `.keras` file of a classifier of these classes.
    """
    if recipe.teacher is None:
        return None
    path = Path(recipe.teacher)
    if path.suffix != ".keras":
        raise InputError(
            f"`teacher` must be a .keras file, which can be computed with the network that learns. "
            f"Received: teacher={recipe.teacher!r}"
        )
    sigmoid = train.multi_label or recipe.loss == "sigmoid"
    model_file = open_model_file(path)
    model = load_keras(path)
    _require_the_same_classes(model_file, train, sigmoid, last_activation(model))
    network = _logits(fold(plain(model), rescaling="rows"), policy)
    network.trainable = False
    size = (recipe.train_size, recipe.train_size)
    fixed = model.input_shape[1:3]
    needs_resize = any(own not in (None, edge) for own, edge in zip(fixed, size, strict=True))

    def logits(images: Any) -> Any:
        images = ops.cast(images, "float32")
        if needs_resize:
            images = ops.image.resize(images, model_file.metadata.preprocessing.size)
        return ops.stop_gradient(network(images, training=False))

    return Teacher(logits, network.count_params())


def distil(model: keras.Model, teacher: Teacher, recipe: Recipe, *, sigmoid: bool) -> None:
    """Let a network learn from a teacher, too; the loss of validation stays that of the labels.

    Args:
        model: gives logits; changed in place.
        teacher: of `open_teacher`.
        recipe: with `teacher_weight` and `temperature`.
        sigmoid: whether each logit is that of a sigmoid.
    """
    softened = Distillation(sigmoid=sigmoid, temperature=recipe.temperature)
    of_labels, weight = model.compute_loss, recipe.teacher_weight

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = of_labels(x, y, y_pred, sample_weight, training=training)
        if not training:
            return loss
        return (1 - weight) * loss + weight * softened(teacher.logits(x), y_pred, sample_weight)

    model.compute_loss = compute_loss


def _require_the_same_classes(
    model_file: ModelFile, train: "Split", sigmoid: bool, activation: str | None
) -> None:
    """Refuse a teacher whose outputs mean something else than those of the network that learns."""
    path, metadata = model_file.path, model_file.metadata
    require_scores(model_file, "`teacher`")
    if model_file.channels != train.channels or metadata.rgb_input:
        raise InputError(
            f"`teacher` must take images of {train.channels} channels, as the network that learns. "
            f"Received: {path} takes {3 if metadata.rgb_input else model_file.channels}"
        )
    if model_file.classes != len(train.labels):
        raise InputError(
            f"`teacher` must have the {len(train.labels)} classes of the training images. "
            f"Received: {path} has {model_file.classes}"
        )
    for number, (theirs, ours) in enumerate(zip(metadata.labels, train.labels, strict=False)):
        if theirs != ours:
            raise InputError(
                "`teacher` must have the labels of the training images in the same order. "
                f"Received: {path} has {theirs!r} as class {number}, they have {ours!r}"
            )
    if metadata.multi_label != train.multi_label and model_file.has_metadata:
        one, any_number = "one class", "any number of labels"
        raise InputError(
            f"`teacher` must give an image {any_number if train.multi_label else one}, as the "
            f"training images have. Received: {path} gives "
            f"{any_number if metadata.multi_label else one}"
        )
    if sigmoid not in _HEADS.get(activation or "linear", ()):
        raise InputError(
            f"`teacher` must end in {'sigmoids' if sigmoid else 'a softmax'} or in logits, as the "
            f"loss of the training asks. Received: {path} ends in {activation}"
        )


def _logits(model: keras.Model, policy: str) -> keras.Model:
    """Make a model of logits of one of probabilities, in the precision of a training."""
    end = producer(model.outputs[0])
    if not isinstance(end, keras.layers.Dense) and last_activation(model) in ("softmax", "sigmoid"):
        (logits,) = producer_inputs(model.outputs[0])
        model = keras.Model(model.inputs[0], logits, name=model.name)
        end = producer(model.outputs[0])

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer is end and isinstance(layer, keras.layers.Dense):
            config["activation"] = None
        elif not isinstance(layer, keras.layers.Rescaling | keras.Model):
            config["dtype"] = policy
        return type(layer).from_config(config)

    weights = model.get_weights()
    model = cloned(model, clone)
    set_weights(model, weights)
    return model
