"""What users of keras.applications expect of a network: the cases of its own tests, and more."""

import inspect

import keras
import numpy as np
import pytest
from checkpoints import few

from resnet_keras import ResNet
from resnet_keras.errors import InputError

# One of each kind; the last number is that of channels of the last stage.
NETWORKS = {
    "resnet18": (few("resnet18"), 64),
    "resnet50": (few("resnet50"), 256),
    "resnetv1d50": (few("resnetv1d50"), 256),
    "resnet20_cifar": (few("resnet20_cifar"), 32),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def test_arguments_have_the_order_of_keras_applications():
    ours, theirs = map(inspect.signature, (ResNet, keras.applications.ResNet50))
    names = list(theirs.parameters)
    assert len(names) == 8 and list(ours.parameters)[1:9] == names
    model = ResNet("resnet18_cifar", False, None, None, (16, 16, 3), "max", 7, None, "mine")
    assert (model.name, model.input_shape, model.output_shape) == (
        "mine", (None, 16, 16, 3), (None, 512),
    )  # fmt: skip


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 13])
def test_any_number_of_channels(network, channels):
    spec, width = network
    model = ResNet(spec, include_top=False, input_shape=(None, None, channels))
    assert model.output_shape == (None, None, None, width)
    cifar = spec.stem == "cifar"
    assert model(images(1, 40, 64, channels)).shape == (
        (1, 10, 16, width) if cifar else (1, 2, 2, width)
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_normalised_by_the_average_of_the_colours(channels):
    # (123.675 + 116.28 + 103.53) / 3 and (58.395 + 57.12 + 57.375) / 3
    mean, std = 114.495, 57.63
    model = ResNet(few("resnet18"), input_shape=(8, 8, channels))
    pixels = np.array([mean, mean + std, mean - 2 * std, mean])[:, None, None, None]
    normalised = model.get_layer("normalise")(np.tile(pixels, (1, 8, 8, channels)))
    expected = np.broadcast_to(np.reshape([0, 1, -2, 0], (4, 1, 1, 1)), (4, 8, 8, channels))
    assert np.allclose(normalised, expected, atol=1e-5)


@pytest.mark.parametrize("statistic", ["mean", "std"])
def test_statistics_are_one_number_per_channel(statistic):
    ResNet(few("resnet18"), input_shape=(8, 8, 4), **{statistic: (1, 2, 3, 4)})
    with pytest.raises(InputError, match=f"`{statistic}` must be 4 numbers.*Received: .*3.0]$"):
        ResNet(few("resnet18"), input_shape=(8, 8, 4), **{statistic: (1, 2, 3)})


def test_a_custom_shape(network):
    spec, width = network
    model = ResNet(spec, include_top=False, input_shape=(123, 91, 3))
    assert model.output_shape == (
        (None, 31, 23, width) if spec.stem == "cifar" else (None, 4, 3, width)
    )


@pytest.mark.parametrize("shape", [(32, 32), (1, 8, 8, 3), (8, 8, None), (0, 8, 3), (8.5, 8, 3)])
def test_a_shape_that_is_not_of_images(shape):
    with pytest.raises(InputError, match=r"`input_shape` must be .* Received: input_shape=\("):
        ResNet(few("resnet18"), input_shape=shape)


def test_the_output_of_a_layer_as_the_images(network):
    spec, width = network
    custom = keras.Input((96, 64, 4), name="custom_input")
    x = keras.layers.Conv2D(3, 2, strides=2, name="before")(custom)
    model = ResNet(spec, include_top=False, input_tensor=x)
    assert model.input is custom and model.output_shape[-1] == width
    alone = ResNet(spec, include_top=False, input_shape=(48, 32, 3))
    for layer in alone.layers:
        layer.set_weights(model.get_layer(layer.name).get_weights() if layer.weights else [])
    pixels = images(2, 96, 64, 4)
    assert np.allclose(model(pixels), alone(model.get_layer("before")(pixels)), atol=1e-5)


def test_an_input_as_the_images():
    own = keras.Input((24, 16, 3), dtype="uint8", name="mine")
    model = ResNet(few("resnet18"), input_tensor=own, input_shape=(24, 16, 3))
    assert model.input is own and model.input.dtype == "uint8"
    assert np.allclose(np.sum(model(np.zeros((2, 24, 16, 3), "uint8")), axis=-1), 1)


def test_images_made_of_two_inputs():
    left, right = (keras.Input((16, 16, n), name=f"input{n}") for n in (1, 3))
    both = keras.layers.Concatenate()([left, right])
    model = ResNet(few("resnet18"), input_tensor=both, classes=5)
    assert [x.name for x in model.inputs] == ["input1", "input3"]
    assert model([images(2, 16, 16, 1), images(2, 16, 16, 3)]).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_tensor": np.zeros((1, 8, 8, 3))}, "must be a KerasTensor.*Received: a ndarray"),
        ({"input_tensor": keras.Input((8,))}, r"`input_tensor` must be .*Received: .*\(8,\)"),
        (
            {"input_tensor": keras.Input((8, 8, 3)), "input_shape": (16, 8, 3)},
            r"that of `input_tensor`, \(8, 8, 3\).*Received: input_shape=\(16, 8, 3\)",
        ),
    ],
    ids=["an array", "no image", "two shapes"],
)
def test_input_tensors_that_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ResNet(few("resnet18"), **arguments)


