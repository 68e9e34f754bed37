"""Load a checkpoint's values into a model's variables, once everything in the file fits."""

import math
import mmap
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import ml_dtypes
import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.models import for_channels, is_of_heatmaps
from resnet_keras.specs import SPECS
from resnet_keras.weights.assumptions import assumptions
from resnet_keras.weights.formats import read
from resnet_keras.weights.names import STEMS, Checkpoint, keras_layers, recognise
from resnet_keras.weights.names.heads import is_factor
from resnet_keras.weights.names.reading import Reading

_FLOATS = tuple(map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)))


@dataclass(frozen=True)
class Report:
    """What was read.

    Attributes:
        source: the file, `hf://org/repo`, or the name of published weights.
        naming: whose names it has: "torchvision" (timm's plain ResNets too), "timm" (c and d
            variants), "OpenMMLab", "MMPose", "keras.applications", "keras.applications until 2019",
            "KerasHub" or "resnet_keras".
        matched: the file's names of what is in the model now.
        skipped: the file's names of what is not; `num_batches_tracked`, which nobody needs, aside.
        new: the model's names of what the file did not fill.
        model: name of the model.
        output: the file that `convert` wrote.
        adapted: how the first convolution's kernel was changed for images of another number of
            channels, and what a file leaves out was set to; None where nothing was.
        others: networks in the file that were not read, as `key` or `prefix` chooses them: an
            average of the weights, the second network of self-supervised training.
        assumed: what the file could not tell and nobody said, with the option that says otherwise.
    """

    source: str
    naming: str
    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    new: tuple[str, ...]
    model: str
    output: str | None = None
    adapted: str | None = None
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        line = f"{self.source}: {self.naming} names, {len(self.matched)} tensors read"
        listed = {"not read": self.others, "skipped": self.skipped, "new": self.new}
        for title, names in listed.items():
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                line += f"; {title}: {', '.join(names[:4])}{more}"
        line += f"; adapted: {self.adapted}" if self.adapted else ""
        return line + (f"; assumed: {', '.join(self.assumed)}" if self.assumed else "")


def load_weights(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    skip_head: bool = False,
    **reading: Any,
) -> Report:
    """Load a checkpoint into a ResNet.

    Weights for three channels are adapted to another number of them, as with timm's `in_chans`:
    for one channel the kernels of red, green and blue are summed; for N they are repeated, cut to
    N, and scaled by 3 / N. The report says so.

    Args:
        model: a model of `ResNet`, `features` or `add_heatmap_head`, of any floating type; changed
            in place.
        path: `.pth` or `.safetensors` of OpenMMLab, torchvision, timm, transformers, detectron2 or
            PyTorch code with such names; `.pkl` of detectron2; our own `.keras` or `.weights.h5`;
            `.h5` or `.keras` of keras.applications, trained on or not; a preset's folder or a file
            of KerasHub; `hf://org/repo`; or a name of `pretrained`, or "imagenet" for a model that
            has the name of one in `SPECS`. Floating tensors of any width, shapes
            `(out, in, height, width)` and `(out, in)` in PyTorch's files.
        skip_head: leave `predictions`, or the head of `add_heatmap_head`, as it is, whatever head
            the file has or has not.
        **reading: what the file does not tell, the fields of `Reading`: `key` and `prefix`, which
            of its networks is meant; `bgr` or `rgb`; `stride_in_1x1`, `dilation`, `output_stride`
            and `channel_padding`, which must be those of the model.

    Returns:
        What was matched, skipped, adapted and assumed.

    Raises:
        InputError: (a ValueError) the file can't be read, was refused, or is of another network;
            the message names the first tensor that does not fit. The model is as before.
    """
    headless = skip_head or not any(_is_of_a_head(layer.name) for layer in model.layers)
    checkpoint = recognised(path, model.name, Reading(**reading))
    return fill(model, checkpoint, skip_head=skip_head, backbone_only=headless)


def recognised(
    source: str | os.PathLike[str], model: str | None = None, reading: Reading | None = None
) -> Checkpoint:
    """A file's arrays by a network's names.

    Args:
        source: as `path` of `load_weights`.
        model: name of the network that is to take them.
        reading: what the file does not tell.
    """
    reading = reading or Reading()
    contents = read(source, model if model in SPECS else None, reading.key)
    with taken_for_a_resnet(source):
        return recognise(contents, reading)


