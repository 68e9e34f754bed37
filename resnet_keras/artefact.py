"""Any model file -> one `predict`: `.keras`, `.tflite`, `.onnx`, SavedModel.

Beside each artefact lies `NAME.json`: how its pictures are prepared, and its labels. `.tflite`,
`.onnx` and SavedModel have them inside, too.
"""

import dataclasses
import json
import math
import os
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.disk import write_text
from resnet_keras.terminal import InputError, say

# The largest picture that a card may ask for; networks see a tenth of it.
_LARGEST = 4096

# Weights that a `.keras` file's configuration may ask for, by the size of the file.
_MOST_WEIGHTS = 4


@dataclasses.dataclass(frozen=True)
class Card:
    """What lies beside an artefact as `NAME.json`.

    Attributes:
        input_size: height and width of a picture.
        eval_resize: the short edge becomes this before the centre crop; None: `input_size`,
            unless a picture already has that size.
        crop: height and width of the centre crop.
        interpolation: "bilinear" or "bicubic".
        antialias: whether pictures are resized as Pillow does.
        mean: of the pixels, 0-255, per channel; already inside the artefact.
        std: likewise.
        labels: names of the classes.
        dataset: what it was trained on, so that it can be held against the same pictures.
    """

    input_size: int
    eval_resize: int | None
    crop: int
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()
    dataset: str | None = None

    def write(self, artefact: Path) -> None:
        """Write it beside an artefact."""
        write_text(card_path(artefact), json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @property
    def preparation(self) -> dict[str, Any]:
        """How `data` prepares its pictures: arguments of `evaluation_batches` and its kin."""
        return {
            "size": self.crop,
            "resize": self.eval_resize,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }

    def public(self) -> str:
        """It as JSON, to travel inside a file: without the name of a folder of this machine."""
        local = (self.dataset or "").startswith("folder:")
        fields = dataclasses.asdict(dataclasses.replace(self, dataset=None) if local else self)
        return json.dumps(fields)


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A model file that can predict.

    Attributes:
        path: the file or folder.
        predict: pixels 0-255 `(batch, size, size, channels)`, uint8, to probabilities, float32
            `(batch, classes)`.
        channels: of a picture.
        card: how its pictures are prepared.
        has_card: whether the card was there, beside the file or inside, rather than made up from
            the model's input.
        classes: that the model tells apart; None where the file does not say.
    """

    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    channels: int
    card: Card
    has_card: bool
    classes: int | None = None


def open_artefact(path: str | Path, *, threads: int | None = None, beside: bool = True) -> Artefact:
    """Open a model file.

    Args:
        path: `.keras`, `.tflite`, `.onnx` or the folder of a SavedModel.
        threads: of the interpreter of `.tflite` and `.onnx`; by default one a core. TensorFlow's,
            which run the others, are the process's.
        beside: heed the card beside the file; not where it is still that of an older one.

    Returns:
        The artefact.

    Raises:
        InputError: there is no such file, it is not a model, or its card is of another model; from
            `predict`, it computes more than there is memory for.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such model file. Received: {path}")
    openers = {".keras": _open_keras, ".tflite": _open_tflite, ".onnx": _open_onnx}
    if path.suffix not in openers and not (path / "saved_model.pb").exists():
        raise InputError(
            f"a model file is .keras, .tflite, .onnx or a SavedModel folder. Received: {path}"
        )
    opener = openers.get(path.suffix, _open_saved_model)
    try:
        predict, shape, classes, inside = opener(path, threads or os.cpu_count())
        _, height, _, channels = shape
        classes = classes if isinstance(classes, int) else None
    except InputError:
        raise
    except Exception as error:  # there is no end to what damage does to the parsers
        raise InputError(f"{path} can't be read as a model: {_reason(error)}") from error
    size = height or 224
    if not 0 < size <= _LARGEST:
        raise InputError(f"{path} must take pictures of 1 to {_LARGEST} pixels. Received: {shape}")
    card = read_card(path) if beside else None
    if card is None and inside is not None:
        card = _parse(inside, path)
    if card is not None:
        _require_fit(card, path, height, classes)
    made_up = Card(input_size=size, eval_resize=None, crop=size)
    return Artefact(path, predict, channels, card or made_up, card is not None, classes)


def say_what_is_made_up(artefact: Artefact) -> None:
    """Tell, of an artefact without a card, how its pictures will be prepared."""
    if not artefact.has_card:
        crop = artefact.card.crop
        say(
            f"{artefact.path} has no {card_path(artefact.path).name} beside it: pictures are "
            f"resized to {crop} and cropped in the centre, classes are numbers"
        )


def _require_fit(card: Card, path: Path, height: int | None, classes: int | None) -> None:
    """Refuse a card that is of another model."""
    if height is not None and card.crop != height:
        raise InputError(
            f"the card of {path} (see {card_path(path).name}) is of another model: this one takes "
            f"pictures of {height} x {height}. Received: crop={card.crop}"
        )
    if card.labels and classes is not None and len(card.labels) != classes:
        raise InputError(
            f"the card of {path} (see {card_path(path).name}) is of another model: this one tells "
            f"{classes} classes apart. Received: {len(card.labels)} labels"
        )


def load_keras(path: str | Path):
    """Load a `.keras` file as Keras does in its safe mode: nothing in it is run.

    Args:
        path: the file.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        InputError: it is damaged, names what is not Keras', is packed, or its configuration wants
            more weights than the file has.
    """
    import keras

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # before it fails, Keras warns of each layer
            _require_weights(Path(path))
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise InputError(f"{path} can't be read as a model: {_reason(error)}") from error


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


def _reason(error: Exception) -> str:
    """What a parser says, in one line of some length; Keras puts the cause last."""
    text = str(error).rpartition("Exception encountered: ")[2]
    text = " ".join(text.split()) or type(error).__name__
    return _shortened(text)


def read_card(artefact: Path) -> Card | None:
    """The card beside an artefact, if there is one.

    Raises:
        InputError: it is there but is not a card.
    """
    path = card_path(artefact)
    if not path.exists():
        return None
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def require_place(artefact: Path) -> None:
    """Refuse to write an artefact whose card would replace a file that is none.

    Raises:
        InputError: `NAME.json` is there and is no card.
    """
    try:
        read_card(artefact)
    except InputError as error:
        raise InputError(
            f"the card of {artefact.name} would replace {card_path(artefact)}, which is none: take "
            f"another name. Received: {error}"
        ) from None


def card_path(artefact: Path) -> Path:
    """`model.tflite` -> `model.json`."""
    return Path(artefact).with_suffix(".json")


def label_lines(labels: Iterable[str]) -> str:
    """`labels.txt`: a line a class; what would end a line, or is no character, as Python writes it.

    Names of folders may have both.
    """
    strange = ("Cc", "Cs", "Zl", "Zp")
    return "".join(
        "".join(repr(c)[1:-1] if unicodedata.category(c) in strange else c for c in label) + "\n"
        for label in labels
    )


def _parse(text: bytes, path: Path) -> Card:
    try:
        fields = json.loads(text.decode())
        card = Card(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        if wrong := [name for name, right in _checks(card).items() if not right]:
            raise ValueError(f"Received: {wrong[0]}={_shortened(repr(getattr(card, wrong[0])))}")
        return card
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not describe a model: {error}") from None


def _checks(card: Card) -> dict[str, bool]:
    """Whether each field is what it must be; a card may be anybody's."""

    def size(value):
        return type(value) is int and 0 < value <= _LARGEST

    def numbers(value):
        return value is None or (
            isinstance(value, tuple) and all(type(n) in (int, float) for n in value)
        )

    return {
        "input_size": size(card.input_size),
        "eval_resize": card.eval_resize is None or size(card.eval_resize),
        "crop": size(card.crop),
        "interpolation": card.interpolation in ("bilinear", "bicubic"),
        "antialias": type(card.antialias) is bool,
        "mean": numbers(card.mean),
        "std": numbers(card.std),
        "labels": isinstance(card.labels, tuple) and all(type(n) is str for n in card.labels),
        "dataset": isinstance(card.dataset, str | None),
    }


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]} ..."


