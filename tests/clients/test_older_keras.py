"""Older versions of Keras open our `.keras` files, and predict the same.

Keras 3.0 to 3.3 do not: they read the ends of a model as a list, which makes a model that no layer
can be put behind of it in later versions.
"""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import test_keras_config as files

from resnet_keras.exporting import save_plain
from resnet_keras.model_files import load_keras
from resnet_keras.model_files.formats import KERAS

# `None`: the newest.
VERSIONS = ("3.4.1", "3.6.0", "3.8.0", "3.10.0", "3.12.4", "3.14.1", None)

# Load files, predict, and say what each layer is; also which arguments the classes have.
CHILD = """
import inspect, json, sys
import keras, numpy as np
images = np.load("images.npy")
told = {"version": keras.__version__, "layers": {}, "arguments": {}}
for name in sys.argv[1:]:
    model = keras.saving.load_model(f"{name}.keras")
    np.save(f"{name}.npy", np.asarray(model(images, training=False)))
    told["layers"][name] = [layer.get_config() for layer in model.layers]
    if name == "operations":
        continue
    used = [*model.layers, *(getattr(l, "kernel_initializer", None) for l in model.layers)]
    for kind in {type(one) for one in used if one is not None}:
        found = [
            name for above in kind.__mro__ for name in inspect.signature(above.__init__).parameters
        ]
        told["arguments"][kind.__name__] = sorted(set(found))
print(json.dumps(told, default=lambda policy: keras.saving.serialize_keras_object(policy)))
"""


NAMES = (*files.KINDS, "operations")


def operations():
    """A model with operations beside its layers, and with an augmentation."""
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.RandomFlip("horizontal")(pixels)
    x = keras.layers.Conv2D(4, 3)(x / 255.0 + 1.0)
    return keras.Model(pixels, keras.layers.Dense(3)(keras.ops.mean(x, axis=(1, 2))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of each kind, and images."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "images.npy", files.IMAGES)
    for kind in files.KINDS:
        save_plain(files.network(kind), folder / f"{kind}.keras", "softmax")
    KERAS.module.save(operations(), folder / "operations.keras")
    return folder


def run(folder, backend, target=None):
    """Run CHILD with the Keras in a folder, by default ours."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["PYTHONPATH"] = str(target or "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *NAMES],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ours(folder):
    return run(folder, "numpy")


def installed(version, tmp_path):
    requirement = f"keras=={version}" if version else "keras"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path,
         requirement],
        check=True, timeout=600,
    )  # fmt: skip
    return tmp_path


def require_equal(own, other, where):
    """Compare what two versions say, as far as both do; how they write a value may differ."""
    if isinstance(own, dict) and isinstance(other, dict):
        for key in set(own) & set(other) - {"module", "registered_name", "shared_object_id"}:
            require_equal(own[key], other[key], (*where, key))
    else:
        assert own == other, where


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_it_opens_our_files_and_predicts_the_same(version, folder, ours, tmp_path):
    target = installed(version, tmp_path)
    for backend in ("numpy", "tensorflow"):
        told = run(folder, backend, target)
        assert version is None or told["version"] == version
        for kind in NAMES:
            own = load_keras(folder / f"{kind}.keras").predict_on_batch(files.IMAGES)
            assert np.abs(np.load(folder / f"{kind}.npy") - own).max() < 1e-6, kind
        # What the files leave out is the same without being told.
        for kind, layers in ours["layers"].items():
            for mine, other in zip(layers, told["layers"][kind], strict=True):
                require_equal(mine, other, (kind, mine["name"]))


@pytest.mark.slow
def test_the_list_of_new_arguments_is_complete(folder, ours, tmp_path):
    told = run(folder, "numpy", installed("3.4.1", tmp_path))
    for kind, arguments in ours["arguments"].items():
        assert set(arguments) - set(told["arguments"][kind]) == files.NEW.get(kind, set()), kind
