"""Files as `torch.save` writes them, byte by byte: the tests need no PyTorch, and can lie."""

import functools
import struct
import subprocess
import sys
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: object
    arguments: tuple


class Persistent(NamedTuple):
    id: object


class State(NamedTuple):
    """An object, then the BUILD opcode with a state."""

    target: object
    state: object


class Raw(NamedTuple):
    """Opcodes as they are."""

    opcodes: bytes


class View(NamedTuple):
    """A tensor: a window, in elements, on a one-dimensional array, its storage."""

    storage: np.ndarray
    offset: int
    shape: tuple
    strides: tuple


def whole(array: np.ndarray) -> View:
    array = np.array(array, order="C")
    strides = tuple(s // array.itemsize for s in array.strides)
    return View(array.reshape(-1), 0, array.shape, strides)


def tensor(storage: object, view: View) -> Call:
    hooks = Call(Global("collections", "OrderedDict"), ())
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (storage, view.offset, view.shape, view.strides, False, hooks))


def pickled(value, storages: dict | None = None, extra: tuple = ()) -> bytes:
    """A pickle of protocol 2; the storages of its tensors are added to `storages`."""

    def emit(value) -> bytes:
        match value:
            case Raw():
                return value.opcodes
            case Global():
                return f"c{value.module}\n{value.name}\n".encode()
            case Call():
                return emit(value.function) + emit(value.arguments) + b"R"
            case State():
                return emit(value.target) + emit(value.state) + b"b"
            case Persistent():
                return emit(value.id) + b"Q"
            case View():
                key = str(id(value.storage))
                storages[key] = value.storage
                kind = Global("torch", STORAGES[value.storage.dtype.name])
                pid = ("storage", kind, key, "cpu", value.storage.size, *extra)
                return emit(tensor(Persistent(pid), value))
            case np.ndarray():
                keep.append(whole(value))
                return emit(keep[-1])
            case None | True | False:
                return {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                return b"\x8a" + bytes([len(number)]) + number
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case tuple():
                return b"(" + b"".join(map(emit, value)) + b"t"
            case list():
                return b"](" + b"".join(map(emit, value)) + b"e"
            case dict():
                items = b"".join(emit(k) + emit(v) for k, v in value.items())
                return b"}(" + items + b"u"
        raise TypeError(type(value))

    keep: list = []  # an id is a storage's name only while the array lives
    try:
        return b"\x80\x02" + emit(value) + b"."
    finally:
        if storages is not None:
            storages["keep"] = keep


def write_zip(path, root, *, byteorder="little", compression=zipfile.ZIP_STORED):
    """The format of PyTorch 1.6 and later."""
    storages: dict = {}
    pickle = pickled(root, storages)
    storages.pop("keep")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path, root):
    """The format before PyTorch 1.6."""
    storages: dict = {}
    pickle = pickled(root, storages, extra=(None,))
    storages.pop("keep")
    system = {"protocol_version": PROTOCOL, "little_endian": True}
    with open(path, "wb") as file:
        for part in (MAGIC, PROTOCOL, system):
            file.write(pickled(part))
        file.write(pickle + pickled(list(storages)))
        for array in storages.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())


@functools.cache
def torch_python() -> str:
    """A Python that has torchvision, for tests against PyTorch itself; skips if there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", "import torchvision"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python with torchvision")


WRITERS = {"zip": write_zip, "legacy": write_legacy}
