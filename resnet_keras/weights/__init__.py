"""Other people's checkpoints -> our layer names and back, without PyTorch.

Nothing in a file is run, and a model is changed only once everything in the file is known to fit.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.models import ResNet
from resnet_keras.specs import SPECS, Spec
from resnet_keras.weights.files import read
from resnet_keras.weights.names import (
    APPLICATIONS_MEAN,
    Checkpoint,
    recognise,
    spec_name,
    style,
    torch_key,
)

_FLOATS = tuple(map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)))


@dataclass(frozen=True)
class Report:
    """What was read.

    Attributes:
        source: the file, or `hf://org/repo`.
        naming: whose names it has: "torchvision" (timm's plain ResNets too), "timm" (c and d
            variants), "OpenMMLab", "keras.applications" or "resnet_keras".
        matched: the file's names of what is in the model now.
        skipped: the file's names of what is not; `num_batches_tracked`, which nobody needs, aside.
        new: the model's names of what the file did not fill.
        model: name of the model.
        output: the file that `convert` wrote.
    """

    source: str
    naming: str
    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    new: tuple[str, ...]
    model: str
    output: str | None = None

    def __str__(self) -> str:
        """One line."""
        line = f"{self.source}: {self.naming} names, {len(self.matched)} tensors read"
        for title, names in (("skipped", self.skipped), ("new", self.new)):
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                line += f"; {title}: {', '.join(names[:4])}{more}"
        return line


def load_weights(model: keras.Model, path: str | os.PathLike, *, skip_head: bool = False) -> Report:
    """Fill a ResNet from a checkpoint.

    Args:
        model: a model of `ResNet` or `features`, of any floating type; changed in place.
        path: OpenMMLab's, torchvision's or timm's `.pth` or `.safetensors`; our own `.keras` or
            `.weights.h5`; `.h5` of keras.applications; or `hf://org/repo`. Floating tensors of any
            width, shapes `(out, in, height, width)` and `(out, in)` in PyTorch's files.
        skip_head: leave `predictions` as it is, whatever head the file has or has not.

    Returns:
        What was matched and skipped.

    Raises:
        InputError: (a ValueError) the file can't be read, was refused, or is of another network;
            the message names the first tensor that does not fit. The model is as before.
    """
    return _fill(model, _recognised(path), skip_head)


def save_torch(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a ResNet's weights for PyTorch: float32, torchvision's names (timm's for deep stems).

    `load_state_dict` takes the file strictly. Where `stride_in_1x1` is set, the PyTorch model must
    stride there too (OpenMMLab's `style="caffe"`).

    Args:
        model: a model of `ResNet`.
        path: a `.safetensors` file; its folder is made. Written whole or not at all.

    Raises:
        InputError: another suffix, or a layer that no ResNet has.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"weights for PyTorch are a .safetensors file. Received: {path}")
    avg_down, _ = _style(model)
    tensors = {}
    for layer in model.layers:
        for variable in layer.weights:
            # timm's ResNet-D has a pool, which may do nothing, before every shortcut.
            key = torch_key(layer.name, variable.name, shortcut=int(bool(avg_down)))
            if key is None:
                raise InputError(f"a ResNet has no such weights. Received: {variable.path}")
            array = _wide(keras.ops.convert_to_numpy(variable))
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            tensors[key] = np.ascontiguousarray(array)
            if key.endswith("running_var"):
                counter = key.replace("running_var", "num_batches_tracked")
                tensors[counter] = np.zeros((), np.int64)
    with whole(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def convert(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | Spec | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stride_in_1x1: bool = False,
) -> Report:
    """Turn a checkpoint into a `.keras` model, or a model into weights for PyTorch.

    Args:
        source: as `path` of `load_weights`.
        out: `.keras`: float32, stock layers, uncompiled, softmax (a feature map, if the file has no
            head), reading pixels 0-255. Or `.safetensors`, as `save_torch`. Written whole or
            not at all.
        model: a name in `SPECS` or a `Spec`; by default what names and shapes tell.
        classes: of the head; by default as many as the file has.
        mean: of the pixels, RGB, 0-255; by default `ResNet`'s, or, for its files,
            keras.applications'.
        std: likewise.
        stride_in_1x1: it is a caffe-style network, which no PyTorch file tells.

    Returns:
        What was matched and skipped.

    Raises:
        InputError: (a ValueError) as `load_weights`, or arguments that don't fit together; nothing
            was written.
    """
    if (
        Path(out).suffix not in (".keras", ".safetensors")
        or Path(out).suffix == Path(source).suffix == ".keras"
    ):
        raise InputError(
            f"a checkpoint becomes .keras, a model .safetensors. Received: {source} -> {out}"
        )
    checkpoint = _recognised(source)
    with _taken_for_a_resnet(source):
        spec = _spec(checkpoint, model, stride_in_1x1)
        network = _build(checkpoint, spec, classes, mean, std)
    report = _fill(network, checkpoint, skip_head=False)
    del checkpoint  # its memory is wanted for writing
    if Path(out).suffix == ".keras":
        with whole(out) as temporary:
            network.save(temporary)
    else:
        save_torch(network, out)
    return replace(report, output=os.fspath(out))


def _recognised(source: str | os.PathLike) -> Checkpoint:
    """A file's arrays by a network's names."""
    contents = read(source)
    with _taken_for_a_resnet(source):
        return recognise(contents)


@contextmanager
def _taken_for_a_resnet(source: str | os.PathLike) -> Iterator[None]:
    """Refuse a file that has a network's names for arrays that no network has."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{source} has a ResNet's names for something else. Received: {error}"
        ) from error


