"""int8 of ONNX as QDQ: the ranges, the quantized graph, and the error of each layer."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from resnet_keras.errors import InputError
from resnet_keras.model_files import layer_errors

# The name of the input.
IMAGES = "images"

# What onnxruntime appends to a tensor's name behind QuantizeLinear and DequantizeLinear.
_DEQUANTIZED = "_DequantizeLinear_Output"
_SHORT = {
    "_QuantizeLinear_Output": ":q",
    "_DequantizeLinear_Output": ":r",
    "_QuantizeLinear": ":to_q",
    "_DequantizeLinear": ":to_r",
    "_quantized": ":q",
    "_zero_point": ":zero",
    "_scale": ":scale",
}


def quantized(
    graph: onnx.ModelProto,
    pixels: np.ndarray,
    owners: dict[str, str],
    io: str,
    keep_float: Sequence[str],
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """Quantize a graph by the ranges that its activations have on calibration images.

    Args:
        graph: in float32.
        pixels: the images, uint8, in the layout of the graph's input.
        owners: of each node, the layer that it belongs to.
        io: as of `write`.
        keep_float: likewise.

    Returns:
        The quantized graph, and the error of each layer, as of `LayerErrors`.
    """
    found = _quantize(graph, pixels, _ranges(graph), _nodes_of(owners, keep_float))
    errors = _errors(graph, found, owners, pixels)
    if io == "uint8":
        _take_bytes(found)
    _shorten_names(found)
    # The output of a layer in float is still rounded where the next layer reads it.
    return found, {layer: error for layer, error in errors.items() if layer not in keep_float}


def _nodes_of(owners: dict[str, str], layers: Sequence[str]) -> list[str]:
    """Name the nodes that stay in float: of these layers, and the softmax or the sigmoid.

    Small probabilities would lose the most. What makes a grey image of an RGB one stays, too: with
    weights of 7 bits white would be another white.
    """
    for layer in layers:
        if layer not in owners.values():
            raise InputError(
                "`keep_float`: no operator belongs to this layer; there are "
                f"{', '.join(dict.fromkeys(owners.values()))}. Received: {layer}"
            )
    last = [node for node in owners if node.endswith(("/Softmax", "/Sigmoid"))]
    if "grey" in owners.values():
        layers = [*layers, "grey", "normalise"]
    return last + [node for node, layer in owners.items() if layer in layers]


def _ranges(graph: onnx.ModelProto) -> dict[str, list[dict]]:
    """Set the range of pixels to 0-255, whatever the images show; so raw bytes have scale 1.

    The ranges behind the normalisation, and behind `grey`, follow from the numbers in the nodes
    that they have become.
    """
    from onnxruntime.quantization import QuantType

    uint8 = {"quant_type": QuantType.QUInt8}
    one, zero = np.array(1, np.float32), np.array(0, np.uint8)
    ranges: dict[str, list[dict]] = {IMAGES: [{**uint8, "scale": one, "zero_point": zero}]}
    weights = {
        weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.graph.initializer
    }
    low: Any = np.float32(0)
    high: Any = np.float32(255)
    last = IMAGES
    for node in graph.graph.node:
        if last not in node.input:
            continue
        if node.op_type == "Transpose":
            last = node.output[0]
            continue
        constants = [weights[name] for name in node.input if name in weights]
        # Other layers may have these names, too.
        known = node.name.partition("/")[0] in ("grey", "normalise") and constants
        if node.op_type == "Conv" and known and constants[0].shape in ((1, 1, 1, 1), (1, 3, 1, 1)):
            kernel, *bias = constants
            products = kernel * low, kernel * high
            low, high = (f(*products).sum() + sum(bias) for f in (np.minimum, np.maximum))
        elif node.op_type == "Mul" and known:
            products = low * constants[0], high * constants[0]
            low, high = np.minimum(*products), np.maximum(*products)
        elif node.op_type == "Add" and known:
            low, high = low + constants[0], high + constants[0]
        else:
            break
        last = node.output[0]
        ranges[last] = [{**uint8, "rmin": np.min(low), "rmax": np.max(high)}]
    return ranges


def _quantize(
    graph: onnx.ModelProto, pixels: np.ndarray, ranges: dict, excluded: list[str]
) -> onnx.ModelProto:
    """Quantize with ONNX Runtime, calibrating on one image at a time."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(pixels)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {IMAGES: image[None].astype(np.float32)}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        mine = onnx.ModelProto()  # it moves the weights of what it is given into a file
        mine.CopyFrom(graph)
        quantization.quantize_static(
            mine,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Weights of 7 bits: processors without VNNI add pairs of products of 8 bits in 16,
            # which overflows, so that a file would compute something else there.
            reduce_range=True,
            nodes_to_exclude=excluded,
            extra_options={"TensorQuantOverrides": ranges},
        )
        return onnx.load(path)


