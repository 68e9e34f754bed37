"""int8 of TFLite by calibration: the ranges, and the error of each layer."""

from collections.abc import Sequence

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from resnet_keras.console import without_noise
from resnet_keras.errors import InputError
from resnet_keras.internals import tensorflow as internals
from resnet_keras.model_files.layer_errors import IMAGES, LayerErrors, layer_of

# Types of the pixels and the probabilities of a file.
TYPES = {"uint8": tf.uint8, "int8": tf.int8, "float32": tf.float32}


def calibrated(
    converter: tf.lite.TFLiteConverter,
    model: keras.Model,
    images: np.ndarray,
    io: str,
    keep_float: Sequence[str],
) -> tuple[bytes, dict[str, float]]:
    """Calibrate once, then quantize twice: for the file, and beside float to see the errors.

    Args:
        converter: of the model, set to quantize.
        model: which it converts, of `folded`.
        images: uint8 `(n, height, width, channels)`.
        io: as of `write`.
        keep_float: likewise.

    Returns:
        The file, and the error of each layer, as of `LayerErrors`.
    """
    converter.representative_dataset = lambda: (
        [image[None].astype(np.float32)] for image in images
    )
    content = schema.ModelT.InitFromPackedBuf(internals.calibrated(converter), 0)
    _set_pixel_ranges(content, model)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(content.Pack(builder), b"TFL3")
    ranged = bytes(builder.Output())
    kept = _tensors_of(content, model, keep_float)
    ends = {"input_data_type": TYPES[io], "output_data_type": TYPES[io]}
    file = _quantize(ranged, denylisted_nodes=kept, **ends)
    doubled = _quantize(ranged, enable_numeric_verify=True, denylisted_nodes=kept)
    return file, _errors(doubled, model, images)


def _quantize(content: bytes, **options) -> bytes:
    """Quantize a model with ranges; see `internals.tensorflow.quantized`."""
    with without_noise():
        return internals.quantized(content, **options)


def _numeric_verifications(interpreter: Interpreter) -> list[Sequence[int]]:
    """Return the inputs of each NumericVerify operator: the quantized tensor and the float one."""
    return [
        operator["inputs"]
        for operator in internals.operator_details(interpreter)
        if operator["op_name"] == "NumericVerify"
    ]


def _set_pixel_ranges(content, model: keras.Model) -> None:
    """Set the range of pixels to 0-255, whatever the images show; so raw bytes have scale 1.

    The ranges behind the normalisation, and behind `grey`, follow from the numbers in the operators
    that they have become.
    """
    (graph,) = content.subgraphs
    channels = model.input_shape[-1]
    low, high = np.zeros(channels, np.float32), np.full(channels, 255, np.float32)
    last = graph.inputs[0]
    _set_range(graph.tensors[last], low, high)
    names = [layer.name for layer in model.layers]

    def numbers(tensor: int) -> np.ndarray | None:
        data = content.buffers[graph.tensors[tensor].buffer].data
        return None if data is None else np.frombuffer(bytes(data), np.float32)

    for operator in graph.operators:
        if last not in operator.inputs:
            continue
        tensor = graph.tensors[operator.outputs[0]]
        code = content.operatorCodes[operator.opcodeIndex].builtinCode
        found = (numbers(i) for i in operator.inputs if i >= 0)
        constants = [constant for constant in found if constant is not None]
        # Other layers may have these names, too.
        known = layer_of(tensor.name.decode(), names) in ("grey", "normalise") and constants
        if code == schema.BuiltinOperator.CONV_2D and known:
            kernel, *bias = constants
            if list(graph.tensors[operator.inputs[1]].shape[1:]) != [1, 1, len(low)]:
                return
            kernel = kernel.reshape(-1, len(low))
            products = kernel * low, kernel * high
            offset = bias[0] if bias else 0
            low, high = (f(*products).sum(1) + offset for f in (np.minimum, np.maximum))
        elif known and constants[0].size not in (1, len(low)):
            return
        elif code == schema.BuiltinOperator.MUL and known:
            products = low * constants[0], high * constants[0]
            low, high = np.minimum(*products), np.maximum(*products)
        elif code == schema.BuiltinOperator.ADD and known:
            low, high = low + constants[0], high + constants[0]
        else:
            return
        last = operator.outputs[0]
        _set_range(tensor, low, high)


def _set_range(tensor, low, high) -> None:
    tensor.quantization.min = np.array([np.min(low)], np.float32)
    tensor.quantization.max = np.array([np.max(high)], np.float32)


def _tensors_of(content, model: keras.Model, layers: Sequence[str]) -> list[str]:
    """Name the tensors that the operators of some layers write."""
    names = [layer.name for layer in model.layers]
    (graph,) = content.subgraphs
    outputs = [graph.tensors[op.outputs[0]].name.decode() for op in graph.operators]
    found = {output: _layer(output, names) for output in outputs}
    for layer in layers:
        if layer not in found.values():
            raise InputError(
                f"`keep_float`: no operator belongs to this layer; there are "
                f"{', '.join(dict.fromkeys(found.values()))}. Received: {layer}"
            )
    return [output for output, layer in found.items() if layer in layers]


def _layer(tensor: str, names: list[str]) -> str:
    """Find the layer that writes a tensor; the last one's softmax has the name of the output."""
    return layer_of(tensor, names) or names[-1]


def _errors(doubled: bytes, model: keras.Model, images: np.ndarray) -> dict[str, float]:
    """Measure a model in which each operator stands twice, with a NumericVerify behind them.

    Both read what the quantized operator before them gives, so that each layer answers for itself.
    """
    interpreter = Interpreter(
        model_content=doubled,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    pairs = _numeric_verifications(interpreter)
    names = [layer.name for layer in model.layers]
    errors = LayerErrors()
    for image in images[:IMAGES]:
        interpreter.set_tensor(entry["index"], image[None].astype(np.float32))
        interpreter.invoke()
        for quantized, real in pairs:
            name = details[real]["name"]
            scale, zero = details[quantized]["quantization"]
            got = (interpreter.get_tensor(quantized).astype(np.float32) - zero) * scale
            errors.add(_layer(name, names), name, got, interpreter.get_tensor(real), axis=-1)
    return errors.by_layer()
