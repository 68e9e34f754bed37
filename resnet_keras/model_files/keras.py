"""Keras files: how one is opened safely, and the plain model that is written as one."""

import json
import math
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from resnet_keras.clones import all_layers, cloned, fold, in_float32, is_network, set_weights
from resnet_keras.errors import InputError
from resnet_keras.files import whole
from resnet_keras.internals.keras import producer
from resnet_keras.layers import Conv2D
from resnet_keras.model_files.keras_config import without_defaults
from resnet_keras.model_files.metadata import Metadata
from resnet_keras.model_files.opened import Opened, only, reason, require_images

SNIPPET = """\
import keras

model = keras.models.load_model("{name}")
scores = model.predict(pixels)"""

# How many weights a `.keras` file's configuration may ask for, for each byte of the file.
_MOST_WEIGHTS = 4

# The last layers of networks without their top.
_ENDS_OF_EMBEDDINGS = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.UnitNormalization,
)


def open_file(path: Path, *, threads: int, folded: bool) -> Opened:
    """Open a file, on the threads that Keras' backend has; `folded` as of `open_model_file`."""
    model = load_keras(path)
    require_images(path, model.input_shape)
    if folded and all(layer.dtype_policy.name == "float32" for layer in all_layers(model)):
        model = fold(model, rescaling="rows")
    features = gives_features(model)
    classes = model.output_shape[-1] if len(model.output_shape) == 2 else None
    if keras.backend.backend() != "tensorflow":
        return Opened(model.predict_on_batch, model.input_shape, classes, None, features)
    import tensorflow as tf

    # Traced once for every batch: `model.predict` costs several times more for a small one.
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    forward = tf.function(lambda images: model(images, training=False), [spec])

    def predict(images: np.ndarray) -> np.ndarray:
        try:
            return forward(tf.cast(images, tf.float32)).numpy()
        except tf.errors.ResourceExhaustedError as error:
            raise InputError(
                f"{path} needs more memory than there is for {len(images)} images: {reason(error)}"
            ) from None

    return Opened(predict, model.input_shape, classes, None, features)


def write(model: keras.Model, path: Path, metadata: Metadata | None = None) -> dict[str, float]:
    """Write `plain(model)`; its metadata lies beside it alone, because the file is Keras' own.

    Args:
        model: any.
        path: the file.
        metadata: not used.
    """
    save(plain(model), path)
    return {}


def save(model: keras.Model, path: Path) -> None:
    """Write a model as `model.save` does, but for older versions of Keras too.

    Its configuration holds only what differs from Keras' defaults (see `without_defaults`). This
    takes half of the memory: the weights go to the disk first.

    Args:
        model: any.
        path: a `.keras` file; its folder has room for the weights twice.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        folder = Path(scratch) / "saved"
        model.save(folder, zipped=False)
        config = folder / "config.json"
        config.write_text(json.dumps(without_defaults(json.loads(config.read_bytes()))))
        # A clock that was never set says 1970, which ZIP cannot hold: it becomes 1980.
        with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
            for name in ("metadata.json", "config.json", "model.weights.h5"):
                archive.write(folder / name, name)


def operators(path: Path) -> dict[str, int] | None:
    """Return None: a Keras file has layers, not operators."""
    return None


def unwelcome(operators: Mapping[str, int], layout: str | None) -> list[str]:
    """Return nothing: wherever Keras is, all layers of a plain model are."""
    return []


def plain(model: keras.Model, activation: str | None = None) -> keras.Model:
    """Clone a model such that anybody can load it.

    Args:
        model: as `train` builds it, or of a file: any precision, any batch norm.
        activation: "softmax" or "sigmoid", which turns the logits of a model that is trained into
            probabilities; None: the model keeps the outputs that it has.

    Returns:
        A model with the same weights, of stock layers in float32, not compiled.
    """

    def stock(layer):
        if is_network(layer):
            return plain(layer)
        config = in_float32({**layer.get_config(), "dtype": "float32"})
        kind = type(layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            kind, config = keras.layers.BatchNormalization, {**config, "synchronized": False}
            config.pop("replicas", None)
        if isinstance(layer, Conv2D):
            kind = keras.layers.Conv2D
            config.pop("recompute", None)
        if layer.name == "predictions" and activation is not None:
            config["activation"] = activation
        return kind.from_config(config)

    clone = cloned(model, stock)
    set_weights(clone, model.get_weights())
    return clone


def save_plain(model: keras.Model, path: Path, activation: str | None = None) -> None:
    """Write `plain(model, activation)` as a `.keras` file, whole or not at all."""
    with whole(path) as part:
        save(plain(model, activation), part)


def load_keras(path: str | Path) -> keras.Model:
    """Load a `.keras` file in Keras' safe mode: no code in it is run.

    Args:
        path: the file.

    Returns:
        A model of one input and one output, not compiled.

    Raises:
        InputError: it is damaged, has layers that are not Keras', is compressed, its configuration
            wants more weights than the file has, or it has several inputs or outputs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # before it fails, Keras warns of each layer
            _require_weights(Path(path))
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
            ends = model.inputs, model.outputs
    except Exception as error:
        raise InputError(f"{path} can't be read as a model: {reason(error)}") from error
    entry, exit_ = only(Path(path), *ends)
    if getattr(model, "input", None) is entry and getattr(model, "output", None) is exit_:
        return model
    return keras.Model(entry, exit_, name=model.name)  # a `Sequential`, or they are in a `dict`


def gives_features(model: keras.Model) -> bool:
    """Tell whether a model ends in a feature map, or in a layer that no classifier ends in.

    Args:
        model: with one output.
    """
    end = producer(model.outputs[0])
    return len(model.output_shape) != 2 or isinstance(end, _ENDS_OF_EMBEDDINGS)


def last_activation(model: keras.Model) -> str | None:
    """Return Keras' name of the activation that a model ends in; None where it ends otherwise.

    Args:
        model: with one output.
    """
    end = producer(model.outputs[0])
    if type(end).__name__ == "Softmax":  # the layer, or `keras.ops.softmax`
        return "softmax"
    activation = getattr(end, "activation", None)
    return activation and keras.activations.serialize(activation)


def refuse_packed(archive: zipfile.ZipFile) -> None:
    """Refuse what may be a zip bomb: Keras stores its files without compression.

    Raises:
        ValueError: an entry is compressed.
    """
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                "it has packed entries, which Keras never writes (unzip it, then zip it with -0). "
                f"Received: {entry.filename!r}"
            )


def _require_weights(path: Path) -> None:
    """Compare a configuration with the size of its file before anything is allocated for it."""
    if not path.is_file():
        return  # Keras says what is wrong
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
            f"its configuration needs {wanted:,} weights, which are not in the file. Received: "
            f"{path.stat().st_size:,} bytes"
        )
