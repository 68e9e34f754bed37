"""Recipe -> the compiled network, with its optimizer and its loss."""

from functools import partial

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.recipe import Recipe


def compiled(recipe: Recipe, train, policy: str, replicas: int, fresh: bool):
    """The model of a recipe, compiled, and its metrics; to be called in the scope.

    It has the recipe's `weights` if the run is a `fresh` one: a backup has better ones, and the
    checkpoint may be gone.
    """
    from resnet_keras.losses import Accuracy, CrossEntropy
    from resnet_keras.quantize import quantization_aware
    from resnet_keras.weights import load_weights

    model = network(recipe, train.channels, len(train.labels), replicas)
    if recipe.weights is not None and fresh:
        say(load_weights(model, recipe.weights, skip_head=recipe.skip_head))
    if recipe.quantize:
        model = quantization_aware(model)
    metrics = [Accuracy()]
    follow_on_jax(model)
    model.compile(
        optimizer(recipe, train.examples, policy),
        CrossEntropy(sigmoid=recipe.loss == "sigmoid", label_smoothing=recipe.label_smoothing),
        weighted_metrics=metrics,  # images that fill a batch weigh nothing
        auto_scale_loss=False,  # our optimizers scale it themselves, and hear every replica
    )
    # Now, so that a backup finds its variables.
    model.optimizer.build(model.trainable_variables)
    if recipe.ema:
        model.optimizer.follow(model.non_trainable_variables)
    return model, metrics


def optimizer(recipe: Recipe, examples: int, policy: str):
    """The optimizer of a recipe."""
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
        ema=recipe.ema,
        loss_scale=(recipe.loss_scale or 2.0**15) if half else None,
        growth_steps=2000 if half and recipe.loss_scale is None else None,
    )


def network(recipe: Recipe, channels: int, classes: int, replicas: int = 1):
    """The network of a recipe, as training wants it: logits, fast layers."""
    import keras

    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.models import ResNet, freeze

    if keras.backend.backend() == "jax":
        replicas = 1  # a batch is one array there, whose statistics are all replicas' anyway
    synchronized = recipe.sync_batch_norm and replicas > 1
    # One size is faster; with two the network is built for any.
    size = recipe.train_size if recipe.train_size == recipe.eval_size else None
    try:
        model = ResNet(
            recipe.model,
            input_shape=(size, size, channels),
            classes=classes,
            classifier_activation=None,
            mean=recipe.mean,
            std=recipe.std,
            drop_path=recipe.drop_path,
            norm=partial(BatchNormalization, synchronized=synchronized, replicas=replicas),
            # Those of int8 are layers of their own.
            conv=keras.layers.Conv2D if recipe.quantize else Conv2D,
        )
        freeze(model, recipe.freeze, norm_eval=recipe.norm_eval)
    except ValueError as error:
        raise InputError(str(error)) from error
    return model


def follow_on_jax(model) -> None:
    """On JAX, let each step move the averages of batch norm's statistics, too."""
    import keras

    if keras.backend.backend() != "jax":
        return
    step = model.train_step

    def train_step(state, data):
        logs, (trainable, others, optimizer, metrics) = step(state, data)
        values = {id(v): x for v, x in zip(model.non_trainable_variables, others, strict=True)}
        optimizer = model.optimizer.follow_stateless(state[2], optimizer, values)
        return logs, (trainable, others, optimizer, metrics)

    model.train_step = train_step
