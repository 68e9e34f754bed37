"""Read the arrays of any checkpoint file, by the names that the file gives them."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.published import Pretrained, find, is_name
from resnet_keras.published.download import fetch
from resnet_keras.text import reason, shortened
from resnet_keras.weights.formats import (
    folder,
    h5,
    hub,
    keras_archive,
    numpy_pickle,
    pth,
    safetensors,
)
from resnet_keras.weights.formats.found import Found
from resnet_keras.weights.formats.not_read import HEAD, refuse_beginning
from resnet_keras.weights.formats.refused import Refused

# What all tensors of a file may come to, by its size: some share their values.
_MOST_CLAIMED = 4


class Format(Protocol):
    """A way to keep arrays in a file: a module of this package."""

    def recognises(self, path: str, head: bytes) -> bool:
        """Whether a file has this format; `head` is how it begins."""

    def read(self, path: str) -> Found:
        """What is in a file. Whatever it raises, the file is damaged or refused.

        Where a file has entries, its format has a parameter `key`, which chooses one.
        """


# The first that recognises a file reads it; the last takes all that is left.
FORMATS: tuple[Format, ...] = (h5, keras_archive, safetensors, numpy_pickle, pth)


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        path: as it was given.
        arrays: by the file's own names, `LAYER/VARIABLE` for Keras; any dtype and strides. Those of
            `.pth` are memory-mapped.
        layers: of a `.keras` file or a whole model's `.h5`, `class_name` and `config` of each layer
            by name, in the model's order; those of models within the model, too.
        published: the row of the table of published weights, where it was asked for by name.
        facts: what the file or a repository says besides, by where it says so: "config.json",
            "preprocessor_config.json", "preprocessor.json", "task.json" (of a repository or a
            folder; the first, of a `.keras` file, too), "metadata" (of `.safetensors`), "meta" (of
            OpenMMLab's `.pth`).
        others: entries of the file with other networks, which were not read: `model_ema`.
    """

    path: str
    arrays: dict[str, np.ndarray]
    layers: Mapping[str, dict[str, Any]]
    published: Pretrained | None = None
    facts: Mapping[str, Any] = MappingProxyType({})
    others: tuple[str, ...] = ()


def read(
    source: str | os.PathLike[str], model: str | None = None, key: str | None = None
) -> Contents:
    """Read a checkpoint; its first bytes tell the format, not its suffix.

    Args:
        source: `.pth`, `.safetensors`, `.h5`, `.weights.h5` or `.keras` file; a folder with weights
            and JSON files, such as a preset of KerasHub; `hf://org/repo`; or a name of
            `pretrained`, whose file is downloaded.
        model: name in `SPECS` of the network that is to take the weights, if it has one.
        key: the entry of a training checkpoint that holds the weights, as `model_ema` or
            `state.model`; by default the only one, or the first of a common name.

    Returns:
        What is in it.

    Raises:
        InputError: (a ValueError) there is no such file, or it is not a checkpoint, damaged, or
            refused.
    """
    source = os.fspath(source)
    path, published = _located(source, model)
    try:
        beside = {}
        if os.path.isdir(path):
            path, beside = folder.weights(path), folder.facts(path)
        elif os.path.basename(path) in folder.NAMES:
            beside = folder.facts(os.path.dirname(path))
        found = _read(path, key)
        arrays = found.arrays
        head = os.path.join(os.path.dirname(path), folder.HEAD)
        whole = os.path.isdir(source) or hub.recognises(source)
        if whole and path != head and os.path.exists(head):
            arrays |= {k: a for k, a in _read(head).arrays.items() if k not in arrays}
    except Refused as error:
        raise InputError(f"{source} {reason(error)}") from error
    except OSError as error:
        raise InputError(f"{source} can't be read. Received: {error.strerror}") from error
    facts = {**beside, **found.facts}
    return Contents(source, arrays, found.layers, published, facts, found.others)


def _located(source: str, model: str | None) -> tuple[str, Pretrained | None]:
    """The file that a source is, and its row where it is published weights."""
    if hub.recognises(source):
        return hub.download(source), None
    if not is_name(source) or os.path.exists(source):
        return source, None
    row = find(source, model)
    if not row.commercial:
        say(f"{row.name} is under {row.licence}: not for commercial use")
    return hub.download(row.url) if hub.recognises(row.url) else os.fspath(fetch(row)), row


def _read(path: str, key: str | None = None) -> Found:
    """What is in a file, or in one entry of it.

    Raises:
        OSError: it cannot be opened.
        Refused: what is wrong with it.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        raise Refused("is empty (a download that failed?). Received: 0 bytes")
    try:
        refuse_beginning(path, head)
        found = _parse(path, head, key)
    except Refused:
        raise
    except Exception as error:  # a damaged file makes the parsers raise anything
        raise Refused(
            f"is truncated, damaged or not a checkpoint. Received: {reason(error)}"
        ) from error
    _require_size(found.arrays, size)
    return found


def _parse(path: str, head: bytes, key: str | None) -> Found:
    """As `_read`, by the format of the file."""
    kind = next(format_ for format_ in FORMATS if format_.recognises(path, head))
    if kind is pth:
        return pth.read(path, key)
    if kind is numpy_pickle:
        return numpy_pickle.read(path, key)
    if key is not None:
        raise Refused(f"has no entries to choose from by `key`. Received: key={key!r}")
    return kind.read(path)


def _require_size(arrays: dict[str, np.ndarray], size: int) -> None:
    """Refuse a file whose tensors claim more than it can hold.

    Strides of 0 can claim any shape, and tensors may share their values.
    """
    claimed = 0
    for key, array in arrays.items():
        claimed += array.nbytes
        if array.nbytes > size or claimed > _MOST_CLAIMED * size:
            what = "a tensor" if array.nbytes > size else "tensors that together are"
            raise Refused(
                f"has {what} larger than the file. "
                f"Received: {shortened(repr(key))} of shape {array.shape} in {size} bytes"
            )
