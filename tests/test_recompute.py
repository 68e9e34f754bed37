"""Convolutions that compute again what they read: the same numbers, and nothing is kept."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from resnet_keras.layers import BatchNormalization, Conv2D, norm_computed_again
from resnet_keras.layers.recompute import steps_from_batch_norm
from resnet_keras.model_files.keras import plain
from resnet_keras.models import freeze
from resnet_keras.recipe import Recipe
from resnet_keras.specs import Spec
from resnet_keras.training.building import network
from resnet_keras.zoo import ResNet

SMALL = Spec("bottleneck", (2, 1), (8, 16))


@pytest.fixture
def policy():
    """What a test makes of the dtype policy is undone."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def small(recompute, spec=SMALL):
    """A network whose weights all have a gradient, with a loss of its logits."""

    def conv(*arguments, **options):
        return Conv2D(*arguments, **options, recompute=recompute)

    model = ResNet(
        spec, input_shape=(32, 32, 3), classes=5, conv=conv, norm=BatchNormalization,
        classifier_activation=None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    return model


def traced(model):
    """The function of a training step: from images to logits and gradients."""
    import tensorflow as tf

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_sum(logits**2)
        return logits, tape.gradient(loss, [v.value for v in model.trainable_variables])

    return step.get_concrete_function(tf.TensorSpec((2, 32, 32, 3), "float32"))


def read_later(function):
    """Names of layers of ReLUs whose outputs not only convolutions and pads read."""
    return {
        operation.name.split("/")[1].removesuffix("_1")
        for operation in function.graph.get_operations()
        if operation.type == "Relu" and "/" in operation.name  # what gradients compute is in none
        if {reader.type for reader in operation.outputs[0].consumers()} - {"Conv2D", "Pad"}
    }


def test_what_a_convolution_reads_is_not_kept_for_its_gradient():
    kept, recomputed = (read_later(traced(small(recompute))) for recompute in (False, True))
    blocks = ("conv2_block1", "conv2_block2", "conv3_block1")
    # The first ReLU is read by a pool, those at the ends of blocks by additions.
    assert recomputed == {"conv1_relu"} | {f"{block}_out" for block in blocks}
    assert kept - recomputed == {f"{block}_{n}_relu" for block in blocks for n in (1, 2)}


def test_nothing_is_computed_again_before_its_gradient_is_wanted():
    operations = traced(small(True)).graph.get_operations()
    again = [
        each for each in operations if each.type == "FusedBatchNormV3" and "/" not in each.name
    ]
    assert len(again) == 6  # two in each block
    for operation in again:
        for tensor in operation.inputs[:3]:  # images, gamma and beta
            assert [each.type for each in tensor.op.control_inputs]


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "spec",
    [SMALL, replace(SMALL, block="basic", stem="cifar", shortcut="pad")],
    ids=["bottleneck", "basic"],
)
def test_gradients_are_the_same_bit_for_bit(spec, dtype):
    keras.config.set_dtype_policy(dtype)
    found = []
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        step = traced(small(recompute, spec))
        images = np.random.default_rng(2).normal(size=(2, 32, 32, 3)).astype("float32")
        logits, gradients = step(images)
        found.append([np.asarray(array, "float32") for array in (logits, *gradients)])
    assert all(np.abs(array).max() > 0 for array in found[0])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, True),
        ({"padded": True}, True),
        ({"recompute": False}, False),
        ({"activation": "tanh"}, False),
        # What something else reads is kept, and its gradient must not be added up in two parts.
        ({"also_reads": "activation"}, False),
        ({"also_reads": "norm"}, False),
        ({"calls": 2}, False),
    ],
    ids=lambda value: str(value),
)
def test_only_what_a_convolution_alone_reads_is_computed_again(change, found):
    options = {
        "recompute": True,
        "activation": "relu",
        "padded": False,
        "also_reads": "",
        "calls": 1,
    }
    options |= change
    norm = BatchNormalization()
    x = {"norm": norm(keras.Input((6, 6, 4)))}
    x["activation"] = keras.layers.Activation(options["activation"])(x["norm"])
    images = (
        keras.layers.ZeroPadding2D(1)(x["activation"]) if options["padded"] else x["activation"]
    )
    convolution = Conv2D(4, 1, recompute=options["recompute"])
    for _ in range(options["calls"]):
        convolution(images)
    if options["also_reads"]:
        keras.layers.GlobalAveragePooling2D()(x[options["also_reads"]])
    assert norm_computed_again(convolution) is (norm if found else None)
    assert norm_computed_again(norm) is None


def test_frozen_statistics_are_not_computed_again():
    found = []
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        model = small(recompute)
        freeze(model, 0, norm_eval=True)
        step = traced(model)
        found.append((read_later(step), step(np.ones((2, 32, 32, 3), "float32"))))
    (kept, (_, expected)), (recomputed, (_, gradients)) = found
    assert recomputed == kept
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_a_trainings_batch_norm_in_a_graph_is_computed_again():
    import tensorflow as tf

    numbers = tf.ones(3)
    assert steps_from_batch_norm(tf.nn.relu(numbers)) == []  # in no graph
    for training, layout in ((True, "NHWC"), (False, "NHWC"), (True, "NCHW")):
        with tf.Graph().as_default():
            norm = tf.raw_ops.FusedBatchNormV3(
                x=tf.ones((1, 3, 3, 3)), scale=tf.ones(3), offset=tf.ones(3), mean=tf.ones(3),
                variance=tf.ones(3), is_training=training, data_format=layout,
            )  # fmt: skip
            relu = tf.nn.relu(norm.y)
            padded = tf.pad(relu, [(0, 0), (1, 1), (1, 1), (0, 0)])
            expected = [norm.y.op, relu.op, padded.op] if training and layout == "NHWC" else []
            assert steps_from_batch_norm(padded) == expected
            assert steps_from_batch_norm(padded + 1.0) == []


@pytest.mark.parametrize("save_memory", [True, False])
def test_a_training_that_saves_memory_has_such_layers_and_its_file_has_none(save_memory):
    recipe = Recipe(
        model="resnet20_cifar", dataset="digits", train_size=8, mean=(1.0,), std=(1.0,),
        save_memory=save_memory,
    )  # fmt: skip
    model = network(recipe, 1, 10)
    layers = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    assert len(layers) == 19  # He et al. 2016, section 4.2: 6 n + 1
    assert {layer.recompute for layer in layers} == {save_memory}
    assert {layer.get_config()["recompute"] for layer in layers} == {save_memory}
    stock = [layer for layer in plain(model).layers if isinstance(layer, keras.layers.Conv2D)]
    assert {type(layer) for layer in stock} == {keras.layers.Conv2D}
    assert len(stock) == len(layers)
