"""OpenVINO's intermediate representation: float32 or int8, `NAME.xml` with its weights, `NAME.bin`.

OpenVINO converts our ONNX file. So its operators have the names of the layers, and int8 is that of
ONNX, with the same error of each layer.
"""

import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.model_files.metadata import Metadata
from resnet_keras.model_files.opened import Opened, batched, only, pixel_layout, require_images

SNIPPET = """\
import openvino

exact = {{"INFERENCE_PRECISION_HINT": "f32"}}  # some processors have a faster, rougher bfloat16
model = openvino.compile_model("{name}", "CPU", exact)
scores = model(pixels)[0]"""

# Nodes of a graph that compute nothing.
_PLUMBING = {"Constant", "Parameter", "Result"}

_TELEMETRY = "openvino_telemetry"


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry, which reports each import and conversion over the network.

    OpenVINO does without `openvino_telemetry` where that is not installed.
    """
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: not here
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if before is not None:
            sys.modules[_TELEMETRY] = before


with _without_telemetry():
    import openvino


def open_file(path: Path, *, threads: int, folded: bool) -> Opened:
    """Open a file in OpenVINO, on the CPU, in the precision that it was written in."""
    core = openvino.Core()
    model = core.read_model(path)
    entry, exit_ = only(path, model.inputs, model.outputs)
    shape = [n.get_length() if n.is_static else None for n in entry.partial_shape]
    require_images(path, shape)
    order, shape = pixel_layout(shape, _told(model, "layout"))
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", options)
    kind = entry.element_type.to_dtype()

    def run(images: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(np.transpose(np.asarray(images, kind), order))
        return compiled(pixels)[0]

    scores = exit_.partial_shape
    features = len(scores) != 2
    metadata = _told(model, "metadata")
    return Opened(
        batched(path, run, shape[0]),
        tuple(shape),
        scores[1].get_length() if not features and scores[1].is_static else None,
        None if metadata is None else metadata.encode(),
        features,
    )


def write(
    model: keras.Model, path: Path, metadata: Metadata, *, layout: str = "nhwc", **options: Any
) -> dict[str, float]:
    """Write a model as an IR: `images` `(batch, ...)` of pixels 0-255 to `probabilities`, float32.

    Args:
        model: of `folded`.
        path: the `.xml` file; the weights go to the `.bin` file beside it, float32 ones as they
            are: by default OpenVINO would round them to float16.
        metadata: travels inside (`rt_info`), in the words of our ONNX files.
        layout: "nhwc" or "nchw"; also said of the input, as OpenVINO's preprocessing wants it.
        **options: `quantize`, `images`, `io` and `keep_float` of the ONNX file.

    Returns:
        For int8, the error of each layer, as of `LayerErrors`; else nothing.

    Raises:
        InputError: `keep_float` names a layer that is not there.
    """
    import onnx

    from resnet_keras.model_files import onnx as source

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        errors = source.write(model, file, metadata, layout=layout, **options)
        with _without_telemetry():
            converted = openvino.convert_model(file)
        told = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    for name, value in told.items():
        converted.set_rt_info(value, [name])
    (entry,) = converted.get_parameters()
    entry.layout = openvino.Layout(layout.upper())
    openvino.save_model(converted, path, compress_to_fp16=False)
    return errors


def operators(path: Path) -> dict[str, int] | None:
    """Count the operators in a file."""
    nodes = openvino.Core().read_model(path).get_ops()
    counts = Counter(node.get_type_name() for node in nodes)
    return {name: n for name, n in sorted(counts.items()) if name not in _PLUMBING}


def unwelcome(operators: Mapping[str, int], layout: str | None) -> list[str]:
    """Name batch norms, which folding was to remove."""
    return [name for name in operators if name.startswith("BatchNorm")]


def _told(model: Any, name: str) -> str | None:
    """What a file says of itself under a name; None where it is another program's."""
    return model.get_rt_info([name]).astype(str) if model.has_rt_info([name]) else None
