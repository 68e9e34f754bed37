"""JAX trains as one process, as two processes, and through their deaths."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import refused_in_one_line

from resnet_keras import Recipe, backup
from resnet_keras.errors import InputError
from resnet_keras.signals import Stopped
from resnet_keras.training.replicas import HOSTS, Replicas, StoppedTogether, _jax, choose_replicas

ROOT = Path(__file__).parents[1]

# A network that is soon compiled.
CODE = """
from dataclasses import replace
from runpy import run_path

from resnet_keras import SPECS, Spec, train

SPECS["tiny"] = Spec("basic", (1, 1, 1), (8, 16, 16), stem="cifar", shortcut="pad")
train(replace(run_path("recipes/quickstart.py")["RECIPE"], model="tiny").parse())
"""

# All that must survive: random crops and warps, mixing, dropout, micro-batches, averages, clipping.
FLAGS = (
    "--batch-size", "96", "--accumulate", "2", "--epochs", "2", "--warmup-epochs", "1",
    "--learning-rate", "0.05", "--precision", "float32", "--ema", "0.9", "--drop-path", "0.1",
    "--mixup", "0.2", "--cutmix", "1.0", "--clip-norm", "1.0", "--deterministic",
)  # fmt: skip


@pytest.fixture
def start(data_dir, tmp_path_factory):
    """Start one process of a run on JAX; `number` and `port` where there are two."""
    from resnet_keras import data

    data.Source("digits", "train", data_dir=data_dir).open()
    cache = tmp_path_factory.getbasetemp() / "xla"  # what one run has compiled, the next one reads

    def start(folder, *flags, number=None, port=None):
        environment = {
            **os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        if port:
            environment |= dict(zip(HOSTS, (f"127.0.0.1:{port}", "2", str(number)), strict=True))
        common = ("--data-dir", str(data_dir), "--run-dir", str(folder))
        return subprocess.Popen(
            [sys.executable, "-c", CODE, *FLAGS, *common, *flags],
            cwd=ROOT, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


def start_two(start, folder, *flags):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(folder, *flags, number=number, port=port) for number in (0, 1)]


def finish(processes):
    """The outputs of processes that must succeed."""
    outputs = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def wait_for_backup(process, folder, after):
    """Wait until the run has written a backup of a step behind `after`."""
    deadline = time.monotonic() + 600
    while not any(int(p.stem) > after for p in (folder / "backup").glob("*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)


def end(folder):
    """What a run ended with: every variable but sums of metrics, and the log without times."""
    arrays = backup.load(folder / "backup").arrays
    with open(folder / "log.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return {k: v for k, v in arrays.items() if not k.startswith("metric/")}, rows


def assert_same(one, other):
    assert one[1] == other[1] and one[0].keys() == other[0].keys()
    assert [k for k in one[0] if one[0][k].tobytes() != other[0][k].tobytes()] == []


@pytest.mark.slow
def test_jax_resumes_bit_for_bit_after_kills(start, tmp_path):
    finish([start(tmp_path / "unbroken")])
    folder = tmp_path / "broken"
    for after, number in ((1, signal.SIGKILL), (6, signal.SIGKILL), (19, signal.SIGTERM)):
        process = start(folder, "--backup-every", "1")
        wait_for_backup(process, folder, after)
        process.send_signal(number)
        output, _ = process.communicate(timeout=600)
        expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM
        assert process.returncode == expected, output
    assert "To resume: KERAS_BACKEND=jax python " in output.splitlines()[-1]
    finish([start(folder)])
    assert_same(end(folder), end(tmp_path / "unbroken"))


@pytest.mark.slow
def test_two_processes_train_as_one_and_resume_after_deaths(start, tmp_path):
    finish([start(tmp_path / "one")])
    outputs = finish(start_two(start, tmp_path / "two"))
    assert " 2 replicas. " in outputs[0] and "top-1 " in outputs[0]
    assert "top-1 " not in outputs[1]  # the first process alone evaluates and writes
    one, two = end(tmp_path / "one"), end(tmp_path / "two")
    assert one[0].keys() == two[0].keys()
    apart = {k: np.abs(one[0][k].astype("f8") - two[0][k]).max() for k in one[0]}
    assert max(apart.values()) < 1e-5, apart
    for row, other in zip(one[1], two[1], strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in other.items()}, abs=1e-5
        )

    folder = tmp_path / "broken"
    for victim, after in ((1, 2), (0, 9)):
        processes = start_two(start, folder, "--backup-every", "1")
        wait_for_backup(processes[0], folder, after)
        processes[victim].kill()
        output, _ = processes[1 - victim].communicate(timeout=200)
        processes[victim].communicate(timeout=60)
        assert processes[1 - victim].returncode not in (0, None), output
        if victim == 1:  # when the first dies, JAX itself may end the others, in words of its own
            assert "error: another process of this run has died" in output, output
    # A signal to any of them stops all at the same step, with everything saved.
    began = backup.load(folder / "backup").step
    processes = start_two(start, folder, "--backup-every", "1")
    wait_for_backup(processes[0], folder, began)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    assert f"--run-dir {folder}" in outputs[0].splitlines()[-1]
    finish(start_two(start, folder))
    assert_same(end(folder), two)


GOOD = dict(zip(HOSTS, ("10.0.0.1:1234", "2", "0"), strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [({HOSTS[0]: None}, "missing: KERAS_DISTRIBUTION_JOB_ADDRESSES"),
     ({HOSTS[2]: None}, "missing: KERAS_DISTRIBUTION_PROCESS_ID"),
     ({HOSTS[1]: "two"}, "integers"), ({HOSTS[2]: "2"}, "must be 0 to"),
     ({HOSTS[0]: "10.0.0.1"}, "HOST:PORT"), ({HOSTS[0]: "a:1,b:1,c:1"}, "or 2 addresses"),
     ({HOSTS[0]: "[::1]"}, "HOST:PORT"), ({HOSTS[0]: "10.0.0.1:"}, "HOST:PORT"),
     # Right ones, of both kinds; TensorFlow, on which the tests run, cannot use them.
     ({}, "KERAS_BACKEND=jax"), ({HOSTS[0]: "[fe80::1]:80"}, "KERAS_BACKEND=jax")],
)  # fmt: skip
def test_contradicting_variables_are_refused(monkeypatch, change, words):
    for name, value in (GOOD | change).items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, value
        )
    with pytest.raises(InputError, match=f"{words}.*Received: "):
        choose_replicas(Recipe(model="resnet20_cifar", dataset="digits"))


def test_a_missing_variable_is_one_line_and_code_2(run_python, tmp_path):
    variables = {"KERAS_BACKEND": "jax", HOSTS[0]: "127.0.0.1:1", HOSTS[1]: "2"}
    done = run_python("recipes/quickstart.py", "--run-dir", tmp_path / "run", **variables)
    assert HOSTS[2] in refused_in_one_line(done) and not (tmp_path / "run").exists()


def test_jax_has_a_batch_in_parts_that_the_processes_read(monkeypatch):
    """Without starting JAX, whose threads no other test in this process would bear."""
    asked = {}
    devices = [f"cpu:{number}" for number in range(4)]

    def parallel(**arguments):
        asked.update(arguments)
        return SimpleNamespace(scope=nullcontext)

    jax = SimpleNamespace(process_index=lambda: 1, config=SimpleNamespace(update=asked.__setitem__))
    monkeypatch.setitem(sys.modules, "jax", jax)
    monkeypatch.setattr("keras.distribution.list_devices", lambda: devices)
    monkeypatch.setattr("keras.distribution.DataParallel", parallel)
    monkeypatch.setattr(
        "tensorflow.config.set_visible_devices",
        lambda visible, kind: asked.update(of_tensorflow=(visible, kind)),
    )
    recipe = Recipe(model="resnet20_cifar", dataset="digits", batch_size=6, replicas=3)
    replicas = _jax(recipe, hosts=1)
    # Each process opens its own part; Keras' sharding would take a part of that part.
    assert asked == {
        "jax_num_cpu_devices": 3, "devices": devices[:3], "auto_shard_dataset": False,
        "of_tensorflow": ([], "GPU"),
    }  # fmt: skip
    assert (replicas.count, replicas.process, replicas.processes) == (3, 1, 1)
    with pytest.raises(InputError, match="this run has 4 devices. Received: replicas=5"):
        _jax(replace(recipe, batch_size=5, replicas=5), hosts=1)
    with pytest.raises(InputError, match="divisible by replicas x accumulate = 4 x 1"):
        _jax(replace(recipe, replicas=None), hosts=1)
    monkeypatch.setattr("keras.distribution.initialize", lambda: asked.update(initialised=True))
    assert _jax(replace(recipe, batch_size=8, replicas=None), hosts=2).processes == 2
    assert asked["initialised"] and asked["devices"] == devices
    # Several machines train on all that they have.
    with pytest.raises(InputError, match="this run has 4 devices. Received: replicas=2"):
        _jax(replace(recipe, replicas=2), hosts=2)


def test_shares_are_slices_of_each_micro_batch():
    shares = [Replicas(None, 4, process, 2).rows(24, 3).tolist() for process in (0, 1)]
    assert shares[0] == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert sorted(shares[0] + shares[1]) == list(range(24))
    assert Replicas(None).rows(6, 2).tolist() == list(range(6))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"), (SystemExit(3), 3, None),
     (SystemExit("no number"), 1, None), (InputError("no connection: x=1"), 2,
     "error: no connection: x=1"),
     (RuntimeError("Gloo:  connection\nclosed by PEER " + 200 * "x"), 1,
      "error: another process of this run has died (Gloo: connection closed by PEER " + 88 * "x"
      + "). Start all of them again with the same commands: they resume from the last backup."),
     (ValueError("a bug"), 1, "ValueError: a bug")],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)  # fmt: skip
def test_a_process_ends_without_waiting_for_the_others(error, code, line, monkeypatch, capfd):
    class Left(BaseException):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Left) as left, Replicas(nullcontext, 2, 0, 2).together():
        raise error
    assert left.value.args == (code,)
    said = capfd.readouterr().err.splitlines()
    assert said[-1:] == ([] if line is None else [line])
    assert ("Traceback (most recent call last):" in said) == (type(error) is ValueError)
    # One process alone waits for nobody: its errors are its caller's.
    with pytest.raises(type(error)) as same, Replicas(nullcontext).together():
        raise error
    assert same.value is error


def test_all_processes_end_together_where_all_are_stopped():
    error = StoppedTogether(signal.SIGTERM)
    with pytest.raises(StoppedTogether) as stopped, Replicas(nullcontext, 2, 0, 2).together():
        raise error
    assert stopped.value is error
    with Replicas(nullcontext, 2, 0, 2).together():
        pass


@pytest.mark.slow
def test_jax_trains_on_two_devices_of_one_machine(start, tmp_path):
    plain = ("--mixup", "0", "--cutmix", "0", "--drop-path", "0", "--ema", "0")
    plain += ("--batch-size", "32", "--accumulate", "1", "--learning-rate", "0.2")
    (output,) = finish([start(tmp_path / "run", "--replicas", "2", "--epochs", "4", *plain)])
    assert " 2 replicas. " in output
    _, rows = end(tmp_path / "run")
    # Who does not learn stays at ln 10 = 2.303 or above.
    assert len(rows) == 4 and float(rows[-1]["val_loss"]) < 2
