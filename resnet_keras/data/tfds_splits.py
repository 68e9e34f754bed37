"""Splits of TFDS' data sets: in memory where they are small, else as records."""

import math
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from resnet_keras.console import say
from resnet_keras.data.builders import find_builder, image_and_label
from resnet_keras.data.building import build, require_whole
from resnet_keras.data.reading import reading
from resnet_keras.data.records import RecordSplit
from resnet_keras.data.splits import ArraySplit, Split, untuned
from resnet_keras.errors import InputError

# Images of one known size that fit in here are kept decoded, with random access.
IN_MEMORY_BYTES = 2**30

# Their authors count the scores of the classes that occur in them alone (Hendrycks et al. 2019,
# arXiv:1907.07174; 2020, arXiv:2006.16241).
_TWO_HUNDRED_CLASSES = ("imagenet_a", "imagenet_r")


def open_tfds(dataset: str, split: str, data_dir: str | Path | None) -> Split:
    """Open a split of a TFDS data set; arguments as of `Source`.

    Raises:
        InputError: no such data set or split, no images with labels in it, or files that are
            missing and cannot be downloaded.
    """
    builder = _prepared(dataset, data_dir)
    image, label = image_and_label(builder)
    require_whole(builder)
    if builder.name in _TWO_HUNDRED_CLASSES:
        say(
            f"{builder.name} has images of 200 of the 1000 classes; published accuracy chooses "
            "among these 200, here it is among all 1000"
        )
    splits = builder.info.splits
    validated = split == "test" and "validation" in splits
    if not validated or split in splits:
        opened = _open(builder, split, image, label)
        if _labelled(opened):
            return opened
        if not validated:
            raise InputError(
                f"images of this split of {builder.name} have no labels: choose another of "
                f"{', '.join(splits)}. Received: split={split!r}"
            )
    return _open(builder, "validation", image, label)


def _prepared(dataset: str, data_dir: str | Path | None) -> tfds.core.DatasetBuilder:
    """Find a data set, which is built where it is not there yet; two processes may do so at once.

    Raises:
        InputError: as from `open_tfds`.
    """
    builder = find_builder(dataset, data_dir)
    image_and_label(builder)  # before it is built
    if builder.is_prepared():
        return builder
    try:
        build(builder)
    except FileExistsError:  # another process was faster
        builder = find_builder(dataset, data_dir)
        if not builder.is_prepared():
            raise
    return builder


def _labelled(split: Split) -> bool:
    """Whether TFDS has the classes of a split; where it has none, all are -1."""
    one = split.sample(1, seed=0)
    with reading(one):
        labels = untuned(one.once(lambda image, label: label))
        return all(label >= 0 for label in labels.as_numpy_iterator())


def _open(builder: tfds.core.DatasetBuilder, split: str, image: str, label: str) -> Split:
    """Open a split by the name that TFDS has for it."""
    features = builder.info.features
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError):
        # Training takes "train" and "test" alone.
        hint = "; to train, hold out the last training images for validation: --holdout 1000"
        raise InputError(
            f"{builder.name} has the splits {', '.join(builder.info.splits)}: name one, or a part "
            f"of one such as 'train[80%:]'{hint if split == 'test' else ''}. "
            f"Received: split={split!r}"
        ) from None
    if info.num_examples <= 0:  # less where TFDS counts a slice that ends before it begins
        raise InputError(f"split {split!r} of {builder.name} in {builder.data_dir} is empty.")

    def parse(record):
        skip = {image: tfds.decode.SkipDecoding()}
        example = features.deserialize_example(record, decoders=skip)
        return example[image], example[label]

    shape = features[image].shape
    records = RecordSplit(
        labels=tuple(features[label].names),
        channels=shape[-1] or 3,
        pieces=[(piece.filename, piece.skip, piece.take) for piece in info.file_instructions],
        parse=parse,
    )
    if None in shape or info.num_examples * math.prod(shape) > IN_MEMORY_BYTES:
        return records
    whole = untuned(builder.as_dataset(split=split, batch_size=2048))
    try:
        with reading(records):
            parts = [(batch[image], batch[label]) for batch in tfds.as_numpy(whole)]
    except tf.errors.FailedPreconditionError as error:  # TFDS has counted
        reason = error.message.rpartition("}} ")[2].partition(" [Op")[0].rstrip(".")
        raise InputError(
            f"{builder.data_dir} is damaged: {reason}. Delete it, then prepare {builder.name} "
            "again."
        ) from None
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ArraySplit(
        labels=records.labels, channels=records.channels, arrays=(images, labels.astype(np.int64))
    )
