"""The configuration that OpenMMLab's training checkpoints hold, as the text of a Python file."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.weights.names.told import Told

# Such a text has a few thousand characters.
_MOST_CHARACTERS = 1 << 20

_RESNET = re.compile(r"(.+\.)?ResNet(V1c|V1C|V1d|V1D|_CIFAR)?")

# Strides and dilations of the stages, and what `output_stride` gives them.
_DILATED = {
    ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
    ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
    ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
}

# Of the batch norms here, and of PyTorch's unless it is told otherwise.
_EPSILON = 1e-5

# Plain ones, by mmcv's names.
_CONVOLUTIONS = ("Conv2d", "Conv")

# How mmcv, MMPretrain and MMDetection say that images become RGB.
_TO_RGB = ("to_rgb", "bgr_to_rgb")

# MMPose's way from heatmaps to key points that the networks here share.
_CODEC = "MSRAHeatmap"


def told_by_config(meta: Mapping[str, Any], path: str) -> Told:
    """Read what a checkpoint's `meta` says of its network: mmcv's `config`, mmengine's `cfg`.

    Args:
        meta: as its file has it.
        path: of the file, for messages.

    Raises:
        InputError: its backbone computes something else than the networks here.
    """
    texts = [meta[name] for name in ("config", "cfg") if isinstance(meta.get(name), str)]
    dicts = [d for text in texts if len(text) <= _MOST_CHARACTERS for d in _dicts(text)]
    told = _pixels(dicts).or_else(Told(labels=_labels(meta)))
    told = told.or_else(_heatmaps(dicts, meta))
    backbones = [d for d in dicts if _RESNET.fullmatch(str(d.get("type"))) and "depth" in d]
    readings = [_backbone(d, path) for d in backbones]
    same = readings and all(reading == readings[0] for reading in readings)
    return told.or_else(readings[0]) if same else told


def _dicts(text: str) -> Iterator[dict[str, Any]]:
    """The dicts of a configuration, `dict(a=1)` or `{"a": 1}`, with those values that are plain."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if items := _items(node):
            yield {
                name: value for name, tree in items.items() if (value := _plain(tree)) is not None
            }


