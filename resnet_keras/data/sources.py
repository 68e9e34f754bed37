"""Where the images of a split come from: `Source`, which opens it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_keras.data.csv_files import files_listed, open_csv
from resnet_keras.data.folders import files_in, open_folder
from resnet_keras.data.listing import ImageFile
from resnet_keras.data.splits import Split
from resnet_keras.data.tfds_splits import open_tfds
from resnet_keras.errors import InputError
from resnet_keras.files import local_path, sha256


@dataclasses.dataclass(frozen=True)
class _Local:
    """A kind of images of one's own, `WORD:PATH`.

    Attributes:
        open: called with the path, the name of the split, `skip_bad`, `holdout` and `fold`.
        files: called with the path; what `open` would read.
    """

    open: Callable[..., Split]
    files: Callable[[Path], tuple[ImageFile, ...]]


# By the word; data sets of other names are TFDS'.
_LOCAL = {"folder": _Local(open_folder, files_in), "csv": _Local(open_csv, files_listed)}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the images of a split come from.

    Attributes:
        dataset: `digits`; the name of a TFDS image-classification data set; or images of one's own,
            `folder:PATH` (see `open_folder`) or `csv:PATH` (see `open_csv`).
        split: "train"; "test", which is the validation split where the data set has no labelled
            test split; or a split as TFDS writes it (`validation[:10%]`); of one's own images
            "val" and "all", too.
        data_dir: where prepared data sets are; by default TFDS' `~/tensorflow_datasets`.
        skip_bad: leave out image files that cannot be read.
        holdout: of one's own images, how many of the training images are the validation images
            (see `split_of`).
        fold: of one's own images in cross-validation, which fold is the test split, as `split_of`
            names it.
        channels: of one's own images, 3 or 1: grey.
    """

    dataset: str
    split: str = "test"
    data_dir: str | Path | None = None
    skip_bad: bool = False
    holdout: float = 0
    fold: str | None = None
    channels: int = 3

    @property
    def made(self) -> set[str] | None:
        """The splits that the user made of images of one's own; None for a data set of TFDS."""
        path = local_path(self.dataset)
        return None if path is None else {f.split for f in self._local().files(path)} - {""}

    def files(self) -> dict[str, Any]:
        """Return the number of files of one's own images, and their bytes, without reading them.

        Where a file lists them, as of `csv:PATH`, also its `sha256`: labels may change in it.

        Raises:
            InputError: there are none.
        """
        path = local_path(self.dataset)
        found = () if path is None else self._local().files(path)
        facts = {"files": len(found), "bytes": sum(file.size for file in found)}
        listed = path is not None and path.expanduser().is_file()
        return facts | ({"sha256": sha256(path.expanduser())} if path and listed else {})

    def open(self) -> Split:
        """Open the split; small data sets are prepared first, if their files can be had.

        Raises:
            InputError: no such data set or split, no images with labels in it, or files that are
                missing and cannot be downloaded.
        """
        if (path := local_path(self.dataset)) is None:
            split = open_tfds(self.dataset, self.split, self.data_dir)
        else:
            split = self._local().open(
                path, self.split, skip_bad=self.skip_bad, holdout=self.holdout, fold=self.fold
            )
            split = dataclasses.replace(split, channels=self.channels)
        return dataclasses.replace(split, source=self)

    def _local(self) -> _Local:
        """What opens images of one's own.

        Raises:
            InputError: there is no such kind.
        """
        word = self.dataset.partition(":")[0]
        if word not in _LOCAL:
            known = ", ".join(f"`{name}:PATH`" for name in _LOCAL)
            raise InputError(
                f"no such data set: give {known} or a name in TFDS. "
                f"Received: dataset={self.dataset!r}"
            )
        return _LOCAL[word]
