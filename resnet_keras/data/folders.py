"""A folder of images as a data set: each class is a folder."""

import os
from collections.abc import Iterable
from pathlib import Path

from resnet_keras.data.files import FileSplit
from resnet_keras.data.listing import TEST_SPLITS, ImageFile, image_file, split_of
from resnet_keras.errors import InputError

# What file managers and archivers leave behind.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


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
    labels, images = _find(root)
    return split_of(root, images, split, labels=labels, seed=seed, skip_bad=skip_bad)


def _find(root: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...]]:
    """List the classes and the files of a folder, sorted by their names."""
    if not root.is_dir():
        raise InputError(f"no such folder. Received: {root}")
    splits = {name: root / name for name in ("train", *TEST_SPLITS) if _subfolders(root / name)}
    if "train" not in splits:
        if splits:
            raise InputError(f"{root} has {', '.join(splits)}, but no train/CLASS/* beside it.")
        splits = {"": root}
    elif len(splits) == 1:
        raise InputError(
            f"{root} has train, but none of {', '.join(TEST_SPLITS)} with class folders beside it."
        )
    labels: set[str] = set()
    found: list[ImageFile] = []
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


def _files(split: str, label: Path) -> Iterable[ImageFile]:
    """List the files in a class folder."""
    for path in sorted(label.iterdir()):
        if is_litter(path.name):
            continue
        if path.is_dir():
            raise InputError(
                f"{path} is a folder where an image should be: the layout is CLASS/* or "
                "train/CLASS/* with val/CLASS/*."
            )
        yield image_file(split, label.name, path)


def is_litter(name: str) -> bool:
    """Tell whether programs leave files of this name behind; `._x.jpg` pretends to be an image."""
    name = name.lower()
    hidden = name.startswith(".") and not name.endswith(_IMAGE_SUFFIXES)
    return hidden or name in _LITTER
