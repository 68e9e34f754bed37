"""Nothing asks a network for anything, unless a user does; nothing is left in the temporary folder.

The commands run in a network namespace without interfaces, and every look-up or connection that
Python code tries there is written down, even if the failure of it would go unnoticed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Python runs a module of this name before all else.
WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request") or (
        event == "socket.connect" and not isinstance(arguments[1], (str, bytes))
    ):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {arguments[1:]}\\n")

sys.addaudithook(watch)
"""


@pytest.fixture
def alone(tmp_path):
    """Run Python without a network: the finished process; nothing was asked for, nothing left."""
    permitted = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True)
    if permitted.returncode:
        pytest.skip(f"no network namespace may be made here: {permitted.stderr.strip()}")
    for name in ("watch", "temporary", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    environment = {
        **os.environ, "ASKED": str(tmp_path / "asked"), "TMPDIR": str(tmp_path / "temporary"),
        "PYTHONPATH": f"{tmp_path / 'watch'}:{ROOT}", "HOME": str(tmp_path / "home"),
    }  # fmt: skip
    environment.pop("ORT_DISABLE_TELEMETRY", None)  # which these tests have from the package

    def run(*arguments):
        return subprocess.run(
            ["unshare", "-n", sys.executable, *map(str, arguments)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip

    yield run
    asked = tmp_path / "asked"
    assert not asked.exists(), asked.read_text()
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow
def test_a_verb_asks_nobody(alone):
    done = alone("-m", "resnet_keras", "summary", "resnet20_cifar", "--json")
    assert done.returncode == 0 and '"params": 269722' in done.stdout, done.stderr


def test_asking_would_be_noticed(alone, tmp_path):
    done = alone("-c", "import urllib.request as r; r.urlopen('http://192.0.2.1', timeout=1)")
    assert done.returncode == 1 and "unreachable" in done.stderr
    assert "socket.connect" in (tmp_path / "asked").read_text()
    (tmp_path / "asked").unlink()


def test_onnxruntime_tells_nobody(alone):
    """It is C++ that would, which no audit of Python sees; its identifier would lie in /tmp."""
    done = alone("-c", "import resnet_keras, onnxruntime")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_quickstart_asks_nobody_and_leaves_nothing(alone, tmp_path):
    run = tmp_path / "run"
    done = alone("recipes/quickstart.py", "--epochs", "2", "--run-dir", run)
    assert done.returncode == 0 and "a 0 is read as" in done.stdout, done.stderr
    assert (run / "report.html").exists() and (run / "model.tflite").exists()
    model = run / "model.keras"
    for command in (
        ("evaluate", model),
        ("report", run),
        ("export", model, run / "model.onnx"),
        ("export", model, run / "saved"),
        ("export", model, run / "int8.tflite", "--quantize", "int8", "--bound", "0.5"),
        ("export", model, run / "web", "--format", "web"),
    ):
        done = alone("-m", "resnet_keras", *command)
        assert done.returncode == 0, done.stderr
    assert not [path for path in run.rglob("*") if path.name.startswith((".", "part-"))]
    assert not list(run.rglob("*.part"))
