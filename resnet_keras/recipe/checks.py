"""Refuse a recipe with a value of another type or out of range, or with columns that conflict."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from resnet_keras.errors import InputError
from resnet_keras.files import local_path
from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.recipe.columns import RANDOM, columns
from resnet_keras.recipe.variables import trainable_variables
from resnet_keras.specs import SPECS

if TYPE_CHECKING:
    from resnet_keras.recipe import Recipe


def typed(field: str, value: Any, kind: Any) -> Any:
    """Return a value with its column's type: strings become paths, and lists tuples, where needed.

    Raises:
        InputError: the value is of another type, or not finite.
    """
    kinds = (kind, *get_args(kind))
    if isinstance(value, str) and Path in kinds:
        value = Path(value)
    elif isinstance(value, Path) and str in kinds:
        value = str(value)
    elif isinstance(value, list):
        value = tuple(value)
    if not _fits(value, kind):
        name = inspect.formatannotation(kind)
        refuse(field, f"must be {name}{', finite' if 'float' in name else ''}", value)
    return value


def check(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be trained; its values have the right types and ranges.

    Raises:
        InputError: the first column that is wrong, by name.
    """
    for field in ("mean", "std"):
        if getattr(recipe, field) == ():
            refuse(field, "must have a number for each channel", ())
    recipe.profiled()
    recipe.interval()
    _check_batch(recipe)
    _check_schedule(recipe)
    _check_columns_without_effect(recipe)
    _check_exclude(recipe)
    stages = len(SPECS[recipe.model].depths)
    if recipe.freeze > stages:
        refuse("freeze", f"must be in [-1, {stages}] with {recipe.model}", recipe.freeze)
    _check_frozen(recipe, stages)
    if recipe.holdout >= 1 and recipe.holdout != int(recipe.holdout):
        refuse("holdout", "must be a whole number, or a fraction below 1", recipe.holdout)
    percent = 100 * recipe.holdout
    if recipe.holdout < 1 and local_path(recipe.dataset) is None and abs(percent % 1) > 1e-9:
        refuse("holdout", "must be hundredths where it is a fraction, as 0.15", recipe.holdout)
    if recipe.channels is not None and local_path(recipe.dataset) is None:
        refuse("channels", "must be None for data sets of TFDS, which have theirs", recipe.channels)
    if recipe.folds and recipe.fold and recipe.fold > recipe.folds:
        refuse("fold", f"must be in [1, {recipe.folds}]", recipe.fold)
    if recipe.folds and recipe.folds > 100 and local_path(recipe.dataset) is None:
        refuse("folds", "must be 100 or fewer for data sets of TFDS", recipe.folds)
    if recipe.folds and recipe.holdout and local_path(recipe.dataset) is None:
        refuse("holdout", "must be 0 with `folds`", recipe.holdout)
    if recipe.chooses_epoch and not recipe.holdout and local_path(recipe.dataset) is None:
        field = "patience" if recipe.keep == "last" else "keep"
        raise InputError(
            f"`{field}` needs validation images: hold some out with --holdout, without --folds. "
            f"Received: {field}={getattr(recipe, field)!r}, holdout={recipe.holdout!r}"
        )
    examples = recipe.examples()
    if examples is not None and examples < 1:
        refuse("holdout", "must be below the number of training images", recipe.holdout)


def refuse(field: str, rule: str, value: Any) -> NoReturn:
    """Raise an InputError that names a column, what it must be, and what it is."""
    raise InputError(f"`{field}` {rule}. Received: {field}={value!r}")


