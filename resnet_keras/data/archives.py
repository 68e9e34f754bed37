"""Check ImageNet's two archives, before TFDS spends hours on building from them."""

import dataclasses
import io
import os
import re
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from resnet_keras.data.formats import UnreadableError, tidy
from resnet_keras.errors import InputError

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

_SYNSET = re.compile(r"(n\d{8})\.tar")
_VALIDATION_NAME = "ILSVRC2012_val_{:08}.JPEG"
# Images in memory at a time while they are verified.
_AT_A_TIME = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What the archives must hold.

    Attributes:
        bytes: size of each archive in bytes, by its file name.
        classes: number of classes; the training archive holds an archive for each.
        train: number of training images.
        validation: number of validation images.
    """

    bytes: dict[str, int]
    classes: int
    train: int
    validation: int


# Sizes as TFDS registers them, counts of Russakovsky et al. 2014, table 2.
IMAGENET = Expected(
    bytes={TRAIN: 147_897_477_120, VALIDATION: 6_744_924_160},
    classes=1000,
    train=1_281_167,
    validation=50_000,
)


def check_archives(
    folder: Path, names: Iterable[str], synsets: Iterable[str], expected: Expected, verify: bool
) -> None:
    """Check that archives are the published ones, complete, and laid out as TFDS reads them.

    Args:
        folder: the folder of the archives.
        names: file names of those that are needed.
        synsets: names of the classes.
        expected: sizes and counts.
        verify: also decode every image.

    Raises:
        InputError: an archive is missing or wrong; the line names it.
    """
    names = list(names)
    _check_sizes(folder, names, expected)
    if VALIDATION in names:
        _check_validation(folder / VALIDATION, expected)
    if TRAIN in names:
        _check_train(folder / TRAIN, set(synsets), expected)
    if verify:
        _verify(folder, names, expected)


def _check_sizes(folder: Path, names: list[str], expected: Expected) -> None:
    """Check that all are there: with one of two, TFDS prepares half of ImageNet for good."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        wanted = ", ".join(f"{name} ({expected.bytes[name]:,} bytes)" for name in missing)
        raise InputError(f"{folder} lacks {wanted}. Put it there, then run the same command again.")
    for name in names:
        size = (folder / name).stat().st_size
        if size != expected.bytes[name]:
            raise InputError(
                f"{folder / name} has {size:,} bytes, the published one "
                f"{expected.bytes[name]:,}. Download it again."
            )


def _check_validation(path: Path, expected: Expected) -> None:
    """Check the names: TFDS labels them in sorted order, so one more or less shifts all labels."""
    members = _members(path)
    if folders := [member.name for member in members if not _plain(member)]:
        raise InputError(
            f"{path} holds {folders[0]!r}, which is not a file and would shift every label. The "
            "archive must hold only images, without folders."
        )
    names = [member.name for member in members]
    wanted = {_VALIDATION_NAME.format(i + 1) for i in range(expected.validation)}
    if strange := sorted(set(names) - wanted):
        raise InputError(
            f"{path} holds {strange[0]!r}, which the published archive does not. Download it again."
        )
    if missing := sorted(wanted - set(names)):
        raise InputError(
            f"{path} lacks {len(missing):,} of {expected.validation:,} images, the first is "
            f"{missing[0]}. Labels would be wrong. Download it again."
        )
    if len(names) > len(wanted):
        raise InputError(f"{path} holds some images twice. Download it again.")


def _check_train(path: Path, synsets: set[str], expected: Expected) -> None:
    """Check that there is one archive for each class."""
    found: list[str] = []
    for member in _members(path):
        match = _SYNSET.fullmatch(member.name)
        if not (_plain(member) and match and match[1] in synsets):
            raise InputError(
                f"{path} holds {member.name!r}, which is not the archive of a class. Download "
                "it again."
            )
        found.append(match[1])
    if len(found) != expected.classes or len(set(found)) != expected.classes:
        last = f", the last is {found[-1]}.tar" if found else ""
        raise InputError(
            f"{path} holds the archives of {len(set(found)):,} classes{last}; the published one "
            f"holds those of {expected.classes:,}. Download it again."
        )


def _members(path: Path) -> list[tarfile.TarInfo]:
    """List the members of an archive; only their headers are read."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
            end = archive.offset
    except tarfile.TarError as error:
        raise InputError(
            f"{path} is not a complete tar archive ({error}). Download it again."
        ) from None
    with open(path, "rb") as file:
        file.seek(end)
        # Python's tarfile does not notice if the block of zeros that ends an archive is missing.
        if any(block := file.read(tarfile.BLOCKSIZE)) or len(block) < tarfile.BLOCKSIZE:
            raise InputError(f"{path} is cut off after {members[-1].name}. Download it again.")
    return members


def _verify(folder: Path, names: list[str], expected: Expected) -> None:
    """Decode every image of the archives."""
    counts = {TRAIN: expected.train, VALIDATION: expected.validation}
    bad: list[str] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of Pillow, about odd metadata
        for name in names:
            count, images = 0, _images(folder / name)
            while some := list(islice(images, _AT_A_TIME)):
                count += len(some)
                bad += [reason for reason in pool.map(_reason, some) if reason]
            if count != counts[name]:
                raise InputError(
                    f"{folder / name} holds {count:,} images, the published one "
                    f"{counts[name]:,}. Download it again."
                )
    if bad:
        raise InputError(
            f"{len(bad):,} images in {folder} cannot be read: {', '.join(bad)}. Download their "
            "archives again."
        )


def _images(path: Path) -> Iterator[tuple[str, bytes]]:
    """Read the images of an archive, or of the archives in it, as `(archive/member, bytes)`."""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            name = f"{path.name}/{member.name}"
            data = _content(archive, member, name)
            if not member.name.endswith(".tar"):
                yield name, data
                continue
            try:
                with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as inner:
                    for image in inner:
                        inside = f"{name}/{image.name}"
                        yield inside, _content(inner, image, inside)
            except tarfile.TarError as error:
                raise InputError(
                    f"{name} is not a complete tar archive ({error}). Download {path.name} again."
                ) from None


def _plain(member: tarfile.TarInfo) -> bool:
    """Tell whether a member is a file; a sparse one could claim any number of bytes."""
    return member.isfile() and not member.issparse()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    """Read a member."""
    if not _plain(member):
        raise InputError(f"{name} is not a plain file. Download its archive again.")
    file = archive.extractfile(member)
    assert file is not None  # it is a file
    return file.read()


def _reason(image: tuple[str, bytes]) -> str | None:
    name, data = image
    try:
        tidy(data)
    except UnreadableError as error:
        return f"{name} ({error})"
    return None
