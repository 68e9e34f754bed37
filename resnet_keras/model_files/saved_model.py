"""SavedModel: the signature `serve` for pixels, `serve_bytes` for the files of images."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnet_keras import data
from resnet_keras.internals.tensorflow import parse_saved_model
from resnet_keras.model_files.metadata import Metadata, label_lines
from resnet_keras.model_files.opened import Opened, only, require_images

SNIPPET = """\
import tensorflow as tf

model = tf.saved_model.load("{name}")
scores = model.serve(pixels)"""

# How many classes `serve_bytes` returns.
TOP = 5

# Operations that move values and compute nothing.
_PLUMBING = {"Const", "Identity", "NoOp", "ReadVariableOp"}


def open_file(path: Path, *, threads: int, folded: bool) -> Opened:
    """Open a folder, on the threads that TensorFlow has; it runs as it was written."""
    loaded = tf.saved_model.load(str(path))  # kept alive by the closure
    signatures = loaded.signatures
    serve = signatures["serve"] if "serve" in signatures else signatures["serving_default"]
    _, arguments = serve.structured_input_signature
    (name, spec), (_, scores) = only(
        path, list(arguments.items()), list(serve.structured_outputs.items())
    )
    require_images(path, spec.shape)

    def predict(images: np.ndarray) -> np.ndarray:
        assert loaded is not None
        (outputs,) = serve(**{name: tf.cast(images, spec.dtype)}).values()
        return outputs.numpy()

    inside = path / "assets" / "metadata.json"
    metadata = inside.read_bytes() if inside.exists() else None
    features = scores.shape.rank != 2
    classes = None if features else scores.shape[-1]
    return Opened(predict, tuple(spec.shape), classes, metadata, features)


def write(
    model: keras.Model, path: Path, metadata: Metadata | None = None, *, signatures: str = "all"
) -> dict[str, float]:
    """Write a SavedModel; it runs with plain TensorFlow, without this package and Keras.

    `serve`, also `serving_default`: `images`, float32 `(batch, height, width, channels)` of pixels
    0-255, to `probabilities`, float32 `(batch, classes)`.

    `serve_bytes`, if there is metadata: `image_bytes`, strings `(batch,)`, each a JPEG, PNG, GIF or
    BMP file (by the suffix `_bytes` TensorFlow Serving knows base64 in JSON), decoded, resized and
    cropped as in evaluation, to `classes`, strings, and `scores`, float32, both `(batch, 5)`, the
    likeliest class first. Where an image has any number of labels, all of them are there,
    `(batch, classes)`, and `chosen`, bool, tells those whose score is the threshold or more.
    `error`, strings `(batch,)`, is empty, or names the image that cannot be read by its index: its
    classes are empty strings, its scores 0, and all others are answered. A batch may be empty.

    A model without classes gives `features`, float32 `(batch, ...)`, in all signatures.

    Args:
        model: of `folded`.
        path: the folder.
        metadata: how images are prepared, and the labels: `assets/labels.txt`, a line a class, and
            `assets/metadata.json`.
        signatures: "all", or "serve": no `serve_bytes`, whose table of labels, decoders and
            pipelines have no counterpart in TensorFlow.js and Core ML.
    """
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    module.serve = tf.function(lambda images: model(images, training=False), [spec])
    output = "probabilities" if metadata is None else metadata.output
    named = tf.function(lambda images: {output: module.serve(images)}, [spec])
    functions = {"serving_default": named, "serve": named}
    with contextlib.ExitStack() as until_saved:
        if metadata is not None:
            folder = Path(until_saved.enter_context(tempfile.TemporaryDirectory()))
            _keep_metadata(module, metadata, _labels(metadata, model.output_shape[-1]), folder)
            if signatures == "all":
                functions["serve_bytes"] = _serve_bytes(module, model, metadata)
        tf.saved_model.save(module, str(path), functions)
    return {}


def operators(path: Path) -> dict[str, int] | None:
    """How often each operation stands in what the signature `serve` computes."""
    (meta,) = parse_saved_model(path).meta_graphs
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    counts: Counter[str] = Counter()

    def count(node) -> None:
        called = node.attr["f"].func.name
        if called:
            for inner in functions[called].node_def:
                count(inner)
        elif node.op not in _PLUMBING:
            counts[node.op] += 1

    (output,) = meta.signature_def["serve"].outputs.values()
    end = output.name.split(":")[0]
    count(next(node for node in meta.graph_def.node if node.name == end))
    return dict(sorted(counts.items()))


def unwelcome(operators: Mapping[str, int], layout: str | None) -> list[str]:
    """Name batch norms, which folding was to remove."""
    return [name for name in operators if "BatchNorm" in name]


def _labels(metadata: Metadata, classes: int) -> Sequence[str]:
    """Return the names of the classes, or their numbers where they have none."""
    known = len(metadata.labels) == classes
    return metadata.labels if known else [str(i) for i in range(classes)]


def _keep_metadata(
    module: tf.Module, metadata: Metadata, labels: Sequence[str], folder: Path
) -> None:
    """Give a module its assets, which are in `folder` until it is saved."""
    for name, text in (("labels.txt", label_lines(labels)), ("metadata.json", metadata.public())):
        (folder / name).write_text(text, encoding="utf-8")
    module.metadata = tf.saved_model.Asset(str(folder / "metadata.json"))
    module.labels = tf.saved_model.Asset(str(folder / "labels.txt"))


def _serve_bytes(module: tf.Module, model: keras.Model, metadata: Metadata) -> Callable:
    """Build the function from files to classes; the module keeps what it reads."""
    classes = model.output_shape[-1]
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            module.labels.asset_path,
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
            *(tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
        ),
        default_value="",
    )
    threshold = metadata.threshold
    shown = min(TOP, classes) if threshold is None else classes
    wanted = model.input_shape[-1]
    channels = 1 if metadata.rgb_input else wanted

    def serve_bytes(image_bytes):
        images, readable = data.prepared_or_black(image_bytes, metadata.preprocessing, channels)
        # Convolutions refuse an empty batch: one image stands in for none.
        number = tf.shape(images)[0]
        images = tf.pad(images, [[0, tf.cast(number == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        if metadata.rgb_input:
            images = tf.image.grayscale_to_rgb(images)
        outputs = model(tf.cast(images, tf.float32), training=False)[:number]
        indices = tf.strings.as_string(tf.range(number))
        error = tf.strings.join(
            ["image ", indices, " is not a readable JPEG, PNG, GIF or BMP file"]
        )
        error = tf.where(readable, "", error)
        if metadata.features:
            shape = [number, *[1] * (len(outputs.shape) - 1)]
            return {
                metadata.output: tf.where(tf.reshape(readable, shape), outputs, 0.0),
                "error": error,
            }
        scores, best = tf.math.top_k(tf.where(readable[:, None], outputs, 0.0), shown)
        names = module.table.lookup(tf.cast(best, tf.int64))
        answer = {
            "classes": tf.where(readable[:, None], names, ""),
            "scores": scores,
            "error": error,
        }
        if threshold is not None:
            chosen = tf.cast(scores, tf.float64) >= threshold
            answer["chosen"] = tf.logical_and(chosen, readable[:, None])
        return answer

    files = tf.TensorSpec((None,), tf.string, name="image_bytes")
    return tf.function(serve_bytes, [files])
