"""Plain pickles of NumPy arrays: the `.pkl` files of Detectron and detectron2."""

import os

from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.pickles import unpickle
from resnet_keras.weights.formats.refused import Refused
from resnet_keras.weights.formats.state_dict import state_dict

# How pickles begin: since protocol 2, and those of a dict before.
_BEGINNINGS = (b"\x80", b"(d", b"}q")

# The first object in torch.save's older files, which are pickles, too: torch/serialization.py.
_TORCH = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")

# What Paddle adds to a state dict.
_PADDLE = "StructuredToParameterName@@"


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format."""
    return head.startswith(_BEGINNINGS) and _TORCH not in head


def read(path: str, key: str | None = None) -> Found:
    """The arrays of the dict that was pickled, `{name: array}` or `{"model": {name: array}}`.

    Args:
        path: the file.
        key: as in `state_dict`.

    Raises:
        Refused: it has none, or names something that no array needs; nothing was run.
        Exception: any other, where the file is damaged.
    """
    with open(path, "rb") as file:
        root = unpickle(file, None)
    if isinstance(root, dict) and _PADDLE in root:
        raise Refused(f"is a checkpoint of Paddle, which is not read here. Received: {_PADDLE}")
    found = state_dict(root, os.path.getsize(path), key)
    return Found(found.arrays, others=found.others)