def _items(node: ast.AST) -> dict[Any, ast.expr]:
    """What is in a dict, however it is written; nothing in anything else."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {k.value: v for k, v in pairs if isinstance(k, ast.Constant)}
    return {}


def _plain(tree: ast.expr) -> Any:
    """A number, a string, a list or tuple of these, or a dict of numbers and strings; else None."""
    if (items := _items(tree)) and len(items) <= 16:
        plain = {name: _constant(value) for name, value in items.items()}
        return {name: value for name, value in plain.items() if value is not None}
    if isinstance(tree, ast.List | ast.Tuple):
        values = tuple(map(_plain, tree.elts)) if len(tree.elts) <= 16 else ()
        return values if values and None not in values else None
    return _constant(tree)


def _constant(tree: ast.expr) -> str | int | float | None:
    """A number or a string; else None."""
    try:
        value = ast.literal_eval(tree) if isinstance(tree, ast.Constant | ast.UnaryOp) else None
    except (ValueError, TypeError):
        return None
    return value if isinstance(value, str | int | float) else None


def _pixels(dicts: list[dict[str, Any]]) -> Told:
    """The normalisation, where all that there are agree."""
    found = set()
    for d in dicts:
        mean, std = _three(d.get("mean")), _three(d.get("std"))
        if mean is None or std is None:
            continue
        to_rgb = next((bool(d[name]) for name in _TO_RGB if name in d), None)
        if to_rgb is None and d.get("type") == "NormalizeTensor":  # MMPose before 1.0: RGB, 0-1
            mean, std = (tuple(float(f"{255 * n:.12g}") for n in v) for v in (mean, std))
            to_rgb = True
        order = slice(None, None, -1) if to_rgb is False else slice(None)
        found.add((mean[order], std[order], None if to_rgb is None else not to_rgb))
    if len(found) != 1:
        return Told()
    mean, std, bgr = found.pop()
    return Told() if bgr is None else Told(mean=mean, std=std, bgr=bgr)


def _backbone(config: dict[str, Any], path: str) -> Told:
    """What the configuration of a `ResNet` of OpenMMLab says; its defaults are filled in."""
    stages = int(config.get("num_stages", 4))
    strides, dilations = (
        tuple(config.get(name, default))[:stages]
        for name, default in (("strides", (1, 2, 2, 2)), ("dilations", (1, 1, 1, 1)))
    )
    output_stride = next(
        (
            stride
            for (theirs, widths), stride in _DILATED.items()
            if (theirs[:stages], widths[:stages]) == (strides, dilations)
        ),
        None,
    )
    if output_stride is None:
        raise InputError(
            f"{path} is of a network with other strides than those here: "
            f"its configuration must have one of {', '.join(map(str, _DILATED))}. "
            f"Received: strides={strides}, dilations={dilations}"
        )
    norm, conv = (config.get(name) for name in ("norm_cfg", "conv_cfg"))
    if isinstance(norm, dict) and norm.get("eps", _EPSILON) != _EPSILON:
        raise InputError(
            f"{path} is of a network whose batch norms have another epsilon than {_EPSILON:g}, "
            f"that of the networks here. Received: eps={norm['eps']} in its configuration"
        )
    if isinstance(conv, dict) and conv.get("type", "Conv2d") not in _CONVOLUTIONS:
        raise InputError(
            f"{path} is of a network with other convolutions than those here. "
            f"Received: conv_cfg={conv} in its configuration"
        )
    dilated = output_stride != 32
    return Told(
        stride_in_1x1=config.get("style", "pytorch") == "caffe",
        output_stride=output_stride,
        dilation=None if not dilated
        else "torchvision" if config.get("contract_dilation") else "openmmlab",
        whole=True,
    )  # fmt: skip


def _heatmaps(dicts: list[dict[str, Any]], meta: Mapping[str, Any]) -> Told:
    """What the configuration of a top-down network of MMPose says."""
    codecs = [d for d in dicts if _two(d.get("heatmap_size"))]
    # Since 1.0, and before; width and height.
    sizes = {_two(d.get("input_size", d.get("image_size"))) for d in codecs}
    size = sizes.pop() if len(sizes) == 1 else None
    # Before 1.0 `unbiased` was `test_cfg`'s, and the default of `post_process`.
    kinds = {str(d["type"]) for d in codecs if d.get("type", _CODEC) != _CODEC}
    kinds |= {"DARK" for d in dicts if d.get("unbiased") or d.get("post_process") == "unbiased"}
    kinds |= {"UDP" for d in dicts if d.get("use_udp")}
    return Told(
        input_shape=(*size[::-1], None) if size else None,
        keypoints=_keypoints(dicts, meta),
        assumed=tuple(f"key points by quarter offsets, not by {kind}" for kind in sorted(kinds)),
    )


def _keypoints(dicts: list[dict[str, Any]], meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the key points: mmengine's `dataset_meta`, or `keypoint_info` in the text."""
    beside = meta.get("dataset_meta")
    names = beside.get("keypoint_id2name") if isinstance(beside, dict) else None
    if not isinstance(names, dict):
        points = [d for d in dicts if "swap" in d and "id" in d]
        names = {d["id"]: d.get("name") for d in points}
        if any(names[d["id"]] != d.get("name") for d in points):
            return ()  # of several data sets
    found = [names.get(number) for number in range(len(names))]
    plain = tuple(name for name in found if isinstance(name, str))
    return plain if len(plain) == len(found) else ()


def _labels(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes: mmcv's `CLASSES`, mmengine's `dataset_meta`."""
    beside = meta.get("dataset_meta")
    labels = meta.get("CLASSES") or (beside.get("classes") if isinstance(beside, dict) else None)
    plain = isinstance(labels, list | tuple) and all(isinstance(name, str) for name in labels)
    return tuple(labels) if plain and labels else ()


def _two(value: Any) -> tuple[int, int] | None:
    """Two positive integers; None for what is not that."""
    numbers = isinstance(value, tuple) and all(type(n) is int and n > 0 for n in value)
    return (value[0], value[1]) if numbers and len(value) == 2 else None


def _three(value: Any) -> tuple[float, ...] | None:
    """Three numbers; None for what is not that."""
    numbers = isinstance(value, tuple) and all(type(n) in (int, float) for n in value)
    return tuple(map(float, value)) if numbers and len(value) == 3 else None
