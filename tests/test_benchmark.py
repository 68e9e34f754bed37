"""The benchmark measures; how fast is no test's business."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"

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
