"""A model -> SavedModel: `serve` for pixels, `serve_bytes` for the files of images."""

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

import keras
import tensorflow as tf

from resnet_keras import data
from resnet_keras.internals.tensorflow import parse_saved_model
from resnet_keras.model_files import Metadata, label_lines

# How many classes `serve_bytes` answers.
TOP = 5

# What moves values and computes nothing.
_PLUMBING = {"Const", "Identity", "NoOp", "ReadVariableOp"}


def write(model: keras.Model, path: Path, metadata: Metadata | None = None) -> None:
    """Write a SavedModel; it runs with plain TensorFlow, without this package and Keras.

    `serve`, also `serving_default`: `images`, float32 `(batch, height, width, channels)` of pixels
    0-255, to `probabilities`, float32 `(batch, classes)`.

    `serve_bytes`, if there is metadata: `image_bytes`, strings `(batch,)`, each a JPEG, PNG, GIF or
    BMP file (by the suffix `_bytes` TensorFlow Serving knows base64 in JSON), decoded, resized and
    cropped as evaluation does it, to `classes`, strings, and `scores`, float32, both `(batch, 5)`,
    the likeliest first.

    Args:
        model: of `folded`.
        path: the folder.
        metadata: how images are prepared, and the labels: `assets/labels.txt`, a line a class, and
            `assets/metadata.json`.
    """
    module = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="images")
    module.serve = tf.function(lambda images: model(images, training=False), [images])
    named = tf.function(lambda images: {"probabilities": module.serve(images)}, [images])
    signatures = {"serving_default": named, "serve": named}
    with contextlib.ExitStack() as until_saved:
        if metadata is not None:
            folder = Path(until_saved.enter_context(tempfile.TemporaryDirectory()))
            module.serve_bytes = _serve_bytes(module, model, metadata, folder)
            signatures["serve_bytes"] = module.serve_bytes
        tf.saved_model.save(module, str(path), signatures)


def operators(path: Path) -> dict[str, int]:
    """How often each operation stands in what the signature `serve` computes."""
    (meta,) = parse_saved_model(path).meta_graphs
    functions = {function.signature.name: function for function in meta.graph_def.library.function}
    counts = Counter()

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


def _serve_bytes(module: tf.Module, model: keras.Model, metadata: Metadata, folder: Path):
    """The function from files to classes; what it reads is kept by the module."""
    classes = model.output_shape[-1]
    labels = (
        metadata.labels if len(metadata.labels) == classes else [str(i) for i in range(classes)]
    )
    for name, text in (
        ("labels.txt", label_lines(labels)),
        ("metadata.json", metadata.public()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    module.metadata = tf.saved_model.Asset(str(folder / "metadata.json"))
    module.labels = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(folder / "labels.txt"),
            *(tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER),
            *(tf.string, tf.lookup.TextFileIndex.WHOLE_LINE),
        ),
        default_value="",
    )
    channels = model.input_shape[-1]

    def prepare(file):
        return tf.ensure_shape(
            data.evaluation_image(data.decode(file, channels), metadata.preprocessing),
            (*metadata.preprocessing.size, channels),
        )

    def serve_bytes(image_bytes):
        images = tf.map_fn(prepare, image_bytes, fn_output_signature=tf.uint8)
        scores, best = tf.math.top_k(
            model(tf.cast(images, tf.float32), training=False), min(TOP, classes)
        )
        return {"classes": module.labels.lookup(tf.cast(best, tf.int64)), "scores": scores}

    files = tf.TensorSpec((None,), tf.string, name="image_bytes")
    return tf.function(serve_bytes, [files])
