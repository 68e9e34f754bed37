"""Backups of a training: all that an exact resume needs, each written whole or not at all."""

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

from resnet_keras.console import say
from resnet_keras.errors import InputError, refusal
from resnet_keras.files import lock, whole, writing

GENERATIONS = 2


class Saved(NamedTuple):
    """A backup.

    Attributes:
        step: number of training steps done.
        arrays: every number that the next step depends on, by name.
        notes: everything else that a resumed run continues, as JSON: the rows of its log, ...
    """

    step: int
    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep every other training out of a run folder.

    Args:
        folder: of the run; it is made. The lock is that of `files.lock`.

    Raises:
        InputError: another process is training there, or the folder cannot be written.
    """
    path = Path(os.path.abspath(folder / "lock"))
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    with file:
        if not lock(file.fileno()):
            file.seek(0)
            raise InputError(
                f"another process is training in {folder} ({file.read().strip()}): wait until it "
                "has ended, or choose another --run-dir."
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
        InputError: the machine refuses to write it; earlier backups are kept.
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
    """Keep the backup of a step and the one before it; remove all others.

    `save` does so unless it is killed first.

    Args:
        folder: of the backups.
        step: of the newest backup that is whole.
    """
    kept = [old for old in _generations(folder) if old <= _path(folder, step)][:GENERATIONS]
    for old in _generations(folder):
        if old not in kept:  # a later one is damaged: otherwise it would have been loaded
            old.unlink()


def exist(folder: Path) -> bool:
    """Tell whether there are backups, damaged or not."""
    return bool(_generations(folder))


def load(folder: Path) -> Saved | None:
    """Read the newest backup that is whole; damaged ones are named on stderr.

    Args:
        folder: of the backups.

    Returns:
        The backup; None where there is none.

    Raises:
        InputError: all backups are damaged, or one cannot be read.
    """
    paths = _generations(folder)
    for path in paths:
        try:
            return _read(path)
        # A file that others wrote may hold any types, nested to any depth.
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as e:
            if reason := refusal(e):  # it may be whole
                raise InputError(
                    f"{path} cannot be read: {reason}. Fix that, then run the same command again."
                ) from e
            say(f"{path} is damaged ({' '.join(str(e).split())[:300]}); using the one before it")
    if paths:
        raise InputError(
            f"all backups in {folder} are damaged: delete the run folder to start again."
        )
    return None


def _read(path: Path) -> Saved:
    open(path, "rb").close()  # safetensors reports a file without permission as a missing one
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    if _checksum(arrays) != int(metadata["crc32"]):
        raise ValueError("wrong checksum")
    return Saved(int(metadata["step"]), arrays, json.loads(metadata["notes"]))


def _remove_parts(folder: Path) -> None:
    """Remove what a killed training was about to save at another step."""
    for part in folder.glob(".*.part"):
        shutil.rmtree(part)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:012d}.safetensors"


def _generations(folder: Path) -> list[Path]:
    """List the backups, newest first."""
    return sorted(folder.glob("*.safetensors"), reverse=True)


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """Return a number that changes with any bit of names, types, shapes and values."""
    value = 0
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value
