"""A CSV file as a data set: a row for each image, with its class or with all of its labels."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, Unpack

from resnet_keras.data.files import FileSplit
from resnet_keras.data.folders import require_different
from resnet_keras.data.listing import (
    SPLITS,
    Division,
    ImageFile,
    image_file,
    split_of,
    warn_once,
)
from resnet_keras.errors import InputError

# What separates cells: the comma; the semicolon of Excel where commas are decimal points; the tab.
_DELIMITERS = (",", ";", "\t")

# What separates the labels in a cell of the column `labels`.
SEPARATOR = "|"

_COLUMNS = ("image", "label", "labels", "split")


class _Row(NamedTuple):
    """A row of the file, and the number of its last line."""

    line: int
    cells: dict[str, str]


def open_csv(
    file: str | Path,
    split: str,
    **division: Unpack[Division],
) -> FileSplit:
    """Open one split of the images that a CSV file lists; nothing is written.

    The first line names the columns: `image`, the path of an image file, relative to the CSV file
    or absolute; `label`, the one class of the image, or `labels`, any number of labels separated by
    `|`, so that an empty cell is an image with none of them; and, in all rows or in none, `split`:
    train, val (or valid, validation) or test. Without it `split_of` draws the test images, as it
    does where all rows are `train`. Other columns are ignored, and so are empty lines. The file is
    UTF-8, with or without a byte order mark; commas, semicolons or tabs separate its cells.

    The classes are all labels that occur, sorted.

    Args:
        file: the CSV file.
        split: as in `split_of`.
        **division: as of `split_of`.

    Returns:
        The images, always with three channels; with the column `labels` the split is
        `multi_label`.

    Raises:
        InputError: no such file or split, a row that cannot be used, by its line, or bad image
            files, each with its reason.
    """
    path = _absolute(file)
    labels, images = _find(path)
    several = isinstance(images[0].label, tuple)
    joined = ",;[" if several else SEPARATOR
    odd = next((label for label in labels if any(sign in label for sign in joined)), None)
    if odd is not None and not any(isinstance(i.label, tuple) and len(i.label) > 1 for i in images):
        column = "labels" if several else "label"
        warn_once(
            path,
            f"in `{column}`, {odd!r} is the name of one class: several labels of an image are "
            f"separated by `{SEPARATOR}` in the column `labels`",
        )
    return split_of(path, images, split, labels=labels, **division)


def files_listed(file: str | Path) -> tuple[ImageFile, ...]:
    """List the image files that a CSV file names, without reading them.

    Raises:
        InputError: no such CSV file, or a row that cannot be used.
    """
    return _find(_absolute(file))[1]


def _absolute(file: str | Path) -> Path:
    return Path(os.path.expanduser(file)).absolute()


def _find(path: Path) -> tuple[tuple[str, ...], tuple[ImageFile, ...]]:
    """List the classes, sorted, and the images in the order of their rows."""
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path} lists no images. Received: a file without rows")
    has_splits = any(row.cells.get("split") for row in rows)
    found: dict[str, tuple[int, ImageFile]] = {}
    for row in rows:
        image = _image(path, row, has_splits)
        line, earlier = found.setdefault(image.path, (row.line, image))
        for what in ("split", "label"):
            if getattr(earlier, what) != getattr(image, what):
                _refuse(path, row.line, f"gives the image of line {line} another {what}", row.cells)
    images = [image for _, image in found.values()]
    if {image.split for image in images} == {"train"}:
        images = [image._replace(split="") for image in images]
    named = [i.label if isinstance(i.label, tuple) else (i.label,) for i in images]
    labels = {label for some in named for label in some}
    if not labels:
        raise InputError(f"{path} has no labels. Received: `labels` empty in every row")
    require_different(path, labels)
    return tuple(sorted(labels)), tuple(images)


def _image(path: Path, row: _Row, has_splits: bool) -> ImageFile:
    """Read a row; either all of them have a split or none has."""
    cells = row.cells
    if not cells["image"] or "\0" in cells["image"]:
        _refuse(path, row.line, "must have an image", cells)
    label: str | tuple[str, ...]
    if "labels" in cells:
        words = (word.strip() for word in cells["labels"].split(SEPARATOR))
        label = tuple(sorted({word for word in words if word}))
    elif not (label := cells["label"]):
        _refuse(path, row.line, "must have a label", cells)
    name = cells.get("split", "")
    if has_splits and name not in SPLITS:
        _refuse(path, row.line, f"must have a split, one of {', '.join(SPLITS)}", cells)
    # Without `..`, so that an image is the same one however it is written.
    where = Path(os.path.normpath(path.parent / cells["image"]))
    return image_file(SPLITS.get(name, ""), label, where)


def _rows(path: Path) -> Iterator[_Row]:
    """Read the rows that are not empty, each by the names of the columns."""
    text = _text(path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                _require_columns(path, reader.line_num, header)
                continue
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if len(cells) != len(header):
                _refuse(path, reader.line_num, f"must have {len(header)} cells", cells)
            yield _Row(reader.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}, cannot be read: {error}") from None
    if not header:
        raise InputError(f"{path} must begin with the names of its columns. Received: no text")


def _text(path: Path) -> str:
    """Read the file, without the byte order mark that Excel writes.

    Raises:
        InputError: there is no such file, or it is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"no CSV file can be read there ({(error.strerror or 'unreadable').lower()}). "
            f"Received: {path}"
        ) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}, is not UTF-8: save it as CSV in UTF-8. "
            f"Received: {content[error.start : error.start + 4]!r}"
        ) from None


def _delimiter(text: str) -> str:
    """Return what separates the names of the columns, in the first line that is not empty."""
    lines = (line for line in text.splitlines() if line.strip())
    header = next(lines, "")
    return max(_DELIMITERS, key=header.count)


def _require_columns(path: Path, line: int, header: list[str]) -> None:
    """Refuse a header that does not say what an image is called.

    Raises:
        InputError: it lacks `image`, has neither or both of `label` and `labels`, or one twice.
    """
    known = [name for name in header if name in _COLUMNS]
    near = [name for name in header if name not in _COLUMNS and name.lower() in _COLUMNS]
    if near:
        _refuse(path, line, f"must have its columns in lower case: {near[0].lower()}", header)
    if "image" not in known:
        _refuse(path, line, "must name the columns, `image` among them", header)
    if ("label" in known) == ("labels" in known):
        _refuse(
            path,
            line,
            f"must name one of the columns `label` and `labels` (several, separated by "
            f"`{SEPARATOR}`)",
            header,
        )
    if len(set(known)) < len(known):
        _refuse(path, line, "must name each column once", header)


def _refuse(path: Path, line: int, rule: str, cells: dict[str, str] | list[str]) -> NoReturn:
    shown = list(cells.values()) if isinstance(cells, dict) else cells
    raise InputError(f"{path}, line {line}, {rule}. Received: {', '.join(map(repr, shown))}")
