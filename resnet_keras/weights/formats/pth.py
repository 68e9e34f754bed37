"""PyTorch's `.pth` files, read without PyTorch: where their pickle and their tensors are."""

import io
import mmap
import os
import struct
import zipfile

import numpy as np

from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.not_read import refuse_archive
from resnet_keras.weights.formats.pickles import Storage, unpickle
from resnet_keras.weights.formats.refused import Refused
from resnet_keras.weights.formats.state_dict import state_dict

# The first pickle of torch.save's older format (torch/serialization.py, MAGIC_NUMBER).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def recognises(path: str, head: bytes) -> bool:
    """Whether a file may have this format: anything may, the older one begins with any pickle."""
    return True


def read(path: str, key: str | None = None) -> Found:
    """The tensors of the state dict that `torch.save` saved; memory-mapped.

    Args:
        path: the file.
        key: as in `state_dict`.
    """
    root = read_pth(path)
    found = state_dict(root, os.path.getsize(path), key)
    entries = root if isinstance(root, dict) else {}
    facts = {
        name: entries[name]
        for name, kind in (("meta", dict), ("arch", str))
        if isinstance(entries.get(name), kind)
    }
    return Found(found.arrays, others=found.others, facts=facts)


def read_pth(path: str) -> object:
    """Read a file of `torch.save`, zip or older format.

    Args:
        path: the file; its tensors stay memory-mapped.

    Returns:
        What was saved: dicts, lists and scalars, with a `Tensor` for each tensor.

    Raises:
        Refused: the file names something that is not in the lists of `pickles`; nothing was run.
        Exception: any other, where the file is damaged.
    """
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _read_zip(path, data) if data[:2] == b"PK" else _read_legacy(data)


def _read_zip(path: str, data: mmap.mmap) -> object:
    """The format since PyTorch 1.6: `NAME/data.pkl` and `NAME/data/KEY`, stored, in a zip."""
    raw = np.frombuffer(data, np.uint8)
    with zipfile.ZipFile(path) as archive:
        entries = archive.NameToInfo
    refuse_archive(entries)
    program = next((name for name in entries if name.endswith("data.pkl")), None)
    if program is None:
        raise Refused(f"is a zip, but not of torch.save. Received: {list(entries)[:3]}")
    folder = program.removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")  # since PyTorch 2.1
    big_endian = order is not None and bytes(_stored(raw, order)) == b"big"

    storages: dict[str, Storage] = {}
    swapped = 0

    def storage(key: str, dtype: np.dtype, numel: int) -> Storage:
        nonlocal swapped
        if key in storages:
            return _same(storages[key], key, dtype, numel)
        values = _stored(raw, entries[f"{folder}data/{key}"])
        if values.size != numel * dtype.itemsize:
            raise Refused(
                f"has a storage of another size than its header says. Received: {numel} x "
                f"{dtype} in {values.size} bytes"
            )
        if big_endian:
            swapped += values.size
            if swapped > raw.size:  # entries that lie over each other
                raise Refused(f"has storages that are larger than it. Received: storage {key!r}")
            values = values.reshape(-1, dtype.itemsize)[:, ::-1].reshape(-1)
        storages[key] = Storage(dtype, numel, values)
        return storages[key]

    return unpickle(io.BytesIO(_stored(raw, entries[program]).tobytes()), storage)


def _stored(raw: np.ndarray, entry: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a zip entry, in place."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Refused(
            "has compressed or encrypted entries, which torch.save never writes. "
            f"Received: {entry.filename!r}"
        )
    # Sizes of name and extra field; the latter differs from the central directory's, it pads.
    header = bytes(raw[entry.header_offset : entry.header_offset + 30])
    name, extra = struct.unpack("<HH", header[26:])
    start = entry.header_offset + 30 + name + extra
    if header[:4] != b"PK\3\4" or start + entry.file_size > raw.size:
        raise Refused(f"is truncated or damaged. Received: {entry.filename!r}")
    return raw[start : start + entry.file_size]


def _read_legacy(data: mmap.mmap) -> object:
    """The format before PyTorch 1.6: five pickles, then `int64 numel` and bytes per storage."""
    storages: dict[str, Storage] = {}

    def storage(key: str, dtype: np.dtype, numel: int) -> Storage:
        return _same(storages.setdefault(key, Storage(dtype, numel)), key, dtype, numel)

    magic = unpickle(data, None)
    if type(magic) is not int or magic != _LEGACY_MAGIC:
        raise Refused(f"is a pickle, but not of torch.save. Received: a {type(magic).__name__}")
    unpickle(data, None)  # version of the format
    unpickle(data, None)  # byte order and sizes of the machine; the data is little endian always
    root = unpickle(data, storage)
    keys = unpickle(data, None)
    if type(keys) is not list:
        raise TypeError(f"storages listed in a {type(keys).__name__}")
    raw, position = np.frombuffer(data, np.uint8), data.tell()
    for key in keys:
        if type(key) is not str:
            raise TypeError(f"a storage named by a {type(key).__name__}")
        found = storages[key]
        (numel,) = struct.unpack_from("<q", data, position)
        size = found.numel * found.dtype.itemsize
        if numel != found.numel or position + 8 + size > raw.size:
            raise Refused(
                f"is truncated or damaged. Received: storage {key!r} of {found.numel} x "
                f"{found.dtype}, with {raw.size - position - 8} bytes left in the file"
            )
        found.data = raw[position + 8 : position + 8 + size]
        position += 8 + size
    if any(found.data is None for found in storages.values()):
        raise Refused(
            f"is truncated: storages are missing. Received: {len(keys)} of {len(storages)}"
        )
    return root


def _same(known: Storage, key: str, dtype: np.dtype, numel: int) -> Storage:
    """A storage that is referred to again."""
    if (known.dtype, known.numel) != (dtype, numel):
        raise Refused(f"gives one storage two types or sizes. Received: storage {key!r}")
    return known