@contextmanager
def taken_for_a_resnet(source: str | os.PathLike[str]) -> Iterator[None]:
    """Refuse a file that has a network's names for arrays that no network has."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{source} uses a ResNet's names for other tensors. Received: {error}"
        ) from error


def fill(
    model: keras.Model,
    checkpoint: Checkpoint,
    *,
    skip_head: bool,
    backbone_only: bool,
    given: Collection[str] = (),
) -> Report:
    """Check everything, then assign.

    Args:
        model: the network.
        checkpoint: the file.
        skip_head: as in `load_weights`.
        backbone_only: whether the user wants nothing of the file's head, whatever it is.
        given: "mean" and "std", where the user gave them, for a file that does not show them.
    """
    pairs, new = _match(model, checkpoint, skip_head)
    used = {key for _, key in pairs}
    skipped = _leftover(checkpoint, used, backbone_only, model)
    _require_style(model, checkpoint)
    _require_layers(model, checkpoint, without_head=skip_head)
    if not given or checkpoint.told.normalised is not None:
        _require_preprocessing(model, checkpoint)
    for variable, key in pairs:
        _require_numbers(checkpoint, key, variable.name)
    adapted = []
    if filled := [key for key in checkpoint.filled if key in used]:
        more = f" and {len(filled) - 1} more" if len(filled) > 1 else ""
        adapted.append(f"not in the file, so 0 (a variance: 1): {filled[0]}{more}")
    for variable, key in pairs:
        value = wide(checkpoint.value(key))
        if value.shape != variable.shape:  # `_match` lets only the channels of images differ
            value, how = _adapted(value, variable.shape[2])
            adapted.append(f"{key} {how}")
        variable.assign(value)
        _release(checkpoint.arrays[key])
    return Report(
        checkpoint.path,
        checkpoint.naming.title,
        tuple(key for _, key in pairs if key not in checkpoint.filled),
        skipped,
        new,
        model.name,
        adapted="; ".join(adapted) or None,
        others=checkpoint.others,
        assumed=assumptions(model_layers(model), checkpoint, skipped, given),
    )


def _require_numbers(checkpoint: Checkpoint, key: str, variable: str) -> None:
    """Refuse what a training that went wrong leaves, whose network computes no numbers.

    Raises:
        InputError: a value that is NaN or infinite, or a variance below 0.
    """
    value = checkpoint.arrays[key]
    with np.errstate(over="ignore"):  # of float64
        wrong = ~np.isfinite(value.astype(np.float32, copy=False))
    if variable == "moving_variance":
        wrong |= value < 0
    if wrong.any():
        raise InputError(
            f"{checkpoint.path}: {key!r} has values that are NaN, infinite or a variance below 0: "
            "the training that saved it had diverged. "
            f"Received: {value[wrong][0]} and {np.count_nonzero(wrong) - 1} more"
        )
    _release(value)


def _release(array: np.ndarray) -> None:
    """Let the pages of a memory-mapped file go that were read; they can be read again."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def wide(array: np.ndarray) -> np.ndarray:
    """At least float32."""
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)


def _match(
    model: keras.Model, checkpoint: Checkpoint, skip_head: bool
) -> tuple[list[tuple[keras.Variable, str]], tuple[str, ...]]:
    """Each variable of the model with its key in the file; and the variables that stay."""
    naming = checkpoint.naming
    pairs, new = [], []
    for layer in model.layers:
        for variable in layer.weights:
            ours = f"{layer.name}/{variable.name}"
            if skip_head and _is_of_a_head(layer.name):
                new.append(ours)
                continue
            key = naming.key(layer.name, variable.name)
            hint = ""
            if _is_of_a_head(layer.name):
                hint = " (load_weights(..., skip_head=True) keeps the model's)"
            if key is None and is_of_heatmaps(layer.name):
                raise InputError(
                    f"{checkpoint.path} has no head that draws heatmaps for {ours} of "
                    f"{model.name}{hint}. Received: {naming.title} names"
                )
            if key is None:
                raise InputError(f"a ResNet has no such weights. Received: {variable.path}")
            if layer.name == "predictions":
                require_classifier(checkpoint)
            if key not in checkpoint.arrays:
                raise InputError(
                    f"{checkpoint.path} has no {key!r} for {ours} of {model.name}{hint}. "
                    f"Received: {len(checkpoint.arrays)} tensors, {naming.title} names"
                )
            array, shape = checkpoint.arrays[key], tuple(variable.shape)
            fitting = [naming.shape(shape)]
            if layer.name in STEMS and len(shape) == 4:
                fitting.append(naming.shape((*shape[:2], 3, shape[3])))
            if array.shape not in fitting or array.dtype not in _FLOATS:
                raise InputError(
                    f"{checkpoint.path}: {key!r} must be floating-point, of shape {fitting[0]}, "
                    f"for {ours} of {model.name}{hint}. "
                    f"Received: {array.dtype} of shape {array.shape}"
                )
            pairs.append((variable, key))
    return pairs, tuple(new)


def _adapted(kernel: np.ndarray, channels: int) -> tuple[np.ndarray, str]:
    """A kernel for three channels, HWIO, for another number of them; and what was done."""
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True), "from 3 input channels to 1, summed"
    repeated = np.tile(kernel, (1, 1, math.ceil(channels / 3), 1))[:, :, :channels]
    how = f"from 3 input channels to {channels}, repeated and scaled by 3/{channels}"
    return repeated * np.float32(3 / channels), how


def require_classifier(checkpoint: Checkpoint) -> None:
    """Refuse a file whose head is there, and is none of ours.

    Raises:
        InputError: the head is more than one linear layer, or that of training without labels.
    """
    naming = checkpoint.naming
    if naming.problem or naming.projects:
        raise InputError(
            f"{checkpoint.path} has no single linear layer behind an average pool as its "
            "classifier: convert with backbone_only=True (--backbone-only), or load with "
            "skip_head=True, for the rest. "
            f"Received: {naming.problem or 'the head of training without labels'}"
        )


