"""A network, its images, and other people's packages."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from resnet_keras import SPECS, ResNet

EDGE, CLASSES = 64, 10


@pytest.fixture(scope="session")
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
            assert done.returncode == 0, done.stderr
            made[names] = folder
        return made[names]

    return install


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def images():
    """20 windows of photographs, uint8."""
    draw, photos = np.random.default_rng(1), load_sample_images().images
    corners = zip(draw.integers(0, 300, 20), draw.integers(0, 500, 20), strict=True)
    windows = (photos[i % 2][y : y + EDGE, x : x + EDGE] for i, (y, x) in enumerate(corners))
    return np.stack(list(windows))


@pytest.fixture(scope="session")
def expected(network, images):
    """What Keras gives for the images."""
    scores = network.predict(images, verbose=0)
    assert len(set(scores.argmax(1))) > 1 and scores.max() > 0.5
    return scores
