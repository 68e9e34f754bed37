"""The columns of a recipe, in four groups.

A new column is one line here: its type, default, sentence for `--help`, range, and whether it may
change when a run is resumed.
"""

import dataclasses
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.specs import SPECS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """What is known about a column besides its name, type and default.

    If a value is a tuple, the bounds hold for each of its numbers. None is within bounds wherever
    the type allows it.

    Attributes:
        help: a sentence for `--help`.
        above: exclusive lower bound.
        at_least: inclusive lower bound.
        below: exclusive upper bound.
        at_most: inclusive upper bound.
        choices: a table whose keys are the possible values.
        only: another column, and the values of it with which this column has an effect; with any
            other value, this column must keep its default.
        needs: another column, which must be set (neither None nor 0) unless this one keeps its
            default.
        random: whether it changes each image at random.
        resume: "same": must not change when a run is resumed. "free": may change, because the
            result does not depend on it. "settled": as "same"; but by default the machine settles
            the value, and training compares the settled values.
        metavar: placeholder for the value in `--help`; None: derived from the type.
    """

    help: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: Mapping[Any, Any] | None = None
    only: tuple[str, Container[str]] | None = None
    needs: str | None = None
    random: bool = False
    resume: Literal["same", "free", "settled"] = "same"
    metavar: str | None = None

    def broken_rule(self, value: Any) -> str | None:
        """Return the rule that a value breaks, such as "above 0"; None if it breaks none."""
        if self.choices is not None and value not in (None, *self.choices):
            return f"one of {', '.join(map(str, self.choices))}"
        numbers = value if isinstance(value, tuple) else (value,)
        if all(self._within(number) for number in numbers if number is not None):
            return None
        low, high = _first(self.above, self.at_least), _first(self.below, self.at_most)
        if low is not None and high is not None:
            left, right = "[("[self.above is not None], "])"[self.below is not None]
            return f"in {left}{low}, {high}{right}"
        return f"above {low}" if self.above is not None else f"{low} or more"

    def _within(self, number: float) -> bool:
        """Whether a number is within the bounds."""
        return (
            (self.above is None or number > self.above)
            and (self.at_least is None or number >= self.at_least)
            and (self.below is None or number < self.below)
            and (self.at_most is None or number <= self.at_most)
        )


def _first(*bounds: float | None) -> float | None:
    """The first bound that is given."""
    return next((bound for bound in bounds if bound is not None), None)


def column(help: str, default: Any = dataclasses.MISSING, **rules: Any) -> Any:
    """Return a dataclass field that is a column; without a default, it must be given.

    Args:
        help: a sentence for `--help`.
        default: the value where none is given.
        **rules: the other attributes of `Column`.
    """
    return dataclasses.field(default=default, metadata={"column": Column(help=help, **rules)})


# Augmentation policies that `augmentations.POLICIES` has, and whose they are.
POLICIES = {
    "trivial_augment_wide": "Mueller & Hutter 2021",
    "auto_augment": "Cubuk et al. 2018, found on ImageNet",
}

