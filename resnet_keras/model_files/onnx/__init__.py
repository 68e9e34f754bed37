"""ONNX: float32, or int8 as QDQ, from `images` to `probabilities`.

Opening, writing and counting are here; `int8` quantizes and measures what each layer loses.
"""

import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import onnx
import onnx.version_converter
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.model_files.layer_errors import layer_of
from resnet_keras.model_files.metadata import Metadata, label_lines
from resnet_keras.model_files.onnx import int8, rewriting
from resnet_keras.model_files.opened import Opened, batched, only, pixel_layout, require_images

SNIPPET = """\
import onnxruntime

model = onnxruntime.InferenceSession("{name}")
scores = model.run(None, {{model.get_inputs()[0].name: pixels}})[0]"""

# The constant of `1 - Erf`.
_ONE = "one"

# The latest opset that tf2onnx writes well: as 18 the global average becomes a Transpose and a
# ReduceMean.
_WRITTEN = 17


def open_file(path: Path, *, threads: int, folded: bool) -> Opened:
    """Open a file in ONNX Runtime, on the CPU; it runs as it was written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; what is wrong is raised anyway
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no common class of their own
        raise ValueError(str(error)) from error
    entry, exit_ = only(path, session.get_inputs(), session.get_outputs())
    require_images(path, entry.shape)
    properties = session.get_modelmeta().custom_metadata_map
    shape = [n if isinstance(n, int) else None for n in entry.shape]
    order, shape = pixel_layout(shape, properties.get("layout"))
    kind = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[entry.type]

    def run(images: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(np.transpose(np.asarray(images, kind), order))
        return session.run([exit_.name], {entry.name: pixels})[0]

    metadata = properties.get("metadata")
    features = len(exit_.shape) != 2
    classes = None if features else exit_.shape[-1]
    predict, told = batched(path, run, shape[0]), metadata and metadata.encode()
    return Opened(predict, tuple(shape), classes, told, features)


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
    keep_float: Sequence[str] = (),
) -> dict[str, float]:
    """Write an ONNX file: `images` `(batch, ...)` of pixels 0-255 to `probabilities`, float32.

    Args:
        model: of `folded`.
        path: the file.
        metadata: travels inside as `labels` (a line a class), `size` (`height,width`), `layout`,
            and all of it as `metadata` (JSON).
        layout: "nhwc" or "nchw".
        opset: 13 to 18.
        quantize: "none"; or "int8": uint8 activations by the ranges they have on `images`, int8
            weights per channel, each behind QuantizeLinear and DequantizeLinear.
        images: for int8, uint8 `(n, height, width, channels)`.
        io: for int8, the type of `images`: "uint8" (scale 1, zero point 0: raw bytes) or "float32".
        keep_float: for int8, layers that are not quantized.

    Returns:
        For int8, the error of each layer, as of `LayerErrors`; else nothing.

    Raises:
        InputError: `keep_float` names a layer that is not there, or ONNX has no operator for one.
    """
    with _quiet():
        # int8 kernels of ONNX Runtime are NHWC: normalised so, pixels need no transpose at all.
        rows = quantize == "int8" and layout == "nhwc"
        graph = _convert(model, opset, metadata.output, channels_last=rows)
        owners = _name_after_layers(graph, [layer.name for layer in model.layers])
        errors: dict[str, float] = {}
        if quantize == "int8":
            assert images is not None
            if rows:
                rewriting.repeat_in_rows(graph, *model.input_shape[2:])
            pixels = images if rows else images.transpose((0, 3, 1, 2))
            graph, errors = int8.quantized(graph, pixels, owners, io, keep_float)
        elif layout == "nhwc":
            rewriting.take_channels_last(graph)
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


def operators(path: Path) -> dict[str, int] | None:
    """Count the operators in a file; those of other domains have theirs in front."""
    nodes = onnx.load(path).graph.node
    counts = Counter(".".join(filter(None, (node.domain, node.op_type))) for node in nodes)
    return dict(sorted(counts.items()))


def unwelcome(operators: Mapping[str, int], layout: str | None) -> list[str]:
    """Name operators of other domains, and batch norms."""
    return [name for name in operators if "." in name or name == "BatchNormalization"]


def _convert(
    model: keras.Model, opset: int, output: str, *, channels_last: bool
) -> onnx.ModelProto:
    """Convert a model with tf2onnx, to an NCHW graph but for its input if that is NHWC."""
    import tf2onnx

    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name=int8.IMAGES)
    function = tf.function(lambda images: {output: model(images, training=False)}, [spec])
    with _collecting(), _inlined():
        graph, _ = tf2onnx.convert.from_function(
            function,
            input_signature=[spec],
            opset=min(opset, _WRITTEN),
            inputs_as_nchw=None if channels_last else [int8.IMAGES],
        )
    _require_known(graph, [layer.name for layer in model.layers])
    rewriting.simplify(graph)
    if opset > _WRITTEN:
        graph = onnx.version_converter.convert_version(graph, opset)
    # tf2onnx imports a domain that it does not use.
    kept = [entry for entry in graph.opset_import if not entry.domain]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph


def _require_known(graph: onnx.ModelProto, names: Sequence[str]) -> None:
    """Write the complementary error function of an exact GELU as `1 - Erf`, and refuse the rest.

    tf2onnx leaves the operations that it does not know as they are.

    Raises:
        InputError: ONNX has no operator for an operation of a layer.
    """
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    for node in nodes:
        if node.op_type == "Erfc":
            if all(weight.name != _ONE for weight in graph.graph.initializer):
                graph.graph.initializer.append(
                    onnx.numpy_helper.from_array(np.array(1, np.float32), name=_ONE)
                )
            erf = f"{node.name}/Erf"
            make = onnx.helper.make_node
            graph.graph.node.append(make("Erf", [*node.input], [erf], erf))
            graph.graph.node.append(make("Sub", [_ONE, erf], [*node.output], node.name))
            continue
        if not onnx.defs.has(node.op_type, node.domain):
            layer = layer_of(f"{node.name};{';'.join(node.output)}", names) or node.name
            raise InputError(
                f"ONNX has no operator {node.op_type}, which the layer {layer} needs: choose "
                f"another format, or another layer. Received: {layer}"
            )
        graph.graph.node.append(node)


def _name_after_layers(graph: onnx.ModelProto, names: list[str]) -> dict[str, str]:
    """Give nodes and tensors short names after their layers: long ones fill small int8 files.

    Returns:
        The layer of each node. A ReLU belongs to the layer before it, as in TFLite: the two are one
        operator in int8.
    """
    weights = {weight.name: weight for weight in graph.graph.initializer}
    readers = Counter(name for node in graph.graph.node for name in node.input)
    ends = {value.name for value in graph.graph.output}
    owners: dict[str, str] = {}
    maker: dict[str, str] = {}  # of each tensor, the node
    tensors: dict[str, str] = {}  # new names
    taken: Counter[str] = Counter()
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
        for position, name in enumerate(node.input):
            if name in weights and readers[name] == 1:
                tensors[name] = weights[name].name = f"{node.name}.{position}"
    del graph.graph.value_info[:]  # shapes under the old names; nobody needs them
    for node in graph.graph.node:
        for values in (node.input, node.output):
            values[:] = [tensors.get(name, name) for name in values]
    return owners


@contextlib.contextmanager
def _collecting() -> Iterator[None]:
    """Free each copy that tf2onnx makes of the network before the next is made.

    A copy is a cycle with all weights in it, and Python counts objects, not bytes: dozens of copies
    would pile up before it collects.
    """
    before = gc.get_threshold()
    gc.freeze()  # what is there already need not be searched each time
    gc.collect()
    gc.set_threshold(700, 2, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def _inlined() -> Iterator[None]:
    """Trace the functions inside a model as parts of it.

    Keras' convolution in groups is a function for XLA, and tf2onnx leaves a call of one as it is.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what tf2onnx and onnxruntime log: errors are raised, or found in the graph."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
