"""Weights of three channels in networks of other numbers of channels."""

import keras
import ml_dtypes
import numpy as np
import pytest
from checkpoints import SMALL, few, relative, small_state
from safetensors.numpy import save_file

from resnet_keras import ResNet
from resnet_keras.weights import load_weights, save_torch


@pytest.mark.parametrize("spec", ["resnet18", "resnetv1d50", "resnet18_cifar"])
@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_three_channels_fill_any_number_of_them(tmp_path, spec, channels):
    """As timm's `in_chans` does: summed for one; else repeated, cut, and scaled by 3 / n."""
    colour = ResNet(few(spec))
    save_torch(colour, tmp_path / "x.safetensors")
    model = ResNet(few(spec), input_shape=(32, 32, channels))
    report = load_weights(model, tmp_path / "x.safetensors")
    how = "summed" if channels == 1 else f"repeated and scaled by 3/{channels}"
    stem, key = ("conv1_1_conv", "conv1.0") if "v1d" in spec else ("conv1_conv", "conv1")
    assert report.adapted == f"{key}.weight from 3 input channels to {channels}, {how}"
    assert str(report).endswith(f"; adapted: {report.adapted}")
    kernel, truth = (np.asarray(m.get_layer(stem).kernel) for m in (model, colour))
    if channels == 1:
        np.testing.assert_allclose(kernel[:, :, 0], truth.sum(axis=2), rtol=1e-5, atol=1e-7)
    else:
        for n in range(channels):
            np.testing.assert_allclose(kernel[:, :, n], truth[:, :, n % 3] * 3 / channels, 1e-6)
    for got, expected in zip(model.weights[1:], colour.weights[1:], strict=True):
        np.testing.assert_array_equal(got, expected)
    assert load_weights(colour, tmp_path / "x.safetensors").adapted is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_grey_image_has_the_features_of_its_three_channels(tmp_path, dtype):
    state = {key: array.astype(dtype) for key, array in small_state().items()}
    save_file(state, tmp_path / "x.safetensors")
    grey, colour, double = (
        ResNet(SMALL, input_shape=(16, 16, n), mean=(100,) * n, std=(50,) * n, include_top=False)
        for n in (1, 3, 6)
    )
    for model in (grey, colour, double):
        load_weights(model, tmp_path / "x.safetensors")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 16, 16, 1)).astype("float32")
    truth = keras.ops.convert_to_numpy(colour(np.repeat(image, 3, axis=-1)))
    assert relative(grey(image), truth) < 1e-5
    # Six channels, the colours twice: the kernels are halved.
    image = rng.integers(0, 256, (2, 16, 16, 3)).astype("float32")
    truth = keras.ops.convert_to_numpy(colour(image))
    assert relative(double(np.tile(image, 2)), truth) < 1e-5
