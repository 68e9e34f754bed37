"""Private names of TensorFlow Datasets: checksums and folders. Tested with 4.9.10."""

import re
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, download_manager

# What `download_and_prepare` raises for a file that is not the registered one.
NonMatchingChecksumError = download_manager.NonMatchingChecksumError


def url_info(path: Path) -> Any:
    """Return size and checksum of a file, to be compared with those in `builder.url_infos`."""
    return checksums.compute_url_info(path)


def default_data_dir() -> Path:
    """Return the folder of prepared data sets where none is given."""
    return Path(tfds.core.constants.DATA_DIR)


def is_unfinished(folder: Path) -> bool:
    """Tell whether TFDS was filling a folder and did not finish; its name tells.

    `file_utils.incomplete_dir` makes the name.
    """
    return bool(re.fullmatch(r"incomplete\.[A-Z0-9]{6}_\d+\.\d+\.\d+", folder.name))
