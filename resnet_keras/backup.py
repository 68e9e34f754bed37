"""Exact resume: what is saved, atomically, and where training stands."""

import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resnet_keras.console import refusal, say
from resnet_keras.errors import InputError
from resnet_keras.files import lock, whole, writing

GENERATIONS = 2


class Saved(NamedTuple):
    """A backup.

    Attributes:
        step: training steps done.
        arrays: every number that the next step depends on, by name.
        notes: what else goes on after a resume: the log's rows, say; JSON.
    """

    step: int
    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep every other training out of a run folder, which is made.

    See `disk.lock`.

    Raises:
        InputError: another process is at work there, or it cannot be written.
    """
    path = Path(os.path.abspath(folder / "lock"))
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    with file:
        if not lock(file.fileno()):
            file.seek(0)
            raise InputError(
                f"another training is at work in {folder} ({file.read().strip()}): wait for its "
                f"end, or take another --run-dir."
            )
        with writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def save(folder: Path, saved: Saved) -> Path:
    """Write a backup, whole or not at all, and keep the one before it.

    Args:
        folder: of the backups; it is made.
        saved: what to write.

    Returns:
        The file.

    Raises:
        InputError: the disk does not take it; the backups before it are kept.
    """
    path = _path(folder, saved.step)
    arrays = {name: np.array(array, order="C") for name, array in saved.arrays.items()}
    metadata = {
        "step": str(saved.step),
        "notes": json.dumps(saved.notes),
        "crc32": str(_checksum(arrays)),
    }
    _remove_parts(folder)
    with whole(path) as part:
        save_file(arrays, part, metadata=metadata)
    prune(folder, saved.step)
    return path


def prune(folder: Path, step: int) -> None:
    """Keep the backup of a step and the one before it; `save` does, if it is not killed before.

    Args:
        folder: of the backups.
        step: of the newest one that is whole.
    """
    kept = [old for old in _generations(folder) if old <= _path(folder, step)][:GENERATIONS]
    for old in _generations(folder):
        if old not in kept:  # one of a later step is damaged, else it would have been loaded
            old.unlink()


def exist(folder: Path) -> bool:
    """Whether there are backups, damaged or not."""
    return bool(_generations(folder))


def load(folder: Path) -> Saved | None:
    """Read the newest backup that is whole; one that is damaged is named on stderr.

    Args:
        folder: of the backups.

    Returns:
        The backup; None where none was ever made.

    Raises:
        InputError: there are backups, but all are damaged, or one cannot be read.
    """
    paths = _generations(folder)
    for path in paths:
        try:
            return _read(path)
        # What others wrote there may have any types, and be nested as deep as they like.
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as e:
            if reason := refusal(e):  # it may be whole
                raise InputError(
                    f"{path} cannot be read: {reason}. Fix that, then give the same command again."
                ) from None
            say(f"{path} is damaged ({' '.join(str(e).split())[:300]}); the one before it is used")
    if paths:
        raise InputError(
            f"all backups in {folder} are damaged; delete the run folder to start again."
        )
    return None


def _read(path: Path) -> Saved:
    open(path, "rb").close()  # safetensors calls each file that it may not read a missing one
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    if _checksum(arrays) != int(metadata["crc32"]):
        raise ValueError("its checksum is wrong")
    return Saved(int(metadata["step"]), arrays, json.loads(metadata["notes"]))


def _remove_parts(folder: Path) -> None:
    """Take away what a training that was killed was about to save at another step."""
    for part in folder.glob(".*.part"):
        shutil.rmtree(part)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:012d}.safetensors"


def _generations(folder: Path) -> list[Path]:
    """The backups, newest first."""
    return sorted(folder.glob("*.safetensors"), reverse=True)


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """One number that changes with any bit of names, shapes and values."""
    value = 0
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8), value)
    return value
