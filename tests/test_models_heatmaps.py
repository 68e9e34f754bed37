"""The head of Xiao et al. 2018: its layers, its arithmetic, its beginnings."""

import keras
import numpy as np
import pytest
from checkpoints import SMALL, few

from resnet_keras import ResNet, features, freeze
from resnet_keras.clones import fold
from resnet_keras.errors import InputError
from resnet_keras.models import add_heatmap_head, is_of_heatmaps


def randomised(model):
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return model


def test_parameters_of_the_paper():
    """As MMPose's HeatmapHead behind ResNet-18, counted by hand."""
    backbone = ResNet("resnet18", include_top=False, input_shape=(256, 192, 3))
    model = add_heatmap_head(backbone, 17)
    assert model.output_shape == (None, 64, 48, 17)
    deconvolutions = 16 * (512 * 256 + 256 * 256 + 256 * 256)
    own = deconvolutions + 3 * 4 * 256 + 256 * 17 + 17
    assert model.count_params() - backbone.count_params() == own
    assert [layer.name for layer in model.layers if is_of_heatmaps(layer.name)] == [
        *(f"deconv{n}_{kind}" for n in (1, 2, 3) for kind in ("conv", "bn", "relu")), "heatmaps",
    ]  # fmt: skip
    norm = model.get_layer("deconv2_bn")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


@pytest.mark.parametrize("height", [1, 3])
def test_a_deconvolution_adds_shifted_kernels(height):
    """PyTorch's ConvTranspose2d(4, 2, padding=1): output o has input i times kernel o - 2i + 1."""
    model = add_heatmap_head(
        ResNet(SMALL, include_top=False, input_shape=(None, None, 3)), 1, filters=(2,)
    )
    layer = model.get_layer("deconv1_conv")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, height, 2, 32)).astype(np.float32)
    kernel = rng.normal(size=(4, 4, 2, 32)).astype(np.float32)
    layer.set_weights([kernel])
    truth = np.zeros((2 * height + 2, 6, 2))  # with a border of 1 that the padding cuts off
    for y in range(height):
        for x in range(2):
            truth[2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += kernel @ image[0, y, x]
    np.testing.assert_allclose(layer(image)[0], truth[1:-1, 1:-1], atol=1e-4)


def test_kernels_begin_small_and_different():
    backbone = ResNet(few("resnet18"), include_top=False, input_shape=(64, 64, 3))
    model = add_heatmap_head(backbone, 5, filters=(64, 64, 64))
    kernels = [np.array(model.get_layer(f"deconv{n}_conv").kernel) for n in (1, 2, 3)]
    kernels.append(np.array(model.get_layer("heatmaps").kernel))
    assert [kernel.std() for kernel in kernels] == pytest.approx([0.001] * 4, rel=0.2)
    assert np.abs(kernels[0]).max() > 0.003  # not truncated at two deviations
    assert not np.array_equal(kernels[1], kernels[2])


def test_it_shares_the_layers_of_its_backbone():
    whole = ResNet(few("resnet18"), input_shape=(64, 64, 3), classes=3)
    model = add_heatmap_head(whole, 2, filters=(8,), name="pose")
    assert model.name == "pose" and model.output_shape == (None, 4, 4, 2)
    assert model.get_layer("conv5_block1_out") is whole.get_layer("conv5_block1_out")
    assert all(layer.name != "predictions" for layer in model.layers)
    pyramid = features(whole)
    assert add_heatmap_head(pyramid, 2).output_shape == (None, None, None, 2)


def test_a_frozen_backbone_has_a_head_that_learns():
    backbone = ResNet(few("resnet18"), include_top=False, input_shape=(64, 64, 3))
    freeze(backbone, 4, norm_eval=True)
    model = add_heatmap_head(backbone, 2, filters=(8, 8))
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {
        "deconv1_conv", "deconv1_bn", "deconv2_conv", "deconv2_bn", "heatmaps"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keypoints", "filters", "words"),
    [(0, (8,), "`keypoints` must be positive.*Received: keypoints=0"),
     (2, (), r"`filters` must be positive.*Received: filters=\(\)"),
     (2, (8, -1), r"Received: filters=\(8, -1\)"), (2.0, (8,), "Received: keypoints=2.0")],
)  # fmt: skip
def test_arguments_out_of_their_range(keypoints, filters, words):
    with pytest.raises(InputError, match=words):
        add_heatmap_head(ResNet(SMALL), keypoints, filters=filters)


def test_several_inputs_are_refused():
    one, other = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    model = ResNet(SMALL, input_tensor=keras.layers.Add()([one, other]))
    with pytest.raises(InputError, match="one input. Received: 2 inputs"):
        add_heatmap_head(model, 1)


def test_in_half_precision_heatmaps_are_float32():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = add_heatmap_head(ResNet(SMALL, include_top=False), 2, filters=(4,))
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("deconv1_conv").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


def test_batch_norms_fold_into_deconvolutions():
    """What is exported has none; it computes the same, whatever the batch norm leaves out."""
    backbone = ResNet(SMALL, include_top=False, input_shape=(8, 8, 3))
    model = randomised(add_heatmap_head(backbone, 3, filters=(6, 5)))
    folded = fold(model)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert "Conv2DTranspose" in kinds and "BatchNormalization" not in kinds
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    truth = np.array(model(images))
    assert np.abs(np.array(folded(images)) - truth).max() < 1e-5 * np.abs(truth).max()
    # A bias before the norm, as another library may have it.
    entry = keras.Input((3, 3, 2))
    x = keras.layers.Conv2DTranspose(4, 4, strides=2, padding="same", bias_initializer="ones")(
        entry
    )
    model = randomised(keras.Model(entry, keras.layers.BatchNormalization(scale=False)(x)))
    images = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(fold(model)(images), model(images), atol=1e-5)
