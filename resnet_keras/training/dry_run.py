"""A recipe with everything that follows from it, without its data."""

import dataclasses
from typing import Any

from resnet_keras.recipe import KNOWN, Recipe
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
        one replica). What depends on a data set of unknown size is None.
    """
    from resnet_keras.models import count

    examples = recipe.examples()
    known: tuple[Any, Any, int] = KNOWN.get(recipe.dataset, (None, None, 3))
    _, classes, channels = known
    # Of one size, even where the network is built for two: multiply-adds are those of training.
    channels = recipe.channels or channels
    model = network(dataclasses.replace(recipe, eval_size=recipe.train_size), channels, classes)
    counts = count(model)
    steps = recipe.steps_per_epoch(examples) if examples else None
    policy, _ = choose_precision(recipe.precision)
    need = memory.estimate(recipe, model, policy, recipe.replicas or 1)
    return recipe.to_json() | {
        "steps_per_epoch": steps,
        "total_steps": recipe.total_steps(examples) if examples else recipe.steps,
        "learning_rates": _bends(recipe, examples) if examples else None,
        "params": counts["params"],
        "macs": counts["macs"],
        "estimated_memory_bytes": need.total,
    }


def _bends(recipe: Recipe, examples: int) -> dict[int, float]:
    """Return the learning rate at the steps where its curve bends, and at the last step."""
    steps, total = recipe.steps_per_epoch(examples), recipe.total_steps(examples)
    unit = 1 if recipe.steps else steps
    warm = recipe.warmup_steps or round(recipe.warmup_epochs * steps)
    bends = {0, warm, *(m * unit for m in recipe.milestones), total - 1}
    return {
        step: recipe.learning_rate_at(step, steps_per_epoch=steps)
        for step in sorted(bends)
        if step < total
    }
