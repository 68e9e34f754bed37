"""What all tests share: a quiet TensorFlow, and small runs made once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pth_writer import WRITERS
from workers import pytest_xdist_auto_num_workers  # noqa: F401, a hook of pytest-xdist

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for those who import it before the package

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
    from runs import made_once

    from resnet_keras import Recipe, train

    def make(folder):
        train(Recipe(
            model="resnet20_cifar", dataset="digits", train_size=8, padding=1, eval_size=8,
            mean=(127.5,), std=(127.5,), batch_size=64, learning_rate=0.1, nesterov=True,
            weight_decay=5e-4, epochs=12, schedule="cosine", data_dir=data_dir,
            precision="float32", run_dir=folder,
        ))  # fmt: skip

    # Reports are written into it.
    return shutil.copytree(
        made_once(tmp_path_factory, "digits", make), tmp_path_factory.mktemp("runs") / "digits"
    )


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory, digits_run, data_dir):
    """The digits' network in colour, with a folder of images of its own: no training needed.

    The kernel of the first convolution is shared out among the colours, so that a grey image
    gives what it gave; swapped colours give something else.
    """
    import keras
    import numpy as np
    from PIL import Image

    from resnet_keras import ResNet, data
    from resnet_keras.model_files import Metadata
    from resnet_keras.preprocessing import Preprocessing

    root = tmp_path_factory.mktemp("colour")
    tint = np.array([1.0, 0.95, 0.9])
    for split in ("train", "test"):
        opened = data.Source("digits", split, data_dir=data_dir).open()
        for i, (image, label) in enumerate(zip(*(a[:180] for a in opened.arrays), strict=True)):
            folder = root / "images" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * tint).astype(np.uint8)).save(folder / f"{i:03}.png")
    grey = keras.saving.load_model(digits_run / "model.keras", compile=False)
    colour = ResNet("resnet20_cifar", input_shape=(8, 8, 3), mean=(127.5,) * 3, std=(127.5,) * 3)
    weights = grey.get_weights()
    share = np.array([0.6, 0.3, 0.1], np.float32)[:, None]
    weights[0] = weights[0] * share
    colour.set_weights(weights)
    colour.save(root / "model.keras")
    labels = tuple(str(digit) for digit in range(10))
    Metadata(Preprocessing(8), labels=labels, dataset=f"folder:{root / 'images'}").write(
        root / "model.keras"
    )
    return root


@pytest.fixture
def cpu():
    """Compute where tf.data computes, on machines with an accelerator too."""
    import tensorflow as tf

    with tf.device("CPU"):
        yield


@pytest.fixture(params=WRITERS)
def write(request):
    """Writes a `.pth` file of one of the two formats: `write(path, root)`."""
    return WRITERS[request.param]
