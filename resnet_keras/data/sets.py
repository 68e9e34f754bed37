"""Data sets by name: TFDS' own builders, fed from local files or the network."""

import difflib
import math
import os
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager

from resnet_keras.data.pictures import Pictures
from resnet_keras.terminal import InputError

# Pictures of one known size that fit in here are kept decoded, with random access.
IN_MEMORY_BYTES = 2**30

# Times in the gzip headers of the files that Zalando published; Debian's package kept the bodies
# and replaced the headers.
_ZALANDO_TIMES = {"train": 1504176606, "t10k": 1504176627}


class Digits(tfds.core.GeneratorBasedBuilder):
    """scikit-learn's handwritten digits: 1797 grey pictures of 8x8, no download.

    The last 360 are the test pictures: in the order of the UCI source they are by other writers
    than the first 1437.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self, features=features, supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, 1437),
            "test": self._generate_examples(1437, 1797),
        }

    def _generate_examples(self, start: int, stop: int):
        from sklearn.datasets import load_digits

        digits = load_digits()
        for i in range(start, stop):
            grey = np.round(digits.images[i] * (255 / 16)).astype(np.uint8)  # 17 levels
            yield i, {"image": grey[..., None], "label": int(digits.target[i])}


def open_split(dataset: str, split: str, *, data_dir: str | Path | None = None) -> Pictures:
    """Open one split; small data sets are prepared first, if their files can be had.

    Args:
        dataset: `digits` or the name of a TFDS image-classification data set.
        split: "train"; "test", which is the validation split where the data set has no labelled
            test split; or a split as TFDS writes it (`validation[:10%]`).
        data_dir: where prepared data sets lie; by default TFDS' `~/tensorflow_datasets`.

    Returns:
        The pictures.

    Raises:
        InputError: no such data set or split, no pictures with labels in it, or files that are
            missing and cannot be downloaded.
    """
    builder = _builder(dataset, data_dir)
    image, label = _image_and_label(builder)
    if not builder.is_prepared():
        _prepare(builder)
    if split == "test" and (split not in builder.info.splits or dataset == "imagenet2012"):
        split = "validation"
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError):
        raise InputError(
            f"{dataset} has the splits {', '.join(builder.info.splits)}. Received: split={split!r}"
        ) from None
    shape = builder.info.features[image].shape
    common = {
        "examples": info.num_examples,
        "labels": tuple(builder.info.features[label].names),
        "channels": shape[-1] or 3,
    }
    if not info.num_examples:
        raise InputError(f"split {split!r} of {dataset} in {builder.data_dir} is empty.")
    if None not in shape and info.num_examples * math.prod(shape) <= IN_MEMORY_BYTES:
        whole = builder.as_dataset(split=split, batch_size=2048)
        parts = [(batch[image], batch[label]) for batch in tfds.as_numpy(whole)]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Pictures(arrays=(images, labels.astype(np.int64)), **common)

    def parse(record):
        skip = {image: tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(record, decoders=skip)
        return example[image], example[label]

    pieces = [(p.filename, p.skip, p.take) for p in info.file_instructions]
    return Pictures(records=(pieces, parse), **common)


def _builder(dataset: str, data_dir) -> tfds.core.DatasetBuilder:
    """TFDS' builder of a data set."""
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    if dataset == "digits":
        return Digits(data_dir=data_dir)
    # Without the community's, for which TFDS asks the network.
    known = tfds.list_builders(with_community_datasets=False)
    prepared = Path(data_dir or tfds.core.constants.DATA_DIR) / dataset
    if dataset.split("/")[0] in known or prepared.is_dir():
        try:
            return tfds.builder(dataset, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError):
            pass  # no such configuration, or a folder that holds something else
    near = difflib.get_close_matches(dataset, ["digits", *known])
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise InputError(
        f"no such data set: give `digits` or a name of TFDS{hint}. Received: dataset={dataset!r}"
    )


def _image_and_label(builder) -> tuple[str, str]:
    """The names of the picture's and the label's feature."""
    features = builder.info.features
    of = {
        kind: [name for name, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    }
    if not all(of.values()):
        raise InputError(
            f"{builder.name} has no labelled pictures. Received: dataset={builder.name!r}"
        )
    label = of[tfds.features.ClassLabel]
    return of[tfds.features.Image][0], "label" if "label" in label else label[0]


def _prepare(builder) -> None:
    """Build a data set, from local files where they are, else from the network."""
    folder = Path(builder._data_dir_root) / "downloads" / "manual"
    if builder.name == "fashion_mnist":
        _restore_debian_fashion_mnist(folder)
    files = {
        info.filename or Path(url).name: (url, info)
        for url, info in (builder.url_infos or {}).items()
    }
    missing = {name: pair for name, pair in files.items() if not (folder / name).exists()}
    if (
        builder.MANUAL_DOWNLOAD_INSTRUCTIONS
        or missing
        and not _reachable(next(iter(missing.values()))[0])
    ):
        wanted = ", ".join(
            f"{name} ({int(info.size):,} bytes)" for name, (_, info) in missing.items()
        )
        raise InputError(
            f"{builder.name} is not prepared in {builder._data_dir_root}, and its files are not "
            f"here and cannot be downloaded. Put into {folder}: {wanted or 'what its page tells'}."
        )
    config = tfds.download.DownloadConfig(manual_dir=folder if folder.exists() else None)
    try:
        builder.download_and_prepare(download_config=config)
    except download_manager.NonMatchingChecksumError as error:
        raise InputError(
            f"a file of {builder.name} is not the published one; take it away and start again: "
            f"{str(error).splitlines()[0]}"
        ) from None


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
        folder.mkdir(parents=True, exist_ok=True)
        name = source.stem.encode()
        time = struct.pack("<I", _ZALANDO_TIMES[source.name.split("-")[0]])
        header = b"\x1f\x8b\x08\x08" + time + b"\x00\x03" + name + b"\x00"
        part = target.with_suffix(".part")
        part.write_bytes(header + source.read_bytes()[10:])
        os.replace(part, target)
