"""A folder of images as a data set: each class is a folder."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Unpack

from resnet_keras.data.files import FileSplit
from resnet_keras.data.listing import SPLITS, Division, ImageFile, image_file, split_of
from resnet_keras.errors import InputError

# What file managers and archivers leave behind.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".avif", ".heic", ".jp2"),
)


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
    return split_of(root, images, split, labels=labels, **division)


def files_in(folder: str | Path) -> tuple[ImageFile, ...]:
    """List the files of a folder of images, without reading them.

    Raises:
        InputError: no such folder or layout.
    """
    return _find(Path(os.path.expanduser(folder)).absolute())[1]


def _find(root: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...]]:
    """List the classes and the files of a folder, sorted by their names."""
    if not root.is_dir():
        raise InputError(f"no such folder. Received: {root}")
    folders = _subfolders(root)
    named = {path.name: path for path in folders if path.name in SPLITS and _subfolders(path)}
    _require_layout(root, folders, named)
    splits = {SPLITS[name]: path for name, path in named.items()}
    if splits.keys() <= {"train"}:
        splits = {"": splits.get("train", root)}
    labels: set[str] = set()
    found: list[ImageFile] = []
    for split, folder in splits.items():
        for label in _subfolders(folder):
            labels.add(label.name)
            found += _files(split, label)
    if not labels:
        raise InputError(f"{root} has no class folders: it needs CLASS/* or train/CLASS/*.")
    require_different(root, labels)
    return tuple(sorted(labels)), tuple(found)


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
    pattern = r"(train|val|valid|test|dev)(ing|idation|ation|_?set)?"
    return re.fullmatch(pattern, name.lower()) is not None


def require_different(root: Path, labels: set[str]) -> None:
    """Refuse classes whose names differ in case only: `train/cat` and `val/Cat`."""
    folded: dict[str, str] = {}
    for label in sorted(labels):
        other = folded.setdefault(label.casefold(), label)
        if other != label:
            raise InputError(
                f"{root} has the classes {other} and {label}, which differ in upper and lower "
                "case only: give one class the same name everywhere."
            )


def _subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted, without those that programs leave behind."""
    if not folder.is_dir():
        return []
    inside = sorted(folder.iterdir())
    return [path for path in inside if not is_litter(path.name) and path.is_dir()]


def _files(split: str, label: Path) -> Iterable[ImageFile]:
    """List the files in a class folder and in the folders inside."""
    for folder, inside, files in os.walk(label):
        inside[:] = sorted(name for name in inside if not is_litter(name))
        for name in sorted(files):
            if not is_litter(name):
                yield image_file(split, label.name, Path(folder, name))


def is_litter(name: str) -> bool:
    """Tell whether programs leave files of this name behind; `._x.jpg` pretends to be an image."""
    name = name.lower()
    hidden = name.startswith(".") and not name.endswith(_IMAGE_SUFFIXES)
    return hidden or name in _LITTER
