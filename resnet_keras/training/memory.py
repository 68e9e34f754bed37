"""Memory of a training step: what it needs, what is there, and which batch fits."""

import math
import os
import resource
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from resnet_keras.errors import InputError
from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.recipe import Recipe

# What the backward pass keeps: the outputs of convolutions, batch norms and additions.
_KEPT = ("_conv", "_bn", "_add", "normalise")


class Need(NamedTuple):
    """Estimated bytes of a training step on one replica.

    Attributes:
        fixed: weights, gradients, and the optimizer's copies of them.
        each: what the backward pass keeps of one image.
        images: on one replica at a time.
    """

    fixed: int
    each: int
    images: int

    @property
    def total(self) -> int:
        """Bytes."""
        return self.fixed + self.each * self.images


def estimate(recipe: Recipe, model, policy: str, replicas: int = 1) -> Need:
    """What a step of a recipe needs on each of its replicas.

    Args:
        recipe: its optimizer, its averages, its batch.
        model: the network, of any dtype.
        policy: what it is trained with: "float32", "mixed_float16" or "mixed_bfloat16".
        replicas: that share the batch.

    Returns:
        The estimate; it is that of the numbers kept, without what kernels use meanwhile.
    """
    activations = sum(math.prod(shape[1:]) for shape in _kept(model, recipe.train_size))
    half = policy.startswith("mixed")
    # Weights, gradients, moments; sums of micro-batches; averages; weights in half precision.
    moments = OPTIMIZERS[recipe.optimizer].moments(recipe)
    copies = 2 + moments + (recipe.accumulate > 1) + bool(recipe.ema)
    fixed = round((copies + half / 2) * 4 * model.count_params())
    images = recipe.batch_size // recipe.accumulate // replicas
    return Need(fixed, (2 if half else 4) * activations, images)


def _kept(model, size: int) -> list[tuple[int, ...]]:
    """Shapes of what the backward pass keeps of images of a size; the network may take any."""
    import keras

    kept = [layer.output for layer in model.layers if layer.name.endswith(_KEPT)]
    images = keras.KerasTensor((1, size, size, model.input.shape[-1]), model.input.dtype)
    outputs = keras.Model(model.input, kept).compute_output_spec(images)
    return [output.shape for output in outputs]


def demand(need: Need, recipe: Recipe, replicas: int = 1) -> None:
    """Refuse a step that surely does not fit; on a CPU the system would kill the process for it.

    Raises:
        InputError: with the need, and the batch that fits.
    """
    there = available(replicas)
    if there is not None and need.total > there:
        raise InputError(advice(need, recipe, there))


def advice(need: Need, recipe: Recipe, there: int | None) -> str:
    """What to do when the memory does not suffice: one line with numbers.

    Args:
        need: of a step on one replica.
        recipe: which asks for it.
        there: bytes that one replica has, if that is known.
    """
    # Twice as much did not fit; kernels need some, too.
    fitting = need.images // 2
    if there is not None:
        fitting = min(fitting, int((there * 0.8 - need.fixed) // need.each))
    text = f"out of memory: a step needs about {_gigabytes(need.total)} (estimated)"
    if there is not None:
        text += f", there are {_gigabytes(there)}"
    if fitting < 1:
        return f"{text}; not even one image would fit."
    shares = recipe.batch_size // need.images  # replicas x accumulate
    parts = recipe.accumulate * math.ceil(need.images / fitting)
    while recipe.batch_size % (parts * (shares // recipe.accumulate)):
        parts += 1
    return (
        f"{text}; --batch-size {fitting * shares} would fit, or --accumulate {parts}, which "
        f"computes the same steps in parts; in another --run-dir. The last backup is kept."
    )


def available(replicas: int = 1) -> int | None:
    """Bytes that one replica may use in all; None where its device does not tell.

    Args:
        replicas: of this machine; they share the memory of a CPU.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        if limit or jax.default_backend() != "cpu":
            return limit
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            from resnet_keras.internals.tensorflow import gpu_memory

            return min(gpu_memory())
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *group_limits()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        limits.append(limit)
    return min(limits) // replicas


def group_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that the control groups of this process allow it: what a container may use.

    Args:
        root: of the file system.

    Returns:
        The limits of its group and of that one's parents, as far as they have any.
    """
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):  # version 1
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container, the group may be named as outside, and its files lie at the top.
        group = PurePosixPath(path.lstrip("/"))
        texts = [_text(top / parent / name) for parent in (group, *group.parents)]
        limits += [int(text) for text in texts if text.isdecimal()]  # not "max"
    return limits


def _text(path: Path) -> str:
    """What a file of the kernel says; nothing where there is none, as on other systems."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def ran_out(error: BaseException) -> bool:
    """Whether an error is that of memory that was not there, in any of the libraries."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or "RESOURCE_EXHAUSTED" in str(error)
        or "Out of memory" in str(error)
    )


def _gigabytes(number: float) -> str:
    return f"{number / 2**30:.2f} GiB"
