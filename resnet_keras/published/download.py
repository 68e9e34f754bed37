"""Download a published file once: resumed, verified before anything reads it, published whole."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.files import writing
from resnet_keras.published import Pretrained
from resnet_keras.text import reason

_CHUNK = 2**18

# Seconds without a byte, and how often a download that broke is continued at once.
_TIMEOUT, _TRIES = 30, 3

# Seconds between two drawings of the bar.
_INTERVAL = 0.2


class _Broken(Exception):
    """A connection that ended early; what has come stays."""


def cache_folder() -> Path:
    """Return where downloads go: `RESNET_KERAS_CACHE`, by default `~/.cache/resnet_keras`."""
    given = os.environ.get("RESNET_KERAS_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "resnet_keras"


def cached(row: Pretrained) -> Path:
    """Return where a row's file is, or will be."""
    return cache_folder() / row.url.rpartition("/")[2]


def fetch(row: Pretrained) -> Path:
    """Download the file of a row, unless the cache has it.

    It comes from the row's url, or from `RESNET_KERAS_MIRROR` where that is set: a url to which the
    file's name is appended. A download that breaks is continued, by this call and by later ones;
    of several processes one downloads and the others wait.

    Args:
        row: whose url begins with `https://`.

    Returns:
        The path of the file, whose hash is the published one.

    Raises:
        InputError: it cannot be had: the line says why, from where, and where to put it by hand.
    """
    path = cached(row)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if not path.exists():
            _publish(row, path)
        elif (found := _hash(path, row)) is not None:
            raise InputError(
                f"{path} is not the published file {row.url}: delete it, then run the same command "
                f"again. Received: {found}"
            )
    return path


def _publish(row: Pretrained, path: Path) -> None:
    """Download a file and verify it; then it is at `path`."""
    url, part = _url(path.name, row), path.with_name(f"{path.name}.part")
    continued = part.exists()
    if not _is_whole(part, row):
        _download(url, part, path)
    if (found := _hash(part, row)) is not None and continued:  # what was there may be of another
        part.unlink()
        _download(url, part, path)
        found = _hash(part, row)
    if found is not None:
        with open(part, "rb") as file:
            page = file.read(64).lstrip().startswith(b"<")
        part.unlink()
        raise InputError(
            f"{url} gives {'a web page, not the file' if page else 'another file'}, which was "
            f"deleted. {_by_hand(path)} Received: {found}"
        )
    part.replace(path)


def _is_whole(part: Path, row: Pretrained) -> bool:
    """Whether all of a file has come: a process may be killed before it says so."""
    return part.exists() and bool(row.md5 or row.sha256) and _hash(part, row) is None


def _url(name: str, row: Pretrained) -> str:
    mirror = os.environ.get("RESNET_KERAS_MIRROR")
    return f"{mirror.rstrip('/')}/{name}" if mirror else row.url


