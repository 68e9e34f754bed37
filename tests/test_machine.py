"""What a run says of its machine: the precision that suits it, its devices, the versions on it."""

import importlib.metadata
import logging
import os
import platform

import keras
import pytest

from resnet_keras.training import machine
from resnet_keras.training.machine import (
    _faster_in_bfloat16,
    _library,
    _precision,
    _version,
    choose_precision,
    describe,
    quiet_retracing,
    versions,
)


@pytest.mark.parametrize(
    ("kinds", "bfloat16", "automatic", "instead_of_float16"),
    [
        (("CPU",), False, "float32", "float32"),
        (("CPU",), True, "mixed_bfloat16", "mixed_bfloat16"),
        (("CPU", "GPU"), True, "mixed_float16", "mixed_float16"),
        (("TPU",), False, "mixed_bfloat16", "mixed_float16"),
    ],
    ids=str,  # of a set it would be another one in each process
)
def test_precision_goes_by_the_devices(kinds, bfloat16, automatic, instead_of_float16):
    kinds = set(kinds)
    assert _precision("auto", kinds, bfloat16)[0] == automatic
    policy, reason = _precision("mixed_float16", kinds, bfloat16)
    assert policy == instead_of_float16
    assert ("slower on a CPU" in reason) == (kinds == {"CPU"})
    assert _precision("float32", kinds, bfloat16) == ("float32", "as requested")


@pytest.mark.parametrize(
    ("flags", "libraries"),
    [
        ("AuthenticAMD avx2 avx512f", ""),
        ("AuthenticAMD avx2 avx512f avx512_bf16", "oneDNN XLA"),
        ("GenuineIntel avx2 avx512f avx512_bf16 avx512_fp16", "XLA"),
        ("GenuineIntel avx2 avx512f avx512_bf16 amx_bf16 amx_tile", "oneDNN XLA"),
        ("", ""),  # not Linux
    ],
)
def test_bfloat16_is_for_processors_and_libraries_that_are_faster_with_it(flags, libraries):
    """As measured in docs/performance.md: never with Eigen, on Intel not with oneDNN alone."""
    for library in ("oneDNN", "Eigen", "XLA"):
        assert _faster_in_bfloat16(flags.split(), library) is (library in libraries.split())


@pytest.mark.parametrize(
    ("asked", "library"),
    [(None, "oneDNN"), ("1", "oneDNN"), ("true", "oneDNN"), ("0", "Eigen"), ("False", "Eigen")],
)
def test_the_library_is_the_one_that_the_environment_asks_for(monkeypatch, asked, library):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if asked is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", asked)
    assert _library() == library
    monkeypatch.setattr(machine, "cpu_flags", lambda: {"amx_bf16"})
    monkeypatch.setattr(machine, "kinds", lambda: {"CPU"})
    assert choose_precision()[0] == ("mixed_bfloat16" if library == "oneDNN" else "float32")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert _library() == "XLA" and choose_precision()[0] == "mixed_bfloat16"


def test_a_machine_is_described_by_the_precision_that_auto_chooses():
    found = describe()
    assert (found["precision"], found["because"]) == choose_precision("auto")
    assert found["cores"] == os.cpu_count() and "CPU" in found["devices"]
    assert found["keras"] == keras.__version__


def test_a_package_that_is_not_installed_ends_no_run():
    assert _version("resnet-keras-of-nobody") == "not installed"
    assert _version("keras") == keras.__version__


def test_the_retracing_of_functions_is_not_warned_of_while_a_run_goes_on(caplog):
    logger = logging.getLogger("tensorflow")

    def said():
        caplog.clear()
        logger.warning("5 out of the last 5 calls triggered tf.function retracing.")
        logger.warning("something else")
        return [record.getMessage() for record in caplog.records]

    logger.propagate, before = True, logger.propagate
    try:
        with quiet_retracing():
            assert said() == ["something else"]
        assert len(said()) == 2
    finally:
        logger.propagate = before


def test_versions_are_those_of_the_installed_packages():
    found = versions()
    assert found.pop("python") == platform.python_version()
    assert found.pop("resnet-keras")
    names = ["keras", "tensorflow", "tensorflow-datasets", "numpy"]
    names += {"jax"} & {keras.backend.backend()}
    assert found == {name: importlib.metadata.version(name) for name in names}
