"""Small networks, and what their checkpoints look like, for the tests that read them."""

import functools
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np

from resnet_keras import SPECS, ResNet, Spec


def relative(got, truth) -> float:
    got = keras.ops.convert_to_numpy(got)
    assert got.shape == truth.shape
    return np.abs(got - truth).max() / np.abs(truth).max()


def small(**arguments) -> keras.Model:
    """The smallest ResNet that has all parts, all of them random."""
    model = ResNet(SMALL, **arguments)
    rng = np.random.default_rng(len(arguments))
    model.set_weights([rng.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    return model


SMALL = replace(SPECS["resnet18_cifar"], depths=(1, 1), widths=(16, 32))


def few(name: str) -> Spec:
    """A row of SPECS with few and narrow blocks."""
    stages = len(SPECS[name].depths)
    return replace(SPECS[name], depths=(2, 1, 1, 1)[:stages], widths=(8, 16, 32, 64)[:stages])


@functools.cache
def small_state() -> dict[str, np.ndarray]:
    """The same network in torchvision's names."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (16, 3, 3, 3), "fc.weight": (10, 32), "fc.bias": (10,)}
    norms = {"bn1": 16, "layer1.0.bn1": 16, "layer1.0.bn2": 16, "layer2.0.downsample.1": 32}
    for name, width in {**norms, "layer2.0.bn1": 32, "layer2.0.bn2": 32}.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
    shapes |= {f"layer1.0.conv{i}.weight": (16, 16, 3, 3) for i in (1, 2)}
    shapes |= {"layer2.0.conv1.weight": (32, 16, 3, 3), "layer2.0.conv2.weight": (32, 32, 3, 3)}
    shapes |= {"layer2.0.downsample.0.weight": (32, 16, 1, 1)}
    return {key: rng.uniform(0.1, 1, shape).astype(np.float32) for key, shape in shapes.items()}


def prefixed(prefix: str, arrays: dict) -> dict:
    return {f"{prefix}{key}": array for key, array in arrays.items()}


def without_head(arrays: dict) -> dict:
    return {key: array for key, array in arrays.items() if not key.startswith("fc.")}


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in model.weights}


def write_keras2(model: keras.Model, path: Path, **names: str) -> None:
    """The layout of the files that keras.applications distributes; `names` renames layers."""
    with h5py.File(path, "w") as file:
        layers = {names.get(layer.name, layer.name): layer for layer in model.layers}
        file.attrs["layer_names"] = [name.encode() for name in layers]
        for name, layer in layers.items():
            group = file.create_group(name)
            weights = {f"{name}/{weight.name}:0": weight for weight in layer.weights}
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for weight, variable in weights.items():
                group[weight] = np.array(variable)
