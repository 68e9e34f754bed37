"""Image files with their classes as a split: every file is read once before any is used.

What lists the files, such as `folders`, needs no more than `image_file` and `split_of`.
"""

import functools
import hashlib
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from resnet_keras.console import say
from resnet_keras.data.files import Files, FileSplit, fingerprint
from resnet_keras.data.formats import UnreadableError, tidy
from resnet_keras.data.images import read_bytes
from resnet_keras.errors import InputError

# The splits, and what else they may be called.
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

# Of images without splits, this share becomes the test split.
TEST_SHARE = 0.2

_FOLD = re.compile(r"fold (\d+)/(\d+)")

# From this number of files on, checking takes long enough to say that it is going on.
_MANY = 5000


# Sets of labels with fewer images are drawn from together: a fifth of each would be none.
_FEW = round(1 / TEST_SHARE)

# What `_by_class` calls them; no label is empty.
_OTHERS = ("",)


class ImageFile(NamedTuple):
    """A file and its class; size and time change where the file does.

    Attributes:
        split: "train", "val" or "test"; "" where there are no splits.
        label: name of the class; of a data set with several labels an image, all names, sorted.
        path: absolute.
        size: in bytes.
        time: of the last change, in nanoseconds.
    """

    split: str
    label: str | tuple[str, ...]
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
    images: list[tuple[ImageFile, _Checked]]
    splits: dict[str, list[tuple[ImageFile, _Checked]]]
    skipped: tuple[tuple[str, str], ...]


def image_file(split: str, label: str | tuple[str, ...], path: Path) -> ImageFile:
    """List a file, which is read later; one that is not there is bad then."""
    try:
        status = path.stat()
    except OSError:  # such as: not there, or a part of its path is a file
        return ImageFile(split, label, str(path), 0, 0)
    return ImageFile(split, label, str(path), status.st_size, status.st_mtime_ns)


class Division(TypedDict, total=False):
    """How files are divided into splits; each is optional.

    Attributes:
        seed: draws the test images where there are no splits, and the validation images.
        skip_bad: leave out files that are not images, and count them on stderr.
        holdout: where there are no validation images, take N from the training images, of each
            class in proportion; below 1: this fraction of them.
        fold: `fold 2/5`: divide the images, without those of a test split, into 5 folds, each
            class in proportion; the second is the test split, the others are the training split.
    """

    seed: int
    skip_bad: bool
    holdout: float
    fold: str | None


def split_of(
    root: Path,
    images: Iterable[ImageFile],
    split: str,
    *,
    labels: Iterable[str],
    **division: Unpack[Division],
) -> FileSplit:
    """Read every file, and give one split.

    Where the files have no splits, about a fifth of them becomes the test split: each file by the
    hash of its own bytes, so that others never move it, and copies stay together. A class of two
    images or more has at least one in each split; where images have several labels, so has a set
    of labels of five images or more.

    Args:
        root: what lists the files, in messages: a folder, in which they are, or a file beside them.
        images: of all splits.
        split: "train"; "val" (also "valid", "validation"); "test", which is "val" where there are
            validation images and no test images; "all"; or `fold K/N`, the test split with that
            `fold`.
        labels: names of the classes, in the order of their numbers.
        **division: see `Division`.

    Returns:
        The images, always with three channels.

    Raises:
        InputError: no such split, an empty one, or bad files, each with its reason.
    """
    if _FOLD.fullmatch(split):
        division["fold"] = split
    fold = division.get("fold")
    checked = _check_once(root, tuple(labels), tuple(images), **division)
    name = "test" if split == fold else SPLITS.get(split, split)
    if name == "test" and name not in checked.splits:
        name = "val"
    if name not in checked.splits and name != "all":
        raise InputError(
            f"{root} has the splits {', '.join(sorted(checked.splits))}, all. "
            f"Received: split={split!r}"
        )
    members = checked.images if name == "all" else checked.splits[name]
    if not members:
        raise InputError(f"split {split!r} of {root} is empty.")
    number = {label: i for i, label in enumerate(checked.labels)}
    files = Files(
        paths=np.array([file.path.encode(errors="surrogateescape") for file, _ in members]),
        labels=_numbers([file.label for file, _ in members], number),
        fingerprints=np.array([check.fingerprint for _, check in members], np.int64),
        plain=np.array([check.plain for _, check in members]),
    )
    return FileSplit(
        labels=checked.labels,
        channels=3,
        files=files,
        skipped=checked.skipped,
        name=fold if fold and name == "test" else name,
    )


