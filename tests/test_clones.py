"""A clone computes what its model does, whoever made that."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from resnet_keras import SPECS, ResNet, data
from resnet_keras.clones import fold
from resnet_keras.exporting import folded
from resnet_keras.model_files import open_model_file

# The deep stem, pooling in stem and shortcut.
SMALL = dataclasses.replace(SPECS["resnetv1d50"], depths=(2, 1, 1, 1), widths=(8, 8, 16, 16))

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)


def with_live_norms(model):
    """Its batch norms, those within its parts too, are no longer the identity."""
    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


def norms(model):
    return sum(isinstance(layer, layers.BatchNormalization) for layer in model.layers)


def convolution(**options):
    return layers.Conv2D(8, 3, padding="same", **options)


def nested(pixels):
    inner = keras.Input((8, 8, 3))
    return keras.Model(inner, layers.BatchNormalization()(convolution()(inner)))(pixels)


def one_norm_twice(pixels):
    norm = layers.BatchNormalization()
    return norm(convolution()(norm(convolution()(pixels))))


def two_norms_of_one_convolution(pixels):
    convolved = convolution()(pixels)
    return layers.Add()([layers.BatchNormalization()(convolved) for _ in range(2)])


def sums_that_are_no_layers(pixels):
    normed = layers.BatchNormalization()(convolution()(pixels / 255.0))
    return keras.ops.relu(normed) + normed


# What it does with the pixels, and how many batch norms of the clone's own layers stay.
OTHERS = {
    "sums": (sums_that_are_no_layers, 0),
    "nested": (nested, 0),
    "plain": (lambda x: layers.BatchNormalization()(convolution()(x)), 0),
    "no gamma": (lambda x: layers.BatchNormalization(scale=False)(convolution()(x)), 0),
    "norm twice": (one_norm_twice, 1),
    "norms of one": (two_norms_of_one_convolution, 2),
    "of rows": (lambda x: layers.BatchNormalization(axis=1)(convolution()(x)), 1),
    "activation": (lambda x: layers.BatchNormalization()(convolution(activation="relu")(x)), 1),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_somebody_elses_network_folds_where_it_can(kind, tmp_path):
    keras.utils.set_random_seed(0)
    work, staying = OTHERS[kind]
    pixels = keras.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D()(work(pixels))
    model = with_live_norms(keras.Model(pixels, layers.Dense(3, activation="softmax")(features)))
    model.save(tmp_path / "model.keras")
    expected = model.predict(IMAGES, verbose=0)
    for clone in fold(model), folded(model):
        np.testing.assert_allclose(clone.predict(IMAGES, verbose=0), expected, atol=1e-6)
        assert norms(clone) == staying
    for asked in True, False:
        predict = open_model_file(tmp_path / "model.keras", folded=asked).predict
        np.testing.assert_allclose(predict(IMAGES), expected, atol=1e-6)


@pytest.mark.parametrize("ignored", ["clone_function", "call_function"])
def test_a_clone_that_keras_makes_another_way_is_refused(ignored, monkeypatch):
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, layers.BatchNormalization(name="norm")(convolution()(pixels)))
    real = keras.models.clone_model
    monkeypatch.setattr(
        keras.models, "clone_model", lambda graph, **given: real(graph, **given | {ignored: None})
    )
    with pytest.raises(RuntimeError, match="`call_function` for the layer conv2d.*Keras"):
        fold(model)


@pytest.mark.parametrize("which", ["small", "digits"])
def test_ours_folds_wholly(which, digits_run, data_dir):
    if which == "small":
        keras.utils.set_random_seed(0)
        model = with_live_norms(ResNet(SMALL, input_shape=(64, 64, 3), classes=7))
        images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3))
    else:
        model = keras.saving.load_model(digits_run / "model.keras", compile=False)
        images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    clone = fold(model)
    assert np.abs(clone(images) - model(images)).max() < 1e-5
    assert norms(model) > 10 and norms(clone) == 0
    assert all(type(layer).__module__.startswith("keras.") for layer in clone.layers)
    assert {layer.name for layer in clone.layers} < {layer.name for layer in model.layers}


def test_halves_are_run_as_they_are(tmp_path):
    """In float32 they would give other numbers than Keras does."""
    pixels = keras.Input((8, 8, 3))
    normed = layers.BatchNormalization()(convolution(dtype="mixed_bfloat16")(pixels))
    model = with_live_norms(keras.Model(pixels, layers.GlobalAveragePooling2D()(normed)))
    model.save(tmp_path / "model.keras")
    got = open_model_file(tmp_path / "model.keras").predict(IMAGES)
    assert np.abs(got - fold(model).predict(IMAGES, verbose=0)).max() > 1e-3
    assert np.array_equal(
        got, open_model_file(tmp_path / "model.keras", folded=False).predict(IMAGES)
    )


@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(
    ("scale", "offset"),
    [(1 / 255, 0.0), (1 / 255, [0.1, 0.2, 0.3]), ([1.0, 0.5, 2.0], -1.0)],
)
def test_rescaled_rows_are_the_same_to_the_bit(size, scale, offset):
    pixels = keras.Input((size, size, 3))
    model = keras.Model(pixels, layers.Rescaling(scale, offset)(pixels))
    expected = model.predict(IMAGES, verbose=0)
    assert np.array_equal(fold(model, rescaling="rows").predict(IMAGES, verbose=0), expected)
    assert np.array_equal(folded(model, rescaling="rows").predict(IMAGES, verbose=0), expected)
    # A sum of products may be rounded once, where a product and a sum are rounded twice.
    clone = fold(model, rescaling="convolution")
    kind = layers.Rescaling if np.ndim(scale) == np.ndim(offset) == 0 else layers.Conv2D
    assert type(clone.layers[-1]) is kind
    np.testing.assert_allclose(clone.predict(IMAGES, verbose=0), expected, rtol=1e-6, atol=1e-6)
