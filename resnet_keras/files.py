"""Read and write files of this machine; what is written is written whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError, refusal
from resnet_keras.signals import heed_signals

# A data set of this machine is named by a word and a path; one of TFDS may be NAME:VERSION.
_LOCAL = re.compile(r"[a-z]+:(?!(?:\d+|\*)(?:\.(?:\d+|\*)){2}(?:/\w+=.*)?$)(.*)", re.DOTALL)

# Seconds to wait for another process that writes the same file: a small one, such as a report, is
# written within that. A training does not fail because somebody wrote its report by hand.
_PATIENCE = 1.0


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Write a file or folder elsewhere; at the end it becomes `path`, or nothing is left.

    Meanwhile it lies in the folder `.NAME.part` beside `path`. A process that is killed leaves that
    folder behind; the next one that writes `path` removes it.

    Args:
        path: a file or a folder. An existing one is replaced; of a link, what it leads to. A file
            never replaces a folder.

    Yields:
        Where to write: a path with the same name in an empty folder, which may hold scratch files.

    Raises:
        InputError: the machine refuses to write it, another process is writing the same path and
            has not ended within a second, or a folder is in the place of a file.
    """
    path = Path(os.path.realpath(path))
    folder = path.with_name(f".{path.name}.part")
    with writing(path):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, path):
            _clear(folder, path)
            try:
                part = folder / "new" / path.name
                part.parent.mkdir()
                yield part
                _publish(part, path, folder / "old")
            finally:
                _clear(folder, path)
                folder.rmdir()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that is being written where the machine refuses to write it.

    Args:
        path: the file, or the folder.

    Raises:
        InputError: the machine refuses: the disk is full, or the folder is read-only.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or (reason := refusal(error)) is None:
            raise
        if (where := getattr(error, "filename", None)) and str(path.parent) not in str(where):
            raise  # another file, which was read meanwhile
        raise InputError(
            f"{path} cannot be written: {reason}. Nothing is lost. Fix that, then run the same "
            "command again."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        InputError: as `whole`.
    """
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(contents, dict):
            raise ValueError(f"it must hold an object. Received: {str(contents)[:100]}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    return contents


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_path(dataset: str | None) -> Path | None:
    """Return the path in the name of a data set of this machine, such as `folder:PATH`.

    Args:
        dataset: its name. `mnist:3.0.1` is one of TFDS with its version; a folder whose whole path
            looks like a version is named `folder:./3.0.1`.

    Returns:
        The path; None for data sets of other names, which may be published.
    """
    match = _LOCAL.fullmatch(dataset or "")
    return None if match is None else Path(match[1])


def lock(file: int) -> bool:
    """Lock an open file or folder for this process, until it closes it.

    The lock is the operating system's: it ends with the process, however the process ends.

    Args:
        file: number of the open file.

    Returns:
        Whether no other process holds the lock. Always true on network file systems without locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise
    return True


@contextlib.contextmanager
def _locked(folder: Path, path: Path) -> Iterator[None]:
    """Make the folder of what is being written, and keep other processes out of it."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process has just removed it
        try:
            if not _locked_within(_PATIENCE, handle):
                raise InputError(f"another process is writing {path}: wait until it has ended.")
            if not folder.exists() or not os.path.samestat(os.fstat(handle), folder.stat()):
                continue
            yield
            return
        finally:
            os.close(handle)


def _locked_within(seconds: float, handle: int) -> bool:
    """Lock an open folder; tell whether that succeeded in time."""
    end = time.monotonic() + seconds
    while not lock(handle):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _clear(folder: Path, path: Path) -> None:
    """Remove what is not whole, and put back what was just being replaced."""
    old = folder / "old"
    if old.exists() and not path.exists():
        os.replace(old, path)
    for left in (folder / "new", old):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def _publish(part: Path, path: Path, old: Path) -> None:
    """Move what is whole to its place, so that a loss of power does not take it away again."""
    if path.is_dir() and not part.is_dir():
        raise InputError(
            "a folder has the name of the file: move it away, or choose another name. "
            f"Received: {path}"
        )
    for file in (part, *part.rglob("*")):
        _to_disk(file)
    heed_signals()
    if path.is_dir():  # a folder cannot be replaced while it is there
        os.replace(path, old)
    os.replace(part, path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file or folder has reached the disk: the machine may lose power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
