"""`.keras`: a zip of a configuration and an HDF5 file of weights."""

import io
import json
import os
import zipfile

from resnet_keras.model_files import refuse_packed
from resnet_keras.weights.formats import h5
from resnet_keras.weights.formats.found import Found

_WEIGHTS = "model.weights.h5"


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format; `.pth` files are zips, too."""
    if not head.startswith((b"PK\3\4", b"PK\5\6")):
        return False
    with zipfile.ZipFile(path) as archive:
        return _WEIGHTS in archive.namelist()


def read(path: str) -> Found:
    """Its weights, by `LAYER/VARIABLE`, and the layers that its configuration lists, by name."""
    with zipfile.ZipFile(path) as archive:
        refuse_packed(archive)
        config = json.loads(archive.read("config.json"))["config"]
        layers = {layer["config"]["name"]: layer for layer in config.get("layers", ())}
        weights = io.BytesIO(archive.read(_WEIGHTS))
    return Found(h5.read_weights(weights, os.path.getsize(path)), layers)
