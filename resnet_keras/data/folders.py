"""A folder of images as a data set: each class is a folder."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Unpack

from resnet_keras.data.files import FileSplit
from resnet_keras.data.listing import (
    SPLITS,
    Division,
    ImageFile,
    image_file,
    split_of,
    warn_once,
)
from resnet_keras.errors import InputError

# What file managers and archivers leave behind.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir"}
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".avif", ".heic", ".jp2"),
)

# What people call a split in words of their own.
_LONGER = re.compile(r"(.+[_\- ])?(?P<split>train|val|valid|test)(ing|idation)?([_\- ].+)?")


def open_folder(
    folder: str | Path,
    split: str,
    **division: Unpack[Division],
) -> FileSplit:
    """Open one split of a folder of images; nothing is written into it.

    There are two layouts: `train/CLASS/*`, `val/CLASS/*` (or `valid`, `validation`) and
    `test/CLASS/*`, of which some may be missing; or `CLASS/*`, where `split_of` draws the test
    images. Images in folders inside a class folder are of that class.

    The classes are the names of the class folders of all splits, sorted. Every file in them must be
    an image. Hidden files, `Thumbs.db` and `desktop.ini` are ignored, unless they have the suffix
    of an image (macOS writes `._x.jpg`, and other readers trip over it). All files are decoded
    once.

    Args:
        folder: the folder of the images.
        split: as in `split_of`.
        **division: as of `split_of`.

    Returns:
        The images, always with three channels.

    Raises:
        InputError: no such folder, layout or split, or bad files, each with its reason.
    """
    root = Path(os.path.expanduser(folder)).absolute()
    labels, images = _find(root)
    if unread := _unread(root):
        warn_once(root, f"not read, because of no class of a split: {unread}")
    return split_of(root, images, split, labels=labels, **division)


def files_in(folder: str | Path) -> tuple[ImageFile, ...]:
    """List the files of a folder of images, without reading them.

    Raises:
        InputError: no such folder or layout.
    """
    return _find(Path(os.path.expanduser(folder)).absolute())[1]


def _find(root: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...]]:
    """List the classes and the files of a folder, sorted by their names."""
    labels: set[str] = set()
    found: list[ImageFile] = []
    for split, folder in _splits(root).items():
        for label in _subfolders(folder):
            labels.add(label.name)
            found += _files(split, label)
    if not labels:
        raise InputError(f"{root} has no class folders: it needs CLASS/* or train/CLASS/*.")
    require_different(root, labels)
    return tuple(sorted(labels)), tuple(found)


def _splits(root: Path) -> dict[str, Path]:
    """The folder of each split; of the split "" where the images are still to be divided."""
    if not root.is_dir():
        raise InputError(f"no such folder. Received: {root}")
    folders = _subfolders(root)
    named = {path.name: path for path in folders if path.name in SPLITS and _subfolders(path)}
    _require_layout(root, folders, named)
    splits = {SPLITS[name]: path for name, path in named.items()}
    return {"": splits.get("train", root)} if splits.keys() <= {"train"} else splits


def _unread(root: Path) -> str:
    """Name what has images and is no class: folders beside the splits, and loose images."""
    read = set(_splits(root).values())
    beside = [] if root in read else [path for path in _subfolders(root) if path not in read]
    named = [path.name for path in beside if any(map(_is_image, _walk(path)))]
    loose = [
        os.path.relpath(path, root)
        for folder in sorted({root, *read})
        for path in sorted(folder.iterdir())
        if _is_image(path) and path.is_file()
    ]
    if loose:
        named.append(f"{len(loose):,} files such as {loose[0]}")
    return ", ".join(named)


def _is_image(path: Path) -> bool:
    """Tell by the name of a file."""
    return not is_litter(path.name) and path.suffix.lower() in _IMAGE_SUFFIXES


def _require_layout(root: Path, folders: list[Path], named: dict[str, Path]) -> None:
    """Refuse layouts that are nearly one of the two, with what to do.

    Raises:
        InputError: splits of other names, two of one kind, or one folder around them all.
    """
    kinds = [SPLITS[name] for name in named]
    if twice := [name for name in named if kinds.count(SPLITS[name]) > 1]:
        raise InputError(f"{root} must have one of {', '.join(twice)}. Received: all of them")
    nearly = [p.name for p in folders if p.name not in named and _split_like(p.name)]
    nearly = [name for name in nearly if _subfolders(root / name)]
    if not (nearly or named):  # `seg_train`, `test_images`; but no two kinds of trains
        longer = {p.name: _LONGER.fullmatch(p.name.lower()) for p in folders if _subfolders(p)}
        words = {name: match["split"] for name, match in longer.items() if match}
        nearly = list(words) if len(set(words.values())) > 1 else []
    if nearly and len(nearly) + len(named) > 1:
        raise InputError(
            f"{root}: the splits are called train, val and test: rename "
            f"{', '.join(nearly)}. Received: {', '.join(path.name for path in folders)}"
        )
    if len(folders) == 1 and not named:
        inner = _subfolders(folders[0])
        if len(inner) > 1 or (inner and _split_like(inner[0].name)):
            raise InputError(
                f"the only folder in {root} is {folders[0].name}: give folder:{folders[0]}. "
                f"Received: {', '.join(path.name for path in inner[:4])} in it"
            )


def _split_like(name: str) -> bool:
    """Tell whether people call a split so."""
    pattern = r"(train|val|valid|eval|test|dev|holdout)(ing|idation|ation|uation|_?set)?"
    return re.fullmatch(pattern, name.lower()) is not None


def require_different(root: Path, labels: set[str]) -> None:
    """Refuse classes whose names look alike: `train/cat` and `val/Cat`, or `val/cat `.

    Macs write accents as characters of their own.
    """
    folded: dict[str, str] = {}
    for label in sorted(labels):
        plain = " ".join(unicodedata.normalize("NFC", label).lower().split())
        other = folded.setdefault(plain, label)
        if other == label:
            continue
        shown, how = f"{other} and {label}", "upper and lower case"
        if other.lower() != label.lower():
            shown, how = f"{ascii(other)} and {ascii(label)}", "spaces or the coding of accents"
        raise InputError(
            f"{root} has the classes {shown}, which differ in {how} only: give one class the same "
            "name everywhere."
        )


def _subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted, without those that programs leave behind."""
    if not folder.is_dir():
        return []
    inside = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    return [path for path in inside if path.is_dir() and not _is_of_runs(path)]


