"""What the user can fix is one line; a bug keeps its traceback, whatever was handled before."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from runs import refused_in_one_line

from resnet_keras.errors import InputError, explanation, refusal

ROOT = Path(__file__).parents[1]
FULL = os.strerror(errno.ENOSPC)
DENIED = os.strerror(errno.EACCES)

START = "from resnet_keras.console import exit_with_one_line; exit_with_one_line()\n"


@pytest.fixture
def run(tmp_path):
    """Run a program that ends with an error; its temporary folder is `tmp_path`."""

    def run(code, **environment):
        return subprocess.run(
            [sys.executable, "-c", START + code], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), **environment},
        )  # fmt: skip

    return run


def test_what_the_machine_refuses_is_told_by_its_number():
    assert refusal(OSError(errno.ENOSPC, FULL)) == FULL
    assert refusal(PermissionError(errno.EACCES, DENIED, "x")) == DENIED
    assert refusal(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))) is None
    assert refusal(FileNotFoundError(errno.ENOENT, "x", f"a file named {FULL}")) is None
    assert refusal(None) is None


LIBRARIES = """
import resource, signal, sys
import h5py, numpy as np, tensorflow as tf
from safetensors.numpy import save_file
from resnet_keras.errors import refusal

def hdf5(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(10**6)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    hdf5,
    lambda path: save_file({"x": np.zeros(10**6)}, path),
    lambda path: tf.io.write_file(path, "x" * 10**6),
):
    try:
        write(sys.argv[1])
        print("written")
    except Exception as error:
        print(refusal(error))
"""


@pytest.mark.slow
def test_libraries_in_cpp_have_words_alone(run_python, tmp_path):
    done = run_python("-c", LIBRARIES, tmp_path / "x")
    assert done.stdout.splitlines() == [os.strerror(errno.EFBIG)] * 3, done.stderr
    assert refusal(RuntimeError(f"x; {FULL}")) == FULL
    assert refusal(OSError(f"HDF5: {FULL}")) == FULL


@pytest.mark.parametrize(
    "bug",
    [KeyError, IndexError, TypeError, AttributeError, AssertionError, NameError, ValueError,
     NotImplementedError, ZeroDivisionError, RecursionError],
)  # fmt: skip
def test_words_make_no_refusal_of_a_bug(bug):
    assert refusal(bug(FULL)) is None and explanation(bug(FULL)) is None


def chained(error, cause, explicit):
    """An error that was raised from another one, or after it was handled."""
    try:
        try:
            raise cause
        except OSError as handled:
            if explicit:
                raise error from handled
            raise error  # noqa: B904
    except type(error) as caught:
        return caught


def test_only_what_an_error_was_raised_from_counts():
    full = OSError(errno.ENOSPC, FULL)
    assert refusal(chained(ValueError("x"), full, explicit=True)) == FULL
    assert refusal(chained(ValueError("x"), full, explicit=False)) is None
    assert refusal(chained(RuntimeError("x"), full, explicit=False)) is None
    assert refusal(chained(KeyError("x"), full, explicit=True)) is None


def test_a_bug_keeps_its_traceback_after_a_handled_error(run, tmp_path):
    code = """
try:
    raise PermissionError(13, "Permission denied")
except PermissionError:
    {}["nothing"]
"""
    done = run(code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.endswith("KeyError: 'nothing'\n")
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback_whatever_it_says(run):
    done = run(f"raise KeyError({FULL!r})")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_an_input_error_is_one_line_and_leaves_no_file(run, tmp_path):
    code = "from resnet_keras.errors import InputError; raise InputError('a\\n  b. Received: c')"
    assert refused_in_one_line(run(code)) == "error: a b. Received: c"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_traceback_of_a_refusal_goes_to_a_file_that_is_named(run, tmp_path, wrapped):
    code = "def fill():\n    with open('/dev/full', 'w') as file: file.write('x')\n"
    if wrapped:
        code += (
            "from pathlib import Path\nfrom resnet_keras.files import writing\n"
            "with writing(Path('/dev/full')): fill()"
        )
    else:
        code += "fill()"
    line = refused_in_one_line(run(code))
    (file,) = tmp_path.iterdir()
    assert FULL in line and "Fix that, then run the same command again." in line
    assert line.endswith(f"The traceback is in {file}.")
    text = file.read_text()
    assert "Traceback" in text and "in fill" in text and f"[Errno 28] {FULL}" in text


def test_a_traceback_that_cannot_be_written_is_not_named(run, tmp_path):
    code = (
        "import tempfile, resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "tempfile.gettempdir()  # it tries to write there\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        f"raise OSError(28, {FULL!r}, 'x')"
    )
    line = refused_in_one_line(run(code))
    assert line == f"error: x: {FULL}. Fix that, then run the same command again."
    assert not list(tmp_path.iterdir())


def test_the_file_that_the_machine_refuses_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = explanation(PermissionError(errno.EACCES, DENIED, "/x/y"))
    assert line.startswith(f"/x/y: {DENIED}. Fix that, ")
    line = explanation(RuntimeError(f"write failed: {FULL}"))
    assert line.startswith(f"write failed: {FULL}. Fix that, ")
    assert explanation(InputError("just so")) == "just so"
    assert explanation(KeyboardInterrupt()) is explanation(SystemExit(3)) is None
