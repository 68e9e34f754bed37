"""Private names of TensorFlow and LiteRT. Tested with TensorFlow 2.21 and ai-edge-litert 2.3."""

from pathlib import Path
from typing import Any

import tensorflow as tf


def converter_error() -> type[Exception]:
    """Return the error of TFLite's converter, whose message has the operation and its scope."""
    # `convert_phase`: it has no public name.
    from tensorflow.lite.python.convert_phase import ConverterError

    return ConverterError


def calibrated(converter: tf.lite.TFLiteConverter) -> bytes:
    """Convert to a float TFLite model that holds the ranges of its tensors.

    Args:
        converter: with a `representative_dataset`, and `optimizations` that ask for int8.

    Raises:
        RuntimeError: the converter has no such mode any more.
    """
    # `_experimental_calibrate_only`: what `tf.lite.experimental.QuantizationDebugger` sets. A
    # converter takes any attribute, so that one which is not read any more would be ignored.
    if not hasattr(converter, "_experimental_calibrate_only"):
        raise RuntimeError(
            "TFLiteConverter has no `_experimental_calibrate_only`. "
            f"Received: TensorFlow {tf.__version__}"
        )
    converter._experimental_calibrate_only = True
    return converter.convert()


def quantized(model: bytes, **options: Any) -> bytes:
    """Quantize what `calibrated` returned to int8.

    Args:
        model: a TFLite model with ranges.
        **options: `input_data_type` and `output_data_type`, types of TensorFlow;
            `denylisted_nodes`, names of tensors whose operators stay float; `enable_numeric_verify`
            adds an operator NumericVerify after each, which compares its output with the float one.
    """
    # `mlir_quantize`: the public converter cannot be given ranges.
    from tensorflow.lite.python.convert import mlir_quantize

    return mlir_quantize(model, **options)


def operator_details(interpreter: Any) -> list[dict[str, Any]]:
    """List the operators of a LiteRT interpreter, with `op_name`, `inputs` and `outputs`."""
    # `_get_ops_details`: the public `get_tensor_details` does not tell which operator has which.
    return interpreter._get_ops_details()


def parse_saved_model(path: Path) -> Any:
    """Parse the file saved_model.pb of a SavedModel: a message with `meta_graphs`."""
    # `tensorflow.core`: the message has no public name.
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())


def gpu_memory() -> list[int]:
    """List the bytes that TensorFlow may use of each GPU."""
    # `device_lib`: `tf.config.experimental.get_memory_info` tells what is used, not the limit.
    from tensorflow.python.client import device_lib

    devices = device_lib.list_local_devices()
    return [device.memory_limit for device in devices if device.device_type == "GPU"]