def _numbers(labels: list[str | tuple[str, ...]], number: dict[str, int]) -> np.ndarray:
    """Number classes, int64 `(n,)`; several labels become a row of 0 and 1, uint8."""
    if not labels or isinstance(labels[0], str):
        return np.array([number[str(label)] for label in labels], np.int64)
    rows = np.zeros((len(labels), len(number)), np.uint8)
    for row, names in zip(rows, labels, strict=True):
        row[[number[name] for name in names]] = 1
    return rows


# Likewise: training opens two splits.
@functools.lru_cache(maxsize=4)
def warn_once(root: Path, text: str) -> None:
    """Warn of the images of a folder or a file, the first time that they are opened."""
    say(f"warning: {root}: {text}")


# Training opens two splits; the files are read once for both.
@functools.lru_cache(maxsize=1)
def _check_once(
    root: Path,
    labels: tuple[str, ...],
    found: tuple[ImageFile, ...],
    *,
    seed: int = 0,
    skip_bad: bool = False,
    holdout: float = 0,
    fold: str | None = None,
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
    if fold:
        splits = _folded(root, splits, seed, fold)
    elif "" in splits:
        splits = _split(splits[""], seed)
    if holdout:
        splits |= _held_out(root, splits, seed, holdout)
    _say_what_is_missing(root, labels, splits)
    _count_copies(root, splits)
    return _Listing(labels, good, splits, bad)


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
    """Make about a fifth of the images the test split, each by the hash of its own bytes.

    A class of two images or more has at least one in each split.
    """
    test: set[str] = set()
    for pairs in _by_class(images).values():
        draws = {pair[0].path: _draw(pair, f"{seed}") for pair in pairs}
        ordered = sorted(draws, key=lambda path: (draws[path], path))
        chosen = {path for path, draw in draws.items() if draw < TEST_SHARE}
        if not chosen and len(pairs) > 1:  # with its copies, unless that is all
            chosen = {path for path in draws if draws[path] == draws[ordered[0]]}
        if len(chosen) == len(pairs):
            chosen.discard(ordered[-1])
        test |= chosen
    return _in_two(images, test, "train", "test")


def _folded(root: Path, splits: dict[str, list], seed: int, fold: str) -> dict[str, list]:
    """Make one of N folds the test split, and the others the training split.

    The folds are what they are for every K: each class is dealt out in the order of hashes of its
    files' bytes, and copies go together.
    """
    match = _FOLD.fullmatch(fold)
    number, of = map(int, match.groups()) if match else (0, 0)
    images = [pair for name in ("", "train", "val") for pair in splits.get(name, [])]
    if not 1 <= number <= of or not 2 <= of <= len(images):
        raise InputError(
            f"{root} must be divided into 2 to {len(images):,} folds, and K of `fold K/N` must be "
            f"one of them. Received: {fold!r}"
        )
    chosen: set[str] = set()
    dealt = 0  # over all classes: otherwise the first folds had the rest of each
    for pairs in _by_class(images).values():
        draws: dict[float, list[str]] = {}
        for pair in pairs:
            draws.setdefault(_draw(pair, f"fold/{seed}"), []).append(pair[0].path)
        for draw in sorted(draws):
            if dealt % of == number - 1:
                chosen.update(draws[draw])
            dealt += 1
    return _in_two(images, chosen, "train", "test")


def _held_out(root: Path, splits: dict[str, list], seed: int, holdout: float) -> dict[str, list]:
    """Take validation images from the training images, of each class in proportion."""
    if "val" in splits:
        raise InputError(
            f"{root} has validation images of its own: `holdout` must be 0. "
            f"Received: holdout={holdout}"
        )
    images = splits.get("train", [])
    count = round(holdout * len(images)) if holdout < 1 else int(holdout)
    if not 0 < count < len(images) or (holdout >= 1 and count != holdout):
        raise InputError(
            f"`holdout` must leave images to train and to validate on, of {len(images):,}. "
            f"Received: holdout={holdout}"
        )
    classes = _by_class(images)
    shares = {label: count * len(pairs) / len(images) for label, pairs in classes.items()}
    counts = {label: math.floor(share) for label, share in shares.items()}
    # What is left goes to the largest remainders.
    rest = count - sum(counts.values())
    for label in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[:rest]:
        counts[label] += 1
    chosen: set[str] = set()
    for label, pairs in classes.items():
        drawn = sorted(pairs, key=lambda pair: (_draw(pair, f"val/{seed}"), pair[0].path))
        chosen.update(pair[0].path for pair in drawn[: counts[label]])
    return _in_two(images, chosen, "train", "val")


def _draw(pair: tuple[ImageFile, _Checked], salt: str) -> float:
    """A number in [0, 1) that is a function of a file's bytes."""
    digest = hashlib.sha256(f"{salt}/{pair[1].fingerprint}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_class(images: list) -> dict:
    """Images by the names of their classes; by the set of their labels where they have several."""
    classes: dict = {}
    for pair in images:
        classes.setdefault(pair[0].label, []).append(pair)
    rare = [key for key, some in classes.items() if isinstance(key, tuple) and len(some) < _FEW]
    if rare:
        classes[_OTHERS] = [pair for key in rare for pair in classes.pop(key)]
    return classes


def _in_two(images: list, chosen: set[str], others: str, name: str) -> dict[str, list]:
    """Two splits: the images of the paths chosen, and the others."""
    return {
        others: [pair for pair in images if pair[0].path not in chosen],
        name: [pair for pair in images if pair[0].path in chosen],
    }


def copies(splits: Mapping[str, FileSplit]) -> dict[str, list[list[str]]]:
    """Find files with the same bytes that must not be.

    Args:
        splits: of one data set, by their names.

    Returns:
        Lists of paths, each of files with the same bytes: `across_splits`, of which some are in
        another split, so that images are tested that were trained on; and `under_two_labels`.
    """
    return _copies(
        (name, str(label), number, path)
        for name, split in splits.items()
        for path, number, label in zip(
            split.paths,
            split.files.fingerprints.tolist(),
            split.files.labels.tolist(),
            strict=True,
        )
    )


def _copies(rows: Iterable[tuple[str, Any, int, str]]) -> dict[str, list[list[str]]]:
    """See `copies`; rows are split, label, fingerprint and path of a file."""
    same: dict[int, list[tuple[str, Any, str]]] = {}
    for split, label, number, path in rows:
        same.setdefault(number, []).append((split, label, path))
    found = {"across_splits": 0, "under_two_labels": 1}
    return {
        kind: [
            [path for *_, path in group]
            for group in same.values()
            if len({member[column] for member in group}) > 1
        ]
        for kind, column in found.items()
    }


def _count_copies(root: Path, splits: dict[str, list]) -> None:
    """Count the images whose bytes are in two splits, or under two labels."""
    found = _copies(
        (name, file.label, check.fingerprint, file.path)
        for name, pairs in splits.items()
        for file, check in pairs
    )
    if any(found.values()):
        say(
            f"warning: {root}: images in more than one split: {len(found['across_splits']):,}, "
            f"with more than one label: {len(found['under_two_labels']):,}; "
            "`python -m resnet_keras prepare` names their files"
        )


def _say_what_is_missing(root: Path, labels: tuple[str, ...], splits: dict[str, list]) -> None:
    """Name the classes of which a split has no images."""
    for split, images in splits.items():
        there: set[str] = set()
        for file, _ in images:
            there.update((file.label,) if isinstance(file.label, str) else file.label)
        if lacking := [label for label in labels if label not in there]:
            say(f"warning: {root}: no {split} images of {', '.join(lacking)}")
