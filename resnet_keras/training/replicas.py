"""Replicas: where a run trains, on one machine or on several hosts."""

import dataclasses
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from resnet_keras.console import command as started_with
from resnet_keras.console import load_tensorflow, say
from resnet_keras.errors import InputError, explanation
from resnet_keras.recipe import Recipe
from resnet_keras.signals import Stopped

# What `keras.distribution.initialize` reads: addresses, number of processes, number of this one.
HOSTS = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)

# Words in the errors of collective operations when another process is gone.
_LOST = ("gloo", "nccl", "coordination", "connection", "peer", "unavailable", "deadline_exceeded")


class StoppedTogether(Stopped):
    """A signal to one process has stopped all of them at the same step; everything is saved."""


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The replicas of a run, and the part that this process has in them.

    Attributes:
        scope: gives the context in which the model is built and trained.
        count: number of replicas, over all hosts.
        process: number of this process, from 0; only process 0 writes files.
        processes: number of processes that train together, one per host.
    """

    scope: Callable[[], AbstractContextManager]
    count: int = 1
    process: int = 0
    processes: int = 1

    def rows(self, batch_size: int, parts: int) -> np.ndarray:
        """Choose the images of each batch that this process reads: its slice of each micro-batch.

        Args:
            batch_size: images in a step, over all replicas.
            parts: micro-batches in a step.

        Returns:
            Their places in the batch, int64.
        """
        width = batch_size // parts // self.processes
        rows = np.arange(batch_size).reshape(parts, self.processes, width)
        return rows[:, self.process].reshape(-1)

    def gather(self, number: int) -> list[int]:
        """Return the numbers of all processes; each of them must give one, at the same step."""
        if self.processes == 1:
            return [number]
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(np.int32(number)).tolist()

    @contextmanager
    def together(self) -> Iterator[None]:
        """End this process such that no process waits for another one that has ended."""
        if self.processes == 1:
            yield
            return
        import jax

        try:
            yield
            jax.distributed.shutdown()  # waits for the others, and so must all
        except BaseException as error:
            text = " ".join(str(error).split())
            code = 1
            if isinstance(error, StoppedTogether):
                jax.distributed.shutdown()
                raise
            if isinstance(error, Stopped):  # this process alone
                say(f"stopped by {signal.Signals(error.number).name}")
                code = 128 + error.number
            elif isinstance(error, SystemExit):
                code = error.code if isinstance(error.code, int) else 1
            elif not isinstance(error, InputError) and any(w in text.lower() for w in _LOST):
                say(
                    f"error: another process of this run has died ({text[:120]}). Start all of "
                    "them again with the same commands: they resume from the last backup."
                )
            elif (line := explanation(error)) is not None:
                say(f"error: {line}")
                code = 2
            else:
                traceback.print_exc()
            sys.stderr.flush()
            sys.stdout.flush()
            # An ordinary exit would wait minutes for the others.
            os._exit(code)


def choose_replicas(recipe: Recipe) -> Replicas:
    """Choose the replicas of a run; with several hosts, wait for the other processes.

    On TensorFlow: no strategy for one accelerator, MirroredStrategy for several. On JAX: no
    distribution for one, DataParallel for several, over all hosts.

    Args:
        recipe: with the number of replicas and the batch that they share.

    Raises:
        InputError: there are not enough devices, the batch cannot be divided, or the environment
            variables of several hosts contradict each other.
    """
    hosts = _hosts()
    if (recipe.replicas or 1) > 1 and not _has_gpu() and "tensorflow" not in sys.modules:
        # oneDNN crashes on virtual CPU devices. TensorFlow reads this when it is loaded.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    if os.environ.get("KERAS_BACKEND") == "jax" and find_spec("jax") is None:
        raise InputError("KERAS_BACKEND=jax needs JAX: pip install jax.")
    load_tensorflow()
    import keras

    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise InputError(f"`train` needs TensorFlow or JAX. Received: KERAS_BACKEND={backend}")
    if hosts > 1 and backend != "jax":
        raise InputError(f"several hosts need KERAS_BACKEND=jax. Received: KERAS_BACKEND={backend}")
    if backend == "jax":
        return _jax(recipe, hosts)
    return _mirrored(recipe)


def _mirrored(recipe: Recipe) -> Replicas:
    """Choose the replicas of one machine, on TensorFlow."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    wanted = recipe.replicas or max(len(gpus), 1)
    if gpus and wanted > len(gpus):
        raise InputError(f"this machine has {len(gpus)} GPUs. Received: replicas={wanted}")
    _require_equal_shares(recipe, wanted)
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
    """Choose the replicas of one machine or several, on JAX; TensorFlow reads the data."""
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
        raise InputError(f"this run has {len(devices)} devices. Received: replicas={wanted}")
    _require_equal_shares(recipe, wanted)
    if wanted == 1:
        return Replicas(nullcontext)
    parallel = keras.distribution.DataParallel(devices=devices[:wanted], auto_shard_dataset=False)
    return Replicas(parallel.scope, wanted, jax.process_index(), hosts)


def _require_equal_shares(recipe: Recipe, replicas: int) -> None:
    """Refuse a batch whose micro-batches the replicas cannot divide equally."""
    if recipe.batch_size % (replicas * recipe.accumulate):
        raise InputError(
            f"`batch_size` must be divisible by replicas x accumulate = {replicas} x "
            f"{recipe.accumulate}. Received: batch_size={recipe.batch_size}"
        )


def command() -> str:
    """Return what resumes a training: the command that started this process, with its variables.

    In a notebook, or where people type at Python, it is the call.
    """
    if "ipykernel" in sys.modules or hasattr(sys, "ps1"):
        return "call train(recipe) again"
    variables = [
        f"{n}={shlex.quote(os.environ[n])}" for n in ("KERAS_BACKEND", *HOSTS) if os.environ.get(n)
    ]
    return " ".join([*variables, started_with()])


def _hosts() -> int:
    """Return the number of processes that train together, as the environment says; 1 by default."""
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
            f"{HOSTS[1]} and {HOSTS[2]} must be integers. Received: {_shown(given)}"
        ) from None
    if not 0 <= number < count:
        raise InputError(
            f"{HOSTS[2]} must be 0 to {HOSTS[1]} - 1, different in each process. "
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
    """Write environment variables as a shell does."""
    return " ".join(f"{name}={value}" for name, value in variables.items())


def _has_gpu() -> bool:
    """Tell whether the NVIDIA driver is loaded, before TensorFlow is."""
    return Path("/dev/nvidia0").exists()
