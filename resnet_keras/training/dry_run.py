"""A recipe with everything that follows from it, without its data."""

import dataclasses
from typing import Any

from resnet_keras.recipe import KNOWN, Recipe
from resnet_keras.recipe.schedule import warmup_steps
from resnet_keras.training import memory
from resnet_keras.training.building import network
from resnet_keras.training.machine import choose_precision


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return what `--dry-run` prints.

    Args:
        recipe: touches no data and no run folder.

    Returns:
        The recipe's columns, and `steps_per_epoch`, `total_steps`, `learning_rates` (by step, where
        the schedule bends), `params`, `macs` (of one training image), `estimated_memory_bytes` (of
        one replica). With `then_epochs` also `then`: the first three of these of the training of
        the whole network that follows. What depends on a data set of unknown size is None.
    """
    from resnet_keras.models import count

    examples = recipe.examples()
    known: tuple[Any, Any, int] = KNOWN.get(recipe.dataset, (None, None, 3))
    _, classes, channels = known
    # Of one size, even where the network is built for two: multiply-adds are those of training.
    channels = recipe.channels or channels
    model = network(dataclasses.replace(recipe, eval_size=recipe.train_size), channels, classes)
    counts = count(model)
    policy, _ = choose_precision(recipe.precision)
    need = memory.estimate(recipe, model, policy, recipe.replicas or 1)
    return (
        recipe.to_json()
        | _curve(recipe, examples)
        | {
            "params": counts["params"],
            "macs": counts["macs"],
            "estimated_memory_bytes": need.total,
        }
        | ({"then": _then(recipe, examples)} if recipe.then_epochs else {})
    )


def _curve(recipe: Recipe, examples: int | None) -> dict[str, Any]:
    """How long a training is, and its learning rates."""
    return {
        "steps_per_epoch": recipe.steps_per_epoch(examples) if examples else None,
        "total_steps": recipe.total_steps(examples) if examples else recipe.steps,
        "learning_rates": _bends(recipe, examples) if examples else None,
    }


def _then(recipe: Recipe, examples: int | None) -> dict[str, Any] | None:
    """The same of the training that follows, whose curve depends on the number of images."""
    return _curve(recipe.then(examples), examples) if examples else None


def _bends(recipe: Recipe, examples: int) -> dict[int, float]:
    """Return the learning rate at the steps where its curve bends, and at the last step."""
    steps, total = recipe.steps_per_epoch(examples), recipe.total_steps(examples)
    unit = 1 if recipe.steps else steps
    warm = warmup_steps(recipe, steps)
    bends = {0, warm, *(m * unit for m in recipe.milestones), total - 1}
    return {
        step: recipe.learning_rate_at(step, steps_per_epoch=steps)
        for step in sorted(bends)
        if step < total
    }