# An opener gives `predict`, the input's shape as `(batch, height, width, channels)` with None where
# it may vary, how many classes there are, or None, and the card inside the file, if there is one,
# as JSON.


def _open_keras(path: Path, threads: int):
    import keras
    import tensorflow as tf

    model = load_keras(path)
    if keras.backend.backend() != "tensorflow":
        return model.predict_on_batch, model.input_shape, model.output_shape[-1], None
    # Traced once for every batch: `model.predict` costs several times more for a small one.
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    forward = tf.function(lambda images: model(images, training=False), [images])

    def predict(images):
        try:
            return forward(tf.cast(images, tf.float32)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise InputError(
                f"{path} needs more memory than there is for {len(images)} pictures: "
                f"{_reason(error)}"
            ) from None

    return predict, model.input_shape, model.output_shape[-1], None


def _open_saved_model(path: Path, threads: int):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # kept alive by the closure
    serve = (
        loaded.signatures["serve"]
        if "serve" in loaded.signatures
        else loaded.signatures["serving_default"]
    )
    ((_, arguments),) = [serve.structured_input_signature]
    ((name, spec),) = arguments.items()
    card = path / "assets" / "card.json"

    def predict(images):
        assert loaded is not None
        (outputs,) = serve(**{name: tf.cast(images, spec.dtype)}).values()
        return outputs.numpy()

    (answer,) = serve.structured_outputs.values()
    inside = card.read_bytes() if card.exists() else None
    return predict, tuple(spec.shape), answer.shape[-1], inside


def _open_tflite(path: Path, threads: int):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()  # an operator that nobody knows is found here
    (entry,) = interpreter.get_input_details()
    (exit_,) = interpreter.get_output_details()

    def predict(images):
        if tuple(interpreter.get_input_details()[0]["shape"]) != images.shape:
            interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], _quantized(images, entry))
        interpreter.invoke()
        return _real(interpreter.get_tensor(exit_["index"]), exit_)

    card = None
    if zipfile.is_zipfile(path):  # associated files are a zip archive behind the model
        with zipfile.ZipFile(path) as files:
            if "card.json" in files.namelist():
                card = files.read("card.json")
    # In `shape` is 1 what may vary; the signature has -1.
    shape = tuple(int(n) if n > 0 else None for n in entry["shape_signature"])
    return predict, shape, int(exit_["shape"][-1]), card


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


def _open_onnx(path: Path, threads: int):
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
    (entry,), (exit_,) = session.get_inputs(), session.get_outputs()
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
            f"{path} must take a batch of any size, or one picture at a time. "
            f"Received: a batch of {shape[0]}"
        )

    def run(images):
        pixels = np.ascontiguousarray(np.transpose(np.asarray(images, kind), order))
        return session.run([exit_.name], {entry.name: pixels})[0]

    def predict(images):
        if shape[0] is None:
            return run(images)
        return np.concatenate([run(images[i : i + 1]) for i in range(len(images))])

    card = properties.get("card")
    return predict, tuple(shape), exit_.shape[-1], card and card.encode()
