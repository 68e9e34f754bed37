"""Rewrite a converted graph into operators that every importer gets right.

ncnn has no `Pad`, OpenCV computes a batch wrongly behind a `Squeeze` of a global pool, and ONNX
Runtime is slow where three numbers are repeated for each pixel.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx

# Between the layouts.
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def simplify(graph: onnx.ModelProto) -> None:
    """Fold zeros around rows and columns into what reads them, and flatten what was pooled.

    Args:
        graph: NCHW, opset 13 to 17; changed in place. It computes the same.
    """
    constants = {
        weight.name: onnx.numpy_helper.to_array(weight)
        for weight in graph.graph.initializer
        if weight.data_type == onnx.TensorProto.INT64 or not weight.dims
    }
    makers = {output: node for node in graph.graph.node for output in node.output}
    ends = {value.name for value in graph.graph.output}
    for node in list(graph.graph.node):
        if node.op_type == "Pad" and node.output[0] not in ends:
            _fold_pad(graph, node, constants, makers)
        elif node.op_type == "Squeeze":
            _flatten_pooled(node, constants, makers)
    _drop_unread(graph)


def take_channels_last(graph: onnx.ModelProto) -> None:
    """Turn the input of an NCHW graph into NHWC, with one `Transpose` right behind it.

    In front of the normalisation rather than behind it: each channel is then a plane, multiplied by
    one number, which is faster than three numbers repeated for each pixel.
    """
    (images,) = graph.graph.input
    dimensions = images.type.tensor_type.shape.dim
    channels = onnx.TensorShapeProto.Dimension()
    channels.CopyFrom(dimensions[1])
    del dimensions[1]
    dimensions.append(channels)
    readers = [node for node in graph.graph.node if images.name in node.input]
    back = [node for node in readers if _permutation(node) == _TO_NHWC]  # what wants NHWC itself
    for node in back:
        graph.graph.node.remove(node)
        _rename(graph, node.output[0], images.name)
    if others := [node for node in readers if node not in back]:
        planes = f"{images.name}/nchw"
        for node in others:
            node.input[:] = [planes if name == images.name else name for name in node.input]
        transpose = onnx.helper.make_node(
            "Transpose", [images.name], [planes], f"{images.name}/Transpose", perm=_TO_NCHW
        )
        graph.graph.node.insert(0, transpose)


def repeat_in_rows(graph: onnx.ModelProto, width: int | None, channels: int) -> None:
    """Repeat the numbers of the channels of NHWC pixels for every place of a row.

    The products and sums are the same, but ONNX Runtime is slow with three numbers at a time.

    Args:
        graph: with nodes named after layers; changed in place.
        width: of the images; None: nothing is changed.
        channels: likewise.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    for node in graph.graph.node:
        if node.name not in ("normalise/Mul", "normalise/Add") or width is None or channels == 1:
            continue
        for name in node.input:
            if name in weights:
                numbers = onnx.numpy_helper.to_array(weights[name])
                if numbers.shape and numbers.shape[-1] == numbers.size == channels:
                    rows = np.tile(numbers.ravel(), (width, 1))
                    weights[name].CopyFrom(onnx.numpy_helper.from_array(rows, name))


def _rename(graph: onnx.ModelProto, old: str, new: str) -> None:
    """Let all that reads one tensor read another."""
    for node in graph.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def _permutation(node: onnx.NodeProto) -> tuple[int, ...] | None:
    """Return the permutation of a `Transpose`; None of other nodes."""
    return tuple(_attributes(node)["perm"]) if node.op_type == "Transpose" else None


def _fold_pad(
    graph: onnx.ModelProto,
    pad: onnx.NodeProto,
    constants: Mapping[str, np.ndarray],
    makers: Mapping[str, onnx.NodeProto],
) -> None:
    """Give the zeros of a `Pad` to the convolutions and pools that read it, where all can."""
    around = _zeros_around(pad, constants)
    readers = [node for node in graph.graph.node if pad.output[0] in node.input]
    positive = (maker := makers.get(pad.input[0])) is not None and maker.op_type == "Relu"
    if around is None or not all(_takes(node, around, positive) for node in readers):
        return
    for node in readers:
        pads = [a + b for a, b in zip(_pads(node), around, strict=True)]
        kept = [entry for entry in node.attribute if entry.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("pads", pads)])
        node.input[0] = pad.input[0]
    graph.graph.node.remove(pad)


def _zeros_around(pad: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> list[int] | None:
    """Return top, left, bottom and right of a `Pad` of zeros; None of any other padding."""
    _, widths, *value = pad.input
    mode = _attributes(pad).get("mode", b"constant")
    zero = not value or not value[0] or not np.any(constants.get(value[0], 1))
    if mode != b"constant" or not zero or widths not in constants:
        return None
    before, after = constants[widths].reshape(2, -1).tolist()
    if len(before) != 4 or any((*before[:2], *after[:2])) or min((*before, *after)) < 0:
        return None
    return [*before[2:], *after[2:]]


def _takes(node: onnx.NodeProto, around: list[int], positive: bool) -> bool:
    """Tell whether a node can pad so itself.

    A max pool pads with -inf: the same where no value is below zero and each window has one.
    """
    attributes = _attributes(node)
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return False
    if node.op_type == "Conv":
        return True
    if node.op_type != "MaxPool" or not positive or set(attributes.get("dilations", [1])) != {1}:
        return False
    kernel = attributes["kernel_shape"]
    pads = [a + b for a, b in zip(_pads(node), around, strict=True)]
    return all(a < b for a, b in zip(pads, [*kernel, *kernel], strict=True))


def _pads(node: onnx.NodeProto) -> list[int]:
    return list(_attributes(node).get("pads", [0, 0, 0, 0]))


def _flatten_pooled(
    squeeze: onnx.NodeProto,
    constants: Mapping[str, np.ndarray],
    makers: Mapping[str, onnx.NodeProto],
) -> None:
    """Turn the `Squeeze` of rows and columns behind a global pool into a `Flatten`."""
    maker = makers.get(squeeze.input[0])
    if maker is None or maker.op_type not in ("GlobalAveragePool", "GlobalMaxPool"):
        return
    if len(squeeze.input) == 2 and sorted(constants.get(squeeze.input[1], ())) == [2, 3]:
        squeeze.op_type = "Flatten"
        del squeeze.input[1:]
        squeeze.attribute.append(onnx.helper.make_attribute("axis", 1))


def _drop_unread(graph: onnx.ModelProto) -> None:
    """Drop the constants that nothing reads any more."""
    read = Counter(name for node in graph.graph.node for name in node.input)
    read.update(value.name for value in graph.graph.output)
    kept = [weight for weight in graph.graph.initializer if read[weight.name]]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def _attributes(node: onnx.NodeProto) -> dict:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
