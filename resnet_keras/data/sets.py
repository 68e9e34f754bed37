"""Data sets by name: a TFDS name, or a folder of images."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from resnet_keras.console import say
from resnet_keras.data.builders import find_builder, image_and_label
from resnet_keras.data.files import naming_files
from resnet_keras.data.folders import open_folder
from resnet_keras.data.images import Split
from resnet_keras.data.preparation import build, require_whole
from resnet_keras.data.records import untuned
from resnet_keras.errors import InputError
from resnet_keras.files import folder_of

# Images of one known size that fit in here are kept decoded, with random access.
IN_MEMORY_BYTES = 2**30

# Their authors count the scores of the classes that occur in them alone (Hendrycks et al. 2019,
# arXiv:1907.07174; 2020, arXiv:2006.16241).
_TWO_HUNDRED_CLASSES = ("imagenet_a", "imagenet_r")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the images of a split come from.

    Attributes:
        dataset: `digits`, the name of a TFDS image-classification data set, or `folder:PATH`: see
            `open_folder`.
        split: "train"; "test", which is the validation split where the data set has no labelled
            test split; or a split as TFDS writes it (`validation[:10%]`).
        data_dir: where prepared data sets are; by default TFDS' `~/tensorflow_datasets`.
        skip_bad: leave out files of a folder that are not images.
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
        if (folder := folder_of(self.dataset)) is not None:
            split = open_folder(folder, self.split, skip_bad=self.skip_bad)
        else:
            split = self._open_built()
        return dataclasses.replace(split, source=self)

    def _open_built(self) -> Split:
        """Open a split of a TFDS data set."""
        builder = find_builder(self.dataset, self.data_dir)
        image, label = image_and_label(builder)
        if not builder.is_prepared():
            build(builder)
        require_whole(builder)
        if builder.name in _TWO_HUNDRED_CLASSES:
            say(
                f"{builder.name} has images of 200 of the 1000 classes; published accuracy chooses "
                "among these 200, here it is among all 1000"
            )
        return _open_prepared(builder, self.split, image, label)


def _open_prepared(builder, split: str, image: str, label: str) -> Split:
    """One split of a data set that is there; "test" is the one that has labels."""
    splits = builder.info.splits
    validated = split == "test" and "validation" in splits
    if not validated or split in splits:
        opened = _open_named(builder, split, image, label)
        if _labelled(opened):
            return opened
        if not validated:
            raise InputError(
                f"images of this split of {builder.name} have no labels: take another of "
                f"{', '.join(splits)}. Received: split={split!r}"
            )
    return _open_named(builder, "validation", image, label)


def _labelled(opened: Split) -> bool:
    """Whether TFDS has the classes of a split; where it has none, all are -1."""
    if opened.arrays:
        return opened.arrays[1].min() >= 0
    pieces, parse = opened.records
    path, skip, _ = pieces[0]
    with naming_files([path]):
        first = untuned(tf.data.TFRecordDataset(path).skip(skip).take(1))
        return all(parse(record)[1] >= 0 for record in first)


def _open_named(builder, split: str, image: str, label: str) -> Split:
    """One split by the name that TFDS has for it."""
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError):
        # Training takes "train" and "test" alone.
        train = "; to train, keep some images back, which are then the test, with --holdout 1000"
        raise InputError(
            f"{builder.name} has the splits {', '.join(builder.info.splits)}: name one, or a part "
            f"of one such as 'train[80%:]'{train if split == 'test' else ''}. "
            f"Received: split={split!r}"
        ) from None
    shape = builder.info.features[image].shape
    common = {
        "examples": info.num_examples,
        "labels": tuple(builder.info.features[label].names),
        "channels": shape[-1] or 3,
    }
    if info.num_examples <= 0:  # less where TFDS counts a slice that ends before it begins
        raise InputError(f"split {split!r} of {builder.name} in {builder.data_dir} is empty.")
    if None not in shape and info.num_examples * math.prod(shape) <= IN_MEMORY_BYTES:
        whole = untuned(builder.as_dataset(split=split, batch_size=2048))
        try:
            with naming_files([str(path) for path in info.filepaths]):
                parts = [(batch[image], batch[label]) for batch in tfds.as_numpy(whole)]
        except tf.errors.FailedPreconditionError as error:  # TFDS has counted
            reason = error.message.rpartition("}} ")[2].partition(" [Op")[0].rstrip(".")
            raise InputError(
                f"{builder.data_dir} is damaged: {reason}. Delete it, then prepare {builder.name} "
                "again."
            ) from None
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Split(arrays=(images, labels.astype(np.int64)), **common)

    def parse(record):
        skip = {image: tfds.decode.SkipDecoding()}
        example = builder.info.features.deserialize_example(record, decoders=skip)
        return example[image], example[label]

    pieces = [(p.filename, p.skip, p.take) for p in info.file_instructions]
    return Split(records=(pieces, parse), **common)