def _leftover(
    checkpoint: Checkpoint, used: set[str], backbone_only: bool, model: keras.Model
) -> tuple[str, ...]:
    """What the file has beyond the model, if that may be."""
    naming, skipped = checkpoint.naming, []
    headless = backbone_only or not any(_is_of_a_head(layer.name) for layer in model.layers)
    for key, array in checkpoint.arrays.items():
        if key in used or key.endswith("num_batches_tracked"):
            continue
        if headless:
            # Beside a backbone there are necks and heads of detectors. A kernel in the network
            # itself is neither.
            asked = (backbone_only or naming.projects) and array.ndim < 4
            fits = (
                key.startswith((f"{naming.head}.", f"{naming.head}/"))
                or (not naming.inside(key) and (asked or not key.startswith(naming.prefix)))
                or (naming.heatmaps and not naming.inside(key))
                or naming.beside(key)
            )
        else:
            number = array.size <= 1
            fits = naming.beside(key) or (not naming.inside(key) and number)
            fits = fits and not (number and is_factor(key))
        if not fits:
            leave = not headless and not naming.inside(key)
            hint = " (backbone_only=True, or --backbone-only, leaves heads out)" if leave else ""
            raise InputError(
                f"{checkpoint.path} has {key!r}, which {model.name} has no place for{hint}. "
                f"Received: shape {array.shape}"
            )
        skipped.append(key)
    return tuple(skipped)


def _is_of_a_head(layer: str) -> bool:
    return layer == "predictions" or is_of_heatmaps(layer)


def model_layers(model: keras.Model) -> dict[str, dict[str, Any]]:
    """The layers of a model, as `Contents.layers`."""
    return {
        layer.name: {"class_name": type(layer).__name__, "config": layer.get_config()}
        for layer in model.layers
    }


def _require_style(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Refuse what has the right shapes and would compute something else."""
    naming = checkpoint.naming
    style, told = keras_layers.style(model_layers(model)), checkpoint.told
    for field, theirs, ours in (
        ("avg_down", naming.avg_down, style.avg_down),
        ("stride_in_1x1", naming.stride_in_1x1, style.stride_in_1x1),
        ("dilation", told.dilation, style.dilation),
        ("channel_padding", told.channel_padding, style.channel_padding),
    ):
        if None not in (theirs, ours) and theirs != ours:
            raise InputError(
                f"{checkpoint.path} is from a network with {field}={theirs}, see "
                f"{naming.key('conv3_block1_0_conv', 'kernel')!r}: build {model.name} from a Spec "
                f"that says so. Received: {field}={ours}"
            )


def _require_layers(model: keras.Model, checkpoint: Checkpoint, *, without_head: bool) -> None:
    """Refuse a file whose layers compute something else than the model's of the same names."""
    told, layers = checkpoint.told, model_layers(model)
    ours = keras_layers.parts(layers).backbone
    pairs: list[tuple[str, Any, Any]] = [
        ("output_stride", told.output_stride, keras_layers.output_stride(ours))
    ]
    if "predictions" in layers and not without_head:
        activation = layers["predictions"]["config"]["activation"]
        # Logits and what is made of them are the user's choice.
        if "linear" not in (told.activation, activation):
            pairs.append(("classifier_activation", told.activation, activation))
    for field, one, other in pairs:
        # A strided network's weights, where its layers are not known, are often dilated.
        if one not in (None, other):
            raise InputError(
                f"{checkpoint.path} is from a network with {field}={one}: build {model.name} "
                f"with it. Received: {field}={other}"
            )
    if told.layers and (found := keras_layers.difference(told.layers, ours)):
        what, theirs, own = found
        raise InputError(
            f"{checkpoint.path} is from a network that computes something else than {model.name}: "
            f"{what} is {theirs}. Received: {own}"
        )


def _require_preprocessing(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Refuse a model that normalises otherwise than the file's network or all of its source."""
    mean, std, normalised = checkpoint.mean, checkpoint.std, checkpoint.told.normalised
    normalise = {layer.name: layer for layer in model.layers}.get("normalise")
    ours = normalise is not None
    if normalised not in (None, ours):
        raise InputError(
            f"{checkpoint.path} is from a network with include_preprocessing={normalised}: build "
            f"{model.name} with it. Received: include_preprocessing={ours}"
        )
    if mean is None or std is None or normalise is None:
        return
    channels = len(normalise.scale)
    mean, std = (v if len(v) == channels else for_channels(v, channels) for v in (mean, std))
    scale = [1 / s for s in std]
    offset = [-m * s for m, s in zip(mean, scale, strict=True)]
    if not np.allclose(normalise.scale, scale) or not np.allclose(
        normalise.offset, offset, rtol=1e-5, atol=1e-3
    ):
        raise InputError(
            f"{checkpoint.path} is from {checkpoint.naming.title} and wants other "
            f"preprocessing: build {model.name} with mean={mean}, std={std}. "
            f"Received: scale={normalise.scale}, offset={normalise.offset}"
        )
