"""What the layers of a Keras file say of its network: strides, preprocessing, head."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import Contents

Layers = Mapping[str, dict[str, Any]]

BACKBONE = re.compile(
    r"conv\d+(_block\d+)?(_\d)?_(pad|conv|bn|relu|pool|add|out|drop)|pool1_(pad|pool)"
)

# The layers that do nothing in inference; augmentations, `Random...`, do nothing either.
_IDLE = {"InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
         "AlphaDropout", "ActivityRegularization"}  # fmt: skip

# What a layer of a backbone computes, as far as its name and its weights leave it open.
_FIELDS = ("strides", "dilation_rate", "padding", "groups", "pool_size", "epsilon", "activation",
           "data_format")  # fmt: skip

# The last is Keras' ResNet-50 until 2019.
_HEADS = (
    ["GlobalAveragePooling2D", "Dense"],
    ["GlobalAveragePooling2D", "Flatten", "Dense"],
    ["AveragePooling2D", "Flatten", "Dense"],
)

# keras.applications.resnet.preprocess_input: BGR, minus this.
_CAFFE_BGR = (103.939, 116.779, 123.68)

# Names of other networks, and what these are.
_RELATIVES = {
    r"post_bn/|.*_(preact|pre_activation)_bn/": "a ResNet v2, which normalises before each "
    "convolution (pre-activation); the networks here are ResNet v1",
    r"v[12]_stack_\d": "a backbone of keras-cv, which pads as TensorFlow's 'same' does where the "
    "networks here pad as PyTorch, and so computes something else",
    r"conv\d_block\d+_\d_conv/depthwise_kernel": "a ResNeXt, which has grouped convolutions; the "
    "networks here have none",
}


class Parts(NamedTuple):
    """The layers of a network that do something, by where they are.

    Attributes:
        front: between the images and the stem.
        backbone: from the stem to the end of the last block.
        top: behind them.
    """

    front: Layers
    backbone: Layers
    top: Layers


class Top(NamedTuple):
    """What is behind a backbone.

    Attributes:
        head: name of the dense layer; "" if there is none.
        activation: of the head, by Keras' name.
        problem: the layers, in words, if they are not an average pool and a dense layer; else "".
    """

    head: str
    activation: str | None
    problem: str


class Style(NamedTuple):
    """What layers show of a `Spec`; None where they do not.

    Attributes:
        avg_down: as in `Spec`.
        stride_in_1x1: likewise.
        dilation: likewise; None where nothing is dilated.
        channel_padding: as in `Told`.
    """

    avg_down: bool | None = None
    stride_in_1x1: bool | None = None
    dilation: str | None = None
    channel_padding: str | None = None


class Pixels(NamedTuple):
    """How a network prepares pixels: `(pixels - mean) / std`, RGB; `bgr` swaps them afterwards."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool


def parts(layers: Layers, backbone: re.Pattern[str] = BACKBONE) -> Parts:
    """Split the layers of a network; `backbone` matches the names of those of a backbone."""
    live = {name: layer for name, layer in layers.items() if not _is_idle(layer)}
    inside = [n for n, name in enumerate(live) if backbone.fullmatch(name)]
    if not inside:
        return Parts({}, {}, {})
    names = list(live)
    return Parts(
        *(
            {name: live[name] for name in chosen}
            for chosen in (
                names[: inside[0]],
                names[inside[0] : inside[-1] + 1],
                names[inside[-1] + 1 :],
            )
        )
    )


def pixels(path: str, front: Layers) -> Pixels | None:
    """How pixels are prepared by the layers in front of a stem; None if there are none.

    Raises:
        InputError: by layers other than a Rescaling or keras.applications' `preprocess_input`.
    """
    kinds = [layer["class_name"] for layer in front.values()]
    if not kinds:
        return None
    if kinds == ["Rescaling"]:
        (layer,) = front.values()
        return rescaled(layer["config"]["scale"], layer["config"]["offset"])
    if sorted(kinds) == ["Add", "GetItem", "GetItem", "GetItem", "Stack"] and _is_caffe(front):
        return Pixels(_CAFFE_BGR[::-1], (1.0, 1.0, 1.0), bgr=True)
    raise InputError(
        f"{path} prepares images by layers that no network here has: build one without them, "
        f"keras.Model(model.get_layer('conv1_conv').input, ...). Received: {', '.join(front)}"
    )


