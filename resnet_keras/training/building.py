"""Build the compiled network of a recipe, with its optimizer and its loss."""

from functools import partial
from typing import TYPE_CHECKING

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.recipe import Recipe

if TYPE_CHECKING:
    import keras

    from resnet_keras.data import Split
    from resnet_keras.optimizers import Averaging, Optimizer


def compiled(
    recipe: Recipe,
    train: "Split",
    policy: str,
    replicas: int,
    fresh: bool,
    on_features: bool = False,
) -> "tuple[keras.Model, list[keras.metrics.Metric]]":
    """Build and compile the model of a recipe, to be called in the strategy's scope.

    Args:
        recipe: what to build.
        train: the images to train on.
        policy: "float32", "mixed_bfloat16" or "mixed_float16".
        replicas: number of replicas that share a batch.
        fresh: load the recipe's `weights`. A run that is resumed has better ones in its backup,
            and the checkpoint may be gone.
        on_features: the model takes the features that the network computes before its last layer.

    Returns:
        The model (with `on_features` a `features.OnFeatures`), and the metrics that it was compiled
        with.

    Raises:
        InputError: the network cannot be built, or the weights do not fit it.
    """
    from resnet_keras.losses import Accuracy, DecisionAccuracy
    from resnet_keras.quantize import quantization_aware
    from resnet_keras.weights import load_weights

    model = network(recipe, train.channels, len(train.labels), replicas)
    if recipe.weights is not None and fresh:
        say(load_weights(model, recipe.weights, skip_head=recipe.skip_head))
    if recipe.quantize:
        model = quantization_aware(model)
    if on_features:
        from resnet_keras.training.features import OnFeatures

        model = OnFeatures(model)
    metrics: list[keras.metrics.Metric]
    metrics = [DecisionAccuracy() if train.multi_label else Accuracy()]
    average_statistics_on_jax(model)
    model.compile(
        optimizer(recipe, train.examples, policy),
        loss(recipe, train),
        weighted_metrics=metrics,  # images that only fill a batch have weight 0
        auto_scale_loss=False,  # our optimizers scale it themselves, and check every replica
    )
    # Now, so that a backup finds its variables.
    model.optimizer.build(model.trainable_variables)
    if recipe.ema:
        model.optimizer.also_average(model.non_trainable_variables)
    return model, metrics


def loss(recipe: Recipe, train: "Split") -> "keras.losses.Loss":
    """Make the loss of a recipe; where images have several labels, it is that of a sigmoid each.

    Raises:
        InputError: the numbers of images of the classes are not known, and needed.
    """
    from resnet_keras.losses import LOSSES, CrossEntropy

    weights = class_weights(recipe, train)
    if not train.multi_label:
        return LOSSES[recipe.loss](recipe, weights)
    return CrossEntropy(
        sigmoid=True,
        multi_label=True,
        label_smoothing=recipe.label_smoothing,
        class_weights=weights,
    )


def class_weights(recipe: Recipe, train: "Split") -> tuple[float, ...] | None:
    """Weigh the classes as a recipe asks; None: all alike.

    Raises:
        InputError: the numbers of their images are not known.
    """
    from resnet_keras.losses import balanced_weights, positive_weights

    if recipe.class_weights == "none":
        return None
    if train.counts is None:
        raise InputError(
            "`class_weights` must be none for data sets that are kept as records, whose classes "
            f"are known when they are read. Received: class_weights={recipe.class_weights!r}"
        )
    if train.multi_label:
        return positive_weights(train.counts, train.examples)
    return balanced_weights(train.counts)


def optimizer(recipe: Recipe, examples: int, policy: str) -> "Optimizer":
    """Make the optimizer of a recipe, for a data set of `examples` training images."""
    from resnet_keras import optimizers

    steps = recipe.steps_per_epoch(examples)
    total = recipe.total_steps(examples)
    half = policy == "mixed_float16"
    choice = optimizers.OPTIMIZERS[recipe.optimizer]
    return getattr(optimizers, choice.name)(
        optimizers.Table([recipe.learning_rate_at(i, steps_per_epoch=steps) for i in range(total)]),
        **{argument: getattr(recipe, argument) for argument in choice.arguments},
        weight_decay=recipe.weight_decay,
        exclude=recipe.exclude,
        clip_norm=recipe.clip_norm,
        accumulate=recipe.accumulate,
        ema=_averaging(recipe, steps),
        loss_scale=(recipe.loss_scale or 2.0**15) if half else None,
        growth_steps=2000 if half and recipe.loss_scale is None else None,
    )


def _averaging(recipe: Recipe, steps_per_epoch: int) -> "float | Averaging":
    """Say when the averages of the weights move."""
    from resnet_keras.optimizers import Averaging
    from resnet_keras.recipe.schedule import warmup_steps

    if recipe.ema_every == 1 and not recipe.ema_after_warmup:
        return recipe.ema
    return Averaging(
        recipe.ema,
        every=recipe.ema_every,
        copy_steps=warmup_steps(recipe, steps_per_epoch) if recipe.ema_after_warmup else 0,
        epoch=steps_per_epoch,
    )


def network(recipe: Recipe, channels: int, classes: int, replicas: int = 1) -> "keras.Model":
    """Build the network of a recipe as training wants it: it returns logits, its layers are fast.

    Raises:
        InputError: such a network cannot be built.
    """
    import keras

    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.models import Head, Normalisation, adapt_last_norm, build, freeze

    if keras.backend.backend() == "jax":
        replicas = 1  # there a batch is one array, whose statistics are those of all replicas
    synchronized = recipe.sync_batch_norm and replicas > 1
    # With one size the network is faster; with two it is built for any size.
    size = recipe.train_size if recipe.train_size == recipe.eval_size else None
    try:
        model = build(
            recipe.model,
            input_shape=(size, size, channels),
            head=Head(classes=classes, activation=None),
            normalisation=Normalisation(recipe.mean, recipe.std),
            drop_path=recipe.drop_path,
            norm=partial(BatchNormalization, synchronized=synchronized, replicas=replicas),
            # The int8 clone has convolutions of its own.
            conv=keras.layers.Conv2D
            if recipe.quantize
            else partial(Conv2D, recompute=recipe.save_memory),
        )
        freeze(model, recipe.freeze, norm_eval=recipe.norm_eval)
        if recipe.adapt_last_norm:
            adapt_last_norm(model)
    except ValueError as error:
        raise InputError(str(error)) from error
    return model


def average_statistics_on_jax(model: "keras.Model") -> None:
    """On JAX, let each step update the averages of batch norm's statistics too.

    To be called before `compile`. On other backends nothing happens: the step sees the statistics.
    """
    import keras

    if keras.backend.backend() != "jax":
        return
    step = model.train_step

    def train_step(state, data):
        with model.optimizer.averaging_statelessly():
            logs, (trainable, others, optimizer, metrics) = step(state, data)
        values = {id(v): x for v, x in zip(model.non_trainable_variables, others, strict=True)}
        optimizer = model.optimizer.average_statelessly(state[2], optimizer, values)
        return logs, (trainable, others, optimizer, metrics)

    model.train_step = train_step
