"""Build a data set with TFDS, from local files where there are any, else from the network."""

import os
import struct
import tarfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import requests  # TFDS downloads with it
import tensorflow_datasets as tfds

from resnet_keras.data.archives import TRAIN, VALIDATION
from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.internals.tfds import NonMatchingChecksumError, needed_urls, url_info

# Which of ImageNet's archives the builders of TFDS read.
IMAGENET_ARCHIVES = {
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


def build(builder: tfds.core.DatasetBuilder) -> None:
    """Build a data set that TFDS can download.

    Raises:
        InputError: it has to be prepared by the user; or its files are wrong, or missing and the
            download fails.
    """
    folder = manual_folder(builder)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:  # hours of work, after checks that take minutes
        raise _missing(builder, folder, _files(builder), "TFDS cannot download it")
    build_from(builder, folder)


def require_whole(builder: tfds.core.DatasetBuilder) -> None:
    """Refuse a data set that lacks files, and an ImageNet that TFDS built from one archive.

    Raises:
        InputError: a split or a file is missing.
    """
    splits = builder.info.splits
    wanted = ("train", "validation") if builder.name == "imagenet2012" else ()
    if lacking := [split for split in wanted if split not in splits]:
        raise InputError(
            f"{builder.data_dir} was built without {' and '.join(lacking)}. "
            f"{delete_and_prepare(builder)}"
        )
    files = [path for info in splits.values() for path in info.filepaths]
    if missing := [path for path in files if not os.path.exists(path)]:
        raise InputError(
            f"{len(missing):,} of {len(files):,} files of {builder.name} are missing, the first is "
            f"{missing[0]}. {delete_and_prepare(builder)}"
        )


def build_from(builder: tfds.core.DatasetBuilder, folder: Path) -> None:
    """Build a data set from the files in a folder; those that are missing are downloaded.

    Raises:
        InputError: files are wrong, or missing and the download fails.
    """
    if os.path.exists(builder.data_dir):  # TFDS would take it for the data set
        raise InputError(
            f"{builder.data_dir} exists, but holds no prepared data set. "
            f"{delete_and_prepare(builder)}"
        )
    if builder.name == "fashion_mnist" and folder == manual_folder(builder):
        _restore_debian_fashion_mnist(folder)
    files = _files(builder)
    missing = {name: pair for name, pair in files.items() if not (folder / name).exists()}
    if missing and not _reachable(next(iter(missing.values()))[0]):
        why = "its files are not here and cannot be downloaded"
        raise _missing(builder, folder, missing, why)
    if builder.name not in IMAGENET_ARCHIVES:
        _check_files(folder, files)
    config = tfds.download.DownloadConfig(manual_dir=folder if folder.exists() else None)
    try:
        builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        raise InputError(
            f"a file of {builder.name} is not the published one. Remove it, then run the same "
            f"command again. Received: {str(error).splitlines()[0].rstrip(':')}"
        ) from None
    except tarfile.TarError as error:  # an archive in an archive; TFDS does not tell its name
        raise InputError(
            f"{builder.name} cannot be built from {folder}: an archive there is damaged ({error}); "
            "`prepare --verify` names it."
        ) from None
    except _NOT_DOWNLOADED as error:
        reason = " ".join(str(error).split())
        why = f"the download failed ({reason})"
        raise _missing(builder, folder, missing, why, "Try again later, or put") from None


def _check_files(folder: Path, files: dict[str, tuple[str, Any]]) -> None:
    """Compare local files with what TFDS has registered: it would name the URL, not the file."""
    for name, (_, wanted) in files.items():
        if not (folder / name).exists():
            continue
        found = url_info(folder / name)
        if found != wanted:
            raise InputError(
                f"{folder / name} is not the published file, which has {int(wanted.size):,} bytes "
                f"and the checksum {wanted.checksum}. Remove it, then run the same command again. "
                f"Received: {int(found.size):,} bytes, checksum {found.checksum}"
            )


def _files(builder: tfds.core.DatasetBuilder) -> dict[str, tuple[str, Any]]:
    """The files that a data set is built from: `(url, size and checksum)` by their names.

    Those of its other configurations are left out. Where the builder does not tell which these are,
    as it does not for files that the user downloads, all are named.
    """
    infos = builder.url_infos or {}
    needed = needed_urls(builder) & infos.keys() or infos.keys()
    return {
        info.filename or Path(url).name: (url, info) for url, info in infos.items() if url in needed
    }


def root_folder(builder: tfds.core.DatasetBuilder) -> Path:
    """Return the folder of all data sets, in which TFDS keeps this one by name and version."""
    inside = Path(builder.info.full_name).parts
    return Path(builder.data_dir).parents[len(inside) - 1]


def manual_folder(builder: tfds.core.DatasetBuilder) -> Path:
    """Return the folder where TFDS looks for files that the user has downloaded."""
    return root_folder(builder) / "downloads" / "manual"


def delete_and_prepare(builder: tfds.core.DatasetBuilder) -> str:
    """Say what to do about an incomplete data set."""
    return f"Delete {builder.data_dir}, then prepare {builder.name} again."


def _missing(
    builder: tfds.core.DatasetBuilder,
    folder: Path,
    files: dict[str, tuple[str, Any]],
    why: str,
    advice: str = "Put",
) -> InputError:
    wanted = ", ".join(f"{name} ({int(info.size):,} bytes)" for name, (_, info) in files.items())
    root = root_folder(builder)
    return InputError(
        f"{builder.name} is not prepared in {root}, and {why}. {advice} "
        f"{wanted or 'the files that the TFDS catalogue names'} into {folder}, "
        f"then run: python -m resnet_keras prepare {builder.name} --manual-dir {folder} "
        f"--data-dir {root}"
    )


def _reachable(url: str, seconds: float = 5.0) -> bool:
    """Whether a server answers; without a network TFDS itself would try for minutes."""
    answers = []

    def ask() -> None:
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

    Their bodies are the original ones; with the headers restored, they have the checksums that
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
