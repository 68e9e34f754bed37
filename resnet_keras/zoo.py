"""`ResNet` as users call it: the builder of `models`, filled from a checkpoint of `weights`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras

from resnet_keras.console import say
from resnet_keras.models import Head, Normalisation, build
from resnet_keras.published import find, is_name
from resnet_keras.specs import SPECS, Spec
from resnet_keras.weights import is_on_hub, load_weights, recognised


def ResNet(
    spec: str | Spec = "resnet50",
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    include_preprocessing: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    drop_path: float = 0.0,
    output_stride: int = 32,
    norm: Callable[..., keras.layers.Layer] = keras.layers.BatchNormalization,
    conv: Callable[..., keras.layers.Layer] = keras.layers.Conv2D,
) -> keras.Model:
    """Build a ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition").

    The input is `(batch, height, width, channels)` of pixels 0-255, uint8 or float, RGB if there
    are three channels. The output is `(batch, classes)` of probabilities, at least float32.

    Args:
        spec: a name in `SPECS`, or a `Spec`.
        include_top: end in `avg_pool` and `predictions`; if not, see `pooling`.
        weights: None (random); a path; `hf://org/repo`; a name of `pretrained`, or "imagenet", the
            default of these: `classes`, `mean`, `std` and strides are then those of the weights
            unless given. A head of other classes: `load_weights(..., skip_head=True)`.
        input_tensor: the images, where they are the output of `keras.Input` or of another layer;
            the model then begins at the inputs of that one.
        input_shape: `(height, width, channels)`; height and width may be None. By default
            (224, 224, 3), or (32, 32, 3) with the CIFAR stem.
        pooling: without the top, None (feature map), "avg" or "max" (`(batch, features)`).
        classes: by default 1000, or 10 with the CIFAR stem.
        classifier_activation: activation of `predictions`; None gives logits.
        name: of the model; by default the spec's.
        include_preprocessing: begin with `(pixels - mean) / std`, computed in at least float32.
        mean: one number per channel, 0-255. By default ImageNet's, or CIFAR-10's with the CIFAR
            stem; where there are not three channels, the average of these three for each.
        std: standard deviation, likewise.
        drop_path: rate of stochastic depth at the last block, in [0, 1), growing linearly from 0
            at the first (Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3).
        output_stride: 32, 16 or 8: strides beyond it become dilation of all blocks of the stage,
            as with OpenMMLab's `strides` and `dilations`.
        norm: the batch-norm class, called with `momentum`, `epsilon`, `gamma_initializer`, `name`.
        conv: the convolution class, called as `keras.layers.Conv2D`.

    Returns:
        A `keras.Model` made of stock layers, if `norm` and `conv` are.

    Raises:
        InputError: (a ValueError) an unknown spec (the message lists the names), an argument out
            of its range, or weights that cannot be read or do not fit.
    """
    if (theirs := _described(spec, weights)) is not None:
        weights = theirs.weights
        if theirs.stride_in_1x1 and isinstance(spec, str) and spec in SPECS:
            name = name or spec
            spec = replace(SPECS[spec], stride_in_1x1=True)
        classes = theirs.classes if classes is None and include_top else classes
        mean, std = mean or theirs.mean, std or theirs.std
    model = build(
        spec,
        input_shape=input_shape,
        input_tensor=input_tensor,
        head=Head(include_top, classes, classifier_activation, pooling),
        normalisation=Normalisation(mean, std) if include_preprocessing else None,
        drop_path=drop_path,
        output_stride=output_stride,
        norm=norm,
        conv=conv,
        name=name,
    )
    if weights is not None:
        _fill(model, input_tensor, weights)
    return model


class _Described(NamedTuple):
    """Weights of which more is known than what is in their file, and what that is."""

    weights: str
    stride_in_1x1: bool
    classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def _described(spec: str | Spec, weights: str | os.PathLike[str] | None) -> _Described | None:
    """What the table of published weights, or a hub, says of weights; None for other weights."""
    if weights is None:
        return None
    source, model = os.fspath(weights), spec if isinstance(spec, str) else None
    if is_on_hub(source):
        file = recognised(source, model)
        head = file.kernel("predictions")
        strides = file.stride_in_1x1 and file.spec().block == "bottleneck"
        return _Described(source, strides, head[-1] if head else None, file.mean, file.std)
    if not is_name(source) or os.path.exists(source):
        return None
    row = find(source, model)
    pixels = row.preprocessing
    return _Described(row.name, row.stride_in_1x1, row.classes, pixels.mean, pixels.std)


def ResNetV1D(
    depth_or_spec: int | str | Spec = 50, *arguments: Any, **keywords: Any
) -> keras.Model:
    """Build a ResNet-D (He et al. 2018, "Bag of Tricks for Image Classification", figure 2c).

    Args:
        depth_or_spec: 50, 101 or 152; or a name in `SPECS`, or a `Spec`.
        *arguments: those of `ResNet` behind `spec`.
        **keywords: likewise.

    Returns:
        As `ResNet`.

    Raises:
        InputError: (a ValueError) as `ResNet`.
    """
    if isinstance(depth_or_spec, int):
        depth_or_spec = f"resnetv1d{depth_or_spec}"
    return ResNet(depth_or_spec, *arguments, **keywords)


def _fill(
    model: keras.Model, input_tensor: keras.KerasTensor | None, weights: str | os.PathLike[str]
) -> None:
    """Load the `weights` of `ResNet` into its layers; those before `input_tensor` stay."""
    if input_tensor is not None:
        model = keras.Model(input_tensor, model.output, name=model.name)
    report = load_weights(model, weights)
    if report.assumed:
        say(f"{report.source}: assumed: {', '.join(report.assumed)}")
