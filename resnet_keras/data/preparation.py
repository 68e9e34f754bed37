"""Prepare a data set: check its files, let TFDS build it, and count the result."""

import os
import shutil
from pathlib import Path
from typing import Any, cast

import tensorflow_datasets as tfds

from resnet_keras.console import say
from resnet_keras.data.archives import IMAGENET, Expected, check_archives
from resnet_keras.data.builders import find_builder, image_and_label
from resnet_keras.data.building import (
    IMAGENET_ARCHIVES,
    build_from,
    delete_and_prepare,
    manual_folder,
    require_whole,
    root_folder,
)
from resnet_keras.data.files import FileSplit
from resnet_keras.data.listing import copies
from resnet_keras.data.sources import Source
from resnet_keras.errors import InputError
from resnet_keras.files import local_path
from resnet_keras.internals.tfds import is_unfinished


def prepare(
    dataset: str,
    *,
    manual_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    verify: bool = False,
    expected: Expected = IMAGENET,
) -> dict[str, Any]:
    """Check the files of a data set, build it with TFDS, and count the result.

    Args:
        dataset: `digits`, a TFDS name, or images of one's own, such as `folder:PATH`, of which
            every file is read.
        manual_dir: folder of the downloaded files; by default `downloads/manual` in `data_dir`.
        data_dir: folder of prepared data sets; by default TFDS' `~/tensorflow_datasets`.
        verify: first decode every image in ImageNet's archives.
        expected: what ImageNet's archives hold; for miniatures of them, something else.

    Returns:
        `dataset`; `folder`; `splits`, images in each; `prepared`, "now" or "before"; of images of
        one's own also `copies`: files with the same bytes in two splits or under two labels, as
        `listing.copies` finds them.

    Raises:
        InputError: files are missing or wrong, the disk is too small, or the result is not whole;
            the line says what to do.
    """
    if (images := local_path(dataset)) is not None:
        return _check_images(dataset, images)
    builder = find_builder(dataset, data_dir)
    image_and_label(builder)
    before = builder.is_prepared()
    _name_leftovers(builder)
    if not before:
        folder = Path(os.path.expanduser(manual_dir)) if manual_dir else manual_folder(builder)
        if builder.name in IMAGENET_ARCHIVES:
            _check_imagenet(builder, folder, expected, verify)
        build_from(builder, folder)
    require_whole(builder)
    _check_counts(builder, expected)
    return {
        "dataset": dataset,
        "folder": str(builder.data_dir),
        "splits": {name: info.num_examples for name, info in builder.info.splits.items()},
        "prepared": "before" if before else "now",
    }


def _check_images(dataset: str, path: Path) -> dict[str, Any]:
    """Read every file; images of one's own are used as they are."""
    names = Source(dataset).made or ("train", "test")
    splits = {name: cast(FileSplit, Source(dataset, name).open()) for name in sorted(names)[::-1]}
    found = copies(splits)
    reasons = {
        "across_splits": "the same image is in two splits",
        "under_two_labels": "the same image has two labels",
    }
    for kind, groups in found.items():
        for group in groups:
            say(f"{reasons[kind]}: {', '.join(group)}")
    return {
        "dataset": dataset,
        "folder": str(path),
        "splits": {name: split.examples for name, split in splits.items()},
        "copies": found,
        "prepared": "before",
    }


def _check_imagenet(
    builder: tfds.core.DatasetBuilder, folder: Path, expected: Expected, verify: bool
) -> None:
    """Check the archives, and the space that their contents will take."""
    names = IMAGENET_ARCHIVES[builder.name]
    _, label = image_and_label(builder)
    check_archives(folder, names, builder.info.features[label].names, expected, verify)
    root = root_folder(builder).absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, sum(expected.bytes[name] for name in names)
    if free < needed:
        raise InputError(
            f"{there} has {free:,} bytes free, {builder.name} takes about {needed:,}. Free some "
            "space, or choose another --data-dir."
        )


def _check_counts(builder: tfds.core.DatasetBuilder, expected: Expected) -> None:
    """Count: TFDS would use a data set that is not whole for ever, as its folder is there."""
    wanted: dict[str, int | None] = {name: None for name in builder.info.splits}
    if builder.name == "imagenet2012":
        wanted = {"train": expected.train, "validation": expected.validation}
    for split, count in wanted.items():
        examples = builder.info.splits[split].num_examples
        if examples != (count or examples) or not examples:
            raise InputError(
                f"{builder.data_dir} has {examples:,} {split} images"
                f"{f', {builder.name} {count:,}' if count else ''}. {delete_and_prepare(builder)}"
            )


def _name_leftovers(builder: tfds.core.DatasetBuilder) -> None:
    """Name what an interrupted `prepare` left behind.

    It is not deleted, because another process may be filling it.
    """
    parent = Path(builder.data_dir).parent
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if is_unfinished(path):
            say(f"{path} is left over from an interrupted `prepare`: delete it")
