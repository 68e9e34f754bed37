"""A folder of images as a data set: each class is a folder, and every file is checked once."""

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

# Of a folder without splits, this share of each class becomes the test split.
TEST_SHARE = 0.2

# Folders that are the test split; of several that exist, the first.
_TEST_FOLDERS = ("test", "val", "validation")
# What file managers and archivers leave behind.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# From this number of files on, checking takes long enough to say that it is going on.
_MANY = 5000


class _Found(NamedTuple):
    """A file in a class folder; size and time change where the file does."""

    split: str  # name of the split's folder, or "" where there is none
    label: str
    path: str
    size: int
    time: int


class _Checked(NamedTuple):
    """The outcome of reading a file: a reason if it is bad."""

    reason: str | None
    fingerprint: int = 0
    plain: bool = True


class _Folder(NamedTuple):
    """A folder that was checked."""

    labels: tuple[str, ...]
    splits: dict[str, list[tuple[_Found, _Checked]]]
    skipped: tuple[tuple[str, str], ...]


def open_folder(
    folder: str | Path, split: str, *, seed: int = 0, skip_bad: bool = False
) -> FileSplit:
    """Open one split of a folder of images; nothing is written into it.

    There are two layouts: `train/CLASS/*` beside `val/CLASS/*` (or `test`, `validation`); or
    `CLASS/*`, where a fifth of each class, at least one image, becomes the test split. Which images
    depends only on `seed` and the names of the files: adding or removing an image moves at most one
    other.

    The classes are the names of the class folders of all splits, sorted. Every file in them must be
    an image. Hidden files, `Thumbs.db` and `desktop.ini` are ignored, unless they have the suffix
    of an image (macOS writes `._x.jpg`, and other readers trip over it). All files are decoded
    once.

    Args:
        folder: the folder of the images.
        split: "train"; "test" (the first of the folders `test`, `val`, `validation` that exists);
            or the name of one of these folders.
        seed: draws the test images of a folder without splits.
        skip_bad: leave out files that are not images, and count them on stderr.

    Returns:
        The images, always with three channels.

    Raises:
        InputError: no such folder, layout or split, or bad files, each with its reason.
    """
    root = Path(os.path.expanduser(folder)).absolute()
    labels, found = _find(root)
    checked = _check_once(root, labels, found, seed, skip_bad)
    name = split
    if split == "test":
        name = next((name for name in _TEST_FOLDERS if name in checked.splits), split)
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


def _find(root: Path) -> tuple[tuple[str, ...], tuple[_Found, ...]]:
    """List the classes and the files of a folder, sorted by their names."""
    if not root.is_dir():
        raise InputError(f"no such folder. Received: {root}")
    splits = {name: root / name for name in ("train", *_TEST_FOLDERS) if _subfolders(root / name)}
    if "train" not in splits:
        if splits:
            raise InputError(f"{root} has {', '.join(splits)}, but no train/CLASS/* beside it.")
        splits = {"": root}
    elif len(splits) == 1:
        raise InputError(
            f"{root} has train, but none of {', '.join(_TEST_FOLDERS)} with class folders"
            " beside it."
        )
    labels: set[str] = set()
    found: list[_Found] = []
    for split, folder in splits.items():
        for label in _subfolders(folder):
            labels.add(label.name)
            found += _files(split, label)
    if not labels:
        raise InputError(f"{root} has no class folders: it needs CLASS/* or train/CLASS/*.")
    return tuple(sorted(labels)), tuple(found)


def _subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted, without those that programs leave behind."""
    if not folder.is_dir():
        return []
    inside = sorted(folder.iterdir())
    return [path for path in inside if not is_litter(path.name) and path.is_dir()]


def _files(split: str, label: Path) -> Iterable[_Found]:
    """List the files in a class folder."""
    for path in sorted(label.iterdir()):
        if is_litter(path.name):
            continue
        if path.is_dir():
            raise InputError(
                f"{path} is a folder where an image should be: the layout is CLASS/* or "
                "train/CLASS/* with val/CLASS/*."
            )
        status = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
        yield _Found(split, label.name, str(path), status.st_size, status.st_mtime_ns)


def is_litter(name: str) -> bool:
    """Tell whether programs leave files of this name behind; `._x.jpg` pretends to be an image."""
    name = name.lower()
    hidden = name.startswith(".") and not name.endswith(_IMAGE_SUFFIXES)
    return hidden or name in _LITTER


# Training opens two splits; the files are read once for both.
@functools.lru_cache(maxsize=1)
def _check_once(
    root: Path, labels: tuple[str, ...], found: tuple[_Found, ...], seed: int, skip_bad: bool
) -> _Folder:
    """Check every file, and say once what is wrong."""
    checks = _check(root, found)
    bad = tuple((f.path, c.reason) for f, c in zip(found, checks, strict=True) if c.reason)
    if bad and not skip_bad:
        named = ", ".join(f"{os.path.relpath(path, root)} ({reason})" for path, reason in bad)
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
    return _Folder(labels, splits, bad)


def _check(root: Path, found: tuple[_Found, ...]) -> list[_Checked]:
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
        return _Checked("broken link")
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
