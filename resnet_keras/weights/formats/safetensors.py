"""`.safetensors`, opened by the library of that name, which checks a header against its file."""

import math

import ml_dtypes
import numpy as np
from safetensors import safe_open

from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.refused import Refused

_DTYPES = {
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BOOL": np.dtype(np.bool_),
}


def recognises(path: str, head: bytes) -> bool:
    """Whether a file has this format: a JSON object behind eight bytes, which tell its size."""
    zipped = head.startswith(b"PK")
    return not zipped and (head[8:9] == b"{" or path.endswith(".safetensors"))


def read(path: str) -> Found:
    """Its tensors, by the file's names, memory-mapped; and the metadata of its header.

    `get_tensor` of the library would copy them, and converting a model take twice the memory.

    Raises:
        Refused: a tensor has a type that NumPy does not know.
        Exception: any other, where the header and the file do not agree.
    """
    arrays = {}
    with safe_open(path, framework="numpy") as file:
        # What it has opened has tensors that follow each other, without gaps, to the file's end.
        entries = {key: file.get_slice(key) for key in file.offset_keys()}
        metadata = file.metadata()
        sizes = {key: (tuple(e.get_shape()), e.get_dtype()) for key, e in entries.items()}
    raw = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    for key, (shape, name) in sizes.items():
        if name not in _DTYPES:
            raise Refused(f"has tensors of a type unknown here. Received: {key!r} of type {name}")
        end = start + math.prod(shape) * _DTYPES[name].itemsize
        arrays[key] = np.ndarray(shape, _DTYPES[name], raw[start:end])
        start = end
    return Found(arrays, facts={"metadata": metadata} if metadata else {})
