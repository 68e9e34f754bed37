"""Preparing data sets: their files are checked, then TFDS builds, then the result is counted."""

import os
import shutil
import struct
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import requests  # TFDS downloads with it
import tensorflow_datasets as tfds

from resnet_keras.console import say
from resnet_keras.data.archives import IMAGENET, TRAIN, VALIDATION, Expected, check_archives
from resnet_keras.data.builders import find_builder, image_and_label
from resnet_keras.data.folders import open_folder
from resnet_keras.errors import InputError
from resnet_keras.files import folder_of, whole
from resnet_keras.internals.tfds import NonMatchingChecksumError, is_unfinished, url_info

# Which of ImageNet's archives the builders of TFDS read.
_IMAGENET_ARCHIVES = {
    "imagenet2012": (TRAIN, VALIDATION),
    "imagenet2012_subset": (TRAIN, VALIDATION),
    "imagenet2012_corrupted": (VALIDATION,),
}

# What TFDS raises where a server refuses, or a connection breaks.
_NOT_DOWNLOADED = (
    tfds.download.DownloadError,
    requests.RequestException,
    urllib.error.URLError,
    ConnectionError,
)

# Times in the gzip headers of the files that Zalando published; Debian's package kept the bodies
# and replaced the headers.
_ZALANDO_TIMES = {"train": 1504176606, "t10k": 1504176627}


def prepare(
    dataset: str,
    *,
    manual_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    verify: bool = False,
    expected: Expected = IMAGENET,
) -> dict[str, Any]:
    """Check the archives of a data set, build it with TFDS, and count what came out.

    Args:
        dataset: `digits`, a TFDS name, or `folder:PATH`, whose files are checked.
        manual_dir: where its files lie; by default `downloads/manual` in `data_dir`.
        data_dir: where prepared data sets lie; by default TFDS' `~/tensorflow_datasets`.
        verify: decode every image of ImageNet's archives before.
        expected: what ImageNet's archives hold; another only for miniatures of them.

    Returns:
        `dataset`; `folder`; `splits`, images in each; `prepared`, "now" or "before".

    Raises:
        InputError: files that are missing or wrong, too little space, or a result that is not
            whole; the line says what to do.
    """
    if (images := folder_of(dataset)) is not None:
        return _check_folder(dataset, images)
    builder = find_builder(dataset, data_dir)
    image_and_label(builder)
    before = builder.is_prepared()
    _name_leftovers(builder)
    if not before:
        folder = Path(os.path.expanduser(manual_dir)) if manual_dir else _own_folder(builder)
        if builder.name in _IMAGENET_ARCHIVES:
            _check_imagenet(builder, folder, expected, verify)
        _build(builder, folder)
    require_whole(builder)
    _check_counts(builder, expected)
    return {
        "dataset": dataset,
        "folder": str(builder.data_dir),
        "splits": {name: info.num_examples for name, info in builder.info.splits.items()},
        "prepared": "before" if before else "now",
    }


def build(builder: tfds.core.DatasetBuilder) -> None:
    """Build a data set that needs no preparation by the user.

    Raises:
        InputError: it does, or its files are wrong, or not here and cannot be downloaded.
    """
    folder = _own_folder(builder)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # hours of work, after checks that take minutes
        raise _missing(builder, folder, _files(builder))
    _build(builder, folder)


def require_whole(builder: tfds.core.DatasetBuilder) -> None:
    """Refuse what is left of a data set, and an ImageNet that TFDS built from one archive.

    Raises:
        InputError: a split or a file is not there.
    """
    splits = builder.info.splits
    wanted = ("train", "validation") if builder.name == "imagenet2012" else ()
    if lacking := [split for split in wanted if split not in splits]:
        raise InputError(
            f"{builder.data_dir} was built without {' and '.join(lacking)}. {_again(builder)}"
        )
    files = [path for info in splits.values() for path in info.filepaths]
    if gone := [path for path in files if not os.path.exists(path)]:
        raise InputError(
            f"{len(gone):,} of {len(files):,} files of {builder.name} are gone, the first is "
            f"{gone[0]}. {_again(builder)}"
        )


def _check_folder(dataset: str, folder: Path) -> dict[str, Any]:
    """A folder is used as it is; what can be done before is to look at every file."""
    splits = {split: open_folder(folder, split).examples for split in ("train", "test")}
    return {"dataset": dataset, "folder": str(folder), "splits": splits, "prepared": "before"}


def _check_imagenet(builder, folder: Path, expected: Expected, verify: bool) -> None:
    """The archives, and the space that their contents will take."""
    names = _IMAGENET_ARCHIVES[builder.name]
    _, label = image_and_label(builder)
    check_archives(folder, names, builder.info.features[label].names, expected, verify)
    root = _root(builder).absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, sum(expected.bytes[name] for name in names)
    if free < needed:
        raise InputError(
            f"{there} has {free:,} bytes free, {builder.name} takes about {needed:,}. Make room, "
            "or take another --data-dir."
        )