def rescaled(scale: float | list[float], offset: float | list[float]) -> Pixels:
    """How `pixels * scale + offset` prepares them; a number stands for all of three channels.

    Raises:
        ValueError: numbers of different channels, or a scale of 0 or below.
    """
    sizes = {len(value) for value in (scale, offset) if isinstance(value, list)}
    channels = sizes.pop() if sizes else 3
    scales = np.broadcast_to(np.asarray(scale, np.float64), channels)
    offsets = np.broadcast_to(np.asarray(offset, np.float64), channels)
    if scales.min() <= 0:
        raise ValueError(f"Rescaling by {scales}")
    return Pixels(_decimal(-offsets / scales), _decimal(1 / scales), bgr=False)


def top(layers: Layers) -> Top:
    """What is behind a backbone, of the layers of `Parts.top`."""
    kinds = [layer["class_name"] for layer in layers.values()]
    activation = None
    if kinds[-2:] == ["Dense", "Activation"]:
        activation = list(layers.values())[-1]["config"]["activation"]
        kinds.pop()
    dense = [name for name, layer in layers.items() if layer["class_name"] == "Dense"]
    if kinds in _HEADS:
        own = layers[dense[0]]["config"]["activation"]
        if activation is None or own == "linear":
            return Top(dense[0], activation or own, "")
    if not dense:
        return Top("", None, "")
    return Top(dense[-1], None, ", ".join(f"{n} ({layers[n]['class_name']})" for n in layers))


def head(contents: Contents, top_layers: Layers, known: Iterable[str]) -> Top:
    """The head of a Keras file, by its layers or, in a file of weights, by its dense kernels.

    Args:
        contents: the file.
        top_layers: `Parts.top`; none where the file lists no layers.
        known: names of heads, the first of them where there is none.
    """
    if contents.layers:
        found = top(top_layers)
        shape = input_shape(contents.layers)
        for layer in top_layers.values():  # Keras' ResNet-50 until 2019
            edges = tuple(32 * n for n in _pair(layer["config"].get("pool_size", 0)))
            if layer["class_name"] == "AveragePooling2D" and (shape or ())[:2] != edges:
                found = found._replace(problem="a pool that is not global")
        return found._replace(head=found.head or next(iter(known)))
    dense = [key.removesuffix("/kernel") for key, array in contents.arrays.items()
             if key.endswith("/kernel") and array.ndim == 2]  # fmt: skip
    if len(dense) > 1:
        return Top(dense[-1], None, ", ".join(f"{name} (Dense)" for name in dense))
    return Top(next(iter((*dense, *known))), None, "")


def inside(key: str) -> bool:
    """Whether a name of a Keras file, `LAYER/VARIABLE`, is one of a backbone."""
    return BACKBONE.fullmatch(key.split("/")[0]) is not None


def refuse_relatives(contents: Contents) -> None:
    """Refuse Keras networks that have a ResNet's names and compute something else.

    Raises:
        InputError: it is a ResNet v2, a ResNeXt or of keras-cv.
    """
    for pattern, what in _RELATIVES.items():
        for key in contents.arrays:
            if re.match(pattern, key):
                raise InputError(f"{contents.path} is {what}. Received: {key!r}")


def style(layers: Layers) -> Style:
    """What the layers of a Keras model show of its `Spec`.

    Args:
        layers: `class_name` and `config` of each layer by name.
    """
    if "conv3_block1_1_conv" not in layers:
        return Style()
    pool = layers.get("conv3_block1_0_pool", {}).get("class_name") == "AveragePooling2D"
    strides = layers["conv3_block1_1_conv"]["config"]["strides"]
    bottleneck = "conv3_block1_3_conv" in layers
    padding = None
    if (pad := layers.get("conv3_block1_0_pad", {}).get("config")) and pad.get(
        "data_format"
    ) == "channels_first":
        padding = "both" if _nested(pad["padding"])[1][0] else "end"
    return Style(
        pool,
        _pair(strides) != (1, 1) if bottleneck else None,
        _dilation(layers, 2 if bottleneck else 1),
        padding,
    )


