"""Any checkpoint file -> its arrays by the names it gives them; NumPy and h5py only."""

import io
import json
import math
import os
import struct
import zipfile
from typing import NamedTuple

import h5py
import ml_dtypes
import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.model_files import refuse_packed
from resnet_keras.weights.pickles import Refused, Tensor
from resnet_keras.weights.pth import read_pth

# Where training scripts put the state dict: OpenMMLab, Lightning and timm; torchvision; timm's EMA.
_WRAPPERS = ("state_dict", "model", "state_dict_ema")

# What all tensors of a file may come to, by its size: some share their values.
_MOST_CLAIMED = 4

# What a repository on the hub calls its weights, best first.
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin", "model.keras", "model.weights.h5")

_SAFE_DTYPES = {
    **{f"F{8 * n}": np.dtype(f"<f{n}") for n in (2, 4, 8)},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# The variables of a layer in the order in which Keras numbers them, by the first one's rank.
_VARIABLES = {
    4: ("kernel", "bias"),
    2: ("kernel", "bias"),
    1: ("gamma", "beta", "moving_mean", "moving_variance"),
}


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        path: as it was given.
        arrays: by the file's own names, `LAYER/VARIABLE` for Keras; any dtype and strides. Those of
            `.pth` and `.safetensors` are memory-mapped.
        layers: of a `.keras` file, `class_name` and `config` of each layer by name.
    """

    path: str
    arrays: dict[str, np.ndarray]
    layers: dict[str, dict]


def read(source: str | os.PathLike) -> Contents:
    """Read a checkpoint; its first bytes tell the format, not its suffix.

    Args:
        source: `.pth`, `.safetensors`, `.h5`, `.weights.h5` or `.keras` file, or `hf://org/repo`.

    Returns:
        What is in it.

    Raises:
        InputError: no such file, or not a checkpoint, or one that is damaged or refused.
    """
    source = os.fspath(source)
    path = _download(source) if source.startswith("hf:/") else source  # a Path has one slash
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{source} can't be read. Received: {error.strerror}") from error
    try:
        arrays, layers = _read(path, head, size)
    except Refused as error:
        raise InputError(f"{source} {_line(error)}") from error
    except Exception as error:  # there is no end to what damage does to the parsers
        raise InputError(
            f"{source} is truncated, damaged or no checkpoint at all. Received: {_line(error)}"
        ) from error
    claimed = 0
    for key, array in arrays.items():
        claimed += array.nbytes
        # Strides of 0 can claim any shape, and tensors may share their values.
        if array.nbytes > size or claimed > _MOST_CLAIMED * size:
            what = "a tensor" if array.nbytes > size else "tensors that together are"
            raise InputError(
                f"{source} has {what} larger than the file. "
                f"Received: {_shortened(repr(key))} of shape {array.shape} in {size} bytes"
            )
    return Contents(source, arrays, layers)


def _read(path: str, head: bytes, size: int) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Arrays, and a `.keras` file's layers."""
    if not head:
        raise Refused("is empty (a download that failed?). Received: 0 bytes")
    if head.lstrip()[:1] == b"<":
        raise Refused(f"is a web page, not a checkpoint. Received: {head.lstrip()[:20]!r}")
    if head.startswith(b"version https://git-lfs"):
        raise Refused("is a pointer of Git LFS (run: git lfs pull). Received: no weights")
    if head.startswith(b"\x89HDF"):
        return _read_h5(path, size), {}
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        with zipfile.ZipFile(path) as archive:
            if "model.weights.h5" in archive.namelist():
                return _read_keras(archive, size)
    elif head[8:9] == b"{" or path.endswith(".safetensors"):
        return _read_safetensors(path), {}
    return _state_dict(read_pth(path)), {}


def _state_dict(root: object) -> dict[str, np.ndarray]:
    """The tensors of what `torch.save` saved."""
    for _ in range(2):  # a dict can hold itself
        if isinstance(root, dict):
            root = next((root[k] for k in _WRAPPERS if isinstance(root.get(k), dict)), root)
    tensors = root.items() if isinstance(root, dict) else ()
    arrays = {str(key): value.array() for key, value in tensors if isinstance(value, Tensor)}
    if not arrays:
        raise Refused(f"has no state dict in it. Received: a {type(root).__name__}")
    return arrays


def _read_safetensors(path: str) -> dict[str, np.ndarray]:
    """`uint64` size of a JSON header, the header, the values; memory-mapped."""
    raw = np.memmap(path, np.uint8, "r")
    (size,) = struct.unpack("<Q", raw[:8].tobytes())
    header = json.loads(raw[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    values = raw[8 + size :]
    # NumPy checks that a shape fits into its bytes.
    return {
        key: np.ndarray(e["shape"], _SAFE_DTYPES[e["dtype"]], values[slice(*e["data_offsets"])])
        for key, e in header.items()
    }


def _read_keras(archive: zipfile.ZipFile, size: int):
    """A `.keras` file: its weights, and the layers that its configuration lists."""
    refuse_packed(archive)
    config = json.loads(archive.read("config.json"))["config"]
    layers = {layer["config"]["name"]: layer for layer in config.get("layers", ())}
    return _read_h5(io.BytesIO(archive.read("model.weights.h5")), size), layers


def _read_h5(file: str | io.BytesIO, size: int) -> dict[str, np.ndarray]:
    """Keras' HDF5 layouts, old (groups by layer name) and new (`vars/0`, `vars/1`, ...)."""
    arrays: dict[str, np.ndarray] = {}
    total = 0

    def visit(path: str, item) -> None:  # links, which may lead out of the file, are not visited
        nonlocal total
        beside = path.startswith(("optimizer", "metrics")) or "/seed_generator/" in path
        if beside or not isinstance(item, h5py.Dataset):
            return
        total += math.prod(item.shape) * item.dtype.itemsize
        if item.external or item.is_virtual or total > 4 * size:
            raise Refused(f"has weights that are not in the file. Received: {path!r}")
        arrays[_h5_key(path, item)] = item[()]

    with h5py.File(file, "r") as h5:
        h5.visititems(visit)
    return arrays


def _h5_key(path: str, item: h5py.Dataset) -> str:
    """`LAYER/VARIABLE` of a data set in an HDF5 file."""
    *_, parent, name = ["", *path.split("/")]
    if parent != "vars":
        return f"{parent}/{name.removesuffix(':0')}"
    layer = item.parent.attrs.get("name")
    if layer is None:
        raise Refused(
            "has no layer names: it is of an early Keras 3; load it there and save it again. "
            f"Received: {path!r}"
        )
    names = _VARIABLES.get(item.parent["0"].ndim, ()) if "0" in item.parent else ()
    return f"{layer}/{names[int(name)] if name.isdigit() and int(name) < len(names) else name}"


def _download(url: str) -> str:
    """`hf://org/repo` or `hf://org/repo/FILE` -> the file in huggingface_hub's cache."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError as error:
        raise InputError(
            f"hf:// needs huggingface_hub: pip install 'resnet-keras[hub]'. Received: {url}"
        ) from error
    organisation, *rest = url.removeprefix("hf:").strip("/").split("/", 2)
    names = rest[1:] or _HUB_NAMES
    reason = ""
    for name in names:
        try:
            return hf_hub_download("/".join([organisation, *rest[:1]]), name)
        except EntryNotFoundError as error:  # also: offline, and not in the cache
            reason = _line(error)
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = _line(error)
            break
    raise InputError(
        f"{url} has none of {', '.join(names)}, or is out of reach. Received: {reason}"
    )


def _line(error: Exception) -> str:
    """What went wrong, in one line of some length: a file may name things as it likes."""
    return _shortened(" ".join(str(error).split()) or type(error).__name__)


def _shortened(text: str) -> str:
    """Both ends, because the end says what was received."""
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-200:]}"
