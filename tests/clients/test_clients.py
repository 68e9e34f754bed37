"""Versions and files that docs/clients.md speaks of and has no lines for, in batches."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnet_keras.exporting import folded
from resnet_keras.model_files import Metadata
from resnet_keras.model_files.formats import ONNX, TFLITE
from resnet_keras.preprocessing import Preprocessing

PROGRAMS = Path(__file__).parent / "programs"
FILES = {
    "model.tflite": (TFLITE, {}),
    "nhwc.onnx": (ONNX, {"layout": "nhwc"}),
    "nchw.onnx": (ONNX, {"layout": "nchw"}),
}
CV4 = ("opencv-python-headless==4.12.0.88",)
CV5 = ("opencv-python-headless==5.0.0.93",)
RUNTIME = ("onnxruntime==1.15.1", "numpy==1.26.4")
# Program, packages, and the file that it opens. Not OpenCV 4 with TFLite: 4.12 gives other
# probabilities for this network.
CLIENTS = [
    ("opencv", CV4, "nhwc.onnx"),
    ("opencv", CV4, "nchw.onnx"),
    ("opencv", CV5, "model.tflite"),
    ("opencv", CV5, "nhwc.onnx"),
    ("opencv", CV5, "nchw.onnx"),
    ("opencv_classic", CV5, "nchw.onnx"),
    ("runtime", RUNTIME, "nhwc.onnx"),
    ("runtime", RUNTIME, "nchw.onnx"),
]


@pytest.fixture(scope="module")
def folder(network, images, tmp_path_factory):
    """The exported files, and `images.npy`."""
    folder = tmp_path_factory.mktemp("clients")
    np.save(folder / "images.npy", images)
    metadata = Metadata(Preprocessing(images.shape[1]))
    for name, (row, options) in FILES.items():
        model = folded(network, rescaling=row.rescaling)
        row.module.write(model, folder / name, metadata, **options)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "names", "file"), CLIENTS, ids=[f"{p}-{n[0]}-{f}" for p, n, f in CLIENTS]
)
def test_a_client_gives_what_keras_gives(program, names, file, expected, folder, packages):
    path = os.pathsep.join(map(str, (packages(names), PROGRAMS)))
    done = subprocess.run(
        [sys.executable, PROGRAMS / f"{program}.py", folder / file, folder],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    got = np.load(folder / "scores.npy")
    (folder / "scores.npy").unlink()
    assert np.array_equal(got.argmax(1), expected.argmax(1))
    assert np.abs(got - expected).max() < 1e-4
