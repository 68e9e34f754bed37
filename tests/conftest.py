"""What all tests share: a quiet TensorFlow, and small runs made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run_python():
    """Run Python in a fresh process from the project's root; gives the finished process."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder where data sets are prepared once for all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory, data_dir):
    """A small network trained on the digits for a few epochs: its run folder."""
    from resnet_keras import Recipe, train

    recipe = Recipe(
        model="resnet20_cifar", dataset="digits", train_size=8, padding=1, eval_size=8,
        mean=(127.5,), std=(127.5,), batch_size=64, learning_rate=0.1, nesterov=True,
        weight_decay=5e-4, epochs=12, schedule="cosine", data_dir=data_dir,
        precision="float32", run_dir=tmp_path_factory.mktemp("runs") / "digits",
    )  # fmt: skip
    return train(recipe)