STEP = ("schedule", ("step",))
CURVES = ("schedule", ("cosine", "poly"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The network and its initial weights."""

    model: str = column(
        "Network, such as resnet50, resnetv1d50 or resnet20_cifar; README.md lists them all.",
        choices=SPECS, metavar="NAME",
    )  # fmt: skip
    weights: str | None = column(
        "Weights to start from: a file, hf://ORG/REPO, or a published name such as imagenet.",
        None, metavar="SOURCE",
    )  # fmt: skip
    skip_head: bool = column("Replace the last layer of --weights with a new one.", False)
    freeze: int = column(
        "Do not train the first layers. 0: the stem; 1 to 4: the stem and that many stages; "
        "-1: train everything.",
        -1, at_least=-1, at_most=4, needs="weights",
    )  # fmt: skip
    norm_eval: bool = column("Keep the batch-norm statistics of --weights.", False, needs="weights")
    adapt_last_norm: bool = column(
        "With all stages frozen: let the statistics of the last batch norm follow the images.",
        False,
    )
    quantize: bool = column(
        "Fine-tune --weights for int8: fold batch norm and round as the exported file will.",
        False, needs="weights",
    )  # fmt: skip
    drop_path: float = column(
        "Stochastic depth: probability of dropping the last block, rising linearly from 0 at the "
        "first.",
        0.0, at_least=0, below=1,
    )  # fmt: skip
    sync_batch_norm: bool = column(
        "Compute batch-norm statistics over all replicas, not over each one separately.", False
    )
    mean: tuple[float, ...] | None = column(
        "Mean of the pixels (0-255) of each channel. None: the network's default.", None
    )
    std: tuple[float, ...] | None = column(
        "Standard deviation of the pixels of each channel. None: the network's default.",
        None, above=0,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are prepared."""

    train_size: int = column("Height and width of the training images.", 224, above=0)
    train_resize: int | None = column(
        "Resize the short edge to this and crop the centre, as evaluation does. None: no such "
        "crop.",
        None, above=0, only=("min_area", (None,)),
    )  # fmt: skip
    min_area: float | None = column(
        "Random resized crop: smallest fraction of the image's area. None: no such crop.",
        None, above=0, at_most=1, random=True,
    )  # fmt: skip
    padding: int = column(
        "Pad each side with this many zero pixels, then crop at random.", 0, at_least=0, random=True
    )
    flip: bool = column("Flip horizontally at random.", False, random=True)
    rotate: float = column(
        "Rotate at random by up to this many degrees.", 0.0, at_least=0, random=True
    )
    scale: float = column(
        "Scale each axis by a random factor between 1 - SCALE and 1 + SCALE.",
        0.0, at_least=0, random=True,
    )  # fmt: skip
    shear: float = column(
        "Shear at random by up to this fraction of the height.", 0.0, at_least=0, random=True
    )
    color_jitter: float = column(
        "Change brightness, contrast and saturation by random factors between 1 - JITTER and "
        "1 + JITTER.",
        0.0, at_least=0, random=True,
    )  # fmt: skip
    policy: str | None = column(
        "Augmentation policy, other than RandAugment. None: off.",
        None, choices=POLICIES, random=True,
    )  # fmt: skip
    rand_ops: int = column(
        "RandAugment: operations per image. 0: off.",
        0, at_least=0, only=("policy", (None,)), random=True,
    )  # fmt: skip
    rand_magnitude: float = column(
        "RandAugment: mean strength, 0 to 10.", 7.0, at_least=0, at_most=10
    )
    rand_std: float = column("RandAugment: standard deviation of the strength.", 0.5, at_least=0)
    erasing: float = column(
        "Random erasing: probability of filling a random box.",
        0.0, at_least=0, at_most=1, random=True,
    )  # fmt: skip
    erasing_fill: Literal["noise", "normal", "mean"] = column(
        "Random erasing: fill with uniform noise, normal noise (timm) or the mean (torchvision).",
        "noise", needs="erasing",
    )  # fmt: skip
    mixup: float = column(
        "Mixup: alpha of its Beta distribution. 0: off. With --cutmix, each is applied to half of "
        "the batches.",
        0.0, at_least=0,
    )  # fmt: skip
    cutmix: float = column("CutMix: alpha of its Beta distribution. 0: off.", 0.0, at_least=0)
    repeats: int = column(
        "Repeated augmentation: copies of each image in a batch, augmented independently.",
        1, above=0,
    )  # fmt: skip
    views: int = column(
        "All stages frozen: augmentations of each image whose features are computed, once. 1: "
        "none; 0: new ones each epoch.",
        1, at_least=0,
    )  # fmt: skip
    sampling: Literal["all", "balanced"] = column(
        "Which images a batch has: all in turn, or as many of each class.", "all"
    )
    interpolation: Literal["bilinear", "bicubic"] = column(
        "Interpolation for resizing, also in evaluation.", "bilinear"
    )
    antialias: bool = column(
        "Resize with antialiasing, as Pillow does, or without, as OpenCV does; also in evaluation.",
        False,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Loss, optimizer and learning rate."""

    loss: Literal["softmax", "sigmoid"] = column(
        "Cross-entropy of a softmax, or of a sigmoid for each class: so with several labels.",
        "softmax",
    )
    label_smoothing: float = column(
        "Label smoothing: fraction of each target spread evenly over all classes, or moved to 1/2.",
        0.0, at_least=0, below=1,
    )  # fmt: skip
    class_weights: Literal["none", "balanced"] = column(
        "Loss: weigh each image by 1 / the number of images of its class; see docs/images.md.",
        "none",
    )  # fmt: skip
    teacher: str | None = column(
        "Distillation: a .keras file, whose predictions the network learns, too. None: off.",
        None, metavar="MODEL_FILE",
    )  # fmt: skip
    teacher_weight: float = column(
        "Distillation: share of the loss that compares with the teacher; the rest is --loss.",
        0.9, above=0, at_most=1, needs="teacher",
    )  # fmt: skip
    temperature: float = column(
        "Distillation: divide the logits of both networks by this.", 4.0, above=0, needs="teacher"
    )
    optimizer: str = column("Optimizer.", "sgd", choices=OPTIMIZERS)
    momentum: float = column("momentum.", 0.9, at_least=0, below=1)
    nesterov: bool = column("Nesterov momentum.", False, needs="momentum")
    beta_1: float = column("decay of the running mean of gradients.", 0.9, at_least=0, below=1)
    beta_2: float = column(
        "decay of the running mean of squared gradients.", 0.999, at_least=0, below=1
    )
    epsilon: float = column(
        "added to the denominator, which is the square root of that mean, or LARS' norms.",
        1e-6, at_least=0,
    )  # fmt: skip
    trust_coefficient: float = column(
        "ratio of a step to its parameter, by their norms, at learning rate 1.", 0.001, above=0
    )
    batch_size: int = column("Images per step, over all replicas.", 256, above=0)
    accumulate: int = column(
        "Gradient accumulation: micro-batches per step. More of them need less memory.", 1, above=0
    )
    learning_rate: float = column("Peak learning rate.", 0.1, above=0)
    weight_decay: float = column(
        "Weight decay. SGD adds it to the gradient, as in PyTorch; others where their papers do.",
        0.0, at_least=0,
    )  # fmt: skip
    exclude: tuple[str, ...] = column(
        "No weight decay for variables whose names contain one of these words, such as bias.",
        (), metavar="[WORD ...]",
    )  # fmt: skip
    clip_norm: float | None = column(
        "Clip the global norm of the gradients to this. None: no clipping.", None, above=0
    )
    epochs: int = column("Passes over the training images.", 100, above=0)
    steps: int | None = column(
        "Number of training steps, instead of --epochs. --milestones then count steps, too.",
        None, above=0,
    )  # fmt: skip
    then_epochs: int = column(
        "With all stages frozen: then train the whole network for this many epochs.",
        0, at_least=0,
    )  # fmt: skip
    then_learning_rate: float | None = column(
        "Peak learning rate of --then-epochs. None: a tenth of --learning-rate.",
        None, above=0, needs="then_epochs",
    )  # fmt: skip
    schedule: Literal["constant", "step", "cosine", "poly"] = column(
        "How the learning rate falls: not at all, at milestones, along half a cosine, or as a "
        "power of the remaining time.",
        "step",
    )
    milestones: tuple[int, ...] = column(
        "Epochs (with --steps: steps) after which the learning rate is lowered.",
        (), at_least=1, only=STEP,
    )  # fmt: skip
    milestone_factor: float = column(
        "Multiply the learning rate by this at each milestone.", 0.1, above=0, only=STEP
    )
    power: float = column(
        "Exponent of the poly schedule. 1: linear.", 1.0, above=0, only=("schedule", ("poly",))
    )
    min_learning_rate: float = column(
        "Learning rate at the end of cosine and poly.", 0.0, at_least=0, only=CURVES
    )
    schedule_unit: Literal["step", "epoch"] = column(
        "Cosine and poly: update the learning rate every step or every epoch.", "step", only=CURVES
    )
    warmup_epochs: float = column(
        "Warm-up: number of epochs in which the learning rate rises.", 0.0, at_least=0
    )
    warmup_steps: int = column(
        "Warm-up: number of steps, instead of --warmup-epochs.", 0, at_least=0
    )
    warmup_curve: Literal["linear", "stairs", "constant"] = column(
        "Warm-up: rise every step, every epoch, or only at the end.", "linear"
    )
    warmup_peak: Literal["last", "after"] = column(
        "Warm-up: which step or epoch has the full learning rate, its last or the one after it.",
        "last", only=("warmup_curve", ("linear", "stairs")),
    )  # fmt: skip
    warmup_start: float | None = column(
        "Warm-up: fraction of the learning rate to start from. None: rise in equal steps from 0.",
        None, at_least=0, at_most=1,
    )  # fmt: skip
    keep: Literal["last", "best"] = column(
        "Epoch whose weights become the model: the last, or that of the highest validation "
        "accuracy.",
        "last",
    )
    patience: int | None = column(
        "Stop after this many epochs without a higher validation accuracy. None: never.",
        None, above=0,
    )  # fmt: skip
    ema: float = column(
        "Decay of the moving average of the weights, which is evaluated and saved. 0: no average.",
        0.0, at_least=0, below=1,
    )  # fmt: skip
    ema_every: int = column(
        "Move the average of the weights only every N steps of an epoch, from its first on.",
        1, above=0, needs="ema", metavar="N",
    )  # fmt: skip
    ema_after_warmup: bool = column(
        "Copy the weights until the warm-up is over, instead of averaging them.",
        False, needs="ema",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Data, evaluation, machine and output."""

    dataset: str = column(
        "Data set: digits, a name in TensorFlow Datasets, or your images, folder:PATH or csv:PATH.",
        metavar="NAME",
    )
    data_dir: Path | None = column(
        "Where prepared data sets are stored. None: ~/tensorflow_datasets.", None, resume="free"
    )
    skip_bad: bool = column("Skip unreadable images and list them, instead of stopping.", False)
    channels: int | None = column(
        "Your own images: read them in grey (1) or in colour (3). None: in colour.",
        None, choices={1: "grey", 3: "colour"},
    )  # fmt: skip
    holdout: float = column(
        "Hold out N training images, or this fraction of them, for validation.",
        0, at_least=0, metavar="N",
    )  # fmt: skip
    folds: int | None = column(
        "Cross-validation: divide the training images into this many folds. See --fold.",
        None, at_least=2, needs="fold", metavar="N",
    )  # fmt: skip
    fold: int | None = column(
        "Cross-validation: test on this fold, 1 to --folds, and train on the others.",
        None, above=0, needs="folds", metavar="K",
    )  # fmt: skip
    eval_resize: int | None = column(
        "Evaluation: resize the short edge to this. None: do not resize.", None, above=0
    )
    eval_size: int = column("Evaluation: height and width of the centre crop.", 224, above=0)
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = column(
        "Precision of the convolutions. auto: half precision where this machine is faster with it.",
        "auto", resume="settled",
    )  # fmt: skip
    loss_scale: float | None = column(
        "Loss scale under mixed_float16. None: dynamic loss scaling.", None, above=0
    )
    replicas: int | None = column(
        "Number of accelerators. None: all. On a machine with CPUs only: virtual devices.",
        None, above=0, resume="settled",
    )  # fmt: skip
    seed: int = column(
        "Random seed for weights, order of images and augmentation.", 0, at_least=0, below=2**32
    )  # NumPy takes no larger one
    deterministic: bool = column("The same command gives the same weights, bit for bit.", False)
    save_memory: bool = column(
        "On a CPU: keep less in memory, for a lower peak and a lower speed.",
        False, resume="free",
    )  # fmt: skip
    run_dir: Path | None = column(
        "Output directory. None: runs/NAME, after the recipe file.", None, resume="free"
    )
    backup_every: str = column(
        "Time (90s, 10m, 2h) or number of steps (500) between backups.",
        "10m", resume="free", metavar="TIME",
    )  # fmt: skip
    logger: Literal["none", "tensorboard", "wandb", "mlflow"] = column(
        "Where to log, besides log.csv.", "tensorboard", resume="free"
    )
    profile: str | None = column(
        "Trace these steps for TensorBoard's profiler, from START up to but not including STOP.",
        None, resume="free", metavar="START:STOP",
    )  # fmt: skip
    verbose: bool = column("Show a progress bar.", True, resume="free")
    dry_run: bool = column(
        "Print the resolved recipe as JSON and exit; read no data.", False, resume="free"
    )


GROUPS: tuple[type, ...] = (Network, Augmentation, Optimization, Run)


def groups(classes: Iterable[type] = GROUPS) -> dict[str, list[str]]:
    """Return the names of the columns by the name of their group, in order."""
    return {group.__name__: list(columns(group)) for group in classes}


def columns(*classes: type) -> dict[str, Column]:
    """Return the columns of groups by name, in order; without arguments, of all groups."""
    fields: Iterable[dataclasses.Field] = (
        field for group in classes or GROUPS for field in dataclasses.fields(group)
    )
    return {field.name: field.metadata["column"] for field in fields}


# Names of the columns that change each image at random.
RANDOM = tuple(name for name, column in columns(Augmentation).items() if column.random)
