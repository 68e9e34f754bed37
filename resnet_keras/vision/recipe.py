"""The columns of the recipes that train on scenes of digits; a task adds its own."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from resnet_keras.recipe import Row, columns
from resnet_keras.recipe.checks import interval, refuse
from resnet_keras.recipe.columns import column
from resnet_keras.specs import SPECS


class Deformation(NamedTuple):
    """How far each digit may be deformed about the middle of its image.

    Attributes:
        rotate: the angle is uniform in -rotate..rotate, in degrees.
        scale: the factor is uniform in 1 - scale..1 + scale, drawn for each axis.
        shear: columns move by a share of their height, uniform in -shear..shear.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0


UNCHANGED = Deformation()


def _as_in_recipes(name: str, default: Any) -> Any:
    """Return a field for a column of `Recipe`: its help and its range are the same here."""
    return dataclasses.field(default=default, metadata={"column": columns()[name]})


def _of_digits(name: str) -> Any:
    """Return a field for a column of `Recipe` that here is about each digit of training scenes."""
    its = columns()[name]
    help_ = f"Of each digit in training scenes: {its.help[0].lower()}{its.help[1:]}"
    return dataclasses.field(default=0.0, metadata={"column": dataclasses.replace(its, help=help_)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """The backbone and its initial weights."""

    model: str = _as_in_recipes("model", "resnet18")
    crops: int = column(
        "First train the network to classify this many crops, one digit each. 0: random weights.",
        2400, at_least=0,
    )  # fmt: skip
    crop_epochs: int = column("Passes over these crops.", 6, above=0)
    crop_margins: tuple[float, ...] = column(
        "Crops are wider than their digit by a factor from this range, drawn on a log scale.",
        (1.3, 1.3), at_least=1,
    )  # fmt: skip
    freeze: int = column(
        "Do not train the first layers. 0: the stem; 1 to 4: the stem and that many stages; "
        "-1: train everything.",
        0, at_least=-1, at_most=4,
    )  # fmt: skip
    norm_eval: bool = column("Keep the batch-norm statistics that the backbone begins with.", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW, and its learning rate: a linear warm-up, then half a cosine."""

    batch_size: int = column("Scenes per step.", 16, above=0)
    learning_rate: float = _as_in_recipes("learning_rate", 1e-3)
    weight_decay: float = column("Weight decay of AdamW, of kernels alone.", 0.0, at_least=0)
    clip_norm: float | None = _as_in_recipes("clip_norm", None)
    warmup_steps: int = column("Warm-up: number of steps.", 0, at_least=0)
    epochs: int = column("Rows of the log. No scene comes twice.", 10, above=0)
    epoch_scenes: int = column("Training scenes in an epoch.", 512, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Scenes, machine and output."""

    size: int = column("Height and width of a scene, in pixels.", 128, at_least=64, at_most=4096)
    rotate: float = _of_digits("rotate")
    scale: float = _of_digits("scale")
    shear: float = _of_digits("shear")
    test_scenes: int = column("Number of scenes to test on at the end.", 200, above=0)
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = _as_in_recipes(
        "precision", "auto"
    )
    seed: int = column("Random seed for weights and training scenes.", 0, at_least=0, below=2**32)
    deterministic: bool = _as_in_recipes("deterministic", False)
    run_dir: Path | None = _as_in_recipes("run_dir", None)
    backup_every: str = _as_in_recipes("backup_every", "10m")
    verbose: bool = _as_in_recipes("verbose", True)
    dry_run: bool = column("Print the recipe as JSON and exit.", False, resume="free")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneRecipe(Row, Run, Optimization, Backbone):
    """Everything that decides how a network is trained on scenes; a subclass for each task.

    Attributes:
        TASK: its name, by which run folders of different tasks differ.
        MEASURE: what the field calls the measure that networks of the task are judged by.

    Raises:
        InputError: a value of another type or out of range, or columns that conflict.
    """

    # A subclass that has columns of its own puts their group in front.
    GROUPS: ClassVar[tuple[type, ...]] = (Backbone, Optimization, Run)
    TASK: ClassVar[str] = ""
    MEASURE: ClassVar[str] = ""

    def __post_init__(self):
        """Check types, ranges and combinations."""
        super().__post_init__()
        interval(self.backup_every)
        if len(self.crop_margins) != 2 or self.crop_margins[0] > self.crop_margins[1]:
            refuse("crop_margins", "must be two factors, the smaller one first", self.crop_margins)
        stages = len(SPECS[self.model].depths)
        if self.freeze > stages:
            refuse("freeze", f"must be in [-1, {stages}] with {self.model}", self.freeze)
        if self.size % 32:
            refuse("size", "must be a multiple of 32, the stride of the last stage", self.size)
        if self.warmup_steps > self.total_steps:
            refuse("warmup_steps", "must not be above the number of steps", self.warmup_steps)

    @property
    def deformation(self) -> Deformation:
        """Of the digits in training scenes."""
        return Deformation(self.rotate, self.scale, self.shear)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, whose last batch is whole."""
        return math.ceil(self.epoch_scenes / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step: it rises in equal steps, then falls to nearly 0.

        Args:
            step: number of the step, from 0.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done, all_ = step - self.warmup_steps, self.total_steps - self.warmup_steps
        return self.learning_rate * (1 + math.cos(math.pi * done / all_)) / 2

    def resolved(self) -> dict[str, Any]:
        """Return what `--dry-run` prints: the columns, `steps_per_epoch`, `total_steps`."""
        steps = {"steps_per_epoch": self.steps_per_epoch, "total_steps": self.total_steps}
        return self.to_json() | steps

    def to_json(self) -> dict[str, Any]:
        """Return `task`, and the fields as JSON can hold them."""
        return {"task": self.TASK} | super().to_json()

    def conflict(self, earlier: dict[str, Any]) -> str | None:
        """Return the first field that keeps this recipe from resuming a run of another one.

        Args:
            earlier: the recipe of the run, as `to_json` gave it.

        Returns:
            The name of the field, or "task". None: the run can be resumed.

        Raises:
            InputError: `earlier` has a field that recipes of this task do not have.
        """
        if earlier.get("task") != self.TASK:
            return "task"
        return super().conflict({k: v for k, v in earlier.items() if k != "task"})
