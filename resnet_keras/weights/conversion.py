"""Convert a checkpoint to a `.keras` model with its metadata, or a model to weights for PyTorch."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from resnet_keras import __version__
from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.model_files import Metadata, read_metadata, require_replaceable_metadata
from resnet_keras.model_files.keras import save
from resnet_keras.models import (
    Head,
    Normalisation,
    add_heatmap_head,
    build,
    for_channels,
)
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.published import find, is_name
from resnet_keras.published.download import cache_folder
from resnet_keras.specs import SPECS, Spec
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.loading import (
    Report,
    fill,
    model_layers,
    recognised,
    require_classifier,
    taken_for_a_resnet,
    wide,
)
from resnet_keras.weights.names import Checkpoint, keras_layers, recognise, spec_name
from resnet_keras.weights.names.mmpose import SIZE
from resnet_keras.weights.names.naming import is_of_a_resnet
from resnet_keras.weights.names.reading import Reading
from resnet_keras.weights.names.told import Told
from resnet_keras.weights.names.torch_names import deep_stem, torch_name


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    model: str | Spec | None = None,
    classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    backbone_only: bool = False,
    **reading: Any,
) -> Report:
    """Convert a checkpoint to a `.keras` model, or a model to weights for PyTorch.

    Beside a `.keras` file the metadata is written, `NAME.json`: how images are prepared for it,
    as the published networks were evaluated. Edit it if the authors evaluated differently.

    Args:
        source: as `path` of `load_weights`.
        out: `.keras`: float32, stock layers, uncompiled, softmax (a feature map, if the file has no
            head; heatmaps of key points, as of `add_heatmap_head`, if it has MMPose's; another
            activation, if a Keras file shows one), reading pixels 0-255 (normalised images, if a
            file of ours does). Or `.safetensors`, as `save_torch`. Written whole or not at all.
        model: a name in `SPECS` or a `Spec`; by default what names and shapes tell.
        classes: of the head; by default the number that the file has.
        mean: of the pixels, RGB, 0-255; by default what the file tells, `ResNet`'s, or
            keras.applications' for its files.
        std: likewise.
        backbone_only: leave the file's head out: the model ends in a feature map.
        **reading: what the file does not tell, as in `load_weights`, but here the model follows.

    Returns:
        What was matched, skipped and assumed.

    Raises:
        InputError: (a ValueError) as `load_weights`; or arguments that don't fit together, or a
            `NAME.json` that is not metadata and would be replaced. Nothing was written.
    """
    out = Path(out)
    if out.suffix not in (".keras", ".safetensors") or (
        out.exists() and os.path.exists(source) and os.path.samefile(source, out)
    ):
        raise InputError(
            "OUT must be .keras for a checkpoint, .safetensors for a .keras model, and another "
            "file than SOURCE. "
            f"Received: {source} -> {out}"
        )
    if out.suffix == ".keras":
        require_replaceable_metadata(out)
    checkpoint = recognised(source, model if isinstance(model, str) else None, Reading(**reading))
    if checkpoint.naming.problem and not backbone_only:
        require_classifier(checkpoint)
    with taken_for_a_resnet(source):
        spec = _spec(checkpoint, model)
        network = _network(checkpoint, spec, backbone_only, classes, Normalisation(mean, std))
    given = [n for n, values in {"mean": mean, "std": std}.items() if values is not None]
    report = fill(network, checkpoint, skip_head=False, backbone_only=backbone_only, given=given)
    metadata = _metadata(network, checkpoint, Path(source))
    del checkpoint  # its memory is wanted for writing
    if out.suffix == ".keras":
        with whole(out) as temporary:
            save(network, temporary)
        metadata.write(out)
    else:
        save_torch(network, out)
    return replace(report, output=os.fspath(out))


def model_file_of(source: str | os.PathLike[str]) -> Path:
    """Return the model file of a source: published weights are converted once, into the cache.

    Args:
        source: a path, which is returned as it is; or a name of `pretrained`.

    Raises:
        InputError: (a ValueError) as `convert`.
    """
    name = os.fspath(source)
    if not is_name(name) or os.path.exists(name):
        return Path(source)
    row = find(name)
    # Another version may convert otherwise.
    path = cache_folder() / "models" / __version__ / f"{row.name}.keras"
    if not path.exists():
        say(convert(name, path))
    return path


def save_torch(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write a ResNet's weights for PyTorch: float32, torchvision's names (timm's for deep stems).

    `load_state_dict` takes the file strictly. Where `stride_in_1x1` is set, the PyTorch model must
    stride there too (OpenMMLab's `style="caffe"`). The file's metadata say that, and how pixels are
    normalised, for `convert` and `load_weights`.

    Args:
        model: a model of `ResNet`.
        path: a `.safetensors` file; its folder is made. Written whole or not at all.

    Raises:
        InputError: (a ValueError) another suffix, or a layer that no ResNet has.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"weights for PyTorch are a .safetensors file. Received: {path}")
    avg_down = keras_layers.style(model_layers(model)).avg_down
    tensors = {}
    for layer in model.layers:
        for variable in layer.weights:
            if not is_of_a_resnet(layer.name, variable.name):
                raise InputError(f"a ResNet has no such weights. Received: {variable.path}")
            # timm's ResNet-D has a pool, which may do nothing, before every shortcut.
            key = torch_name(layer.name, variable.name, deep_stem, lambda block: bool(avg_down))
            array = wide(keras.ops.convert_to_numpy(variable))
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            tensors[key] = np.ascontiguousarray(array)
            if key.endswith("running_var"):
                counter = key.replace("running_var", "num_batches_tracked")
                tensors[counter] = np.zeros((), np.int64)
    with whole(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **_told(model).to_metadata()})


def _told(model: keras.Model) -> Told:
    """What a PyTorch file cannot say of a network."""
    arrays = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}
    own = recognise(Contents(model.name, arrays, model_layers(model)))
    if own.naming.avg_down is None:  # one stage, which has no stride
        own = replace(own, naming=replace(own.naming, avg_down=False))
    stride = own.told.output_stride
    # Weights of a strided network are often loaded into a dilated one, but not the other way.
    return replace(own.told, spec=own.spec(), output_stride=None if stride == 32 else stride)


def _spec(checkpoint: Checkpoint, model: str | Spec | None) -> Spec:
    """The network that a file is to be read as."""
    if isinstance(model, str) and model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: model={model!r}")
    row = checkpoint.published
    if model is None and row is not None:
        model = row.model
    spec = SPECS[model] if isinstance(model, str) else model or checkpoint.spec()
    told = checkpoint.told
    if told.stride_in_1x1 and spec.block == "bottleneck":
        spec = replace(spec, stride_in_1x1=True)
    if told.dilation is not None:
        spec = replace(spec, dilation=told.dilation)
    if told.channel_padding == "both" and spec.shortcut == "pad":
        spec = replace(spec, shortcut="pad_both")
    return spec


def _network(
    checkpoint: Checkpoint,
    spec: Spec,
    backbone_only: bool,
    classes: int | None,
    normalisation: Normalisation,
) -> keras.Model:
    """An empty float32 model for a file, with a head that has its shapes."""
    draws = bool(checkpoint.naming.heatmaps) and not backbone_only
    last = None if backbone_only else checkpoint.kernel("heatmaps" if draws else "predictions")
    if classes is not None and (last is None or classes != last[-1]):
        what = "key points" if draws else "classes"
        has = f"a head of {last[-1]} {what}" if last else "no head"
        raise InputError(f"{checkpoint.path} has {has}. Received: classes={classes}")
    told, stem = checkpoint.told, checkpoint.stem()
    channels = stem[2] if stem else 3
    edge = 32 if spec.stem == "cifar" else 224
    size: tuple[int | None, ...] = SIZE if draws else (edge, edge)
    if told.preprocessing is not None:
        size = told.preprocessing.size
    elif told.input_shape is not None and None not in told.input_shape[:2]:
        size = told.input_shape[:2]
    statistics = {"mean": normalisation.mean, "std": normalisation.std}
    normalised = told.normalised is not False or statistics != {"mean": None, "std": None}
    for field, theirs in (("mean", checkpoint.mean), ("std", checkpoint.std)):
        if statistics[field] is None and theirs is not None:
            known = len(theirs) == channels
            statistics[field] = theirs if known else for_channels(theirs, channels)
    head = Head(False)
    if last and not draws:
        head = Head(True, last[-1], _activation(told.activation, last[-1]))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        network = build(
            spec,
            input_shape=(*size, channels),
            head=head,
            normalisation=Normalisation(**statistics) if normalised else None,
            output_stride=told.output_stride or 32,
            name=spec_name(spec),
        )
        if last and draws:
            return add_heatmap_head(network, last[-1], filters=checkpoint.head_filters())
        return network
    finally:
        keras.config.set_dtype_policy(policy)


def _activation(told: str | None, classes: int) -> str:
    """What follows the last layer: what the file shows, or what makes probabilities of logits."""
    if told not in (None, "linear"):
        return told
    # A softmax of one number is 1. What a file shows to be linear is a regression, if it is one.
    return "softmax" if classes > 1 else told or "sigmoid"


def _metadata(network: keras.Model, checkpoint: Checkpoint, source: Path) -> Metadata:
    """Describe how images are prepared: as the authors evaluated, or as published networks were.

    What is beside a model file stays true of its copy.

    The latter is, for 224 pixels, a short edge of 256; small images stay as they are, and so do
    crops for heatmaps.
    """
    told, classes = checkpoint.told, network.output_shape[-1]
    heatmaps = any(layer.name == "heatmaps" for layer in network.layers)
    names = told.keypoints if heatmaps else told.labels
    labels = names if len(names) == classes else ()
    if told.preprocessing is not None:
        # The model has the normalisation.
        preprocessing = replace(told.preprocessing, mean=None, std=None)
        row = checkpoint.published
        return Metadata(preprocessing, labels, dataset=row.dataset if row else None)
    if source.suffix == ".keras" and (beside := read_metadata(source)) is not None:
        beside = replace(beside, heatmaps=heatmaps)
        return beside if len(beside.labels) in (0, classes) else replace(beside, labels=())
    height, width = network.input_shape[1:3]
    edge = min(height, width)
    # What draws heatmaps is shown one object, cropped.
    margin = checkpoint.naming.margin and not heatmaps
    resize = 256 * edge // 224 if edge > 32 and margin else None
    preprocessing = Preprocessing((height, width), resize, antialias=checkpoint.naming.antialias)
    return Metadata(preprocessing, labels, features=heatmaps or None, heatmaps=heatmaps)
