"""The machine a run is on: precision, replicas, and the other hosts of a run on several."""

import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_keras.console import Stopped, load_tensorflow, say
from resnet_keras.console import command as started_with
from resnet_keras.errors import InputError
from resnet_keras.recipe import Recipe

# What `keras.distribution.initialize` reads: addresses, number of processes, own number.
HOSTS = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)

# Words in the errors of collectives whose other end is gone.
_LOST = ("gloo", "nccl", "coordination", "connection", "peer", "unavailable", "deadline_exceeded")


class StoppedTogether(Stopped):
    """A signal to one process has stopped all of them at the same step; everything is saved."""


class Replicas(NamedTuple):
    """Where a run's replicas live.

    Attributes:
        scope: gives the context in which the model is built and trained.
        count: replicas, over all hosts.
        process: number of this process, 0 first; process 0 alone writes files.
        processes: how many train together, one a host.
    """

    scope: Callable[[], AbstractContextManager]
    count: int = 1
    process: int = 0
    processes: int = 1

    def rows(self, batch_size: int, parts: int) -> np.ndarray:
        """Which images of each batch this process reads: its slice of each micro-batch.

        Args:
            batch_size: of the whole step.
            parts: micro-batches in it.
        """
        width = batch_size // parts // self.processes
        rows = np.arange(batch_size).reshape(parts, self.processes, width)
        return rows[:, self.process].reshape(-1)

    def gather(self, number: int) -> list[int]:
        """The numbers of all processes; each must give one, at the same step."""
        if self.processes == 1:
            return [number]
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(np.int32(number)).tolist()

    @contextmanager
    def together(self) -> Iterator[None]:
        """End this process so that no other one waits for it, nor it for them."""
        if self.processes == 1:
            yield
            return
        import jax

        try:
            yield
            jax.distributed.shutdown()  # waits for the others, and so must all
        except BaseException as error:
            text, code = " ".join(str(error).split()), 1
            if isinstance(error, StoppedTogether):
                jax.distributed.shutdown()
                raise
            if isinstance(error, Stopped):  # this process alone
                say(f"stopped by {signal.Signals(error.number).name}")
                code = error.code
            elif isinstance(error, SystemExit):
                code = error.code
            elif isinstance(error, InputError):
                say(f"error: {text}")
                code = 2
            elif any(word in text.lower() for word in _LOST):
                say(
                    f"error: another process of this run is gone ({text[:120]}). Start all of "
                    f"them again with the same commands: they go on at the last backup."
                )
            else:
                traceback.print_exc()
            sys.stderr.flush()
            sys.stdout.flush()
            # A usual exit would wait minutes for the others.
            os._exit(code)


def choose_precision(asked: str = "auto") -> tuple[str, str]:
    """The dtype policy for this machine.

    Args:
        asked: "auto", "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        The policy and, in one line, why.
    """
    return _precision(asked, _kinds(), _bfloat16_units())


def _precision(asked: str, kinds: set[str], bfloat16: bool) -> tuple[str, str]:
    """The dtype policy for devices of some kinds, on a processor with bfloat16 units or without."""
    if "TPU" in kinds:
        automatic = "mixed_bfloat16", "a TPU"
    elif "GPU" in kinds:
        automatic = "mixed_float16", "a GPU"
    elif bfloat16:
        automatic = "mixed_bfloat16", "a CPU with bfloat16 units"
    else:
        automatic = "float32", "a CPU without bfloat16 units"
    if asked == "auto":
        return automatic
    if asked == "mixed_float16" and not kinds & {"TPU", "GPU"}:
        return automatic[0], (
            "mixed_float16 was asked for, but float16 convolutions are hundreds of times slower "
            f"on a CPU; this is {automatic[1]}"
        )
    return asked, "as asked for"


def choose_replicas(recipe: Recipe) -> Replicas:
    """Where the replicas live; on several hosts, meets the other processes.

    On TensorFlow: no strategy for one accelerator, MirroredStrategy for several. On JAX: no
    distribution for one, DataParallel for several, those of all hosts together.

    Args:
        recipe: how many are asked for, and the batch that they share.

    Raises:
        InputError: more than there are, a batch that they cannot share, or environment variables
            of several hosts that contradict each other.
    """
    hosts = _hosts()
    if (recipe.replicas or 1) > 1 and not _has_gpu() and "tensorflow" not in sys.modules:
        # oneDNN crashes on virtual CPU devices; only heeded before TensorFlow is loaded.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    if os.environ.get("KERAS_BACKEND") == "jax" and find_spec("jax") is None:
        raise InputError("KERAS_BACKEND=jax needs a package that is not there: pip install jax.")
    load_tensorflow()
    import keras

    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise InputError(f"`train` runs on tensorflow and jax. Received: KERAS_BACKEND={backend}")
    if hosts > 1 and backend != "jax":
        raise InputError(f"several hosts need KERAS_BACKEND=jax. Received: KERAS_BACKEND={backend}")
    if backend == "jax":
        return _jax(recipe, hosts)
    return _mirrored(recipe)