def _dilation(layers: Layers, number: int) -> str | None:
    """Whose dilation a network has, by the first 3x3 convolutions of its stages; None: it has none.

    The first block of a stage has that of the others at OpenMMLab, of the stage before elsewhere.
    """
    for stage in range(3, 6):
        names = [f"conv{stage}_block{block}_{number}_conv" for block in (1, 2)]
        first, second = (
            _pair(layers[name]["config"]["dilation_rate"])[0] if name in layers else 1
            for name in names
        )
        if max(first, second) > 1:
            return "openmmlab" if first == second or names[1] not in layers else "torchvision"
    return None


def output_stride(layers: Layers) -> int | None:
    """`output_stride` of `ResNet` for a Keras model's layers; None if they do not list any."""
    if not layers:
        return None
    strides, dilated = [], False
    for name, layer in layers.items():
        if re.fullmatch(r"(conv\d+_(block\d+_)?([1-9]_)?conv)|pool1_pool", name):
            strides.append(_pair(layer["config"]["strides"])[0])
            dilated = dilated or _pair(layer["config"].get("dilation_rate", 1))[0] > 1
    return math.prod(strides) if dilated else 32


def input_shape(layers: Layers) -> tuple[int | None, ...] | None:
    """Height, width and channels of a Keras model's images."""
    for layer in layers.values():
        if layer["class_name"] == "InputLayer":
            config = layer["config"]  # Keras 3's; Keras 2's
            shape = config.get("batch_shape") or config.get("batch_input_shape")
            return tuple(shape[1:]) if shape and len(shape) == 4 else None
    return None


def difference(theirs: Layers, ours: Layers) -> tuple[str, str, str] | None:
    """The first difference between two backbones.

    Args:
        theirs: of a file, by our names; layers that do nothing in inference aside.
        ours: of a model.

    Returns:
        What differs, the file's, and the model's; None where nothing does.
    """
    live = {name: layer for name, layer in ours.items() if not _is_idle(layer)}
    for name in [*theirs, *live]:
        if name not in theirs or name not in live:
            has = (layers.get(name, {}).get("class_name", "no layer") for layers in (theirs, live))
            return name, next(has), next(has)
        one, other = theirs[name], live[name]
        if one["class_name"] != other["class_name"]:
            return name, one["class_name"], other["class_name"]
        for field in _FIELDS:
            pair = [_value(layer["config"], field) for layer in (one, other)]
            if None not in pair and pair[0] != pair[1]:
                return f"{field} of {name}", str(pair[0]), str(pair[1])
    return None


def _value(config: Mapping[str, Any], field: str) -> Any:
    """A field of a layer, as it can be compared; None where it means nothing."""
    if field == "padding" and _pair(config.get("kernel_size", 0)) == (1, 1):
        return None
    value = config.get(field)
    return _nested(value) if isinstance(value, list | tuple) else value


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list | tuple) else value


def _is_idle(layer: Mapping[str, Any]) -> bool:
    """Whether a layer does nothing in inference."""
    kind = layer["class_name"]
    linear = kind == "Activation" and layer["config"].get("activation") == "linear"
    return kind in _IDLE or kind.startswith("Random") or linear


def _pair(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _decimal(values: Iterable[float]) -> tuple[float, ...]:
    """The decimal numbers that people gave, before divisions rounded them."""
    return tuple(float(f"{value:.12g}") for value in values)


def _is_caffe(front: Layers) -> bool:
    """Whether layers are those of `preprocess_input` within a model: a stack of 2, 1, 0; an add."""
    arguments = {name: layer["inbound_nodes"][0]["args"] for name, layer in front.items()}
    order: list[int] = []
    shift: tuple[float, ...] = ()
    for name, layer in front.items():
        if layer["class_name"] == "Stack":
            channels = [tensor["config"]["keras_history"][0] for tensor in arguments[name][0]]
            order = [arguments[channel][1][-1] for channel in channels]
        elif layer["class_name"] == "Add":
            shift = tuple(np.ravel(arguments[name][1]["config"]["value"]))
    return order == [2, 1, 0] and np.allclose(shift, [-m for m in _CAFFE_BGR], atol=1e-3)
