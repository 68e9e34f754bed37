"""The columns of a training table, in four groups."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """The network, and what it starts from."""

    model: str
    """Network: a name in SPECS."""
    weights: str | None = None
    """Checkpoint to start from."""
    skip_head: bool = False
    """Start from `weights` with a new last layer."""
    freeze: int = -1
    """Not trained: -1: nothing is; 0: the stem; 1-4: the stem and so many stages."""
    norm_eval: bool = False
    """Batch norm keeps the statistics of `weights`."""
    quantize: bool = False
    """Fine-tune `weights` for int8: batch norm is folded, all is rounded as the file will be."""
    drop_path: float = 0.0
    """Stochastic depth: chance to drop the last block; growing linearly from 0 at the first."""
    sync_batch_norm: bool = False
    """Batch-norm statistics over all replicas, rather than over each one's own images."""
    mean: tuple[float, ...] | None = None
    """Mean of the pixels, 0-255, per channel; none: the network's default."""
    std: tuple[float, ...] | None = None
    """Standard deviation of the pixels, likewise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Which images a training step sees."""

    train_size: int = 224
    """Height and width of the training images."""
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
    color_jitter: float = 0.0
    """Random brightness, contrast and saturation, each by a factor within so much of 1."""
    rand_ops: int = 0
    """RandAugment: operations an image."""
    rand_magnitude: float = 7.0
    """RandAugment: mean strength, 0-10."""
    rand_std: float = 0.5
    """RandAugment: standard deviation of the strength."""
    erasing: float = 0.0
    """Random erasing: chance that a box of an image becomes noise."""
    mixup: float = 0.0
    """Mixup: alpha of its Beta distribution; 0: none. With cutmix, half of the batches each."""
    cutmix: float = 0.0
    """CutMix: likewise."""
    repeats: int = 1
    """Repeated augmentation: times that an image comes in a batch, each time another way."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized."""
    antialias: bool = False
    """Resize as Pillow does (true) or as OpenCV does (false)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Loss, optimizer and schedule."""

    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy of all classes together, or of each by itself, summed over the classes."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    optimizer: Literal["sgd", "lamb"] = "sgd"
    """How gradients become steps."""
    momentum: float = 0.9
    """SGD: momentum, in [0, 1)."""
    nesterov: bool = False
    """SGD: Nesterov's momentum."""
    beta_1: float = 0.9
    """LAMB: decay of the mean of gradients."""
    beta_2: float = 0.999
    """LAMB: decay of the mean of their squares."""
    epsilon: float = 1e-6
    """LAMB: added to the root of the latter."""
    batch_size: int = 256
    """Images in a step, over all replicas."""
    accumulate: int = 1
    """Parts in which a step's images are computed, one after the other, to save memory."""
    learning_rate: float = 0.1
    """Highest learning rate."""
    weight_decay: float = 0.0
    """L2 penalty of every parameter. SGD: in the gradient, as PyTorch; LAMB: in the update."""
    exclude: tuple[str, ...] = ()
    """Parameters that do not decay: those whose names have one of these words."""
    clip_norm: float | None = None
    """The norm of all gradients together is cut to this."""
    epochs: int = 100
    """Passes over the training images."""
    steps: int | None = None
    """Steps in all, in the place of `epochs`; milestones are then steps too."""
    schedule: Literal["constant", "step", "cosine", "poly"] = "step"
    """How the learning rate falls: never, at milestones, as a half cosine, or as a power."""
    milestones: tuple[int, ...] = ()
    """Epochs (steps where `steps` is set) at which the rate falls."""
    milestone_factor: float = 0.1
    """What the rate is multiplied with at a milestone."""
    power: float = 1.0
    """Power of the poly schedule; 1: linear."""
    min_learning_rate: float = 0.0
    """Where cosine and poly end."""
    schedule_unit: Literal["step", "epoch"] = "step"
    """Cosine and poly change the rate each step, or each epoch."""
    warmup_epochs: float = 0.0
    """The rate first grows for so many epochs, ..."""
    warmup_steps: int = 0
    """... or for so many steps: ..."""
    warmup_curve: Literal["linear", "stairs", "constant"] = "linear"
    """... each step; each epoch; at its end only."""
    warmup_start: float | None = None
    """What it is multiplied with at first; none: one part of its growth."""
    ema: float = 0.0
    """Decay of the running average of the weights, which is then the model; 0: none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Data, evaluation and machine of a run."""

    dataset: str
    """A TFDS name, `digits` or `folder:PATH`."""
    data_dir: Path | None = None
    """Where prepared data sets lie; none: ~/tensorflow_datasets."""
    skip_bad: bool = False
    """Leave out images that cannot be read, naming them, rather than stop."""
    holdout: int = 0
    """Keep back the last so many training images and test these, to choose values by."""
    eval_resize: int | None = None
    """Evaluation: the short edge becomes this; none: images as they are."""
    eval_size: int = 224
    """Evaluation: height and width of the centre crop."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Type of the convolutions. auto: half where the machine is faster with it."""
    loss_scale: float | None = None
    """Fixed factor of the loss under mixed_float16; none: it moves with what float16 bears."""
    replicas: int | None = None
    """Accelerators to use; none: all. On a CPU-only machine, virtual devices: a rehearsal."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    deterministic: bool = False
    """The same command gives the same weights, bit for bit."""
    run_dir: Path | None = None
    """What the run writes; none: runs/<recipe>."""
    backup_every: str = "10m"
    """Time (90s, 10m, 2h) or steps (500) between backups."""
    logger: Literal["none", "tensorboard", "wandb", "mlflow"] = "tensorboard"
    """Where the rows of log.csv are shown, too."""
    profile: str | None = None
    """START:STOP: trace these steps, from 0, for TensorBoard's profiler."""
    verbose: bool = True
    """Show the progress bar."""
    dry_run: bool = False
    """Print the resolved recipe as JSON, touch no data, end."""
