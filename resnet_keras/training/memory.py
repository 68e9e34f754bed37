"""Memory of a training step: how much it needs, how much there is, and which batch fits."""

import ctypes
import math
import os
import resource
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from resnet_keras.devices import kinds
from resnet_keras.errors import InputError
from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.recipe import Recipe

# The backward pass keeps the outputs of convolutions, batch norms and additions. A compiler for
# GPUs computes the sum of a batch norm and a shortcut at once, and keeps the sum alone.
_KEPT = ("_conv", "_bn", "_add", "normalise")

# Parameters of glibc's `mallopt`, by malloc.h, and a number of bytes below which blocks are shared:
# all but the smallest feature maps and kernels are larger.
_MMAP_THRESHOLD, _ARENA_MAX, _SMALL = -3, -8, 65536


class Need(NamedTuple):
    """Estimated bytes of a training step on one replica.

    Attributes:
        fixed: bytes of weights, gradients, and the optimizer's copies of them.
        each: bytes that the backward pass keeps of one image.
        images: number of images on the replica at a time.
    """

    fixed: int
    each: int
    images: int

    @property
    def total(self) -> int:
        """Bytes of the whole step."""
        return self.fixed + self.each * self.images


def estimate(recipe: Recipe, model, policy: str, replicas: int = 1) -> Need:
    """Estimate the memory of a training step on each replica.

    Args:
        recipe: with its optimizer, running average and batch.
        model: the network, of any dtype.
        policy: the dtype policy of the training: "float32", "mixed_float16" or "mixed_bfloat16".
        replicas: number of replicas that share the batch.

    Returns:
        The estimate. It counts the numbers that are kept, not the scratch space of kernels.
    """
    return _estimate(recipe, model, policy, replicas, on_gpu="GPU" in kinds())


def _estimate(recipe: Recipe, model, policy: str, replicas: int, *, on_gpu: bool) -> Need:
    kept = _kept(model, recipe.train_size, on_gpu=on_gpu)
    activations = sum(math.prod(shape[1:]) for shape in kept)
    half = policy.startswith("mixed")
    # Weights, gradients and moments; sums over micro-batches; averages; half-precision weights.
    moments = OPTIMIZERS[recipe.optimizer].moments(recipe)
    copies = 2 + moments + (recipe.accumulate > 1) + bool(recipe.ema)
    fixed = round((copies + half / 2) * 4 * model.count_params())
    images = recipe.batch_size // recipe.accumulate // replicas
    return Need(fixed, (2 if half else 4) * activations, images)


def _kept(model, size: int, on_gpu: bool) -> list[tuple[int, ...]]:
    """List the shapes that the backward pass keeps of an image of a size, which the model takes."""
    import keras

    from resnet_keras.layers import norm_computed_again

    sums = [layer for layer in model.layers if layer.name.endswith("_add")]
    summed = {id(tensor) for layer in sums for tensor in layer.input if on_gpu}

    again = [norm_computed_again(layer) for layer in model.layers]

    def kept(layer):
        left_out = layer.name.endswith("_bn") and id(layer.output) in summed
        return layer.name.endswith(_KEPT) and not left_out and layer not in again

    images = keras.KerasTensor((1, size, size, model.input.shape[-1]), model.input.dtype)
    layers = [layer.output for layer in model.layers if kept(layer)]
    outputs = keras.Model(model.input, layers).compute_output_spec(images)
    return [output.shape for output in outputs]


def require(need: Need, recipe: Recipe, replicas: int = 1) -> None:
    """Refuse a step that cannot fit; on a CPU the system would kill the process.

    Args:
        need: of a step on one replica.
        recipe: that is trained.
        replicas: number of replicas on this machine.

    Raises:
        InputError: with the need, and the batch that fits.
    """
    there = available(replicas)
    if there is not None and need.total > there:
        raise InputError(advice(need, recipe, there))


def advice(need: Need, recipe: Recipe, there: int | None) -> str:
    """Say in one line, with numbers, what to do where the memory does not suffice.

    Args:
        need: of a step on one replica.
        recipe: that is trained.
        there: bytes that one replica has; None where that is not known.
    """
    # Twice as many did not fit; kernels need memory, too.
    fitting = need.images // 2
    if there is not None:
        fitting = min(fitting, int((there * 0.8 - need.fixed) // need.each))
    text = f"out of memory: a step needs about {_gigabytes(need.total)} (estimated)"
    if there is not None:
        text += f", there are {_gigabytes(there)}"
    if fitting < 1:
        return f"{text}; not even one image fits."
    shares = recipe.batch_size // need.images  # replicas x accumulate
    parts = recipe.accumulate * math.ceil(need.images / fitting)
    while recipe.batch_size % (parts * (shares // recipe.accumulate)):
        parts += 1
    return (
        f"{text}; --batch-size {fitting * shares} would fit, or --accumulate {parts}, which "
        "computes the same steps in parts. Choose another --run-dir; the last backup is kept."
    )


def available(replicas: int = 1) -> int | None:
    """Return the bytes that one replica may use in all; None where its device does not tell.

    Args:
        replicas: number of replicas on this machine, which share the memory of a CPU.
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
    """Return the bytes that the control groups of this process allow: the limits of a container.

    Args:
        root: of the file system.

    Returns:
        The limits of the process' group and of its parents; those without a limit are left out.
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
        # In a container the group may have its name outside, while its files are at the top.
        group = PurePosixPath(path.lstrip("/"))
        texts = [_text(top / parent / name) for parent in (group, *group.parents)]
        limits += [int(text) for text in texts if text.isdecimal()]  # not "max"
    return limits


def _text(path: Path) -> str:
    """Read a file of the kernel; an empty text where there is none, as on other systems."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def return_at_once() -> None:
    """Return to the system what this process frees, from now on, instead of keeping it for later.

    By default TensorFlow's allocator for oneDNN keeps pools, in whose gaps nothing else fits: at
    the peak of a step they are a seventh of the memory (docs/performance.md). Here it asks the C
    library for each tensor, which maps large ones one by one; the system clears their pages each
    time, which takes a part of the speed. Numbers do not change.

    It must be called before TensorFlow's first tensor; later it has less effect.

    Raises:
        InputError: the C library is not glibc.
    """
    _map_large_blocks(ctypes.CDLL(None))
    os.environ["TF_ONEDNN_USE_SYSTEM_ALLOCATOR"] = "1"


def _map_large_blocks(libc: Any) -> None:
    """Tell a C library to map each large block by itself, and to share one arena for the others."""
    set_option = getattr(libc, "mallopt", None)
    options = ((_MMAP_THRESHOLD, _SMALL), (_ARENA_MAX, 1))
    if set_option is None or not all(set_option(*option) for option in options):
        raise InputError("`save_memory` needs Linux with glibc. Leave it out on this machine.")


def ran_out(error: BaseException) -> bool:
    """Tell whether an error of any of the libraries means that the memory did not suffice."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or "RESOURCE_EXHAUSTED" in str(error)
        or "Out of memory" in str(error)
    )


def _gigabytes(number: float) -> str:
    """Write a number of bytes."""
    return f"{number / 2**30:.2f} GiB"
