"""The images that a model file is evaluated on: which ones, whether they fit, and their batches."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_keras import data
from resnet_keras.devices import forward_batch
from resnet_keras.errors import InputError
from resnet_keras.files import local_path
from resnet_keras.model_files import ModelFile


def source_for(
    model_file: ModelFile,
    *,
    split: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
) -> data.Source:
    """Name the images for a model file.

    Args:
        model_file: an open model file.
        split: as in `data.Source`; by default "test" or, of the data set that the model was trained
            on, what it was tested on; "all" for a folder of images without splits that the model
            was not trained on.
        dataset: as in `data.Source`; by default the data set that the model was trained on.
        data_dir: as in `data.Source`.
        skip_bad: as in `data.Source`.

    Raises:
        InputError: no data set is given, and the model file names none.
    """
    dataset = dataset or model_file.metadata.dataset
    if dataset is None:
        raise InputError(
            f"{model_file.path} does not say what it was trained on: choose a data set with "
            "`dataset` (--dataset). Received: dataset=None"
        )
    path = local_path(dataset)
    if path is not None and dataset == model_file.metadata.dataset and not path.exists():
        raise InputError(
            f"{model_file.path} was trained on images that are not there, as its JSON file says: "
            f"choose others with `dataset` (--dataset). Received: dataset={dataset!r}"
        )
    source = data.Source(dataset, data_dir=data_dir, skip_bad=skip_bad)
    if split is None:
        unseen = dataset != model_file.metadata.dataset
        usual = "test" if unseen else model_file.metadata.split or "test"
        split = "all" if unseen and source.made == set() else usual
    return dataclasses.replace(source, split=split)


def open_split_for(model_file: ModelFile, source: data.Source) -> data.Split:
    """Open a split that a model file can be evaluated on.

    Raises:
        InputError: there is no such data set or split, or `require_fit` refuses it.
    """
    split = source.open()
    if isinstance(split, data.FileSplit):
        labels = model_file.metadata.labels
        if set(split.labels) < set(labels):  # classes without images
            split = split.relabelled(labels)
        split = dataclasses.replace(split, channels=model_file.channels)
    require_fit(model_file, split)
    return split


def require_fit(model_file: ModelFile, split: data.Split) -> None:
    """Refuse images that a model file cannot be evaluated on.

    Raises:
        InputError: they differ from the model's in channels, in how many labels an image can have,
            in the number of classes, or, of images of one's own, in the names of the classes.
    """
    require_channels(model_file, split)
    if model_file.metadata.features:
        return  # of any image
    name, labels = dataset_of(split), model_file.metadata.labels
    if split.multi_label != model_file.metadata.multi_label:
        kinds = ("one class", "any number of labels")
        theirs, ours = kinds[split.multi_label], kinds[model_file.metadata.multi_label]
        hint = " (its JSON file has no `threshold`)" if split.multi_label else ""
        raise InputError(
            f"{model_file.path} gives an image {ours}{hint}, an image of {name} has {theirs}: "
            f"choose other images with `dataset` (--dataset). Received: dataset={name!r}"
        )
    most, there = model_file.classes, len(split.labels)
    if (most is not None and most < there) or (labels and len(labels) != there):
        unknown = [label for label in split.labels if label not in labels] if labels else []
        which = f": no class {unknown[0]!r}" if unknown and local_path(name) else ""
        raise InputError(
            f"{model_file.path} has {len(labels) or most} classes, {name} has {there}{which}."
        )
    if local_path(name) and labels and split.labels != labels:
        other = next(a for a, b in zip(split.labels, labels, strict=True) if a != b)
        raise InputError(f"{model_file.path} has no class {other!r}, {name} has one.")


def require_channels(model_file: ModelFile, split: data.Split) -> None:
    """Refuse grey images for a model of colour images, and the reverse.

    Raises:
        InputError: the numbers of channels differ.
    """
    if split.channels != model_file.channels:
        raise InputError(
            f"{model_file.path} takes images of {model_file.channels} channels, "
            f"{dataset_of(split)} has {split.channels}."
        )


def batches(
    model_file: ModelFile, split: data.Split, batch_size: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Prepare every image of a split once, in order, as a model file takes them.

    Args:
        model_file: an open model file.
        split: images that fit it.
        batch_size: images in a batch, above 0; the last batch may have fewer. None: as many as
            suit the machine.

    Yields:
        Images, uint8 `(batch, height, width, channels)`, and labels, int64 `(batch,)`, or float32
        `(batch, classes)` where images have several.

    Raises:
        InputError: `batch_size` is out of its range; or, at a later batch, a file of the data set
            is gone or damaged.
    """
    if batch_size is None:
        batch_size = forward_batch(model_file.metadata.preprocessing.size)
    if batch_size < 1:
        raise InputError(f"`batch_size` must be above 0. Received: batch_size={batch_size}")
    prepared = data.evaluation_batches(
        split, model_file.metadata.preprocessing, batch_size=batch_size
    )
    with data.reading(split):
        yield from prepared.as_numpy_iterator()


def dataset_of(split: data.Split) -> str:
    """Return the name of a split's data set, as it was given."""
    return split.source.dataset if split.source else "the data set"


def name_of(split: data.Split) -> str:
    """Return the name of a split, as it was given."""
    return split.source.split if split.source else "the split"


def paths_of(split: data.Split) -> np.ndarray | None:
    """List the paths of a split's image files, strings `(n,)`; None if images are not files."""
    return None if split.paths is None else np.array(split.paths)
