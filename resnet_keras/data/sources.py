"""Where the images of a split come from: `Source`, which opens it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from resnet_keras.data.folders import open_folder
from resnet_keras.data.splits import Split
from resnet_keras.data.tfds_splits import open_tfds
from resnet_keras.errors import InputError
from resnet_keras.files import local_path

# What opens `WORD:PATH`, called with the path, the name of the split, and `skip_bad`; data sets of
# other names are TFDS'.
_LOCAL: dict[str, Callable[..., Split]] = {"folder": open_folder}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the images of a split come from.

    Attributes:
        dataset: `digits`; the name of a TFDS image-classification data set; or images of one's own,
            such as `folder:PATH` (see `open_folder`).
        split: "train"; "test", which is the validation split where the data set has no labelled
            test split; or a split as TFDS writes it (`validation[:10%]`).
        data_dir: where prepared data sets are; by default TFDS' `~/tensorflow_datasets`.
        skip_bad: leave out image files that cannot be read.
    """

    dataset: str
    split: str = "test"
    data_dir: str | Path | None = None
    skip_bad: bool = False

    def open(self) -> Split:
        """Open the split; small data sets are prepared first, if their files can be had.

        Raises:
            InputError: no such data set or split, no images with labels in it, or files that are
                missing and cannot be downloaded.
        """
        if (path := local_path(self.dataset)) is None:
            split = open_tfds(self.dataset, self.split, self.data_dir)
        else:
            word = self.dataset.partition(":")[0]
            if word not in _LOCAL:
                known = ", ".join(f"`{name}:PATH`" for name in _LOCAL)
                raise InputError(
                    f"no such data set: give {known} or a name in TFDS. "
                    f"Received: dataset={self.dataset!r}"
                )
            split = _LOCAL[word](path, self.split, skip_bad=self.skip_bad)
        return dataclasses.replace(split, source=self)