def _is_of_runs(folder: Path) -> bool:
    """Tell whether a folder is one of a training, or has such folders only: `runs/NAME`."""

    def is_one(path: str | os.PathLike[str]) -> bool:
        return os.path.exists(os.path.join(path, "recipe.json"))

    if is_one(folder):
        return True
    with os.scandir(folder) as inside:  # the first image ends it
        first = next(inside, None)
        return first is not None and is_one(first) and all(map(is_one, inside))


def _files(split: str, label: Path) -> Iterable[ImageFile]:
    """List the files in a class folder and in the folders inside."""
    for path in _walk(label):
        yield image_file(split, label.name, path)


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """List the files in a folder, then those in its folders; a link to one above ends there."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as found:
        inside = sorted((e for e in found if not is_litter(e.name)), key=lambda entry: entry.name)
    folders = [entry.name for entry in inside if entry.is_dir()]
    yield from (Path(folder, entry.name) for entry in inside if not entry.is_dir())
    for name in folders:
        yield from _walk(folder / name, (*above, real))


def is_litter(name: str) -> bool:
    """Tell whether programs leave files of this name behind; `._x.jpg` pretends to be an image."""
    name = name.lower()
    hidden = name.startswith(".") and not name.endswith(_IMAGE_SUFFIXES)
    return hidden or name in _LITTER
