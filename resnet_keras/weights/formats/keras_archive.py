"""`.keras`: a zip of a configuration and an HDF5 file of weights."""

import io
import json
import os
import zipfile

from resnet_keras.model_files import refuse_packed
from resnet_keras.weights.formats import h5
from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.keras_config import flattened, require_shapes

_WEIGHTS = "model.weights.h5"


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format; `.pth` files are zips, too."""
    if not head.startswith((b"PK\3\4", b"PK\5\6")):
        return False
    with zipfile.ZipFile(path) as archive:
        return _WEIGHTS in archive.namelist()


def read(path: str) -> Found:
    """Its weights, by `LAYER/VARIABLE`; its configuration, and the layers in that, by name."""
    with zipfile.ZipFile(path) as archive:
        refuse_packed(archive)
        saved = json.loads(archive.read("config.json"))
        weights = io.BytesIO(archive.read(_WEIGHTS))
    config = saved["config"]
    arrays, layers = h5.read_weights(weights, os.path.getsize(path), config), flattened(config)
    require_shapes(layers, arrays)
    return Found(arrays, layers, facts={"config.json": saved})
