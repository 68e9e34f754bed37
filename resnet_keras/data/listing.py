"""Image files with their classes as a split: every file is read once before any is used.

What lists the files, such as `folders`, needs no more than `image_file` and `split_of`.
"""

import functools
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resnet_keras.console import say
from resnet_keras.data.files import Files, FileSplit, fingerprint
from resnet_keras.data.formats import UnreadableError, tidy
from resnet_keras.data.images import read_bytes
from resnet_keras.errors import InputError

# Splits that "test" may mean; of several that exist, the first.
TEST_SPLITS = ("test", "val", "validation")

# Of images without splits, this share of each class becomes the test split.
TEST_SHARE = 0.2

# From this number of files on, checking takes long enough to say that it is going on.
_MANY = 5000


class ImageFile(NamedTuple):
    """A file and its class; size and time change where the file does.

    Attributes:
        split: its name, or "" where there are no splits.
        label: name of the class.
        path: absolute.
        size: in bytes.
        time: of the last change, in nanoseconds.
    """

    split: str
    label: str
    path: str
    size: int
    time: int


class _Checked(NamedTuple):
    """The outcome of reading a file: a reason if it is bad."""

    reason: str | None
    fingerprint: int = 0
    plain: bool = True


class _Listing(NamedTuple):
    """Files that were checked."""

    labels: tuple[str, ...]
    splits: dict[str, list[tuple[ImageFile, _Checked]]]
    skipped: tuple[tuple[str, str], ...]


def image_file(split: str, label: str, path: Path) -> ImageFile:
    """List a file, which is read later; one that is not there is bad then."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ImageFile(split, label, str(path), 0, 0)
    return ImageFile(split, label, str(path), status.st_size, status.st_mtime_ns)


def split_of(
    root: Path,
    images: Iterable[ImageFile],
    split: str,
    *,
    labels: Iterable[str],
    seed: int = 0,
    skip_bad: bool = False,
) -> FileSplit:
    """Read every file, and give one split.

    Where the files have no splits, a fifth of each class, at least one image, becomes the test
    split. Which images depends only on `seed` and the names of the files: adding or removing an
    image moves at most one other.

    Args:
        root: what lists the files, in messages: a folder, in which they are, or a file beside them.
        images: of all splits.
        split: "train"; "test" (the first of `TEST_SPLITS` that there is); or the name of a split.
        labels: names of the classes, in the order of their numbers.
        seed: draws the test images where there are no splits.
        skip_bad: leave out files that are not images, and count them on stderr.

    Returns:
        The images, always with three channels.

    Raises:
        InputError: no such split, an empty one, or bad files, each with its reason.
    """
    checked = _check_once(root, tuple(labels), tuple(images), seed, skip_bad)
    name = split
    if split == "test":
        name = next((name for name in TEST_SPLITS if name in checked.splits), split)
    if name not in checked.splits:
        raise InputError(
            f"{root} has the splits {', '.join(sorted(checked.splits))}. Received: split={split!r}"
        )
    members = checked.splits[name]
    if not members:
        raise InputError(f"split {split!r} of {root} is empty.")
    number = {label: i for i, label in enumerate(checked.labels)}
    files = Files(
        paths=np.array([file.path.encode(errors="surrogateescape") for file, _ in members]),
        labels=np.array([number[file.label] for file, _ in members], np.int64),
        fingerprints=np.array([check.fingerprint for _, check in members], np.int64),
        plain=np.array([check.plain for _, check in members]),
    )
    return FileSplit(labels=checked.labels, channels=3, files=files, skipped=checked.skipped)


# Training opens two splits; the files are read once for both.
@functools.lru_cache(maxsize=1)
def _check_once(
    root: Path, labels: tuple[str, ...], found: tuple[ImageFile, ...], seed: int, skip_bad: bool
) -> _Listing:
    """Check every file, and say once what is wrong."""
    checks = _check(root, found)
    bad = tuple((f.path, c.reason) for f, c in zip(found, checks, strict=True) if c.reason)
    if bad and not skip_bad:
        folder = root if root.is_dir() else root.parent
        named = ", ".join(f"{os.path.relpath(path, folder)} ({reason})" for path, reason in bad)
        raise InputError(
            f"{len(bad):,} of {len(found):,} files in {root} cannot be read: {named}. Fix or "
            "remove them, or leave them out with --skip-bad."
        )
    if bad:
        reasons = Counter(reason for _, reason in bad).most_common()
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        say(f"{root}: {len(bad):,} of {len(found):,} files left out: {counts}")
    good = [pair for pair in zip(found, checks, strict=True) if not pair[1].reason]
    # A split all of whose files are bad is still there, empty.
    splits: dict[str, list] = {file.split: [] for file in found} if found else {"": []}
    for pair in good:
        splits[pair[0].split].append(pair)
    if "" in splits:
        splits = _split(splits[""], seed)
    _say_what_is_missing(root, labels, splits)
    return _Listing(labels, splits, bad)


def _check(root: Path, found: tuple[ImageFile, ...]) -> list[_Checked]:
    """Decode every file, on all cores."""
    if len(found) >= _MANY:
        say(f"{root}: checking {len(found):,} files")
    with warnings.catch_warnings():  # around the threads: the filters are the process's
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(_check_one, (file.path for file in found)))


def _check_one(path: str) -> _Checked:
    if os.path.basename(path).startswith("._"):
        return _Checked("macOS resource fork")
    try:
        data = read_bytes(path)
        plain = tidy(data) is data
    except FileNotFoundError:
        return _Checked("broken link" if os.path.islink(path) else "no such file")
    except UnreadableError as error:
        return _Checked(str(error))
    return _Checked(None, int(fingerprint(data)), plain)


def _split(images: list, seed: int) -> dict[str, list]:
    """Make a share of each class, drawn by the names alone, the test split."""

    def draw(pair) -> bytes:
        name = f"{seed}/{pair[0].label}/{os.path.basename(pair[0].path)}"
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    classes: dict[str, list] = {}
    for pair in images:
        classes.setdefault(pair[0].label, []).append(pair)
    test: set[str] = set()
    for pairs in classes.values():
        # Of two images, one is for the test; a single one is not.
        count = max(round(TEST_SHARE * len(pairs)), len(pairs) > 1)
        test.update(pair[0].path for pair in sorted(pairs, key=draw)[:count])
    return {
        "train": [pair for pair in images if pair[0].path not in test],
        "test": [pair for pair in images if pair[0].path in test],
    }


def _say_what_is_missing(root: Path, labels: tuple[str, ...], splits: dict[str, list]) -> None:
    """Name the classes of which a split has no images."""
    for split, images in splits.items():
        there = {file.label for file, _ in images}
        if lacking := [label for label in labels if label not in there]:
            say(f"{root}: no {split} images of {', '.join(lacking)}")
