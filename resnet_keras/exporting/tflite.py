"""A model -> TFLite: float32, float16, dynamic or int8, of built-in operators only."""

import io as io_format
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from resnet_keras.console import without_noise
from resnet_keras.errors import InputError
from resnet_keras.exporting import saved_model, tflite_metadata
from resnet_keras.exporting.errors import IMAGES, LayerErrors
from resnet_keras.exporting.plain import layer_of
from resnet_keras.internals import tensorflow as internals
from resnet_keras.model_files import Metadata, label_lines

_TYPES = {"uint8": tf.uint8, "int8": tf.int8, "float32": tf.float32}


def write(
    model: keras.Model,
    path: Path,
    metadata: Metadata,
    *,
    quantize: str = "none",
    images: np.ndarray | None = None,
    io: str = "uint8",
    keep_float: tuple[str, ...] = (),
) -> dict[str, float]:
    """Write a TFLite file; labels and metadata travel in it as associated files.

    Args:
        model: of `folded`.
        path: the file.
        metadata: what travels with it.
        quantize: "none"; "float16": weights are halves; "dynamic": weights are int8, activations
            are quantized as they come; "int8": both are, by the ranges that activations have on
            `images`, weights per channel.
        images: for int8, uint8 `(n, height, width, channels)`; None: the model was fine-tuned
            for int8, and its own fake-quant operators tell the ranges.
        io: for int8, the type of pixels and probabilities: "uint8" (scale 1, zero point 0: raw
            bytes), "int8" (zero point -128) or "float32".
        keep_float: for int8, layers that are not quantized.

    Returns:
        For int8 by `images`, the error of each layer, as of `LayerErrors`; else nothing.

    Raises:
        InputError: a layer to keep that is not there, or that is part of another's operator.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, Path(folder))
        content, errors = _convert(folder, model, quantize, images, io, keep_float)
    path.write_bytes(_with_files(content, model, metadata))
    return errors


def operators(path: Path) -> dict[str, int]:
    """How often each operator stands in a file; of custom ones (Flex, too) their own name."""
    codes = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    content = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = []
    for i in range(content.OperatorCodesLength()):
        code = content.OperatorCodes(i)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        names.append(f"CUSTOM {custom.decode()}" if custom else codes[number])
    counts = Counter()
    for i in range(content.SubgraphsLength()):
        graph = content.Subgraphs(i)
        counts.update(
            names[graph.Operators(k).OpcodeIndex()] for k in range(graph.OperatorsLength())
        )
    return dict(sorted(counts.items()))


def _convert(folder, model, quantize, images, io, keep_float) -> tuple[bytes, dict[str, float]]:
    """A SavedModel as TFLite, and the errors of the layers."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8" and images is not None:
        return _int8(converter, model, images, io, keep_float)
    if quantize == "int8":
        converter.inference_input_type = converter.inference_output_type = _TYPES[io]
    with without_noise():
        return converter.convert(), {}


def _int8(converter, model, images, io, keep_float) -> tuple[bytes, dict[str, float]]:
    """Calibrate once, then quantize twice: for the file, and beside float to see the errors."""
    converter.representative_dataset = lambda: (
        [image[None].astype(np.float32)] for image in images
    )
    # What `tf.lite.experimental.QuantizationDebugger` does, without the interpreter that
    # TensorFlow no longer wants to be used; the ranges can be fixed in between.
    content = schema.ModelT.InitFromPackedBuf(internals.calibrated(converter), 0)
    _set_pixel_ranges(content, model)
    calibrated = _pack(content)
    kept = _tensors_of(content, model, keep_float)
    kind = _TYPES[io]
    with without_noise():
        quantized = internals.quantized(
            calibrated, input_data_type=kind, output_data_type=kind, denylisted_nodes=kept
        )
        doubled = internals.quantized(calibrated, enable_numeric_verify=True, denylisted_nodes=kept)
    return quantized, _errors(doubled, model, images)


def _set_pixel_ranges(content, model) -> None:
    """Pixels are 0-255, whatever the calibration images show; so raw bytes have scale 1.

    The ranges behind the normalisation follow from its numbers.
    """
    (graph,) = content.subgraphs
    low, high = np.float32(0), np.float32(255)
    _set_range(graph.tensors[graph.inputs[0]], low, high)
    names = [layer.name for layer in model.layers]
    if "normalise" not in names:
        return
    layer = model.get_layer("normalise")
    scale, offset = (np.asarray(v, np.float32) for v in (layer.scale, layer.offset))
    for operator in graph.operators:
        tensor = graph.tensors[operator.outputs[0]]
        if layer_of(tensor.name.decode(), names) == "normalise":
            code = content.operatorCodes[operator.opcodeIndex].builtinCode
            if code == schema.BuiltinOperator.MUL:
                low, high = low * scale, high * scale
            elif code == schema.BuiltinOperator.ADD:
                low, high = low + offset, high + offset
            _set_range(tensor, low, high)


def _set_range(tensor, low, high) -> None:
    tensor.quantization.min = np.array([np.min(low)], np.float32)
    tensor.quantization.max = np.array([np.max(high)], np.float32)


def _tensors_of(content, model, layers) -> list[str]:
    """Names of the tensors that the operators of some layers write."""
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
    """The layer that writes a tensor; the last one's softmax carries the name of the output."""
    return layer_of(tensor, names) or names[-1]


def _errors(doubled: bytes, model, images) -> dict[str, float]:
    """Errors of a model in which each operator stands twice, and a NumericVerify behind them.

    Both are fed what the quantized one before them gives, so that each layer answers for itself.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=doubled,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    details = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    pairs = [
        operator["inputs"]
        for operator in internals.operator_details(interpreter)
        if operator["op_name"] == "NumericVerify"
    ]
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


def _with_files(content: bytes, model, metadata: Metadata) -> bytes:
    """A model with metadata, and the associated files as a zip archive behind it."""
    unpacked = schema.ModelT.InitFromPackedBuf(content, 0)
    entry = schema.MetadataT()
    entry.name, entry.buffer = tflite_metadata.NAME, len(unpacked.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(tflite_metadata.describe(model, metadata), np.uint8)
    unpacked.buffers.append(buffer)
    unpacked.metadata = [*(unpacked.metadata or []), entry]
    files = {"metadata.json": metadata.public()}
    if metadata.labels:
        files[tflite_metadata.LABELS] = label_lines(metadata.labels)
    whole = io_format.BytesIO(_pack(unpacked))
    with zipfile.ZipFile(whole, "a") as archive:  # not compressed: read where it lies
        for name, text in files.items():
            # Its time is fixed, so that the same model gives the same file.
            archive.writestr(zipfile.ZipInfo(name), text)
    return whole.getvalue()


def _pack(content) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())
