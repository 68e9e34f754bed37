"""A recipe: the columns of a paper's training table, and the command line made from them."""

import contextlib
import dataclasses
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import tyro

from resnet_keras.terminal import InputError, exit_with_one_line

# Training pictures, classes and channels of the data sets that have recipes, so that a recipe can
# be read without its data (https://www.tensorflow.org/datasets/catalog).
KNOWN = {
    "digits": (1437, 10, 1),
    "fashion_mnist": (60_000, 10, 1),
    "cifar10": (50_000, 10, 3),
    "cifar100": (50_000, 100, 3),
    "imagenet2012": (1_281_167, 1000, 3),
}

# What does not change the result, and so may differ when a run is resumed.
_FREE_ON_RESUME = ("data_dir", "run_dir", "backup_every", "verbose", "dry_run")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network was trained. Raises InputError where a value cannot be."""

    model: str
    """Network: a name in SPECS."""
    dataset: str
    """A TFDS name or `digits`."""
    weights: Path | None = None
    """Checkpoint to start from."""

    train_size: int = 224
    """Height and width of the training pictures."""
    min_area: float | None = None
    """Random resized crop: smallest share of the area; none: no such crop."""
    padding: int = 0
    """Random crop after so many rows and columns of zeros on each side."""
    flip: bool = False
    """Random horizontal flip."""
    rotate: float = 0.0
    """Random rotation by up to so many degrees."""
    scale: float = 0.0
    """Random scaling of each axis by a factor within so much of 1."""
    shear: float = 0.0
    """Random shear by up to this share of the height."""
    eval_resize: int | None = None
    """Evaluation: the short edge becomes this; none: pictures as they are."""
    eval_size: int = 224
    """Evaluation: height and width of the centre crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pictures are resized."""
    antialias: bool = False
    """Resize as Pillow does (true) or as OpenCV does (false)."""
    mean: tuple[float, ...] | None = None
    """Mean of the pixels, 0-255, per channel; none: the network's default."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the pixels, likewise."""

    optimizer: Literal["sgd"] = "sgd"
    """How gradients become steps."""
    momentum: float = 0.9
    """Momentum, in [0, 1)."""
    nesterov: bool = False
    """Nesterov's momentum."""
    batch_size: int = 256
    """Pictures in a step, over all replicas."""
    learning_rate: float = 0.1
    """Highest learning rate."""
    weight_decay: float = 0.0
    """L2 penalty in the gradient of every parameter, norms and biases too."""
    epochs: int = 100
    """Passes over the training pictures."""
    schedule: Literal["constant", "step", "cosine"] = "step"
    """How the rate falls: never; by `drop` at each milestone; as a half cosine, each step."""
    milestones: tuple[int, ...] = ()
    """Epochs at which the rate falls."""
    drop: float = 0.1
    """What the rate is multiplied with at a milestone."""
    warmup_epochs: float = 0.0
    """The rate first grows linearly for so many epochs, each step."""
    sync_batch_norm: bool = False
    """Batch-norm statistics over all replicas, rather than over each one's own pictures."""

    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Type of the convolutions. auto: half where the machine is faster with it."""
    replicas: int | None = None
    """Accelerators to use; none: all. On a CPU-only machine, virtual devices: a rehearsal."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    deterministic: bool = False
    """The same command gives the same weights, bit for bit."""
    data_dir: Path | None = None
    """Where prepared data sets lie; none: ~/tensorflow_datasets."""
    run_dir: Path | None = None
    """What the run writes; none: runs/<recipe>."""
    backup_every: str = "10m"
    """Time (90s, 10m, 2h) or steps (500) between backups."""
    verbose: bool = True
    """Show the progress bar."""
    dry_run: bool = False
    """Print the resolved recipe as JSON, touch no data, end."""

    def __post_init__(self):
        """Check the ranges."""
        positive = ("train_size", "eval_size", "batch_size", "epochs", "learning_rate", "drop")
        for field in (*positive, "eval_resize", "replicas"):
            value = getattr(self, field)
            if value is not None and not (0 < value < math.inf):
                _refuse(field, "must be above 0", value)
        for field in (
            "padding",
            "rotate",
            "scale",
            "shear",
            "weight_decay",
            "warmup_epochs",
            "seed",
        ):
            if not 0 <= getattr(self, field) < math.inf:
                _refuse(field, "must be 0 or more", getattr(self, field))
        if not 0 <= self.momentum < 1:
            _refuse("momentum", "must be in [0, 1)", self.momentum)
        if self.min_area is not None and not 0 < self.min_area <= 1:
            _refuse("min_area", "must be in (0, 1]", self.min_area)
        if (
            list(self.milestones) != sorted(set(self.milestones))
            or min(self.milestones, default=1) < 1
        ):
            _refuse("milestones", "must be growing epochs, from 1 on", self.milestones)
        if self.std is not None and min(self.std, default=0) <= 0:
            _refuse("std", "must be above 0", self.std)
        if self.batch_size % (self.replicas or 1):
            _refuse(
                "batch_size",
                f"must divide by the {self.replicas} replicas; the next that does is "
                f"{math.ceil(self.batch_size / self.replicas) * self.replicas}",
                self.batch_size,
            )

    def steps_per_epoch(self, examples: int) -> int:
        """Steps in one pass over `examples` pictures; the last batch is filled, never dropped."""
        return math.ceil(examples / self.batch_size)

    def rate(self, step: int, *, steps_per_epoch: int | None = None) -> float:
        """The learning rate of a training step.

        Args:
            step: number of the step, from 0.
            steps_per_epoch: needed where the size of the data set is not known (see KNOWN).

        Returns:
            The rate, in Python's own precision.

        Raises:
            InputError: the number of steps in an epoch is neither known nor given.
        """
        if steps_per_epoch is None:
            if self.dataset not in KNOWN:
                raise InputError(
                    "`rate` needs `steps_per_epoch` where the data set's size is not known. "
                    f"Received: dataset={self.dataset!r}"
                )
            steps_per_epoch = self.steps_per_epoch(KNOWN[self.dataset][0])
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        if self.schedule == "step":
            epoch = step // steps_per_epoch
            return self.learning_rate * self.drop ** sum(epoch >= m for m in self.milestones)
        if self.schedule == "cosine":
            share = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))
        return self.learning_rate

    def parse(self, docstring: str | None = None) -> Self:
        """This recipe as the command line changes it. From now on bad input exits with code 2.

        Args:
            docstring: the recipe file's; shown by `--help`.

        Returns:
            The changed recipe, with `run_dir` resolved to `runs/<recipe file>`.
        """
        exit_with_one_line()
        recipe = one_line(lambda: tyro.cli(type(self), default=self, description=docstring))
        if recipe.run_dir is None:
            recipe = dataclasses.replace(recipe, run_dir=Path("runs") / Path(sys.argv[0]).stem)
        return recipe

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


def one_line(parse: Callable[[], Any]) -> Any:
    """Call a parser of tyro's; what is wrong with the arguments is one line, as an InputError."""
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            return parse()
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│╭╰╮╯─ ") for line in screen.getvalue().splitlines()]
        message = " ".join(line for line in lines[1:4] if line)
        raise InputError(f"{message.rstrip('.')}. See --help.") from None


def _refuse(field: str, rule: str, value) -> None:
    raise InputError(f"`{field}` {rule}. Received: {field}={value!r}")
