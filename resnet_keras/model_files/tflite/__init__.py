"""TFLite: float32, float16, dynamic or int8, of built-in operators only.

Opening, writing and counting are here; `int8` calibrates and measures what each layer loses,
`description` writes what the file says about itself.
"""

import contextlib
import io as streams
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from resnet_keras.console import without_noise
from resnet_keras.errors import InputError
from resnet_keras.internals import tensorflow as internals
from resnet_keras.model_files import saved_model
from resnet_keras.model_files.layer_errors import layer_of
from resnet_keras.model_files.metadata import Metadata, label_lines
from resnet_keras.model_files.opened import Opened, only, require_images
from resnet_keras.model_files.tflite import description, int8

SNIPPET = """\
from ai_edge_litert.interpreter import Interpreter

model = Interpreter("{name}")
entry, exit = model.get_input_details()[0], model.get_output_details()[0]
model.resize_tensor_input(entry["index"], pixels.shape)
model.allocate_tensors()
model.set_tensor(entry["index"], pixels)
model.invoke()
scores = model.get_tensor(exit["index"])"""

_METADATA = "metadata.json"


def open_file(path: Path, *, threads: int, folded: bool) -> Opened:
    """Open a file in LiteRT's interpreter; it runs as it was written."""
    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()  # an operator that nobody knows is found here
    entry, exit_ = only(path, interpreter.get_input_details(), interpreter.get_output_details())
    require_images(path, entry["shape_signature"].tolist())

    def predict(images: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], _quantized(images, entry))
        interpreter.invoke()
        return _real(interpreter.get_tensor(exit_["index"]), exit_)

    metadata = None
    if zipfile.is_zipfile(path):  # associated files are a zip archive behind the model
        with zipfile.ZipFile(path) as files:
            if _METADATA in files.namelist():
                metadata = files.read(_METADATA)
    # What may vary is 1 in `shape`, and -1 in the signature.
    shape = tuple(int(n) if n > 0 else None for n in entry["shape_signature"])
    features = len(exit_["shape"]) != 2
    classes = None if features else int(exit_["shape"][-1])
    return Opened(predict, shape, classes, metadata, features)


def write(
    model: keras.Model,
    path: Path,
    metadata: Metadata,
    *,
    quantize: str = "none",
    images: np.ndarray | None = None,
    io: str = "uint8",
    keep_float: Sequence[str] = (),
) -> dict[str, float]:
    """Write a TFLite file; labels and metadata travel in it as associated files.

    Args:
        model: of `folded`; or, for int8 without `images`, one with fake-quantization operators.
        path: the file.
        metadata: what travels with it.
        quantize: "none"; "float16": weights are halves; "dynamic": weights are int8, activations
            are quantized as they come; "int8": both are, by the ranges that activations have on
            `images`, weights per channel.
        images: for int8, uint8 `(n, height, width, channels)`; None: the fake-quantization
            operators of the model give the ranges.
        io: for int8, the type of pixels and probabilities: "uint8" (scale 1, zero point 0: raw
            bytes), "int8" (zero point -128) or "float32".
        keep_float: for int8, layers that are not quantized.

    Returns:
        For int8 by `images`, the error of each layer, as of `LayerErrors`; else nothing.

    Raises:
        InputError: `keep_float` names a layer that is not there, or that is fused with another; or
            TFLite has no operator for a layer.
    """
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8" and images is None:
            kind = int8.TYPES[io]
            converter.inference_input_type = converter.inference_output_type = kind
        with _refusing([layer.name for layer in model.layers]):
            if quantize == "int8" and images is not None:
                content, errors = int8.calibrated(converter, model, images, io, keep_float)
            else:
                content = converter.convert()
    path.write_bytes(_with_files(content, model, metadata))
    return errors


def operators(path: Path) -> dict[str, int] | None:
    """Count the operators in a file; custom ones (Flex, too) go by their own name."""
    codes = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    content = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = []
    for i in range(content.OperatorCodesLength()):
        code = content.OperatorCodes(i)
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        names.append(f"CUSTOM {custom.decode()}" if custom else codes[number])
    counts: Counter[str] = Counter()
    for i in range(content.SubgraphsLength()):
        graph = content.Subgraphs(i)
        counts.update(
            names[graph.Operators(k).OpcodeIndex()] for k in range(graph.OperatorsLength())
        )
    return dict(sorted(counts.items()))


def unwelcome(operators: Mapping[str, int], layout: str | None) -> list[str]:
    """Name the operators that are not built in."""
    return [name for name in operators if name.startswith("CUSTOM")]


@contextlib.contextmanager
def _refusing(names: Sequence[str]) -> Iterator[None]:
    """Turn the converter's pages about an operation without a built-in operator into one line.

    Raises:
        InputError: such an operation.
    """
    refused = internals.converter_error()
    try:
        with without_noise(refused):
            yield
    except refused as error:
        text = str(error)
        if (found := re.search(r"TF Select ops: (.+)|Custom ops: (.+)", text)) is None:
            raise
        # fused["ResizeBicubic:", "model_1/layer_1/ResizeBicubic@__inference_..."]
        scopes = re.findall(r'"([^"]+/[^"]+)@', text)
        layer = layer_of(";".join(scopes), names) or "one"
        raise InputError(
            f"TFLite has no built-in operator {found[1] or found[2]}, which the layer {layer} "
            f"needs: choose another format, or another layer. Received: {layer}"
        ) from error


def _quantized(images: np.ndarray, tensor: dict) -> np.ndarray:
    """Pixels as a TFLite tensor holds them: raw bytes where scale is 1 and zero point 0."""
    scale, zero = tensor["quantization"]
    if not scale or (scale, zero, tensor["dtype"]) == (1.0, 0, np.asarray(images).dtype):
        return np.asarray(images, tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    levels = np.round(np.asarray(images, np.float32) / scale) + zero
    return np.clip(levels, limits.min, limits.max).astype(tensor["dtype"])


def _real(levels: np.ndarray, tensor: dict) -> np.ndarray:
    """Return the real numbers, float32, that the levels of a TFLite tensor stand for."""
    scale, zero = tensor["quantization"]
    levels = levels.astype(np.float32)
    return (levels - np.float32(zero)) * np.float32(scale) if scale else levels


def _with_files(content: bytes, model: keras.Model, metadata: Metadata) -> bytes:
    """Add the description to a model, and the associated files as a zip archive behind it."""
    unpacked = schema.ModelT.InitFromPackedBuf(content, 0)
    entry = schema.MetadataT()
    entry.name, entry.buffer = description.NAME, len(unpacked.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(description.describe(model, metadata), np.uint8)
    unpacked.buffers.append(buffer)
    unpacked.metadata = [*(unpacked.metadata or []), entry]
    files = {_METADATA: metadata.public()}
    if metadata.labels:
        files[description.LABELS] = label_lines(metadata.labels)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(unpacked.Pack(builder), b"TFL3")
    whole = streams.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(whole, "a") as archive:  # not compressed: read where it lies
        for name, text in files.items():
            # Its time is fixed, so that the same model gives the same file.
            archive.writestr(zipfile.ZipInfo(name), text)
    return whole.getvalue()
