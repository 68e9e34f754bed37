"""The head of Xiao et al. 2018 behind a ResNet: a heatmap for each key point."""

import re
from collections.abc import Callable, Sequence

import keras

from resnet_keras.errors import InputError
from resnet_keras.models.building import BN_EPSILON, BN_MOMENTUM, wide
from resnet_keras.models.stages import level_ends

# The layer that draws the heatmaps; before it `deconv1_conv`, `deconv1_bn`, `deconv1_relu`, ...
HEATMAPS = "heatmaps"

# Xiao et al. 2018, section 2: three deconvolutions of 256 filters.
FILTERS = (256, 256, 256)

_LAYER = re.compile(rf"deconv\d+_(conv|bn|relu)|{HEATMAPS}")


def is_of_heatmaps(layer: str) -> bool:
    """Tell whether a layer's name is one of the head that `add_heatmap_head` adds."""
    return _LAYER.fullmatch(layer) is not None


def add_heatmap_head(
    model: keras.Model,
    keypoints: int,
    *,
    filters: Sequence[int] = FILTERS,
    norm: Callable[..., keras.layers.Layer] = keras.layers.BatchNormalization,
    name: str | None = None,
) -> keras.Model:
    """Return a network that draws a heatmap for each key point of the object in an image.

    The head of Xiao et al. 2018, "Simple Baselines for Human Pose Estimation and Tracking", section
    2, with MMPose's details (`HeatmapHead`): deconvolutions of 4x4 and stride 2 without bias, each
    with a batch norm (epsilon 1e-5, PyTorch's momentum of 0.1) and a ReLU, then a 1x1 convolution
    with a bias. Kernels begin as normal numbers with a standard deviation of 0.001. Images are
    crops of one object each ("top-down").

    To freeze parts of the backbone, call `freeze` on `model` before: it knows no head.

    Args:
        model: a model of `ResNet`, with or without its top: the head is on the end of its last
            stage (C5). Or a model of `features`: the head is on its last level. The result shares
            its layers, and so their weights.
        keypoints: how many there are.
        filters: of each deconvolution.
        norm: the batch-norm class, called with `momentum`, `epsilon`, `name`.
        name: of the network; by default that of `model`.

    Returns:
        A `keras.Model` from `(batch, height, width, channels)`, as `model` takes it, to heatmaps
        `(batch, height / 4, width / 4, keypoints)`, at least float32, without an activation. That
        is for an output stride of 32 and three deconvolutions: each doubles height and width.

    Raises:
        InputError: (a ValueError) `keypoints` or `filters` are not positive, or `model` has several
            inputs.
    """
    for field, numbers in (("keypoints", [keypoints]), ("filters", list(filters))):
        if not numbers or any(type(n) is not int or n < 1 for n in numbers):
            raise InputError(
                f"`{field}` must be positive integers. Received: {field}="
                f"{keypoints if field == 'keypoints' else tuple(filters)}"
            )
    if len(model.inputs) != 1:
        raise InputError(
            f"`model` must have one input. Received: {len(model.inputs)} inputs of {model.name}"
        )
    if isinstance(model.output, dict):
        x = list(model.output.values())[-1]
    else:
        x = model.get_layer(list(level_ends(model).values())[-1]).output
    for number, width in enumerate(filters, 1):
        x = keras.layers.Conv2DTranspose(
            width,
            4,
            strides=2,
            # For an even kernel of 4 at stride 2 both sides are padded by 1, as PyTorch's
            # `padding=1, output_padding=0` does.
            padding="same",
            use_bias=False,
            kernel_initializer=_normal(),
            name=f"deconv{number}_conv",
        )(x)
        x = norm(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=f"deconv{number}_bn")(x)
        x = keras.layers.Activation("relu", name=f"deconv{number}_relu")(x)
    heatmaps = keras.layers.Conv2D(
        keypoints, 1, kernel_initializer=_normal(), name=HEATMAPS, dtype=wide()
    )(x)
    return keras.Model(model.inputs[0], heatmaps, name=name or model.name)


def _normal() -> keras.initializers.Initializer:
    """A new one for each layer: the same object would give layers of a shape the same kernel."""
    return keras.initializers.RandomNormal(stddev=0.001)
