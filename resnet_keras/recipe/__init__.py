"""A recipe: the columns of a paper's training table."""

import dataclasses
import inspect
import math
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from resnet_keras.errors import InputError
from resnet_keras.files import local_path
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation, Network, Optimization, Run
from resnet_keras.recipe.command import parse
from resnet_keras.recipe.schedule import learning_rate_at

# Training images, classes and channels of the data sets that have recipes, so that a recipe can
# be read without its data (https://www.tensorflow.org/datasets/catalog).
KNOWN = {
    "digits": (1437, 10, 1),
    "fashion_mnist": (60_000, 10, 1),
    "cifar10": (50_000, 10, 3),
    "cifar100": (50_000, 100, 3),
    "imagenet2012": (1_281_167, 1000, 3),
}

# What does not change the result, and so may differ when a run is resumed.
_FREE_ON_RESUME = (
    "data_dir", "run_dir", "backup_every", "logger", "profile", "verbose", "dry_run",
)  # fmt: skip

# What the machine settles where it has its default; `train` keeps what that was, and compares it.
_SETTLED = ("precision", "replicas")

# Ranges of the numbers; none is allowed where it is the default.
_ABOVE_0 = (
    "train_size", "eval_size", "eval_resize", "repeats", "batch_size", "accumulate",
    "learning_rate", "clip_norm", "epochs", "steps", "milestone_factor", "power", "loss_scale",
    "replicas",
)  # fmt: skip
_FROM_0 = (
    "padding", "rotate", "scale", "shear", "color_jitter", "rand_ops", "rand_std", "mixup",
    "cutmix", "holdout", "epsilon", "weight_decay", "min_learning_rate", "warmup_epochs",
    "warmup_steps", "seed",
)  # fmt: skip
_BELOW_1 = ("drop_path", "momentum", "beta_1", "beta_2", "label_smoothing", "ema")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Run, Optimization, Augmentation, Network):
    """How a network was trained. Raises InputError where a value cannot be.

    The groups stand in the order that makes `Network` the first: a dataclass has the fields of its
    last base before the others'.
    """

    def __post_init__(self):
        """Check types and ranges; where a path or a tuple is due, a text or a list becomes one."""
        for field, kind in get_type_hints(type(self)).items():
            value = _converted(getattr(self, field), kind)
            if not _fits(value, kind):
                name = inspect.formatannotation(kind)
                _refuse(field, f"must be {name}{', finite' if 'float' in name else ''}", value)
            object.__setattr__(self, field, value)
        self._check_ranges()
        if self.profile is not None:
            self.profiled()
        self.interval()
        self._check_schedule()
        if self.holdout and local_path(self.dataset) is not None:
            _refuse("holdout", "must be 0 for a folder, which keeps its own test", self.holdout)
        if self.dataset in KNOWN and self.examples() < 1:
            _refuse("holdout", f"must be below {KNOWN[self.dataset][0]}", self.holdout)

    def _check_ranges(self):
        """Refuse numbers that cannot be."""
        for field in _ABOVE_0:
            value = getattr(self, field)
            if value is not None and not (0 < value < math.inf):
                _refuse(field, "must be above 0", value)
        for field in _FROM_0:
            if not 0 <= getattr(self, field) < math.inf:
                _refuse(field, "must be 0 or more", getattr(self, field))
        for field in _BELOW_1:
            if not 0 <= getattr(self, field) < 1:
                _refuse(field, "must be in [0, 1)", getattr(self, field))
        if self.min_area is not None and not 0 < self.min_area <= 1:
            _refuse("min_area", "must be in (0, 1]", self.min_area)
        if not 0 <= self.erasing <= 1:
            _refuse("erasing", "must be in [0, 1]", self.erasing)
        if not 0 <= self.rand_magnitude <= 10:
            _refuse("rand_magnitude", "must be in [0, 10]", self.rand_magnitude)
        if self.seed >= 2**32:  # NumPy's takes no more
            _refuse("seed", "must be below 2**32", self.seed)
        if self.freeze not in range(-1, 5):
            _refuse("freeze", "must be in -1..4", self.freeze)
        if self.mean is not None and not self.mean:
            _refuse("mean", "must be a number for each channel", self.mean)
        if self.std is not None and min(self.std, default=0) <= 0:
            _refuse("std", "must be above 0", self.std)
        parts = (self.replicas or 1) * self.accumulate
        if self.batch_size % parts:
            _refuse(
                "batch_size",
                f"must divide by replicas x accumulate = {parts}; the next that does is "
                f"{math.ceil(self.batch_size / parts) * parts}",
                self.batch_size,
            )

    def _check_schedule(self):
        """Refuse curves that contradict themselves."""
        if (
            list(self.milestones) != sorted(set(self.milestones))
            or min(self.milestones, default=1) < 1
        ):
            _refuse("milestones", "must be growing, from 1 on", self.milestones)
        if self.min_learning_rate > self.learning_rate:
            _refuse(
                "min_learning_rate", "must not be above `learning_rate`", self.min_learning_rate
            )
        if self.warmup_start is not None and not 0 <= self.warmup_start <= 1:
            _refuse("warmup_start", "must be in [0, 1]", self.warmup_start)
        if self.warmup_epochs and (self.warmup_steps or self.steps):
            _refuse("warmup_epochs", "must be 0 where steps are counted", self.warmup_epochs)
        by_epoch = (
            (self.schedule_unit == "epoch", "schedule_unit"),
            (self.warmup_curve == "stairs", "warmup_curve"),
        )
        for asked, field in by_epoch:
            if asked and (self.steps or self.warmup_steps or self.warmup_epochs % 1):
                _refuse(
                    field, "must not go by epochs where steps are counted", getattr(self, field)
                )

    def profiled(self) -> range:
        """The steps that `profile` asks for; none where it is none."""
        if self.profile is None:
            return range(0)
        start, colon, stop = self.profile.partition(":")
        if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
            _refuse("profile", "must be START:STOP, two growing steps", self.profile)
        return range(int(start), int(stop))

    def interval(self) -> tuple[int, str]:
        """`backup_every`: `500` as `(500, "steps")`; `90s`, `10m` and `2h` as seconds."""
        units = {"s": 1, "m": 60, "h": 3600}
        every = self.backup_every
        number, unit = (every[:-1], every[-1:]) if every[-1:] in units else (every, "")
        if not number.isdecimal() or int(number) == 0:
            _refuse("backup_every", "must be steps (500) or a time (90s, 10m, 2h)", every)
        return (int(number) * units[unit], "seconds") if unit else (int(number), "steps")

    def examples(self) -> int | None:
        """Training images; None where the data set is not one of KNOWN."""
        return KNOWN[self.dataset][0] - self.holdout if self.dataset in KNOWN else None

    def steps_per_epoch(self, examples: int) -> int:
        """Steps in one pass over `examples` images; the last batch is filled, never dropped."""
        return math.ceil(examples / self.batch_size)

    def total_steps(self, examples: int) -> int:
        """Steps of the whole training on `examples` images."""
        return self.steps or self.epochs * self.steps_per_epoch(examples)

    def learning_rate_at(self, step: int, *, steps_per_epoch: int | None = None) -> float:
        """The learning rate of a training step, as OpenMMLab's mmengine computes it.

        Args:
            step: number of the step, from 0; behind the last, the rate is the last one's.
            steps_per_epoch: needed where the size of the data set is not known (see KNOWN).

        Returns:
            The rate, in Python's own precision.

        Raises:
            InputError: the number of steps in an epoch is neither known nor given.
        """
        if not (self.steps or steps_per_epoch or self.examples()):
            raise InputError(
                "`learning_rate_at` needs `steps_per_epoch` for a data set of unknown size. "
                f"Received: dataset={self.dataset!r}"
            )
        unit = 1 if self.steps else steps_per_epoch or self.steps_per_epoch(self.examples())
        return learning_rate_at(self, step, unit)

    @property
    def preprocessing(self) -> Preprocessing:
        """How evaluation prepares an image."""
        return Preprocessing(
            (self.eval_size, self.eval_size),
            self.eval_resize,
            self.interpolation,
            self.antialias,
            self.mean,
            self.std,
        )

    def parse(self, docstring: str | None = None) -> Self:
        """This recipe as the command line changes it. From now on bad input exits with code 2.

        Args:
            docstring: the recipe file's; shown by `--help`.

        Returns:
            The changed recipe, with `run_dir` resolved to `runs/<recipe file>`.
        """
        return parse(self, docstring)

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in fields.items()
        }

    def identity(self) -> dict[str, Any]:
        """The fields that the result depends on: what a run folder is told apart by."""
        return {k: v for k, v in self.to_json().items() if k not in _FREE_ON_RESUME}

    def conflict(self, earlier: dict[str, Any]) -> str | None:
        """Name the first field because of which this recipe cannot go on with another's run.

        Args:
            earlier: the other recipe, as `to_json` gave it; a field that it lacks has its default.

        Returns:
            The field. None: go on; all that is new does not change what is past.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for field, mine in self.identity().items():
            theirs = earlier.get(field, defaults[field])
            theirs = list(theirs) if isinstance(theirs, tuple) else theirs
            if field in _SETTLED and defaults[field] in (mine, theirs):
                continue
            if mine != theirs and not (field in ("epochs", "steps") and self._longer(mine, theirs)):
                return field
        return None

    def _longer(self, mine: int | None, theirs: int | None) -> bool:
        """Whether a training only goes on longer: its past rates do not depend on its end."""
        known = isinstance(mine, int) and isinstance(theirs, int)
        return known and mine > theirs and self.schedule in ("constant", "step")


def splits(holdout: int | None) -> tuple[str, str]:
    """What is trained on and what is tested, as TFDS writes splits, where so many are held out."""
    return (f"train[:-{holdout}]", f"train[-{holdout}:]") if holdout else ("train", "test")


def tested(holdout: int | None) -> str:
    """What the images are called that a network is tested on."""
    return "held-out images" if holdout else "test images"


def _converted(value, kind):
    """A text as the path, a list as the tuple that an annotation names; JSON has neither."""
    kinds = (kind, *get_args(kind))
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _fits(value, kind) -> bool:
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


def _refuse(field: str, rule: str, value) -> None:
    raise InputError(f"`{field}` {rule}. Received: {field}={value!r}")
