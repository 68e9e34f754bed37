"""The benchmark measures; how fast is no test's business."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_keras import ResNet
from resnet_keras.exporting import save_plain

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))
from contestants.startup import by_package  # noqa: E402

# As on a machine that has JAX and no TensorFlow; Keras asks whether `sys.modules` has it.
WITHOUT_TENSORFLOW = """
import sys

class Missing:
    def find_spec(name, path, target=None):
        if name == "tensorflow":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing)
from contestants.__main__ import main
main()
"""


@pytest.mark.slow
def test_training_on_jax_is_measured_without_tensorflow():
    work = {"net": "resnet18_cifar", "dtype": "float32", "batch": 8}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, "training.ours", json.dumps(work)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": f"{TOOLS}:{TOOLS.parent}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images_per_second"] > 0


def test_seconds_of_imports_are_those_of_each_package(run_python):
    # As in the documentation of Python's option -X importtime.
    report = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |     xml.sax.handler
import time:      2000 |       2100 |   xml.sax
a warning between
import time:    500000 |     502100 | tensorflow
"""
    assert by_package(report) == {"tensorflow": 0.5, "xml": 0.0021}
    done = run_python("-X", "importtime", "-c", "import json.decoder")
    assert {"json", "re"} <= set(by_package(done.stderr))


@pytest.mark.slow
def test_files_of_two_versions_take_turns(tmp_path):
    model = ResNet("resnet20_cifar", input_shape=(32, 32, 3), classes=4)
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
        save_plain(model, tmp_path / folder / "model.keras")
    (tmp_path / "after" / "only.tflite").write_bytes(b"")  # the other folder has none
    command = [sys.executable, TOOLS / "benchmark.py", "files", "--out", tmp_path / "out.json"]
    command += ["--before", tmp_path / "before", "--after", tmp_path / "after"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert list(measured) == ["model.keras, 1 threads", "model.keras, 2 threads"]
    for each in measured.values():
        ratios = [after / before for before, after in each["turns"]]
        assert each["ratio"] == statistics.median(ratios) and len(ratios) == 40
