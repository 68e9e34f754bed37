"""A recipe: one row of a paper's training table, and the learning rate that follows from it."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, get_type_hints

from resnet_keras.console import exit_with_one_line
from resnet_keras.errors import InputError
from resnet_keras.files import local_path
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.checks import check, refuse, typed
from resnet_keras.recipe.columns import (
    Augmentation,
    Network,
    Optimization,
    Run,
    columns,
    groups,
)
from resnet_keras.recipe.schedule import learning_rate_at

__all__ = ["KNOWN", "Recipe", "Splits", "columns", "groups", "images_of", "splits"]

# Training images, classes and channels of the data sets that have recipes, so that a recipe can
# be resolved without its data (https://www.tensorflow.org/datasets/catalog).
KNOWN = {
    "digits": (1437, 10, 1),
    "fashion_mnist": (60_000, 10, 1),
    "cifar10": (50_000, 10, 3),
    "cifar100": (50_000, 100, 3),
    "imagenet2012": (1_281_167, 1000, 3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Run, Optimization, Augmentation, Network):
    """Everything that decides how a network is trained.

    The fields are the columns of `resnet_keras/recipe/columns.py`, where each has its range and a
    sentence; `python RECIPE.py --help` prints them. Lists become tuples, and strings become paths
    where a path is expected, so `Recipe(**fields)` reads what `to_json` wrote.

    Raises:
        InputError: a value of another type or out of range, an unknown name, or columns that
            conflict.
    """

    # The bases stand in reverse: a dataclass takes the fields of its last base first.

    def __post_init__(self):
        """Check types, ranges and combinations."""
        for field, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, field, typed(field, getattr(self, field), kind))
        check(self)

    def profiled(self) -> range:
        """Return the steps that `profile` asks for; an empty range where it is None."""
        if self.profile is None:
            return range(0)
        start, colon, stop = self.profile.partition(":")
        if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
            refuse("profile", "must be START:STOP, the first below the second", self.profile)
        return range(int(start), int(stop))

    def interval(self) -> tuple[int, str]:
        """Return `backup_every`: `500` as `(500, "steps")`; `90s`, `10m` and `2h` as seconds."""
        units = {"s": 1, "m": 60, "h": 3600}
        every = self.backup_every
        number, unit = (every[:-1], every[-1:]) if every[-1:] in units else (every, "")
        if not number.isdecimal() or int(number) == 0:
            refuse("backup_every", "must be steps (500) or a time (90s, 10m, 2h)", every)
        return (int(number) * units[unit], "seconds") if unit else (int(number), "steps")

    def examples(self) -> int | None:
        """Return the number of training images; None where the data set is not one of KNOWN."""
        if self.dataset not in KNOWN:
            return None
        examples = KNOWN[self.dataset][0]
        if self.folds and self.fold:
            low, high = (round(examples * p / 100) for p in _percents(self.folds, self.fold))
            return examples - (high - low)
        return examples - round(self.holdout * examples if self.holdout < 1 else self.holdout)

    def steps_per_epoch(self, examples: int) -> int:
        """Return the steps of an epoch; the last batch is filled up, never dropped.

        Args:
            examples: number of training images.
        """
        return math.ceil(examples / self.batch_size)

    def total_steps(self, examples: int) -> int:
        """Return the steps of the whole training.

        Args:
            examples: number of training images.
        """
        return self.steps or self.epochs * self.steps_per_epoch(examples)

    def learning_rate_at(self, step: int, *, steps_per_epoch: int | None = None) -> float:
        """Return the learning rate of a training step, as OpenMMLab's mmengine computes it.

        Args:
            step: number of the step, from 0; after the last, the learning rate is that of the last.
            steps_per_epoch: needed where the size of the data set is not known (see KNOWN).

        Raises:
            InputError: the number of steps in an epoch is neither known nor given.
        """
        examples = self.examples()
        if steps_per_epoch is None and examples is not None:
            steps_per_epoch = self.steps_per_epoch(examples)
        unit = 1 if self.steps else steps_per_epoch
        if not unit:
            raise InputError(
                "`learning_rate_at` needs `steps_per_epoch` for a data set of unknown size. "
                f"Received: dataset={self.dataset!r}"
            )
        return learning_rate_at(self, step, unit)

    def then(self, examples: int) -> Self:
        """Return the recipe of `then_epochs`: the whole network, along the same curve.

        Milestones, warm-up and the lowest learning rate are scaled with the length and the peak.

        Args:
            examples: number of training images.
        """
        epochs = self.then_epochs
        rate = self.then_learning_rate or self.learning_rate / 10
        share = epochs * self.steps_per_epoch(examples) / self.total_steps(examples)
        warmup = self.warmup_epochs * share
        if self.schedule_unit == "epoch" or self.warmup_curve == "stairs":
            warmup = round(warmup)
        return dataclasses.replace(
            self,
            freeze=-1,
            adapt_last_norm=False,
            views=1,
            then_epochs=0,
            then_learning_rate=None,
            epochs=epochs,
            steps=None if self.steps is None else epochs * self.steps_per_epoch(examples),
            learning_rate=rate,
            min_learning_rate=self.min_learning_rate * rate / self.learning_rate,
            milestones=tuple(sorted({max(1, round(n * share)) for n in self.milestones})),
            warmup_epochs=warmup,
            warmup_steps=round(self.warmup_steps * share),
            profile=None,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared in evaluation."""
        return Preprocessing(
            (self.eval_size, self.eval_size),
            self.eval_resize,
            self.interpolation,
            self.antialias,
            self.mean,
            self.std,
        )

    @property
    def chooses_epoch(self) -> bool:
        """Whether validation images decide which epoch is kept, or when the training ends."""
        return self.keep == "best" or self.patience is not None

    @property
    def splits(self) -> "Splits":
        """The names of the splits of the training."""
        return splits(self.to_json())

    def parse(self, docstring: str | None = None) -> Self:
        """Return this recipe with the changes that the command line asks for.

        From here on, an InputError ends the program with one line and exit code 2.

        Args:
            docstring: of the recipe file; `--help` begins with it.

        Returns:
            The changed recipe; its `run_dir` is `runs/` and the name of the recipe file unless
            given.
        """
        try:
            from resnet_keras.recipe.command import parse  # only a command line needs its libraries
        except ModuleNotFoundError as missing:  # of `pip install resnet-keras` without extras
            if missing.name != "tyro":
                raise
            exit_with_one_line()
            raise InputError(
                "recipes need more packages: pip install 'resnet-keras[train]'. "
                f"Received: {missing}"
            ) from None

        return parse(self, docstring)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them: paths as strings, tuples as lists."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in fields.items()
        }

    def identity(self) -> dict[str, Any]:
        """Return the fields that the result depends on, as JSON can hold them."""
        return {
            name: value
            for name, value in self.to_json().items()
            if columns()[name].resume != "free"
        }

    def conflict(self, earlier: dict[str, Any]) -> str | None:
        """Return the first field that keeps this recipe from resuming a run of another.

        Args:
            earlier: the recipe of the run, as `to_json` gave it; a missing field has its default.

        Returns:
            The name of the field. None: the run can be resumed.

        Raises:
            InputError: `earlier` has a field that recipes do not have.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for field, value in earlier.items():
            if field not in defaults:
                raise InputError(
                    f"its recipe has the unknown field `{field}`, of another version (runs of "
                    "version 0.1.0 cannot be resumed). Choose another --run-dir. "
                    f"Received: {field}={value!r}"
                )
        known = columns()
        for field, mine in self.identity().items():
            theirs = earlier.get(field, defaults[field])
            theirs = list(theirs) if isinstance(theirs, tuple) else theirs
            if known[field].resume == "settled" and defaults[field] in (mine, theirs):
                continue
            if mine != theirs and not (field in ("epochs", "steps") and self._longer(mine, theirs)):
                return field
        return None

    def _longer(self, mine: Any, theirs: Any) -> bool:
        """Whether a training only becomes longer, and its learning rates so far do not change."""
        if self.then_epochs:
            return False  # what came behind these epochs would be lost
        known = isinstance(mine, int) and isinstance(theirs, int)
        return known and mine > theirs and self.schedule in ("constant", "step")


class Splits(NamedTuple):
    """The names of the splits of a training.

    Attributes:
        train: to train on.
        validation: to validate on after each epoch; None: the test images, or the validation
            images of one's own where there are some.
        test: to test on at the end.
    """

    train: str
    validation: str | None
    test: str


def splits(recipe: Mapping[str, Any]) -> Splits:
    """Name the splits of a training.

    Images that are held out are for validation where the data set is one's own. Of others they are
    the last training images, and are tested on, unless they decide which epoch is kept.

    Args:
        recipe: the columns of a `Recipe`; those that are missing have their defaults.
    """
    fold, folds, holdout = recipe.get("fold"), recipe.get("folds"), recipe.get("holdout")
    if local_path(recipe.get("dataset", "")) is not None:
        return Splits("train", None, f"fold {fold}/{folds}" if fold else "test")
    if fold and folds:
        low, high = _percents(folds, fold)
        others = (f"train[:{low}%]" if low else "", f"train[{high}%:]" if high < 100 else "")
        return Splits("+".join(filter(None, others)), None, f"train[{low}%:{high}%]")
    if not holdout:
        return Splits("train", None, "test")
    cut = f"{100 - round(100 * holdout)}%" if holdout < 1 else f"-{int(holdout)}"
    first, last = f"train[:{cut}]", f"train[{cut}:]"
    chooses_epoch = recipe.get("keep") == "best" or recipe.get("patience") is not None
    return Splits(first, last, "test") if chooses_epoch else Splits(first, None, last)


def _percents(folds: int, fold: int) -> tuple[int, int]:
    """Where a fold begins and ends, in per cent of the training images."""
    return round(100 * (fold - 1) / folds), round(100 * fold / folds)


def images_of(split: str) -> str:
    """Return what to call the images of a split, by its name or by what `splits` calls it."""
    if split == "val":
        return "validation images"
    if split.startswith("fold "):
        return f"images of {split}"
    return "test images" if split == "test" else "held-out images"
