"""HDF5: Keras' layouts, old (groups by layer name) and new (`vars/0`, `vars/1`, ...)."""

import io
import math
import os

import h5py
import numpy as np

from resnet_keras.weights.formats.found import Found
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
    """The arrays of a `.h5` or `.weights.h5` file, by `LAYER/VARIABLE`."""
    return Found(read_weights(path, os.path.getsize(path)))


def read_weights(file: str | io.BytesIO, size: int) -> dict[str, np.ndarray]:
    """The arrays in an HDF5 file of `size` bytes, by `LAYER/VARIABLE`.

    Raises:
        Refused: they lie outside of the file, claim far more than it has, or have no names.
        Exception: any other, where the file is damaged.
    """
    arrays: dict[str, np.ndarray] = {}
    total = 0

    def visit(path: str, item: object) -> None:  # not for links, which may lead out of the file
        nonlocal total
        beside = path.startswith(("optimizer", "metrics")) or "/seed_generator/" in path
        if beside or not isinstance(item, h5py.Dataset):
            return
        total += math.prod(item.shape) * item.dtype.itemsize
        if item.external or item.is_virtual or total > _MOST_CLAIMED * size:
            raise Refused(f"has weights that are not in the file. Received: {path!r}")
        arrays[_key(path, item)] = item[()]

    with h5py.File(file, "r") as h5:
        h5.visititems(visit)
    return arrays


def _key(path: str, item: h5py.Dataset) -> str:
    """`LAYER/VARIABLE` of a data set in an HDF5 file."""
    *_, parent, name = ["", *path.split("/")]
    if parent != "vars":
        return f"{parent}/{name.removesuffix(':0')}"
    layer = item.parent.attrs.get("name")
    if layer is None:
        raise Refused(
            "has no layer names: it was written by an early Keras 3; load it there and save it "
            f"again. Received: {path!r}"
        )
    names = _VARIABLES.get(item.parent["0"].ndim, ()) if "0" in item.parent else ()
    return f"{layer}/{names[int(name)] if name.isdigit() and int(name) < len(names) else name}"