def interval(every: str) -> tuple[int, str]:
    """Read the time between backups: `500` is `(500, "steps")`; `90s`, `10m` and `2h` are seconds.

    Raises:
        InputError: it is neither a number of steps nor a time.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (every[:-1], every[-1:]) if every[-1:] in units else (every, "")
    if not number.isdecimal() or int(number) == 0:
        refuse("backup_every", "must be steps (500) or a time (90s, 10m, 2h)", every)
    return (int(number) * units[unit], "seconds") if unit else (int(number), "steps")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the type that an annotation names, and finite."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, kind) for kind in kinds)
    if origin is Literal:
        return value in kinds
    if origin is tuple:  # of numbers, or of words
        return isinstance(value, tuple) and all(_fits(part, kinds[0]) for part in value)
    if kind is float:
        return _fits(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_batch(recipe: Recipe) -> None:
    """Refuse a batch that cannot be divided among the replicas and the parts of a step."""
    parts = (recipe.replicas or 1) * recipe.accumulate
    if recipe.batch_size % parts:
        refuse(
            "batch_size",
            f"must be a multiple of replicas x accumulate = {parts}; the next one is "
            f"{math.ceil(recipe.batch_size / parts) * parts}",
            recipe.batch_size,
        )


def _check_schedule(recipe: Recipe) -> None:
    """Refuse a learning rate whose columns contradict each other."""
    if list(recipe.milestones) != sorted(set(recipe.milestones)):
        refuse("milestones", "must be in ascending order, without repeats", recipe.milestones)
    if recipe.min_learning_rate > recipe.learning_rate:
        refuse("min_learning_rate", "must not be above `learning_rate`", recipe.min_learning_rate)
    if recipe.warmup_epochs and (recipe.warmup_steps or recipe.steps):
        refuse("warmup_epochs", "must be 0 with `warmup_steps` or `steps`", recipe.warmup_epochs)
    by_epoch = {"schedule_unit": "epoch", "warmup_curve": "stairs"}
    for field, value in by_epoch.items():
        counted = recipe.steps or recipe.warmup_steps or recipe.warmup_epochs % 1
        if getattr(recipe, field) == value and counted:
            refuse(field, "must not count epochs where steps or parts of epochs are given", value)


def _check_frozen(recipe: Recipe, stages: int) -> None:
    """Refuse columns for a network with all stages frozen where they are not."""
    if recipe.freeze != stages:
        for field, default in (("views", 1), ("then_epochs", 0), ("adapt_last_norm", False)):
            if (value := getattr(recipe, field)) != default:
                rule = f"needs all stages frozen: set --freeze {stages} with {recipe.model}"
                refuse(field, rule, value)
    if recipe.adapt_last_norm and recipe.quantize:
        refuse("adapt_last_norm", "must be False with `quantize`, which folds batch norm", True)
    if recipe.views > 1 and not any(getattr(recipe, name) for name in RANDOM):
        refuse("views", f"above 1 needs augmentation: {', '.join(RANDOM)}", recipe.views)


def _check_columns_without_effect(recipe: Recipe) -> None:
    """Refuse a column that was set although it has no effect beside the others."""
    taken = OPTIMIZERS[recipe.optimizer].arguments
    of_optimizers = {name for row in OPTIMIZERS.values() for name in row.arguments}
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}
    for field, column in columns().items():
        value = getattr(recipe, field)
        if value == defaults[field]:
            continue
        owner = None
        if field in of_optimizers and field not in taken:
            owner = "optimizer"
        elif column.only is not None and getattr(recipe, column.only[0]) not in column.only[1]:
            owner = column.only[0]
        if owner is not None:
            refuse(
                field,
                f"must keep its default, {defaults[field]!r}, with "
                f"{owner}={getattr(recipe, owner)!r}",
                value,
            )
        if column.needs is not None and not getattr(recipe, column.needs):
            flag = "--" + column.needs.replace("_", "-")
            raise InputError(
                f"`{field}` needs `{column.needs}`: set {flag}. Received: {field}={value!r}, "
                f"{column.needs}={getattr(recipe, column.needs)!r}"
            )


def _check_exclude(recipe: Recipe) -> None:
    """Refuse a word that is in no name of a trainable variable."""
    if not recipe.exclude:
        return
    names = trainable_variables(SPECS[recipe.model], folded=recipe.quantize)
    for word in recipe.exclude:
        if not any(word in name for name in names):
            refuse(
                "exclude",
                f"must be words in names of variables, such as {names[1]!r}; {word!r} is in none",
                recipe.exclude,
            )