def _by_hand(path: Path) -> str:
    return f"Try again later, or put the file at {path}."


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes away from a file of the cache, for as long as they have to wait."""
    lock = path.with_name(f".{path.name}.lock")
    with writing(lock):
        opened = open(lock, "w")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that downloads {path.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            pass
        yield


def _hash(path: Path, row: Pretrained) -> str | None:
    """What the hash of a file is, if it is not the published one."""
    algorithm, wanted = ("md5", row.md5) if row.md5 else ("sha256", row.sha256)
    if wanted is None:
        return None
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return None if found.startswith(wanted) else f"{algorithm} {found}, not {wanted}..."


def _download(url: str, part: Path, path: Path) -> None:
    """Fetch a file into `part`, from where that ends.

    Raises:
        InputError: it cannot be had.
    """
    for last in (False,) * (_TRIES - 1) + (True,):
        try:
            return _continue(url, part, path)
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                part.unlink()  # longer than the file: of something else
                continue
            why = f"the server answers {error.code} {error.reason}"
        except (_Broken, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and not _of_the_network(error):
                raise
            why = reason(getattr(error, "reason", None) or error)
            if not last and not isinstance(error, urllib.error.URLError):
                time.sleep(0.5)
                continue
        raise InputError(f"{url} cannot be downloaded: {why}. {_by_hand(path)}")
    raise InputError(f"{url} cannot be downloaded: it changes. {_by_hand(path)}")


def _of_the_network(error: OSError) -> bool:
    """Whether it is a connection that failed, not a disk."""
    return isinstance(error, urllib.error.URLError | ConnectionError | TimeoutError)


def _continue(url: str, part: Path, path: Path) -> None:
    """Fetch what is missing of a file.

    Raises:
        _Broken: the connection ended early.
        InputError: it is a web page, or the disk has no room.
    """
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "resnet_keras"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise InputError(
                f"{url} gives a web page, not the file (does this network want a login?). "
                f"{_by_hand(path)}"
            )
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            there = 0  # a server that sends the whole file again
        length = answer.headers.get("Content-Length")
        total = there + int(length) if length else None
        _require_room(part, total, there, url)
        with writing(path), open(part, "r+b" if there else "wb") as file:
            file.seek(there)
            _copy(answer, file, path.name, there, total)
            file.flush()
            os.fsync(file.fileno())  # its name is not to outlive its contents
    if total is not None and part.stat().st_size < total:
        raise _Broken(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")


def _require_room(part: Path, total: int | None, there: int, url: str) -> None:
    """Refuse a file that the disk has no room for, before it is full."""
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - there > free:
        raise InputError(
            f"{url} needs {_mib(total - there)} MiB, {part.parent} has {_mib(free)} MiB free: make "
            "room, or set RESNET_KERAS_CACHE to a folder on another disk."
        )


def _copy(
    answer: http.client.HTTPResponse, file: BinaryIO, name: str, there: int, total: int | None
) -> None:
    """Copy an answer to the end of a file, with a bar on a terminal, else with one line."""
    bar = _Bar(name, there, total)
    try:
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            bar.add(len(chunk))
    except http.client.IncompleteRead as error:
        file.write(error.partial)
        raise
    finally:
        bar.close()


class _Bar:
    """How much of a download has come, and the time left.

    Args:
        name: of the file.
        there: bytes that were there before.
        total: bytes of the whole file; None: not known.
    """

    def __init__(self, name: str, there: int, total: int | None):
        self.name, self.there, self.total = name, there, total
        self.begun, self.came, self.drawn = time.perf_counter(), 0, 0.0
        self.terminal = sys.stderr.isatty()
        if not self.terminal:
            size = f" ({_mib(total)} MiB)" if total is not None else ""
            say(f"downloading {name}{size}" + (f" from byte {there:,}" if there else ""))

    def add(self, number: int) -> None:
        """Count bytes that came."""
        self.came += number
        now = time.perf_counter()
        if self.terminal and now - self.drawn > _INTERVAL:
            self.drawn = now
            sys.stderr.write(f"\r{self._line(now)}\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """Draw the last state, and end the line."""
        if self.terminal:
            sys.stderr.write(f"\r{self._line(time.perf_counter())}\x1b[K\n")
            sys.stderr.flush()

    def _line(self, now: float) -> str:
        done, speed = self.there + self.came, self.came / max(now - self.begun, 1e-9)
        if self.total is None:
            return f"{self.name[:40]} {_mib(done)} MiB, {_mib(speed)} MiB/s"[:79]
        left = round((self.total - done) / max(speed, 1))
        percent = 100 * done // max(self.total, 1)
        numbers = f"{percent:3} % of {_mib(self.total)} MiB, {_mib(speed)} MiB/s"
        return f"{self.name[:40]} {numbers}, {left // 60}:{left % 60:02d} left"[:79]


def _mib(number: float) -> str:
    return f"{number / 2**20:.1f}"
