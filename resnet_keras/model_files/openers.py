"""Opens model files of each format: what predicts, and what the file says of itself."""

import json
import math
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from resnet_keras.console import shortened
from resnet_keras.errors import InputError

T = TypeVar("T")

# Weights that a `.keras` file's configuration may ask for, by the size of the file.
_MOST_WEIGHTS = 4


class Opened(NamedTuple):
    """What a model file gives.

    Attributes:
        predict: as that of `ModelFile`.
        shape: `(batch, height, width, channels)` of the input, None where it may vary.
        classes: how many there are; None where the file does not say.
        metadata: the one inside the file, JSON, if there is one.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int | None, ...]
    classes: int | None
    metadata: bytes | None


def open_file(path: Path, threads: int, folded: bool) -> Opened:
    """Open a file by its suffix, or the folder of a SavedModel.

    Args:
        path: the file or folder.
        threads: as that of `open_model_file`, and so is the next one.
        folded: of `.keras`.

    Raises:
        InputError: it is no model file, or cannot be read as one.
    """
    keras = partial(_open_keras, folded=folded)
    openers = {".keras": keras, ".tflite": _open_tflite, ".onnx": _open_onnx}
    if path.suffix not in openers and not (path / "saved_model.pb").exists():
        raise InputError(
            f"a model file is .keras, .tflite, .onnx or a SavedModel folder. Received: {path}"
        )
    try:
        opened = openers.get(path.suffix, _open_saved_model)(path, threads)
    except InputError:
        raise
    except Exception as error:  # there is no end to what damage does to the parsers
        raise InputError(f"{path} can't be read as a model: {_reason(error)}") from error
    return opened._replace(classes=opened.classes if isinstance(opened.classes, int) else None)


def load_keras(path: str | Path):
    """Load a `.keras` file as Keras does in its safe mode: nothing in it is run.

    Args:
        path: the file.

    Returns:
        A `keras.Model`, not compiled, of one input and one output.

    Raises:
        InputError: it is damaged, names what is not Keras', is packed, its configuration wants
            more weights than the file has, or it has several inputs or outputs.
    """
    import keras

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # before it fails, Keras warns of each layer
            _require_weights(Path(path))
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            ends = model.inputs, model.outputs
    except Exception as error:
        raise InputError(f"{path} can't be read as a model: {_reason(error)}") from error
    entry, exit_ = _only(path, *ends)
    if getattr(model, "input", None) is entry and getattr(model, "output", None) is exit_:
        return model
    return keras.Model(entry, exit_, name=model.name)  # a `Sequential`, or they are in a `dict`


def refuse_packed(archive: zipfile.ZipFile) -> None:
    """Refuse what may be a zip bomb: Keras stores what it writes, and never packs it.

    Raises:
        ValueError: an entry is packed.
    """
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                "it has packed entries, which Keras never writes (unzip it, then zip it with -0). "
                f"Received: {entry.filename!r}"
            )


def _require_weights(path: Path) -> None:
    """Compare a configuration, before anything is allocated for it, with the size of its file."""
    import keras

    if not path.is_file():
        return  # Keras says what it is
    with zipfile.ZipFile(path) as archive:
        refuse_packed(archive)
        config = json.loads(archive.read("config.json"))
    with keras.StatelessScope(initialize_variables=False):
        model = keras.saving.deserialize_keras_object(
            {**config, "compile_config": None}, safe_mode=True
        )
        wanted = sum(math.prod(w.shape) for w in model.weights)  # a byte a number, at least
    if wanted > _MOST_WEIGHTS * path.stat().st_size:
        raise ValueError(
            f"its configuration wants {wanted:,} weights, which are not in the file. Received: "
            f"{path.stat().st_size:,} bytes"
        )


def _only(path: Path, inputs: Sequence[T], outputs: Sequence[T]) -> tuple[T, T]:
    """The input and the output of a model that has one of each.

    Raises:
        InputError: it has not: which of them is meant, nobody knows.
    """
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path} must have one input, images, and one output, the scores of their classes: "
            "write a file of that part of the model alone. "
            f"Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    return inputs[0], outputs[0]


def _require_images(path: Path, shape: Sequence) -> None:
    """Refuse a model of anything else, such as text."""
    if len(shape) != 4:
        raise InputError(
            f"{path} must take images, (batch, height, width, channels). "
            f"Received: an input of shape {tuple(shape)}"
        )


def _reason(error: Exception) -> str:
    """What a parser says, in one line of some length; Keras puts the cause last."""
    text = str(error).rpartition("Exception encountered: ")[2]
    text = " ".join(text.split()) or type(error).__name__
    return shortened(text)


def _open_keras(path: Path, threads: int, *, folded: bool) -> Opened:
    import keras
    import tensorflow as tf

    from resnet_keras.clones import fold

    model = load_keras(path)
    _require_images(path, model.input_shape)
    if folded and all(layer.dtype_policy.name == "float32" for layer in model.layers):
        model = fold(model, rescale_rows=True)
    if keras.backend.backend() != "tensorflow":
        return Opened(model.predict_on_batch, model.input_shape, model.output_shape[-1], None)
    # Traced once for every batch: `model.predict` costs several times more for a small one.
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    forward = tf.function(lambda images: model(images, training=False), [images])

    def predict(images):
        try:
            return forward(tf.cast(images, tf.float32)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise InputError(
                f"{path} needs more memory than there is for {len(images)} images: {_reason(error)}"
            ) from None

    return Opened(predict, model.input_shape, model.output_shape[-1], None)


def _open_saved_model(path: Path, threads: int) -> Opened:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # kept alive by the closure
    serve = (
        loaded.signatures["serve"]
        if "serve" in loaded.signatures
        else loaded.signatures["serving_default"]
    )
    _, arguments = serve.structured_input_signature
    (name, spec), (_, answer) = _only(
        path, list(arguments.items()), list(serve.structured_outputs.items())
    )
    _require_images(path, spec.shape)
    metadata = path / "assets" / "metadata.json"

    def predict(images):
        assert loaded is not None
        (outputs,) = serve(**{name: tf.cast(images, spec.dtype)}).values()
        return outputs.numpy()

    inside = metadata.read_bytes() if metadata.exists() else None
    return Opened(predict, tuple(spec.shape), answer.shape[-1], inside)


def _open_tflite(path: Path, threads: int) -> Opened:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()  # an operator that nobody knows is found here
    entry, exit_ = _only(path, interpreter.get_input_details(), interpreter.get_output_details())
    _require_images(path, entry["shape_signature"].tolist())

    def predict(images):
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], _quantized(images, entry))
        interpreter.invoke()
        return _real(interpreter.get_tensor(exit_["index"]), exit_)

    metadata = None
    if zipfile.is_zipfile(path):  # associated files are a zip archive behind the model
        with zipfile.ZipFile(path) as files:
            if "metadata.json" in files.namelist():
                metadata = files.read("metadata.json")
    # In `shape` is 1 what may vary; the signature has -1.
    shape = tuple(int(n) if n > 0 else None for n in entry["shape_signature"])
    return Opened(predict, shape, int(exit_["shape"][-1]), metadata)


def _quantized(images: np.ndarray, tensor: dict) -> np.ndarray:
    """Pixels as a TFLite tensor holds them: raw bytes where scale is 1 and zero point 0."""
    scale, zero = tensor["quantization"]
    if not scale or (scale, zero, tensor["dtype"]) == (1.0, 0, np.asarray(images).dtype):
        return np.asarray(images, tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    levels = np.round(np.asarray(images, np.float32) / scale) + zero
    return np.clip(levels, limits.min, limits.max).astype(tensor["dtype"])


def _real(levels: np.ndarray, tensor: dict) -> np.ndarray:
    """What a TFLite tensor means, float32."""
    scale, zero = tensor["quantization"]
    levels = levels.astype(np.float32)
    return (levels - np.float32(zero)) * np.float32(scale) if scale else levels


def _open_onnx(path: Path, threads: int) -> Opened:
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
    entry, exit_ = _only(path, session.get_inputs(), session.get_outputs())
    _require_images(path, entry.shape)
    properties = session.get_modelmeta().custom_metadata_map
    shape = [n if isinstance(n, int) else None for n in entry.shape]
    # A file of somebody else's tells its layout by where the colours are.
    channels_first = shape[1] in (1, 3) and shape[3] not in (1, 3)
    if properties.get("layout", "nchw" if channels_first else "nhwc") == "nchw":
        order, shape = (0, 3, 1, 2), [shape[i] for i in (0, 2, 3, 1)]
    else:
        order = (0, 1, 2, 3)
    kind = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[entry.type]
    if shape[0] not in (None, 1):
        raise InputError(
            f"{path} must take a batch of any size, or one image at a time. "
            f"Received: a batch of {shape[0]}"
        )

    def run(images):
        pixels = np.ascontiguousarray(np.transpose(np.asarray(images, kind), order))
        return session.run([exit_.name], {entry.name: pixels})[0]

    def predict(images):
        if shape[0] is None:
            return run(images)
        return np.concatenate([run(images[i : i + 1]) for i in range(len(images))])

    metadata = properties.get("metadata")
    return Opened(predict, tuple(shape), exit_.shape[-1], metadata and metadata.encode())
