"""The machine of a run: its devices, the precision that suits them, and the versions on it."""

import logging
import os
import platform
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from resnet_keras.devices import cpu_flags, kinds


@contextmanager
def quiet_retracing() -> Iterator[None]:
    """Hold back TensorFlow's warning that a function was traced often.

    It counts by the code of a function. Each training and each model file has functions of its own,
    which are the same code of Keras and are each traced once.
    """

    def keep(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in str(record.msg)

    logger = logging.getLogger("tensorflow")  # without importing it
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def choose_precision(asked: str = "auto") -> tuple[str, str]:
    """Choose the dtype policy for this machine.

    Args:
        asked: "auto", "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        The policy, and the reason in one line.
    """
    return _precision(asked, kinds(), _faster_in_bfloat16(cpu_flags(), _library()))


def _precision(asked: str, kinds: set[str], bfloat16: bool) -> tuple[str, str]:
    """Choose the dtype policy for kinds of devices, and for a CPU faster in bfloat16 or not."""
    if "TPU" in kinds:
        automatic = "mixed_bfloat16", "a TPU"
    elif "GPU" in kinds:
        automatic = "mixed_float16", "a GPU"
    elif bfloat16:
        automatic = "mixed_bfloat16", "a CPU that is faster in bfloat16"
    else:
        automatic = "float32", "a CPU that is not faster in bfloat16"
    if asked == "auto":
        return automatic
    if asked == "mixed_float16" and not kinds & {"TPU", "GPU"}:
        return automatic[0], (
            "mixed_float16 was requested, but float16 convolutions are hundreds of times slower "
            f"on a CPU; this is {automatic[1]}"
        )
    return asked, "as requested"


def describe() -> dict[str, Any]:
    """Describe this machine.

    Returns:
        Versions (see `versions`), `cores`, `devices`, and the `precision` that "auto" chooses, with
        the reason (`because`).
    """
    import tensorflow as tf

    precision, reason = choose_precision()
    return versions() | {
        "cores": os.cpu_count(),
        "devices": ", ".join(d.name for d in tf.config.list_physical_devices()),
        "precision": precision,
        "because": reason,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run depends on."""
    import keras

    backend = keras.backend.backend()
    names = ("resnet-keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    names += () if backend in names else (backend,)
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    """Return the version of a package; one may be imported from its sources, not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _library() -> str:
    """Name the library that Keras' backend computes convolutions with on a CPU."""
    import keras

    if keras.backend.backend() == "jax":
        return "XLA"
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false")
    return "Eigen" if off else "oneDNN"


def _faster_in_bfloat16(flags: Collection[str], library: str) -> bool:
    """Tell from a processor's flags whether it trains faster in bfloat16 than in float32.

    Eigen takes 12 times as long. oneDNN is faster with AMX, and with AVX-512 BF16 alone on AMD's;
    on Intel's, where a virtual machine may hide AMX, it takes 1.6 times as long. XLA is up to 9 %
    faster even there (docs/performance.md).
    """
    if library == "Eigen":
        return False
    units = "avx512_bf16" in flags and (library == "XLA" or "GenuineIntel" not in flags)
    return units or "amx_bf16" in flags
