"""The learning rate of each step of a recipe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_keras.recipe import Recipe


def learning_rate_at(recipe: Recipe, step: int, unit: int) -> float:
    """Return the learning rate of a step.

    Args:
        recipe: whose columns say how it rises and falls.
        step: number of the step, from 0.
        unit: steps in an epoch; 1 where the recipe counts steps.
    """
    end = recipe.steps or recipe.epochs * unit
    warmup = warmup_steps(recipe, unit)
    return _curve(recipe, step, warmup, end, unit) * _warmup(recipe, step, warmup, unit)


def warmup_steps(recipe: Recipe, unit: int) -> int:
    """Return the number of steps of the warm-up.

    Args:
        recipe: whose columns say how long it is.
        unit: steps in an epoch.
    """
    return recipe.warmup_steps or round(recipe.warmup_epochs * unit)


def _curve(recipe: Recipe, step: int, begin: int, end: int, unit: int) -> float:
    """The learning rate without warm-up; cosine and poly fall from `begin` to `end`."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    if recipe.schedule == "step":
        passed = sum(step // unit >= milestone for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.milestone_factor**passed
    if recipe.schedule_unit == "epoch":
        step, begin, end = step // unit, begin // unit, end // unit
    length = max(end - begin, 1)
    done = min(max(step - begin, 0), length - 1)
    if recipe.schedule == "cosine":  # to the end, which is the step after the last
        share = (1 + math.cos(math.pi * done / length)) / 2
    else:  # to the last step
        share = (1 - done / max(length - 1, 1)) ** recipe.power
    return recipe.min_learning_rate + (recipe.learning_rate - recipe.min_learning_rate) * share


def _warmup(recipe: Recipe, step: int, end: int, unit: int) -> float:
    """The factor of the warm-up, which is 1 from its last step on, or from the step after it."""
    if step >= end:
        return 1.0
    if recipe.warmup_curve == "stairs":
        step, end = step // unit, end // unit
    rises = end if recipe.warmup_peak == "after" else end - 1
    start = 1 / (rises + 1) if recipe.warmup_start is None else recipe.warmup_start
    if recipe.warmup_curve == "constant":
        return start
    return start + (1 - start) * step / max(rises, 1)
