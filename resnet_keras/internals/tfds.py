"""Private names of TensorFlow Datasets: checksums and folders. Tested with 4.9.10."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, download_manager

# What `download_and_prepare` raises for a file that is not the registered one.
NonMatchingChecksumError = download_manager.NonMatchingChecksumError


def url_info(path: Path) -> Any:
    """Return size and checksum of a file, to be compared with those in `builder.url_infos`."""
    return checksums.compute_url_info(path)


def needed_urls(builder: tfds.core.DatasetBuilder) -> set[str]:
    """Return the addresses that a builder would download for its configuration.

    `url_infos` has those of all configurations. Here the builder asks a download manager that notes
    what it is asked for, and gives it paths of nothing; some builders look into the files at once,
    and so end there.
    """
    noted: set[str] = set()

    class Noting:
        manual_dir = Path(os.devnull)

        def download(self, addresses: Any) -> Any:
            def note(address: Any) -> Path:
                noted.add(getattr(address, "url", address))
                return Path(os.devnull)

            return tf.nest.map_structure(note, addresses)

        download_and_extract = download

        def extract(self, paths: Any) -> Any:
            return paths

    # There is no other way to ask, and nothing to do about an error: it is that of a missing file,
    # or of a method that reads one.
    with contextlib.suppress(Exception):
        builder._split_generators(Noting())
    return noted


def default_data_dir() -> Path:
    """Return the folder of prepared data sets where none is given."""
    return Path(tfds.core.constants.DATA_DIR)


def is_unfinished(folder: Path) -> bool:
    """Tell whether TFDS was filling a folder and did not finish; its name tells.

    `file_utils.incomplete_dir` makes the name.
    """
    return bool(re.fullmatch(r"incomplete\.[A-Z0-9]{6}_\d+\.\d+\.\d+", folder.name))