def _mirrored(recipe: Recipe) -> Replicas:
    """One machine, on TensorFlow."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    wanted = recipe.replicas or max(len(gpus), 1)
    if gpus and wanted > len(gpus):
        raise InputError(f"this machine has {len(gpus)} GPUs. Received: replicas={wanted}")
    _demand_whole_shares(recipe, wanted)
    if wanted == 1:
        return Replicas(nullcontext)
    if not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * wanted
        tf.config.set_logical_device_configuration(cpu, virtual)
    kind = "GPU" if gpus else "CPU"
    strategy = tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(wanted)])
    return Replicas(strategy.scope, wanted)


def _jax(recipe: Recipe, hosts: int) -> Replicas:
    """One machine or several, on JAX; TensorFlow reads the data."""
    import jax
    import keras
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # or it would take their memory
    if recipe.deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
    if hosts > 1:
        keras.distribution.initialize()  # before anything else asks for devices
    elif (recipe.replicas or 1) > 1 and not _has_gpu():
        jax.config.update("jax_num_cpu_devices", recipe.replicas)
    devices = keras.distribution.list_devices()
    wanted = recipe.replicas or len(devices)
    if wanted > len(devices) or (hosts > 1 and wanted != len(devices)):
        raise InputError(f"there are {len(devices)} devices. Received: replicas={wanted}")
    _demand_whole_shares(recipe, wanted)
    if wanted == 1:
        return Replicas(nullcontext)
    parallel = keras.distribution.DataParallel(devices=devices[:wanted], auto_shard_dataset=False)
    return Replicas(parallel.scope, wanted, jax.process_index(), hosts)


def _demand_whole_shares(recipe: Recipe, replicas: int) -> None:
    """Each micro-batch must divide by the replicas."""
    if recipe.batch_size % (replicas * recipe.accumulate):
        raise InputError(
            f"`batch_size` must divide by replicas x accumulate = {replicas} x "
            f"{recipe.accumulate}. Received: batch_size={recipe.batch_size}"
        )


def command() -> str:
    """The command that this process was started with, and what of its environment counts."""
    set_ = [
        f"{n}={shlex.quote(os.environ[n])}" for n in ("KERAS_BACKEND", *HOSTS) if os.environ.get(n)
    ]
    return " ".join([*set_, started_with()])


def _hosts() -> int:
    """How many processes train together, as the environment says; 1 where it says nothing."""
    given = {name: os.environ[name] for name in HOSTS if os.environ.get(name)}
    if not given:
        return 1
    if missing := [name for name in HOSTS if name not in given]:
        raise InputError(
            f"several hosts need {', '.join(HOSTS)}; missing: {', '.join(missing)}. "
            f"Received: {_shown(given)}"
        )
    addresses = given[HOSTS[0]].split(",")
    try:
        count, number = (int(given[name]) for name in HOSTS[1:])
    except ValueError:
        raise InputError(
            f"{HOSTS[1]} and {HOSTS[2]} must be whole numbers. Received: {_shown(given)}"
        ) from None
    if not 0 <= number < count:
        raise InputError(
            f"{HOSTS[2]} must be 0 to {HOSTS[1]} - 1, another one in each process. "
            f"Received: {_shown(given)}"
        )
    if len(addresses) not in (1, count):
        raise InputError(
            f"{HOSTS[0]} must be the address of process 0, or {count} addresses. "
            f"Received: {_shown(given)}"
        )
    if not all(address.rpartition(":")[2].isdecimal() and ":" in address for address in addresses):
        raise InputError(f"{HOSTS[0]} must be HOST:PORT. Received: {_shown(given)}")
    return count


def _shown(variables: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in variables.items())


def _kinds() -> set[str]:
    """Kinds of devices that the backend computes on: CPU, GPU, TPU."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return {device.platform.upper() for device in jax.devices()}
    import tensorflow as tf

    return {device.device_type for device in tf.config.list_physical_devices()}


def _has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded; asked before TensorFlow is."""
    return Path("/dev/nvidia0").exists()


def _bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16 or AMX; Linux tells)."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8").split() if cpu.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags
