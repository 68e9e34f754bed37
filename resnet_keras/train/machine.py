"""The machine a run is on: precision and replicas."""

import os
import sys
from pathlib import Path

from resnet_keras.recipe import Recipe
from resnet_keras.terminal import InputError, load_tensorflow


def choose_precision(asked: str = "auto") -> tuple[str, str]:
    """The dtype policy for this machine.

    Args:
        asked: "auto", "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        The policy and, in one line, why.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("TPU"):
        automatic = "mixed_bfloat16", "a TPU"
    elif tf.config.list_physical_devices("GPU"):
        automatic = "mixed_float16", "a GPU"
    elif _bfloat16_units():
        automatic = "mixed_bfloat16", "a CPU with bfloat16 units"
    else:
        automatic = "float32", "a CPU without bfloat16 units"
    if asked == "auto":
        return automatic
    if asked == "mixed_float16" and "CPU" in automatic[1]:
        return automatic[0], (
            "mixed_float16 was asked for, but float16 convolutions are hundreds of times slower "
            f"on a CPU; this is {automatic[1]}"
        )
    return asked, "as asked for"


def choose_strategy(recipe: Recipe):
    """Where the replicas live: no strategy for one accelerator, MirroredStrategy for several."""
    wanted = recipe.replicas
    if wanted and wanted > 1 and "tensorflow" not in sys.modules:
        # oneDNN crashes on virtual CPU devices; only heeded before TensorFlow is loaded.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0" if not _has_gpu() else "1"
    load_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    wanted = wanted or max(len(gpus), 1)
    if gpus and wanted > len(gpus):
        raise InputError(f"this machine has {len(gpus)} GPUs. Received: replicas={wanted}")
    if recipe.batch_size % wanted:
        raise InputError(
            f"`batch_size` must divide by the {wanted} replicas. "
            f"Received: batch_size={recipe.batch_size}"
        )
    if wanted == 1:
        return tf.distribute.get_strategy()
    if not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * wanted
        tf.config.set_logical_device_configuration(cpu, virtual)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(wanted)])


def _has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded; asked before TensorFlow is."""
    return Path("/dev/nvidia0").exists()


def _bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16 or AMX; Linux tells)."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text().split() if cpu.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags
