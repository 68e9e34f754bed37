"""A model -> ONNX: float32, or int8 as QDQ, from `images` to `probabilities`."""

import contextlib
import gc
import logging
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx
import onnx.version_converter
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.exporting.errors import IMAGES, LayerErrors
from resnet_keras.exporting.plain import layer_of
from resnet_keras.model_files import Metadata, label_lines

# What tf2onnx and the operators used here can be written in; QDQ per channel needs 13.
OPSETS = range(13, 19)

_IMAGES, _PROBABILITIES = "images", "probabilities"
# What onnxruntime calls a tensor behind its QuantizeLinear and DequantizeLinear.
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


def write(
    model: keras.Model,
    path: Path,
    metadata: Metadata,
    *,
    layout: str = "nhwc",
    opset: int = 17,
    quantize: str = "none",
    images: np.ndarray | None = None,
    io: str = "uint8",
    keep_float: tuple[str, ...] = (),
) -> dict[str, float]:
    """Write an ONNX file: `images` `(batch, ...)` of pixels 0-255 to `probabilities`, float32.

    Args:
        model: of `folded`.
        path: the file.
        metadata: travels inside as `labels` (a line a class), `size` (`height,width`), `layout`,
            and all of it as `metadata` (JSON).
        layout: "nhwc" or "nchw".
        opset: in `OPSETS`.
        quantize: "none"; or "int8": uint8 activations by the ranges they have on `images`, int8
            weights per channel, each behind QuantizeLinear and DequantizeLinear.
        images: for int8, uint8 `(n, height, width, channels)`.
        io: for int8, the type of `images`: "uint8" (scale 1, zero point 0: raw bytes) or "float32".
        keep_float: for int8, layers that are not quantized.

    Returns:
        For int8, the error of each layer, as of `LayerErrors`; else nothing.

    Raises:
        InputError: a layer to keep that is not there.
    """
    graph = _convert(model, layout, opset)
    owners = _name_after_layers(graph, [layer.name for layer in model.layers])
    errors = {}
    if quantize == "int8":
        pixels = images.transpose((0, 3, 1, 2)) if layout == "nchw" else images
        quantized = _quantize(graph, pixels, _ranges(graph, model), _nodes_of(owners, keep_float))
        errors = _errors(graph, quantized, owners, pixels)
        # What a layer in float gives is still rounded where the next one reads it.
        errors = {layer: error for layer, error in errors.items() if layer not in keep_float}
        if io == "uint8":
            _take_bytes(quantized)
        graph = quantized
        _shorten_names(graph)
    height, width = metadata.preprocessing.size
    properties = {
        "labels": label_lines(metadata.labels).removesuffix("\n"),
        "size": f"{height},{width}",
        "layout": layout,
        "metadata": metadata.public(),
    }
    onnx.helper.set_model_props(graph, properties)
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())
    return errors


def operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a file; those of other domains with theirs in front."""
    nodes = onnx.load(path).graph.node
    counts = Counter(".".join(filter(None, (node.domain, node.op_type))) for node in nodes)
    return dict(sorted(counts.items()))


def _convert(model, layout: str, opset: int) -> onnx.ModelProto:
    import tf2onnx

    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=_IMAGES)
    function = tf.function(lambda images: {_PROBABILITIES: model(images, training=False)}, [images])
    with _quiet(), _collecting():
        graph, _ = tf2onnx.convert.from_function(
            function,
            input_signature=[images],
            # Since 18 tf2onnx writes the global average as a Transpose and a ReduceMean.
            opset=min(opset, 17),
            inputs_as_nchw=[_IMAGES] if layout == "nchw" else None,
        )
    if opset > 17:
        graph = onnx.version_converter.convert_version(graph, opset)
    # tf2onnx imports a domain that it does not use.
    kept = [entry for entry in graph.opset_import if not entry.domain]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph


def _name_after_layers(graph: onnx.ModelProto, names: list[str]) -> dict[str, str]:
    """Give nodes and tensors short names after their layers; tell which layer answers for a node.

    A ReLU belongs to the layer before it, as in TFLite: the two are one operator in int8. The names
    of an int8 file would else be a tenth of a small network.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    ends = {value.name for value in graph.graph.output}
    owners, maker, taken, tensors = {}, {}, Counter(), {}
    for node in graph.graph.node:
        texts = [node.name, *node.output, *(name for name in node.input if name in weights)]
        layer = layer_of(";".join(texts), names)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        owners[node.name] = layer or node.op_type
        if node.op_type == "Relu":
            owners[node.name] = owners[maker[node.input[0]]]
        maker.update(dict.fromkeys(node.output, node.name))
        tensors |= {output: node.name for output in node.output if output not in ends}
        for place, name in enumerate(node.input):
            if name in weights and readers[name] == 1:
                tensors[name] = weights[name].name = f"{node.name}.{place}"
    del graph.graph.value_info[:]  # shapes under the old names; nobody needs them
    for node in graph.graph.node:
        for values in (node.input, node.output):
            values[:] = [tensors.get(name, name) for name in values]
    return owners


def _nodes_of(owners: dict[str, str], layers: tuple[str, ...]) -> list[str]:
    """The nodes of layers that stay in float; the softmax always does: probabilities are small."""
    for layer in layers:
        if layer not in owners.values():
            raise InputError(
                "`keep_float`: no operator belongs to this layer; there are "
                f"{', '.join(dict.fromkeys(owners.values()))}. Received: {layer}"
            )
    softmax = [node for node in owners if node.endswith("/Softmax")]
    return softmax + [node for node, layer in owners.items() if layer in layers]


def _ranges(graph: onnx.ModelProto, model) -> dict[str, list[dict]]:
    """Pixels are 0-255, whatever the calibration images show, with scale 1.

    The ranges behind the normalisation follow from its numbers.
    """
    from onnxruntime.quantization import QuantType

    bytes_ = {"quant_type": QuantType.QUInt8}
    one, zero = np.array(1, np.float32), np.array(0, np.uint8)
    ranges = {_IMAGES: [{**bytes_, "scale": one, "zero_point": zero}]}
    low, high = np.float32(0), np.float32(255)
    for node in graph.graph.node:
        if node.name == "normalise/Mul":
            scale = np.asarray(model.get_layer("normalise").scale, np.float32)
            low, high = low * scale, high * scale
        elif node.name == "normalise/Add":
            offset = np.asarray(model.get_layer("normalise").offset, np.float32)
            low, high = low + offset, high + offset
        else:
            continue
        limits = {"rmin": np.min(low), "rmax": np.max(high)}
        ranges[node.output[0]] = [{**bytes_, **limits}]
    return ranges


def _quantize(
    graph: onnx.ModelProto, pixels: np.ndarray, ranges: dict, excluded: list[str]
) -> onnx.ModelProto:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(pixels)

        def get_next(self):
            image = next(self.left, None)
            return None if image is None else {_IMAGES: image[None].astype(np.float32)}

    with tempfile.TemporaryDirectory() as folder, _quiet():
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

    both = onnx.ModelProto()
    both.CopyFrom(quantized)
    there = {_IMAGES} | {name for node in quantized.graph.node for name in node.output}
    weights = {weight.name for weight in graph.graph.initializer}
    for weight in graph.graph.initializer:
        clone = both.graph.initializer.add()
        clone.CopyFrom(weight)
        clone.name = f"float/{weight.name}"

    def source(name: str) -> str:
        """Where the clone reads a tensor: quantized, or never so, or of the clone before it."""
        if name in weights:
            return f"float/{name}"
        real = f"{name}{_DEQUANTIZED}"
        return real if real in there else name if name in there else f"float/{name}"

    pairs = []
    for node in graph.graph.node:
        clone = both.graph.node.add()
        clone.CopyFrom(node)
        clone.name = f"float/{node.name}"
        clone.input[:] = [name and source(name) for name in node.input]
        clone.output[:] = [f"float/{name}" for name in node.output]
        (output,) = node.output
        if f"{output}{_DEQUANTIZED}" in there:
            pairs.append((owners[node.name], f"{output}{_DEQUANTIZED}", f"float/{output}"))
    del both.graph.output[:]
    for name in dict.fromkeys(name for _, *names in pairs for name in names):
        kind = onnx.TensorProto.FLOAT
        both.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As it is written: what is made faster is also made different.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        both.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    errors = LayerErrors()
    for image in pixels[:IMAGES]:
        values = session.run(names, {_IMAGES: image[None].astype(np.float32)})
        values = dict(zip(names, values, strict=True))
        for layer, got, expected in pairs:
            real = values[expected]
            # All is NCHW, but for pixels that come as NHWC and are normalised so.
            pixels_last = layer == "normalise" and real.shape[-1] in (1, 3)
            axis = 1 if real.ndim == 4 and not pixels_last else -1
            errors.add(layer, expected, values[got], real, axis)
    return errors.by_layer()


def _take_bytes(graph: onnx.ModelProto) -> None:
    """Let `images` be uint8: quantized with scale 1 and zero point 0, a pixel is its byte."""
    (images,) = graph.graph.input
    images.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    readers = [node for node in graph.graph.node if _IMAGES in node.input]
    if [node.op_type for node in readers] == ["QuantizeLinear"]:
        old = readers[0].output[0]
        graph.graph.node.remove(readers[0])
        new = _IMAGES
    else:  # the normalisation stays in float
        old, new = _IMAGES, "pixels"
        cast = onnx.helper.make_node("Cast", [_IMAGES], [new], "pixels/Cast", to=1)
        graph.graph.node.insert(0, cast)
    for node in graph.graph.node:
        if node.name != "pixels/Cast":
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new


def _shorten_names(graph: onnx.ModelProto) -> None:
    """Names and shapes of what is between the layers are a tenth of a small int8 file."""

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


@contextlib.contextmanager
def _collecting():
    """Free each copy that tf2onnx makes of the network before the next is made.

    A copy is a cycle with all weights in it, and Python counts objects, not bytes: by its own rule
    dozens of copies pile up before it looks.
    """
    before = gc.get_threshold()
    gc.freeze()  # what is there already need not be looked at each time
    gc.collect()
    gc.set_threshold(700, 2, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def _quiet():
    """Without the advice that tf2onnx and onnxruntime log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