def _errors(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, owners: dict[str, str], pixels: np.ndarray
) -> dict[str, float]:
    """Run each operator a second time in float, on what the quantized one before it gives.

    So each layer answers for itself.
    """
    import onnxruntime

    both, pairs = _doubled(graph, quantized, owners)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As it is written: what is made faster is also made different.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        both.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    errors = layer_errors.LayerErrors()
    for image in pixels[: layer_errors.IMAGES]:
        outputs = session.run(names, {IMAGES: image[None].astype(np.float32)})
        values = dict(zip(names, outputs, strict=True))
        for layer, got, expected in pairs:
            real = values[expected]
            # All is NCHW, but for pixels that come as NHWC and are normalised so.
            pixels_last = layer == "normalise" and real.shape[-1] in (1, 3)
            axis = 1 if real.ndim == 4 and not pixels_last else -1
            errors.add(layer, expected, values[got], real, axis)
    return errors.by_layer()


def _doubled(
    graph: onnx.ModelProto, quantized: onnx.ModelProto, owners: dict[str, str]
) -> tuple[onnx.ModelProto, list[tuple[str, str, str]]]:
    """Put a float copy of each operator beside the quantized one.

    Returns:
        The graph of both, and for each pair its layer, the quantized and the float output.
    """
    both = onnx.ModelProto()
    both.CopyFrom(quantized)
    there = {IMAGES} | {name for node in quantized.graph.node for name in node.output}
    weights = {weight.name for weight in graph.graph.initializer}
    for weight in graph.graph.initializer:
        copy = both.graph.initializer.add()
        copy.CopyFrom(weight)
        copy.name = f"float/{weight.name}"

    def source(name: str) -> str:
        """Where a copy reads a tensor: dequantized, never quantized, or of the copy before it."""
        if name in weights:
            return f"float/{name}"
        real = f"{name}{_DEQUANTIZED}"
        return real if real in there else name if name in there else f"float/{name}"

    pairs = []
    for node in graph.graph.node:
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"float/{node.name}"
        copy.input[:] = [name and source(name) for name in node.input]
        copy.output[:] = [f"float/{name}" for name in node.output]
        (output,) = node.output
        if f"{output}{_DEQUANTIZED}" in there:
            pairs.append((owners[node.name], f"{output}{_DEQUANTIZED}", f"float/{output}"))
    del both.graph.output[:]
    for name in dict.fromkeys(name for _, *names in pairs for name in names):
        kind = onnx.TensorProto.FLOAT
        both.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return both, pairs


def _take_bytes(graph: onnx.ModelProto) -> None:
    """Make `images` uint8: quantized with scale 1 and zero point 0, a pixel is its byte."""
    (images,) = graph.graph.input
    images.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    readers = [node for node in graph.graph.node if IMAGES in node.input]
    if [node.op_type for node in readers] == ["QuantizeLinear"]:
        old = readers[0].output[0]
        graph.graph.node.remove(readers[0])
        new = IMAGES
    else:  # the normalisation stays in float
        old, new = IMAGES, "pixels"
        cast = onnx.helper.make_node("Cast", [IMAGES], [new], "pixels/Cast", to=1)
        graph.graph.node.insert(0, cast)
    for node in graph.graph.node:
        if node.name != "pixels/Cast":
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new


def _shorten_names(graph: onnx.ModelProto) -> None:
    """Shorten the names between the layers: they are a tenth of a small int8 file."""

    def short(name: str) -> str:
        for long, new in _SHORT.items():
            name = name.replace(long, new)
        return name

    del graph.graph.value_info[:]
    for weight in graph.graph.initializer:
        weight.name = short(weight.name)
    for node in graph.graph.node:
        node.name = short(node.name)
        for values in (node.input, node.output):
            values[:] = [short(name) for name in values]
