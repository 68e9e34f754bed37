"""What Keras' backend computes on, and how many images at a time suit it."""

import functools
import math
from pathlib import Path

# Pixels of a batch on a CPU: what its first layers write still lies in the caches.
_PIXELS = 8 * 224 * 224

_MOST = 128


def kinds() -> set[str]:
    """Return the kinds of devices that the backend computes on: CPU, GPU, TPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return {device.platform.upper() for device in jax.devices()}
    import tensorflow as tf

    return {device.device_type for device in tf.config.list_physical_devices()}


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return what the processor can do, such as avx512f, by Linux's words; elsewhere nothing."""
    cpu = Path("/proc/cpuinfo")
    return frozenset(cpu.read_text(encoding="utf-8").split() if cpu.exists() else [])


def forward_batch(size: tuple[int, int]) -> int:
    """Return how many images a forward pass is fastest with, where nothing else decides.

    A processor is slower with batches whose activations leave its caches.

    Args:
        size: height and width of the images, in pixels.

    Returns:
        A power of two, from 1 to 128.
    """
    return _batch(size, kinds())


def _batch(size: tuple[int, int], found: set[str]) -> int:
    if found != {"CPU"}:
        return _MOST
    return min(_MOST, 2 ** max(0, int(math.log2(_PIXELS / (size[0] * size[1])))))
