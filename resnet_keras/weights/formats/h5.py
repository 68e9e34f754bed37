"""HDF5: Keras' layouts, old (groups by layer name) and new (`vars/0`, `vars/1`, ...)."""

import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.keras_config import flattened, layer_names
from resnet_keras.weights.formats.refused import Refused

# What the arrays of a file may come to, by its size: they can be packed.
_MOST_CLAIMED = 4

# The variables of a layer in the order in which Keras numbers them, by the rank of the first.
_VARIABLES = {
    4: ("kernel", "bias"),
    2: ("kernel", "bias"),
    1: ("gamma", "beta", "moving_mean", "moving_variance"),
}


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format."""
    return head.startswith(b"\x89HDF")


def read(path: str) -> Found:
    """The arrays of a `.h5` or `.weights.h5` file, by `LAYER/VARIABLE`.

    A whole model's `.h5` lists its layers, too.
    """
    arrays = read_weights(path, os.path.getsize(path))
    with h5py.File(path, "r") as h5:
        config = h5.attrs.get("model_config")
    return Found(arrays, flattened(json.loads(config)["config"]) if config is not None else {})


def read_weights(
    file: str | io.BytesIO, size: int, config: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The arrays in an HDF5 file of `size` bytes, by `LAYER/VARIABLE`.

    Args:
        file: its path or its bytes.
        size: of the file.
        config: of the model, which names the layers where the file does not.

    Raises:
        Refused: they lie outside of the file, claim far more than it has, or have no names.
        Exception: any other, where the file is damaged.
    """
    arrays: dict[tuple[str, str], np.ndarray] = {}
    unnamed: set[str] = set()
    total = 0

    def visit(path: str, item: object) -> None:  # not for links, which may lead out of the file
        nonlocal total
        beside = path.startswith(("optimizer", "metrics")) or "/seed_generator/" in path
        if beside or not isinstance(item, h5py.Dataset):
            return
        total += math.prod(item.shape) * item.dtype.itemsize
        if item.external or item.is_virtual or total > _MOST_CLAIMED * size:
            raise Refused(f"has weights that are not in the file. Received: {path!r}")
        layer, variable = _key(path, item)
        if layer is None:
            layer = path.rsplit("/", 2)[0]
            unnamed.add(layer)
        if (layer, variable) in arrays:
            raise Refused(f"has two layers of one name. Received: {layer!r}")
        arrays[layer, variable] = item[()]

    with h5py.File(file, "r") as h5:
        h5.visititems(visit)
    names = {}
    if unnamed:
        if config is None:
            raise Refused(
                "names no layers, as files of weights alone of Keras 2 and Keras 3.0 to 3.5: save "
                "the whole model there, as .keras or .h5. "
                f"Received: {min(unnamed)!r}"
            )
        names = layer_names(config, unnamed)
    return {f"{names.get(layer, layer)}/{variable}": a for (layer, variable), a in arrays.items()}


def _key(path: str, item: h5py.Dataset) -> tuple[str | None, str]:
    """Layer, if the file names it, and variable of a data set in an HDF5 file."""
    *_, parent, name = ["", *path.split("/")]
    if parent != "vars":
        return parent, name.removesuffix(":0")
    names = _VARIABLES.get(item.parent["0"].ndim, ()) if "0" in item.parent else ()
    variable = names[int(name)] if name.isdigit() and int(name) < len(names) else name
    return item.parent.attrs.get("name"), variable
