"""Any model file -> one `predict`: `.keras`, `.tflite`, SavedModel.

Beside each artefact lies `NAME.json`: how its pictures are prepared, and its labels.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_keras.terminal import InputError


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


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A model file that can predict.

    Attributes:
        path: the file or folder.
        predict: pixels 0-255 `(batch, size, size, channels)`, uint8, to probabilities, float32
            `(batch, classes)`.
        channels: of a picture.
        card: how its pictures are prepared.
        has_card: whether the card was there, rather than made up from the model's input.
    """

    path: Path
    predict: Callable[[np.ndarray], np.ndarray]
    channels: int
    card: Card
    has_card: bool


def open_artefact(path: str | Path, *, threads: int | None = None) -> Artefact:
    """Open a model file.

    Args:
        path: `.keras`, `.tflite` or the folder of a SavedModel.
        threads: of a TFLite interpreter; by default one a core.

    Returns:
        The artefact.

    Raises:
        InputError: there is no such file, or it is not a model.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such model file. Received: {path}")
    openers = {".keras": _open_keras, ".tflite": _open_tflite}
    if path.suffix not in openers and not (path / "saved_model.pb").exists():
        raise InputError(
            f"a model file is .keras, .tflite or a SavedModel folder. Received: {path}"
        )
    opener = openers.get(path.suffix, _open_saved_model)
    try:
        predict, shape = opener(path, threads or os.cpu_count())
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{path} can't be read as a model: {reason}") from error
    size, channels = shape[1] or 224, shape[3]
    card = read_card(path)
    made_up = Card(input_size=size, eval_resize=None, crop=size)
    return Artefact(path, predict, channels, card or made_up, card is not None)


def read_card(artefact: Path) -> Card | None:
    """The card beside an artefact, if there is one.

    Raises:
        InputError: it is there but is not a card.
    """
    path = card_path(artefact)
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        return Card(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not describe a model: {error}") from None


def card_path(artefact: Path) -> Path:
    """`model.tflite` -> `model.json`."""
    return Path(artefact).with_suffix(".json")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def _open_keras(path: Path, threads: int):
    import keras
    import tensorflow as tf

    model = keras.saving.load_model(path, compile=False)
    if keras.backend.backend() != "tensorflow":
        return model.predict_on_batch, model.input_shape
    # A traced call: `model.predict` costs several times more for a small batch.
    forward = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return lambda images: forward(tf.convert_to_tensor(images)).numpy(), model.input_shape


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

    def predict(images):
        assert loaded is not None
        (outputs,) = serve(**{name: tf.cast(images, spec.dtype)}).values()
        return outputs.numpy()

    return predict, tuple(spec.shape)


def _open_tflite(path: Path, threads: int):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    (entry,) = interpreter.get_input_details()
    (exit_,) = interpreter.get_output_details()

    def predict(images):
        shape = (len(images), *entry["shape"][1:])
        if tuple(interpreter.get_input_details()[0]["shape"]) != shape:
            interpreter.resize_tensor_input(entry["index"], shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], np.asarray(images, entry["dtype"]))
        interpreter.invoke()
        return interpreter.get_tensor(exit_["index"])

    return predict, tuple(int(n) for n in entry["shape"])