def test_pooling(network):
    spec, width = network
    pixels = images(2, 64, 64, 3)
    whole = ResNet(spec, include_top=False, input_shape=(64, 64, 3))
    features = np.asarray(whole(pixels))
    for pooling, truth in (("avg", features.mean((1, 2))), ("max", features.max((1, 2)))):
        model = ResNet(spec, include_top=False, pooling=pooling, input_shape=(64, 64, 3))
        assert model.output_shape == (None, width)
        model.set_weights(whole.get_weights())
        assert np.allclose(model(pixels), truth, atol=1e-5)


def test_classifier_activation(network):
    spec, _ = network
    model = ResNet(spec)
    assert model.layers[-1].activation is keras.activations.softmax
    pixels = images(2, 32, 32, 3)
    logits = ResNet(spec, classifier_activation=None, input_shape=(32, 32, 3), classes=7)
    scores = np.asarray(logits(pixels), "float64")
    assert np.abs(scores).max() > 0
    for activation, truth in (
        ("softmax", np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)),
        (keras.activations.sigmoid, 1 / (1 + np.exp(-scores))),
    ):
        other = ResNet(spec, classifier_activation=activation, input_shape=(32, 32, 3), classes=7)
        other.set_weights(logits.get_weights())
        assert np.allclose(other(pixels), truth, atol=1e-5)


def serialized(model):
    config = keras.saving.serialize_keras_object(model)
    return keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize(
    "again",
    [serialized, lambda model: type(model).from_config(model.get_config()),
     keras.models.clone_model, lambda model: keras.models.model_from_json(model.to_json())],
    ids=["serialized", "from_config", "clone_model", "json"],
)  # fmt: skip
def test_a_configuration_makes_the_same_network(network, again):
    spec, _ = network
    model = ResNet(spec, input_shape=(64, 48, 3), classes=5, drop_path=0.2, mean=(1, 2, 3))
    other = again(model)
    assert other.to_json() == model.to_json()
    assert [w.shape for w in other.weights] == [w.shape for w in model.weights]
    other.set_weights(model.get_weights())
    pixels = images(2, 64, 48, 3)
    np.testing.assert_array_equal(other(pixels), model(pixels))


def test_saved_and_loaded(tmp_path, network):
    spec, _ = network
    x = keras.layers.Conv2D(3, 1)(keras.Input((32, 32, 5)))
    model = ResNet(spec, classes=5, input_tensor=x)
    model.save(tmp_path / "x.keras")
    pixels = images(2, 32, 32, 5)
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    np.testing.assert_array_equal(loaded(pixels), model(pixels))


def test_it_is_trained_as_any_model():
    model = ResNet(few("resnet18"), classes=2, input_shape=(32, 32, 6))
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = np.array(model.get_layer("conv1_conv").kernel)
    model.fit(images(4, 32, 32, 6), np.array([0, 1, 0, 1]), epochs=2, verbose=0)
    assert not np.array_equal(model.get_layer("conv1_conv").kernel, before)


def test_channels_first_is_refused_by_its_name():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(InputError, match="Received: image_data_format='channels_first'$"):
            ResNet("resnet18", input_shape=(3, 64, 64))
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("name", ["resnet18", "resnetv1c50", "resnet18_cifar", "resnet20_cifar"])
def test_shape_and_classes_by_default(name):
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        model = ResNet(name)
    edge, classes = (32, 10) if name.endswith("_cifar") else (224, 1000)
    assert (model.name, model.input_shape) == (name, (None, edge, edge, 3))
    assert model.output_shape == (None, classes)