def _fill(model: keras.Model, checkpoint: Checkpoint, skip_head: bool) -> Report:
    """Check everything, then assign."""
    pairs, new = _match(model, checkpoint, skip_head)
    used = {key for _, key in pairs}
    headless = skip_head or all(layer.name != "predictions" for layer in model.layers)
    skipped = _leftover(checkpoint, used, headless, model.name)
    _check_style(model, checkpoint)
    for variable, key in pairs:
        variable.assign(_wide(checkpoint.value(key)))
    matched = tuple(key for _, key in pairs)
    return Report(checkpoint.path, checkpoint.naming, matched, skipped, new, model.name)


def _match(model: keras.Model, checkpoint: Checkpoint, skip_head: bool):
    """Each variable of the model with its key in the file; and the variables that stay."""
    pairs, new = [], []
    for layer in model.layers:
        for variable in layer.weights:
            ours = f"{layer.name}/{variable.name}"
            if skip_head and layer.name == "predictions":
                new.append(ours)
                continue
            key = checkpoint.key(layer.name, variable.name)
            if key is None:
                raise InputError(f"a ResNet has no such weights. Received: {variable.path}")
            hint = " (skip_head=True keeps the model's)" if layer.name == "predictions" else ""
            if key not in checkpoint.arrays:
                raise InputError(
                    f"{checkpoint.path} has no {key!r} for {ours} of {model.name}{hint}. "
                    f"Received: {len(checkpoint.arrays)} tensors, {checkpoint.naming} names"
                )
            array, expected = checkpoint.arrays[key], checkpoint.shape(tuple(variable.shape))
            if array.shape != expected or array.dtype not in _FLOATS:
                raise InputError(
                    f"{checkpoint.path}: {key!r} must be floating, of shape {expected}, for {ours} "
                    f"of {model.name}{hint}. Received: {array.dtype} of shape {array.shape}"
                )
            pairs.append((variable, key))
    return pairs, tuple(new)


def _leftover(
    checkpoint: Checkpoint, used: set[str], headless: bool, model: str
) -> tuple[str, ...]:
    """What the file has beyond the model, if that may be."""
    left = [k for k in checkpoint.arrays if k not in used and not k.endswith("num_batches_tracked")]
    for key in left:
        head = key.startswith((f"{checkpoint.head}.", f"{checkpoint.head}/"))
        # Beside a backbone there are necks and heads of detectors.
        beside = head or not key.startswith(checkpoint.prefix)
        if not headless or not beside:
            raise InputError(
                f"{checkpoint.path} has {key!r}, which {model} has no place for. "
                f"Received: shape {checkpoint.arrays[key].shape}"
            )
    return tuple(left)


def _style(model: keras.Model) -> tuple[bool | None, bool | None]:
    layers = {
        layer.name: {"class_name": type(layer).__name__, "config": layer.get_config()}
        for layer in model.layers
        if layer.name.startswith("conv3_block1_")
    }
    return style(layers)


def _check_style(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Refuse what has the right shapes and would compute something else."""
    avg_down, stride_in_1x1 = _style(model)
    key = checkpoint.key("conv3_block1_0_conv", "kernel")
    for field, theirs, ours in (
        ("avg_down", checkpoint.avg_down, avg_down),
        ("stride_in_1x1", checkpoint.stride_in_1x1, stride_in_1x1),
    ):
        if None not in (theirs, ours) and theirs != ours:
            raise InputError(
                f"{checkpoint.path} is of a network with {field}={theirs}, see {key!r}: "
                f"build {model.name} from a Spec that says so. Received: {field}={ours}"
            )
    normalise = {layer.name: layer for layer in model.layers}.get("normalise")
    if checkpoint.naming == "keras.applications" and normalise is not None:
        wanted = [-m for m in APPLICATIONS_MEAN]
        if not np.allclose(normalise.scale, 1) or not np.allclose(
            normalise.offset, wanted, atol=0.01
        ):
            raise InputError(
                f"{checkpoint.path} is of keras.applications, which subtracts the mean only: "
                f"build {model.name} with mean={APPLICATIONS_MEAN}, std=(1, 1, 1). "
                f"Received: scale={normalise.scale}, offset={normalise.offset}"
            )


def _spec(checkpoint: Checkpoint, model: str | Spec | None, stride_in_1x1: bool) -> Spec:
    """The network that a file is to be read as."""
    if isinstance(model, str) and model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: model={model!r}")
    spec = SPECS[model] if isinstance(model, str) else model or checkpoint.spec()
    if stride_in_1x1 or (checkpoint.stride_in_1x1 and spec.block == "bottleneck"):
        spec = replace(spec, stride_in_1x1=True)
    return spec


def _build(checkpoint: Checkpoint, spec: Spec, classes, mean, std) -> keras.Model:
    """An empty float32 model for a file."""
    head = checkpoint.kernel("predictions")
    if classes is not None and (head is None or classes != head[-1]):
        has = f"a head of {head[-1]} classes" if head else "no head"
        raise InputError(f"{checkpoint.path} has {has}. Received: classes={classes}")
    stem = checkpoint.kernel("conv1_conv") or checkpoint.kernel("conv1_1_conv")
    size = 32 if spec.stem == "cifar" else 224
    if checkpoint.naming == "keras.applications":
        mean = APPLICATIONS_MEAN if mean is None else mean
        std = (1.0, 1.0, 1.0) if std is None else std
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        return ResNet(
            spec,
            include_top=head is not None,
            input_shape=(size, size, stem[2] if stem else 3),
            classes=head and head[-1],
            mean=mean,
            std=std,
            name=spec_name(spec),
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    finally:
        keras.config.set_dtype_policy(policy)


def _wide(array: np.ndarray) -> np.ndarray:
    """At least float32."""
    return array.astype(np.promote_types(array.dtype, np.float32), copy=False)
