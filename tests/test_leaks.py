"""Memory and open files stay what they are, over many epochs and many models."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(ROOT)}

BUILD = """
import gc, json, os
from pathlib import Path
from resnet_keras import ResNet

def state():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGESIZE") / 2**20
    return memory, len(os.listdir("/proc/self/fd")), len(gc.get_objects())

states = []
for number in range(101):
    model = ResNet("resnet20_cifar")
    model(model.input_spec and __import__("numpy").zeros((1, 32, 32, 3), "uint8"))
    del model
    if number in (20, 100):
        states.append(state())
print(json.dumps(states))
"""


@pytest.mark.slow
def test_a_hundred_models():
    done = subprocess.run(
        [sys.executable, "-c", BUILD], env=ENVIRONMENT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    (early, files, objects), (late, files_late, objects_late) = json.loads(done.stdout)
    # One model has thousands of objects; of 80 none is left. (The process grows by 0.3 MiB a model
    # all the same, within TensorFlow: its weights are 1.03 MiB, so 80 that are kept would be 82.)
    assert objects_late - objects < 100
    assert late - early < 40
    assert files_late == files


def state(process):
    """Resident memory in MiB, open files."""
    folder = Path(f"/proc/{process}")
    pages = int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20, len(os.listdir(folder / "fd"))


@pytest.mark.slow
def test_fifty_epochs(tmp_path, data_dir):
    process = subprocess.Popen(
        [sys.executable, "recipes/quickstart.py", "--epochs", "50", "--run-dir", tmp_path / "run",
         "--data-dir", data_dir],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    states, log = {}, tmp_path / "run" / "log.csv"
    while process.poll() is None:
        epochs = len(log.read_text().splitlines()) - 1 if log.exists() else 0
        if epochs > 0 and process.poll() is None:
            try:
                states.setdefault(epochs, state(process.pid))
            except (FileNotFoundError, ValueError):
                break  # it has just ended
        time.sleep(0.05)
    assert process.wait() == 0
    # While it fits; what comes behind the last epoch is another thing.
    early, late = ([states[n] for n in range(*ends) if n in states] for ends in ((8, 14), (43, 50)))
    assert len(early) > 2 and len(late) > 2
    # An epoch that is kept: 1,437 images of 8 x 8 floats and the gradients of 270,000 weights,
    # 1.4 MiB; over 35 epochs that is 49.
    assert min(m for m, _ in late) - max(m for m, _ in early) < 25
    assert min(n for _, n in late) <= max(n for _, n in early)
