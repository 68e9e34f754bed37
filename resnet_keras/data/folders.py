"""A folder of images as a data set: classes are folders, every file is checked once."""

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
from resnet_keras.data.files import Files, fingerprint
from resnet_keras.data.formats import UnreadableError, tidy
from resnet_keras.data.images import Split, read_bytes
from resnet_keras.errors import InputError

# A folder that is not split already gives this share of each class to the test.
TEST_SHARE = 0.2

# Folders of the two sides; of several that are there, "test" is the first.
_TEST_SIDES = ("test", "val", "validation")
# What file managers and archivers leave behind.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Checking so many takes long enough to say what goes on.
_MANY = 5000


class _Found(NamedTuple):
    """A file in a class folder; size and time tell whether it is still the same."""

    side: str  # folder of the split, or "" where there is none
    label: str
    path: str
    size: int
    time: int


class _Checked(NamedTuple):
    """What reading a file told: a reason where it is bad."""

    reason: str | None
    fingerprint: int = 0
    plain: bool = True


class _Folder(NamedTuple):
    """A folder that was checked."""

    labels: tuple[str, ...]
    sides: dict[str, list[tuple[_Found, _Checked]]]
    skipped: tuple[tuple[str, str], ...]


def open_folder(folder: str | Path, split: str, *, seed: int = 0, skip_bad: bool = False) -> Split:
    """Open one split of a folder of images; nothing is written into it.

    Two layouts: `train/CLASS/*` beside `val/CLASS/*` (or `test`, `validation`), or `CLASS/*`, of
    which a fifth of each class, at least one image, is the test. Which ones depends on `seed`
    and the names of the files alone: an image more or less moves at most one other.

    Classes are the names of the folders, sorted, of all splits together. In them every file must
    be an image; hidden files, `Thumbs.db` and `desktop.ini` are not looked at, unless they have
    an image's suffix (macOS writes `._x.jpg`, and other readers trip over it). All are decoded
    once.

    Args:
        folder: where the images lie.
        split: "train", "test" (the first of `test`, `val`, `validation` that is there), or the name
            of one of these folders.
        seed: of the split of a folder that has none.
        skip_bad: leave out files that are no images, and count them on stderr.

    Returns:
        The images, always of three channels.

    Raises:
        InputError: no such folder, layout or split, or bad files, each with its reason.
    """
    root = Path(os.path.expanduser(folder)).absolute()
    labels, found = _find(root)
    checked = _check_once(root, labels, found, seed, skip_bad)
    side = split
    if split == "test":
        side = next((name for name in _TEST_SIDES if name in checked.sides), split)
    if side not in checked.sides:
        raise InputError(
            f"{root} has the splits {', '.join(sorted(checked.sides))}. Received: split={split!r}"
        )
    members = checked.sides[side]
    if not members:
        raise InputError(f"split {split!r} of {root} is empty.")
    number = {label: i for i, label in enumerate(checked.labels)}
    files = Files(
        paths=np.array([file.path.encode(errors="surrogateescape") for file, _ in members]),
        labels=np.array([number[file.label] for file, _ in members], np.int64),
        fingerprints=np.array([check.fingerprint for _, check in members], np.int64),
        plain=np.array([check.plain for _, check in members]),
    )
    return Split(len(members), checked.labels, 3, files=files, skipped=checked.skipped)


def _find(root: Path) -> tuple[tuple[str, ...], tuple[_Found, ...]]:
    """The classes and the files of a folder, in the order of their names."""
    if not root.is_dir():
        raise InputError(f"no such folder. Received: {root}")
    sides = {name: root / name for name in ("train", *_TEST_SIDES) if _subfolders(root / name)}
    if "train" not in sides:
        if sides:
            raise InputError(f"{root} has {', '.join(sides)}, but no train with class folders.")
        sides = {"": root}
    elif len(sides) == 1:
        raise InputError(f"{root} has train, but none of {', '.join(_TEST_SIDES)} beside it.")
    labels, found = set(), []
    for side, folder in sides.items():
        for label in _subfolders(folder):
            labels.add(label.name)
            found += _files(side, label)
    if not labels:
        raise InputError(f"{root} has no class folders: it needs CLASS/* or train/CLASS/*.")
    return tuple(sorted(labels)), tuple(found)


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without what nobody put there."""
    if not folder.is_dir():
        return []
    inside = sorted(folder.iterdir())
    return [path for path in inside if not _litter(path.name) and path.is_dir()]


def _files(side: str, label: Path) -> Iterable[_Found]:
    """What lies in a class folder."""
    for path in sorted(label.iterdir()):
        if _litter(path.name):
            continue
        if path.is_dir():
            raise InputError(
                f"{path} is a folder where images should be: the layout is CLASS/* or "
                "train/CLASS/* with val/CLASS/*."
            )
        status = path.lstat() if path.is_symlink() and not path.exists() else path.stat()
        yield _Found(side, label.name, str(path), status.st_size, status.st_mtime_ns)


def _litter(name: str) -> bool:
    """Whether a name is one that programs leave behind; `._x.jpg` pretends to be an image."""
    name = name.lower()
    hidden = name.startswith(".") and not name.endswith(_IMAGE_SUFFIXES)
    return hidden or name in _LITTER


# Training opens two splits: the files are read once for both.
@functools.lru_cache(maxsize=1)
def _check_once(
    root: Path, labels: tuple[str, ...], found: tuple[_Found, ...], seed: int, skip_bad: bool
) -> _Folder:
    """Check every file; say once what is odd."""
    checks = _check(root, found)
    bad = tuple((f.path, c.reason) for f, c in zip(found, checks, strict=True) if c.reason)
    if bad and not skip_bad:
        named = ", ".join(f"{os.path.relpath(path, root)} ({reason})" for path, reason in bad)
        raise InputError(
            f"{len(bad):,} of {len(found):,} files in {root} cannot be used: {named}. Fix or "
            "remove them; --skip-bad goes on without them."
        )
    if bad:
        reasons = Counter(reason for _, reason in bad).most_common()
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        say(f"{root}: {len(bad):,} of {len(found):,} files left out: {counts}")
    good = [pair for pair in zip(found, checks, strict=True) if not pair[1].reason]
    # A side whose every file is bad is still there, empty.
    sides = {file.side: [] for file in found} if found else {"": []}
    for pair in good:
        sides[pair[0].side].append(pair)
    if "" in sides:
        sides = _split(sides[""], seed)
    _say_what_is_missing(root, labels, sides)
    return _Folder(labels, sides, bad)


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
    """A share of each class, drawn by the names alone, as the test."""

    def draw(pair) -> bytes:
        name = f"{seed}/{pair[0].label}/{os.path.basename(pair[0].path)}"
        return hashlib.sha256(name.encode(errors="surrogateescape")).digest()

    classes = {}
    for pair in images:
        classes.setdefault(pair[0].label, []).append(pair)
    test = set()
    for pairs in classes.values():
        # Of two images one is the test, of one none.
        count = max(round(TEST_SHARE * len(pairs)), len(pairs) > 1)
        test.update(pair[0].path for pair in sorted(pairs, key=draw)[:count])
    return {
        "train": [pair for pair in images if pair[0].path not in test],
        "test": [pair for pair in images if pair[0].path in test],
    }


def _say_what_is_missing(root: Path, labels: tuple[str, ...], sides: dict[str, list]) -> None:
    """Name the classes that a split has no images of."""
    for side, images in sides.items():
        there = {file.label for file, _ in images}
        if lacking := [label for label in labels if label not in there]:
            say(f"{root}: no {side} images of {', '.join(lacking)}")
