"""A network learns from a teacher: the loss of the paper, on the images of the training."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import ops

from resnet_keras import Recipe, ResNet, data, train
from resnet_keras.errors import InputError
from resnet_keras.losses import CrossEntropy, Distillation
from resnet_keras.model_files import Metadata
from resnet_keras.models import normalisation_of
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.training.distillation import open_teacher

RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 4, (2, 6, 10))


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def divergence(p, q):
    return np.sum(p * np.log(p / q), -1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_papers_formula(temperature):
    t, s = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    found = Distillation(temperature=temperature)(TEACHER, STUDENT)
    assert float(found) == pytest.approx(temperature**2 * divergence(t, s).mean(), rel=1e-5)
    assert float(Distillation(temperature=temperature)(TEACHER, TEACHER)) == 0
    t, s = sigmoid(TEACHER / temperature), sigmoid(STUDENT / temperature)
    each = divergence(np.stack([t, 1 - t], -1), np.stack([s, 1 - s], -1))
    found = Distillation(sigmoid=True, temperature=temperature)(TEACHER, STUDENT)
    assert float(found) == pytest.approx(temperature**2 * each.sum(1).mean(), rel=1e-5)


def test_its_gradient_is_that_of_the_soft_targets():
    import tensorflow as tf

    # Section 2.1: (q - p) / T, times the T^2 that keeps its size.
    student = tf.Variable(STUDENT.astype("float32"))
    with tf.GradientTape() as tape:
        loss = Distillation(temperature=3.0)(TEACHER.astype("float32"), student)
    expected = 3 * (softmax(STUDENT / 3) - softmax(TEACHER / 3)) / len(STUDENT)
    assert np.abs(tape.gradient(loss, student) - expected).max() < 1e-6


def test_a_temperature_must_be_above_0():
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        Distillation(temperature=0)


SHORT = Recipe(
    model="resnet20_cifar", dataset="digits", train_size=8, eval_size=8, mean=(127.5,),
    std=(127.5,), batch_size=50, learning_rate=0.01, steps=1, schedule="constant",
    precision="float32", logger="none", verbose=False,
)  # fmt: skip


def with_head(path, classes=10, activation="softmax", layer=None, channels=1, size=8):
    """Write a small classifier that normalises in its own way."""
    keras.utils.set_random_seed(3)
    images = keras.Input((size, size, channels))
    x = keras.layers.Rescaling(1 / 60, -1.0)(images)
    x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.Dense(classes, activation)(x)
    model = keras.Model(images, layer(x) if layer else x)
    for norm in model.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            rng = np.random.default_rng(0)
            norm.set_weights([weight + rng.uniform(0.1, 1, 8) for weight in norm.get_weights()])
    model.save(path)
    return model


def split(data_dir, name="train"):
    return data.Source("digits", name, data_dir=data_dir).open()


@pytest.mark.parametrize(
    ("activation", "layer", "loss"),
    [
        ("softmax", None, "softmax"),
        (None, keras.layers.Softmax(), "softmax"),
        (None, ops.softmax, "softmax"),
        (None, None, "softmax"),
        ("sigmoid", None, "sigmoid"),
        (None, keras.layers.Activation("sigmoid"), "sigmoid"),
        (None, None, "sigmoid"),
    ],
)
def test_a_teacher_gives_logits(data_dir, tmp_path, activation, layer, loss):
    path = tmp_path / "teacher.keras"
    model = with_head(path, activation=activation, layer=layer)
    recipe = dataclasses.replace(SHORT, teacher=str(path), loss=loss)
    train = split(data_dir)
    images = train.arrays[0][:20]
    found = np.array(open_teacher(recipe, train, "float32").logits(images))
    expected = model.predict(images.astype("float32"), verbose=0)
    if activation or layer:
        found = softmax(found) if loss == "softmax" else sigmoid(found)
    assert np.ptp(expected) > 0.05 and np.abs(found - expected).max() < 1e-5


def test_a_teacher_of_another_size_sees_the_images_in_its_own(data_dir, tmp_path):
    model = with_head(tmp_path / "teacher.keras", activation=None, size=16)
    train = split(data_dir)
    images = train.arrays[0][:20].astype("float32")
    recipe = dataclasses.replace(SHORT, teacher=str(tmp_path / "teacher.keras"))
    found = np.array(open_teacher(recipe, train, "float32").logits(images))
    larger = ops.convert_to_numpy(ops.image.resize(images, (16, 16)))
    assert np.abs(found - model.predict(larger, verbose=0)).max() < 1e-5


def test_a_teacher_in_half_precision_keeps_a_head_of_float32(data_dir, tmp_path):
    model = with_head(tmp_path / "teacher.keras", activation=None)
    train = split(data_dir)
    images = train.arrays[0][:20]
    recipe = dataclasses.replace(SHORT, teacher=str(tmp_path / "teacher.keras"))
    found = open_teacher(recipe, train, "mixed_bfloat16").logits(images)
    expected = model.predict(images.astype("float32"), verbose=0)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert 0 < np.abs(np.array(found) - expected).max() < 0.05 * np.abs(expected).max()


def as_features(path):
    images = keras.Input((8, 8, 1))
    keras.Model(images, keras.layers.GlobalAveragePooling2D()(images)).save(path)


def with_labels(path, labels=tuple("0123456789"), threshold=None):
    with_head(path)
    Metadata(Preprocessing(8), labels=labels, threshold=threshold).write(path)


REFUSED = {
    "no file": (lambda path: None, "no such model file"),
    "classes": (lambda path: with_head(path, classes=9), "must have the 10 classes"),
    "channels": (lambda path: with_head(path, channels=3), "must take images of 1 channels"),
    "features": (as_features, "`teacher` needs scores of classes"),
    "labels": (
        lambda path: with_labels(path, tuple("0123456798")),
        "in the same order. Received: .* has '9' as class 8, they have '8'",
    ),
    "several": (lambda path: with_labels(path, threshold=0.5), "must give an image one class"),
    "sigmoid": (lambda path: with_head(path, activation="sigmoid"), "must end in a softmax or"),
    "tanh": (lambda path: with_head(path, activation="tanh"), "must end in a softmax or"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_networks_are_refused_by_name(data_dir, tmp_path, case):
    write, message = REFUSED[case]
    write(tmp_path / "teacher.keras")
    recipe = dataclasses.replace(SHORT, teacher=str(tmp_path / "teacher.keras"))
    with pytest.raises(InputError, match=message):
        open_teacher(recipe, split(data_dir), "float32")


def test_other_formats_are_refused(data_dir, tmp_path):
    with pytest.raises(InputError, match="`teacher` must be a .keras file"):
        recipe = dataclasses.replace(SHORT, teacher="model.tflite")
        open_teacher(recipe, split(data_dir), "float32")
    with pytest.raises(InputError, match="`temperature` needs `teacher`: set --teacher"):
        dataclasses.replace(SHORT, temperature=2.0)


@pytest.mark.parametrize("loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_a_step_sees_the_teachers_scores_of_the_same_augmented_images(data_dir, tmp_path, loss):
    """The loss in the log is the formula, on the batch of the first step."""
    teacher = with_head(tmp_path / "teacher.keras", activation=loss)
    network = ResNet("resnet20_cifar", input_shape=(8, 8, 1), mean=(127.5,), std=(127.5,))
    network.save(tmp_path / "start.keras")
    recipe = dataclasses.replace(
        SHORT, weights=str(tmp_path / "start.keras"), padding=2, mixup=1.0, loss=loss,
        label_smoothing=0.1, data_dir=data_dir, run_dir=tmp_path / "run",
        teacher=str(tmp_path / "teacher.keras"), teacher_weight=0.7, temperature=2.0,
    )  # fmt: skip
    train(recipe)
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)

    batches = data.training_batches(
        split(data_dir), recipe, batch_size=50, seed=0, normalisation=normalisation_of(network)
    )
    images, targets = next(batches.as_numpy_iterator())
    images = images.astype("float32")
    logits = keras.Model(network.input, network.get_layer("avg_pool").output)
    kernel, bias = network.get_layer("predictions").get_weights()
    student = np.float64(logits(images, training=True)) @ kernel + bias
    scores = np.float64(teacher.predict(images, verbose=0))
    of_labels = CrossEntropy(sigmoid=loss == "sigmoid", label_smoothing=0.1)
    if loss == "softmax":
        softened = softmax(np.log(scores) / 2)
        soft = divergence(softened, softmax(student / 2))
    else:
        t, s = sigmoid(np.log(scores / (1 - scores)) / 2), sigmoid(student / 2)
        soft = divergence(np.stack([t, 1 - t], -1), np.stack([s, 1 - s], -1)).sum(1)
    expected = 0.3 * float(of_labels(targets, student)) + 0.7 * 4 * soft.mean()
    assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)
    # Validation has the loss of the labels alone: smoothed, at least that of a perfect network.
    assert float(row["val_loss"]) > 0.3


def test_a_run_is_resumed_with_its_own_teacher(data_dir, tmp_path):
    with_head(tmp_path / "teacher.keras")
    recipe = dataclasses.replace(
        SHORT, teacher=str(tmp_path / "teacher.keras"), data_dir=data_dir,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    train(recipe)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["temperature"] == 4.0
    (tmp_path / "run" / "results.json").unlink()
    with_head(tmp_path / "teacher.keras", activation=None)
    with pytest.raises(InputError, match="was trained with teacher [0-9a-f]{64}: restore this"):
        train(recipe)


@pytest.mark.slow
def test_features_are_not_cached_where_a_teacher_needs_images(data_dir, tmp_path, capfd):
    with_head(tmp_path / "teacher.keras")
    network = ResNet("resnet20_cifar", input_shape=(8, 8, 1), mean=(127.5,), std=(127.5,))
    network.save(tmp_path / "start.keras")
    recipe = dataclasses.replace(
        SHORT, weights=str(tmp_path / "start.keras"), freeze=3, data_dir=data_dir,
        run_dir=tmp_path / "run", teacher=str(tmp_path / "teacher.keras"),
    )  # fmt: skip
    train(recipe)
    assert "in each epoch: --teacher needs images" in capfd.readouterr().err


CODE = (
    "import json, sys; from resnet_keras import Recipe, train;"
    "train(Recipe(**json.loads(sys.argv[1])))"
)


@pytest.mark.slow
def test_two_replicas_and_jax_learn_the_same(data_dir, tmp_path, run_python):
    with_head(tmp_path / "teacher.keras")
    network = ResNet("resnet20_cifar", input_shape=(8, 8, 1), mean=(127.5,), std=(127.5,))
    network.save(tmp_path / "start.keras")
    rows = []
    for backend, replicas in (("tensorflow", 1), ("tensorflow", 2), ("jax", 1), ("jax", 2)):
        run = tmp_path / f"{backend}-{replicas}"
        recipe = dataclasses.replace(
            SHORT, steps=3, weights=str(tmp_path / "start.keras"), padding=2, mixup=1.0,
            teacher=str(tmp_path / "teacher.keras"), temperature=2.0, data_dir=data_dir,
            run_dir=run, replicas=replicas, sync_batch_norm=True,
        )  # fmt: skip
        done = run_python("-c", CODE, json.dumps(recipe.to_json()), KERAS_BACKEND=backend)
        assert done.returncode == 0, done.stderr[-3000:]
        with open(run / "log.csv", newline="") as file:
            (row,) = csv.DictReader(file)
        rows.append([float(row["loss"]), float(row["val_loss"])])
    assert rows[0][0] < 1  # with 0.9 of the divergence; that of the labels alone is ln 10
    assert np.ptp(rows, axis=0).max() < 1e-5
