"""Other people's programs give what Keras gives: each in a folder of its own packages."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from resnet_keras import SPECS, ResNet
from resnet_keras.exporting import folded
from resnet_keras.model_files import Metadata
from resnet_keras.model_files.formats import ONNX, SAVED_MODEL, TFLITE
from resnet_keras.preprocessing import Preprocessing

PROGRAMS = Path(__file__).parent / "programs"
EDGE, CLASSES = 64, 10
FILES = {
    "model.tflite": (TFLITE, {}),
    "nhwc.onnx": (ONNX, {"layout": "nhwc"}),
    "nchw.onnx": (ONNX, {"layout": "nchw"}),
    "served": (SAVED_MODEL, {"signatures": "serve"}),
}
CV4 = ("opencv-python-headless==4.12.0.88",)
CV5 = ("opencv-python-headless==5.0.0.93",)
MEDIAPIPE = (
    *("mediapipe==1.2.3", "matplotlib", "kiwisolver", "cycler", "pyparsing", "contourpy"),
    *("fonttools", "python-dateutil", *CV4),
)
# Program, packages, and the file that it opens. Not OpenCV 4 with TFLite: 4.12 gives other
# probabilities for this network.
CLIENTS = [
    ("opencv", CV4, "nhwc.onnx"),
    ("opencv", CV4, "nchw.onnx"),
    ("opencv", CV5, "model.tflite"),
    ("opencv", CV5, "nhwc.onnx"),
    ("opencv", CV5, "nchw.onnx"),
    ("opencv_classic", CV5, "nchw.onnx"),
    ("runtime", ("onnxruntime==1.15.1", "numpy==1.26.4"), "nhwc.onnx"),
    ("runtime", ("onnxruntime==1.15.1", "numpy==1.26.4"), "nchw.onnx"),
    ("runtime", ("onnxruntime",), "nhwc.onnx"),
    ("mediapipe_classifier", MEDIAPIPE, "model.tflite"),
    ("ncnn_net", ("ncnn==1.0.20261020", "pnnx==20261020"), "nchw.onnx"),
    ("tensorflowjs_graph", ("tensorflowjs==4.22.0", "tensorflow_hub", "tf_keras"), "served"),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Return a function that installs packages, without what they need, into a folder."""
    made: dict[tuple[str, ...], Path] = {}

    def install(names):
        if names not in made:
            folder = tmp_path_factory.mktemp("packages")
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
            done = subprocess.run(
                [*command, "--target", folder, *names], capture_output=True, text=True
            )
            if done.returncode:
                pytest.skip(f"{names[0]} cannot be installed: {done.stderr.splitlines()[-1]}")
            made[names] = folder
        return made[names]

    return install


@pytest.fixture(scope="module")
def network():
    """A ResNet-18 of two stages with live batch norms, which is sure of its classes."""
    keras.utils.set_random_seed(0)
    small = dataclasses.replace(SPECS["resnet18"], depths=(1, 1), widths=(16, 32))
    model = ResNet(small, input_shape=(EDGE, EDGE, 3), classes=CLASSES)
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([draw.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    head = model.get_layer("predictions")
    head.set_weights([draw.normal(size=weight.shape) for weight in head.get_weights()])
    return model


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """The exported files, and windows of photographs, `images.npy`."""
    folder = tmp_path_factory.mktemp("clients")
    draw, photos = np.random.default_rng(1), load_sample_images().images
    corners = zip(draw.integers(0, 300, 20), draw.integers(0, 500, 20), strict=True)
    images = [photos[i % 2][y : y + EDGE, x : x + EDGE] for i, (y, x) in enumerate(corners)]
    np.save(folder / "images.npy", np.stack(images))
    metadata = Metadata(Preprocessing(EDGE), tuple(f"class {i}" for i in range(CLASSES)))
    for name, (row, options) in FILES.items():
        model = folded(network, rescaling=row.rescaling)
        row.module.write(model, folder / name, metadata, **options)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "names", "file"), CLIENTS, ids=[f"{p}-{n[0]}-{f}" for p, n, f in CLIENTS]
)
def test_a_client_gives_what_keras_gives(program, names, file, network, folder, packages):
    path = os.pathsep.join(map(str, (packages(names), PROGRAMS)))
    done = subprocess.run(
        [sys.executable, PROGRAMS / f"{program}.py", folder / file, folder],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = np.load(folder / "scores.npy")
    (folder / "scores.npy").unlink()
    if program == "tensorflowjs_graph":  # nothing in Python runs what it wrote
        nodes, weights = got
        assert nodes > weights > 2 * 5  # kernels and biases of five convolutions at least
        return
    expected = network.predict(np.load(folder / "images.npy"), verbose=0)
    assert len(set(expected.argmax(1))) > 1 and expected.max() > 0.5
    assert np.array_equal(got.argmax(1), expected.argmax(1))
    assert np.abs(got - expected).max() < 1e-4
