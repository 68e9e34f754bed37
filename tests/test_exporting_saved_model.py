"""A SavedModel runs without this package, on pixels and on files."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_keras import data, export
from resnet_keras.internals.tensorflow import parse_saved_model
from resnet_keras.model_files import Metadata, open_model_file, saved_model
from resnet_keras.preprocessing import Preprocessing

# What a server does: plain TensorFlow; a module that is None in sys.modules cannot be imported.
SERVER = """
import sys
sys.modules["resnet_keras"] = None
import json
import numpy as np
import tensorflow as tf
folder, images, *files = sys.argv[1:]
loaded = tf.saved_model.load(folder)
named = loaded.signatures["serve"](images=tf.constant(np.load(images), tf.float32))
default = loaded.signatures["serving_default"](images=tf.constant(np.load(images), tf.float32))
image_bytes = tf.constant([open(name, "rb").read() for name in files])
answer = loaded.signatures["serve_bytes"](image_bytes=image_bytes)
called = loaded.serve_bytes(image_bytes)
print(json.dumps({
    "probabilities": named["probabilities"].numpy().tolist(),
    "default": default["probabilities"].numpy().tolist(),
    "classes": [[name.decode() for name in row] for row in answer["classes"].numpy()],
    "scores": answer["scores"].numpy().tolist(),
    "called": called["scores"].numpy().tolist(),
}))
"""


@pytest.mark.parametrize("resize", [None, 20])
def test_bytes_are_served_at_a_size_that_is_not_square(tmp_path, resize):
    pixels = keras.Input((12, 20, 3))
    flat = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(pixels))
    model = keras.Model(pixels, keras.layers.Softmax()(flat))
    preprocessing = Preprocessing((12, 20), resize, antialias=True)
    saved_model.write(model, tmp_path / "served", Metadata(preprocessing))
    image = np.random.default_rng(0).integers(0, 255, (30, 44, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    prepared = data.evaluation_image(image, preprocessing)
    assert prepared.shape == (12, 20, 3)
    serve = tf.saved_model.load(tmp_path / "served").signatures["serve_bytes"]
    scores = serve(image_bytes=tf.constant([(tmp_path / "image.png").read_bytes()]))["scores"]
    expected = model(tf.cast(prepared[None], tf.float32)).numpy()[0]
    assert np.allclose(scores[0], np.sort(expected)[:-6:-1], atol=1e-6)


@pytest.mark.slow
def test_it_is_served_without_this_package(colour_run, tmp_path, run_python):
    source = open_model_file(colour_run / "model.keras")
    # As metadata of photographs: a longer edge, a crop, Pillow's resizing.
    metadata = dataclasses.replace(
        source.metadata, preprocessing=Preprocessing(8, resize=10, antialias=True)
    )
    shutil.copy(colour_run / "model.keras", tmp_path / "model.keras")
    metadata.write(tmp_path / "model.keras")
    out = tmp_path / "served"
    export(tmp_path / "model.keras", out, examples=32)
    assert (out / "assets" / "labels.txt").read_text().split() == list(metadata.labels)

    draw = np.random.default_rng(0)
    files = []
    shapes = {"a.jpg": (31, 20), "b.png": (12, 40), "grey.jpg": (16, 16), "exact.png": (8, 8)}
    for name, shape in shapes.items():
        pixels = draw.integers(0, 255, (*shape, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("L" if "grey" in name else "RGB")
        image.save(tmp_path / name)
        files.append(tmp_path / name)
    prepared = np.stack([
        data.evaluation_image(
            data.read_image(name), metadata.preprocessing).numpy()
        for name in files
    ])  # fmt: skip
    np.save(tmp_path / "images.npy", prepared)
    (tmp_path / "server.py").write_text(SERVER)
    done = run_python("-I", tmp_path / "server.py", out, tmp_path / "images.npy", *files)
    answer = json.loads(done.stdout or done.stderr)
    expected = source.predict(prepared)
    assert np.abs(np.array(answer["probabilities"]) - expected).max() < 1e-5
    assert answer["default"] == answer["probabilities"] and answer["called"] == answer["scores"]
    best = np.argsort(-expected, axis=1)[:, :5]
    assert answer["classes"] == [[metadata.labels[i] for i in row] for row in best]
    assert np.abs(np.take_along_axis(expected, best, 1) - answer["scores"]).max() < 1e-5


@pytest.fixture(scope="module", params=[None, 0.2], ids=["one class", "any number of labels"])
def classifier(request):
    """A network of seven classes, and its metadata."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pixels, keras.layers.Dense(7, activation="softmax")(x))
    return model, Metadata(Preprocessing(8), tuple("abcdefg"), threshold=request.param)


def test_an_image_that_cannot_be_read_is_named_and_all_others_are_answered(classifier, tmp_path):
    model, metadata = classifier
    saved_model.write(model, tmp_path / "served", metadata)
    serve = tf.saved_model.load(tmp_path / "served").signatures["serve_bytes"]
    files = []
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 255, (9 + i, 20, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        files.append((tmp_path / f"{i}.png").read_bytes())
    alone = serve(image_bytes=tf.constant(files))
    assert alone["error"].numpy().tolist() == [b""] * 3
    mixed = [files[0], b"no image", files[1], files[2][:60], b"", files[2]]
    answer = serve(image_bytes=tf.constant(mixed))
    good, bad = [0, 2, 5], [1, 3, 4]
    for name in answer.keys() - {"error", "scores"}:
        assert np.array_equal(answer[name].numpy()[good], alone[name].numpy())
    assert np.allclose(answer["scores"].numpy()[good], alone["scores"], atol=1e-6)
    assert not np.any(answer["scores"].numpy()[bad])
    assert set(answer["classes"].numpy()[bad].ravel()) == {b""}
    if metadata.multi_label:
        assert answer["chosen"].numpy()[good].any() and not answer["chosen"].numpy()[bad].any()
    wrong = b"image %d is not a readable JPEG, PNG, GIF or BMP file"
    assert [text for text in answer["error"].numpy() if text] == [wrong % i for i in bad]


def test_an_empty_batch_has_an_empty_answer(classifier, tmp_path):
    model, metadata = classifier
    saved_model.write(model, tmp_path / "served", metadata)
    serve = tf.saved_model.load(tmp_path / "served").signatures["serve_bytes"]
    answer = serve(image_bytes=tf.constant([], tf.string))
    shown = 7 if metadata.multi_label else 5
    assert answer["classes"].shape == answer["scores"].shape == (0, shown)
    assert answer["error"].shape == (0,)


def test_the_signature_of_files_can_be_left_out(classifier, tmp_path):
    model, metadata = classifier
    tables = {}
    for signatures in ("all", "serve"):
        saved_model.write(model, tmp_path / signatures, metadata, signatures=signatures)
        loaded = tf.saved_model.load(tmp_path / signatures)
        names = {"serve", "serving_default"} | ({"serve_bytes"} if signatures == "all" else set())
        assert set(loaded.signatures) == names
        (meta,) = parse_saved_model(tmp_path / signatures).meta_graphs
        functions = [list(function.node_def) for function in meta.graph_def.library.function]
        nodes = sum(functions, list(meta.graph_def.node))
        tables[signatures] = any("Table" in node.op or "Dataset" in node.op for node in nodes)
        # The labels and the metadata are there with and without.
        opened = open_model_file(tmp_path / signatures)
        assert opened.metadata == metadata
        labels = (tmp_path / signatures / "assets" / "labels.txt").read_text()
        assert labels.split() == list("abcdefg")
    assert tables == {"all": True, "serve": False}