def _check_counts(builder, expected: Expected) -> None:
    """A data set that is not whole would be used for ever: TFDS looks at its folder alone."""
    wanted = {name: None for name in builder.info.splits}
    if builder.name == "imagenet2012":
        wanted = {"train": expected.train, "validation": expected.validation}
    for split, count in wanted.items():
        examples = builder.info.splits[split].num_examples
        if examples != (count or examples) or not examples:
            raise InputError(
                f"{builder.data_dir} has {examples:,} {split} images"
                f"{f', {builder.name} {count:,}' if count else ''}. {_again(builder)}"
            )


def _again(builder) -> str:
    return f"Delete {builder.data_dir}, then prepare {builder.name} again."


def _name_leftovers(builder) -> None:
    """Name what an interrupted preparation left; another one may be filling it just now."""
    parent = Path(builder.data_dir).parent
    for path in sorted(parent.iterdir()) if parent.is_dir() else ():
        if is_unfinished(path):
            say(f"{path} is left of a preparation that was stopped: delete it")


def _root(builder) -> Path:
    """The folder of all prepared data sets; in it lies `name/config/version`."""
    return Path(builder.data_dir).parents[builder.info.full_name.count("/")]


def _own_folder(builder) -> Path:
    """Where TFDS looks for files that the user has fetched."""
    return _root(builder) / "downloads" / "manual"


def _files(builder) -> dict[str, tuple[str, Any]]:
    """The files that a data set is built from: `(url, size and checksum)` by their names."""
    infos = (builder.url_infos or {}).items()
    return {info.filename or Path(url).name: (url, info) for url, info in infos}


def _build(builder, folder: Path) -> None:
    """Build from local files where they are, else from the network."""
    if os.path.exists(builder.data_dir):  # TFDS would take it for the data set
        raise InputError(f"{builder.data_dir} holds no prepared data set. {_again(builder)}")
    if builder.name == "fashion_mnist" and folder == _own_folder(builder):
        _restore_debian_fashion_mnist(folder)
    files = _files(builder)
    missing = {name: pair for name, pair in files.items() if not (folder / name).exists()}
    if missing and not _reachable(next(iter(missing.values()))[0]):
        raise _missing(builder, folder, missing)
    if builder.name not in _IMAGENET_ARCHIVES:
        _check_files(folder, files)
    config = tfds.download.DownloadConfig(manual_dir=folder if folder.exists() else None)
    try:
        builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        raise InputError(
            f"a file of {builder.name} is not the published one; take it away and start again: "
            f"{str(error).splitlines()[0]}"
        ) from None
    except tarfile.TarError as error:  # an archive within one; its name TFDS does not tell
        raise InputError(
            f"{builder.name} cannot be built from {folder}, an archive there is damaged ({error}): "
            "`prepare --verify` names it."
        ) from None
    except _NOT_DOWNLOADED as error:
        reason = " ".join(str(error).split())
        why = f"the download failed ({reason}): start again later, or else put"
        raise _missing(builder, folder, missing, why) from None


def _check_files(folder: Path, files: dict[str, tuple[str, Any]]) -> None:
    """Compare local files with what TFDS has registered; it would name the URL, not the file."""
    for name, (_, wanted) in files.items():
        if not (folder / name).exists():
            continue
        found = url_info(folder / name)
        if found != wanted:
            raise InputError(
                f"{folder / name} is not the published file, whose checksum is {wanted.checksum} "
                f"and whose size {int(wanted.size):,} bytes: take it away and start again. "
                f"Received: {found.checksum}, {int(found.size):,} bytes"
            )


def _missing(
    builder,
    folder: Path,
    files: dict[str, tuple[str, Any]],
    why: str = "its files are not here and cannot be downloaded. Put",
) -> InputError:
    wanted = ", ".join(f"{name} ({int(info.size):,} bytes)" for name, (_, info) in files.items())
    root = _root(builder)
    return InputError(
        f"{builder.name} is not prepared in {root}, and {why} into {folder}: "
        f"{wanted or 'what its page tells'}. Then: "
        "python -m resnet_keras prepare "
        f"{builder.name} --manual-dir {folder} --data-dir {root}"
    )


def _reachable(url: str, seconds: float = 5.0) -> bool:
    """Whether a server answers; without a network TFDS itself would try for minutes."""
    answers = []

    def ask():
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answers.append(True)
        except (urllib.error.URLError, OSError):
            answers.append(False)

    # In a thread, because looking up a name has no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


def _restore_debian_fashion_mnist(folder: Path) -> None:
    """Copy the files of Debian's package dataset-fashion-mnist, with their original headers.

    The body of each file is the original's; with its header restored it has the checksum that
    TFDS demands.
    """
    for source in Path("/usr/share/datasets/fashion-mnist").glob("*-ubyte.gz"):
        target = folder / source.name
        if target.exists():
            continue
        name = source.stem.encode()
        time = struct.pack("<I", _ZALANDO_TIMES[source.name.split("-")[0]])
        header = b"\x1f\x8b\x08\x08" + time + b"\x00\x03" + name + b"\x00"
        with whole(target) as part:
            part.write_bytes(header + source.read_bytes()[10:])
