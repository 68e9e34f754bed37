"""Recognise files that hold no state dict, or one in a way that is not read here."""

import os
import re
from collections.abc import Collection

from resnet_keras.text import shortened
from resnet_keras.weights.formats.refused import Refused

# How many bytes of a file's beginning are looked at: tar has its name at 257.
HEAD = 512

_UNPACK = "unpack it, and give the checkpoint in it"
_ONNX = "is an ONNX model: convert the checkpoint that it was exported from"

# How files begin, and what they are.
_BEGINNINGS = {
    b"\x1f\x8b": f"is packed by gzip: {_UNPACK}",
    b"BZh": f"is packed by bzip2: {_UNPACK}",
    b"\xfd7zXZ\0": f"is packed by xz: {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"is packed by Zstandard: {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"is packed by 7-Zip: {_UNPACK}",
    b"\x93NUMPY": "is a single NumPy array, not a checkpoint",
    b"GGUF": "is a GGUF file, not a ResNet's checkpoint",
    b"model_checkpoint_path:": "only names a checkpoint of TensorFlow, which is not read here",
}

# As above, where white space may stand in front.
_TEXTS = {
    b"<": "is a web page, not a checkpoint",
    b"version https://git-lfs": "is a pointer of Git LFS (run: git lfs pull), not a checkpoint",
}

# ONNX begins with its version and, since 2017, the name of the program that wrote it.
_ONNX_HEAD = re.compile(rb"\x08[\x01-\x20](\x12[\x01-\x40][\x20-\x7e]+|:|B)", re.S)

# Of MessagePack: a map of a few entries, or of more, and a text as its first key.
_MSGPACK_HEAD = re.compile(rb"([\x81-\x8f]|\xde..|\xdf....)[\xa1-\xbf\xd9][\x20-\x7e]", re.S)

_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.(safetensors|bin|pth|h5)$")


def refuse_beginning(path: str, head: bytes) -> None:
    """Refuse a file by how it begins, or is called.

    Raises:
        Refused: what it is.
    """
    text = head.lstrip()
    what = next((what for start, what in _BEGINNINGS.items() if head.startswith(start)), None)
    what = what or next((w for start, w in _TEXTS.items() if text.startswith(start)), None)
    name = os.path.basename(path)
    if what is None and (shard := _SHARD.search(name)) and int(shard[1]) > 1:
        what = f"is one of {int(shard[1])} shards: give a file that holds them all"
    if what is None and head[257:262] == b"ustar":
        what = f"is a tar archive: {_UNPACK}"
    if what is None and head[4:8] == b"TFL3":
        what = "is a TensorFlow Lite model, not a checkpoint"
    if what is None and (name.endswith(".onnx") or _ONNX_HEAD.match(head)):
        what = _ONNX
    if what is None and _MSGPACK_HEAD.match(head):
        what = "is a MessagePack file, as Flax writes them, which is not read here"
    if what is None and re.search(r"\.data-\d{5}-of-\d{5}$|\.index$", name):
        what = "is part of a checkpoint of TensorFlow, which is not read here"
    if what is None and text.startswith(b"{"):
        index = "the index of a checkpoint in shards" if b'"weight_map"' in head else "JSON"
        what = f"is {index}, and holds no weights"
    if what is not None:
        raise Refused(f"{what}. Received: {text[:20]!r}")


def refuse_archive(names: Collection[str]) -> None:
    """Refuse a zip archive by the names of its entries.

    Raises:
        Refused: what it is.
    """
    if any(name.endswith("constants.pkl") for name in names):
        what = (
            "is a TorchScript archive, not a state dict: in PyTorch, "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    elif any(re.search(r"(archive_format|serialized_exported_program\.json)$", n) for n in names):
        what = (
            "is a program of torch.export, not a state dict: in PyTorch, "
            "torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
        )
    elif names and all(name.endswith(".npy") for name in names):
        what = "is an .npz file of NumPy, which is not read here"
    elif any(re.search(r"\.(pth|pt|bin|ckpt|tar|safetensors|pkl|h5)$", name) for name in names):
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
            return
        what = f"is a zip archive around other files: {_UNPACK}"
    else:
        return
    raise Refused(f"{what}. Received: {shortened(', '.join(list(names)[:3]), most=100)}")
