"""`Spec` -> `keras.Model`: one builder, one block function, for every row of `SPECS`.

Layer names are those of keras.applications (`conv1_conv`, `conv3_block4_2_bn`, `conv4_block6_out`,
`avg_pool`, `predictions`) and are a contract: weights transfer by name, `features` and `freeze`
find their layers by name.
"""

import math
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial

import keras

from resnet_keras.internals.keras import producer
from resnet_keras.specs import SPECS, Spec

# Mean and standard deviation of the training pixels, RGB, 0-255: ImageNet's as every published
# recipe has them (123.675 = 255 x 0.485), CIFAR-10's as OpenMMLab has them.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CIFAR10_MEAN, CIFAR10_STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)

# PyTorch's momentum of 0.1 is 0.9 here; all published ResNets were trained with these two.
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-5


def ResNet(
    spec: str | Spec = "resnet50",
    *,
    include_top: bool = True,
    weights: str | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable | None = "softmax",
    include_preprocessing: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    drop_path: float = 0.0,
    output_stride: int = 32,
    norm: Callable[..., keras.layers.Layer] = keras.layers.BatchNormalization,
    conv: Callable[..., keras.layers.Layer] = keras.layers.Conv2D,
    name: str | None = None,
) -> keras.Model:
    """Build a ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition").

    The input is `(batch, height, width, channels)` of pixels 0-255, RGB, uint8 or float; the first
    layer normalises them. The output is `(batch, classes)` of probabilities, at least float32.

    Args:
        spec: a name in `SPECS`, or a `Spec`.
        include_top: end in `avg_pool` and `predictions`; if not, see `pooling`.
        weights: None (random), a path (`.keras`, `.weights.h5`, `.safetensors`, `.pth`) or
            `hf://org/repo`.
        input_shape: `(height, width, channels)`; height and width may be None. By default
            (224, 224, 3), or (32, 32, 3) with the CIFAR stem.
        pooling: without the top, None (feature map), "avg" or "max" (`(batch, features)`).
        classes: by default 1000, or 10 with the CIFAR stem.
        classifier_activation: activation of `predictions`; None gives logits.
        include_preprocessing: begin with `(pixels - mean) / std`, done in at least float32.
        mean: per channel, 0-255. By default ImageNet's, or CIFAR-10's with the CIFAR stem; of
            their average over the colours if there is one channel.
        std: as `mean`.
        drop_path: rate of stochastic depth of the last block, in [0, 1), growing linearly from 0
            at the first (Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3).
        output_stride: 32, 16 or 8: strides beyond it become dilation of all the blocks of the
            stage, as with OpenMMLab's `strides` and `dilations`.
        norm: the batch-norm class, called with `momentum`, `epsilon`, `gamma_initializer`, `name`.
        conv: the convolution class, called as `keras.layers.Conv2D`.
        name: name of the model; by default the spec's.

    Returns:
        A `keras.Model` made of stock layers, if `norm` and `conv` are.

    Raises:
        ValueError: an unknown spec (the message lists the names) or an argument out of its range.
    """
    if isinstance(spec, str):
        if spec not in SPECS:
            raise ValueError(f"`spec` must be one of {', '.join(SPECS)}. Received: spec={spec!r}")
        name, spec = name or spec, SPECS[spec]
    cifar = spec.stem == "cifar"
    input_shape = tuple(input_shape or ((32, 32, 3) if cifar else (224, 224, 3)))
    classes = (10 if cifar else 1000) if classes is None else classes
    if (
        len(input_shape) != 3
        or not input_shape[2]
        or any(n is not None and n < 1 for n in input_shape)
    ):
        raise ValueError(
            "`input_shape` must be (height, width, channels), positive. "
            f"Received: input_shape={input_shape}"
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"`classes` must be a positive integer. Received: classes={classes}")
    if not 0 <= drop_path < 1:
        raise ValueError(f"`drop_path` must be in [0, 1). Received: drop_path={drop_path}")
    if output_stride not in (8, 16, 32):
        raise ValueError(
            f"`output_stride` must be 8, 16 or 32. Received: output_stride={output_stride}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling!r}")

    # Keras walks a graph by recursion, about eight frames a block; Python's 1000 end at ResNet-300.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 16 * sum(spec.depths)))
    inputs = keras.Input(input_shape, name="images")
    x = inputs
    if include_preprocessing:
        x = _normalise(x, *_pixel_statistics(input_shape[2], cifar, mean, std))
    conv_norm = partial(_conv_norm, conv=conv, norm=norm)
    x = _stem(x, spec, conv_norm)
    stride = 1 if cifar else 4
    blocks = sum(spec.depths)
    drops = iter([drop_path * i / max(blocks - 1, 1) for i in range(blocks)])
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        wanted = 1 if stage == 0 else 2
        step = wanted if stride * wanted <= output_stride else 1
        stride *= step
        # Strides that were traded away so far widen the kernels instead.
        dilation = (1 if cifar else 4) * 2**stage // stride
        for block in range(depth):
            x = _block(
                x, spec, width, step if block == 0 else 1, dilation, next(drops), conv_norm,
                name=f"conv{stage + 2}_block{block + 1}",
            )  # fmt: skip

    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype=_wide())(x)
        x = keras.layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="predictions",
            dtype=_wide(),
        )(x)
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype=_wide())(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool", dtype=_wide())(x)

    model = keras.Model(inputs, x, name=name or "resnet")
    if weights is not None:
        # The one step up in the house: the contract has weights as an argument of the builder.
        from resnet_keras.weights import load_weights

        load_weights(model, weights)
    return model


def ResNetV1D(depth_or_spec: int | str | Spec = 50, **arguments) -> keras.Model:
    """Build a ResNet-D (He et al. 2018, "Bag of Tricks for Image Classification", figure 2c).

    Args:
        depth_or_spec: 50, 101 or 152; or a name in `SPECS`, or a `Spec`.
        **arguments: those of `ResNet`.

    Returns:
        As `ResNet`.

    Raises:
        ValueError: as `ResNet`.
    """
    if isinstance(depth_or_spec, int):
        depth_or_spec = f"resnetv1d{depth_or_spec}"
    return ResNet(depth_or_spec, **arguments)


def features(model: keras.Model, levels: Sequence[str] = ("C2", "C3", "C4", "C5")) -> keras.Model:
    """The feature pyramid of a ResNet, for detection, segmentation and pose.

    Args:
        model: a model of `ResNet`, with or without its top. The result shares its layers, and so
            their weights and their `trainable`.
        levels: of "C1" (the stem before its max pool) and "C2".. (the end of each stage).

    Returns:
        A model from `(batch, height, width, channels)`, any height and width, to a dict
        of `(batch, height / stride, width / stride, channels)`, keyed by level.

    Raises:
        ValueError: a level that the model does not have.
    """
    ends = {f"C{k}": _stage_end(model, k) for k in _stages(model)}
    stem = [layer for layer in model.layers if re.fullmatch(r"conv1(_\d)?_relu", layer.name)]
    ends["C1"] = stem[-1].name
    unknown = [level for level in levels if level not in ends]
    if unknown or not levels:
        raise ValueError(
            f"`levels` must be of {', '.join(sorted(ends))}. Received: levels={tuple(levels)}"
        )
    outputs = {level: model.get_layer(ends[level]).output for level in levels}
    return keras.models.clone_model(
        keras.Model(model.input, outputs, name=f"{model.name}_features"),
        input_tensors=keras.Input((None, None, model.input_shape[-1]), name="images"),
        clone_function=lambda layer: layer,
    )


def freeze(model: keras.Model, stages: int, *, norm_eval: bool = False) -> None:
    """Freeze the first layers of a ResNet, as OpenMMLab's `frozen_stages` does.

    Frozen batch norms run in inference mode: their statistics do not move.

    Args:
        model: a model of `ResNet`; changed in place. Compile it afterwards.
        stages: -1: nothing, 0: the stem, 1..4: the stem and so many stages.
        norm_eval: all batch norms run in inference mode, gamma and beta of those that are not
            frozen are trained.

    Raises:
        ValueError: `stages` out of its range.
    """
    if stages not in range(-1, len(_stages(model)) + 1):
        raise ValueError(
            f"`stages` must be in -1..{len(_stages(model))}. Received: stages={stages}"
        )
    for layer in model.layers:
        stage = re.match(r"conv(\d)_", layer.name)
        frozen = stage is not None and int(stage[1]) <= stages + 1
        layer.trainable = not frozen
        if norm_eval and not frozen and isinstance(layer, keras.layers.BatchNormalization):
            # Keras runs a batch norm in inference mode where the layer is not trainable, and
            # trains the variables that are.
            layer.trainable = False
            layer.gamma.trainable = layer.beta.trainable = True


def count(model: keras.Model) -> dict[str, int]:
    """Count parameters and multiply-adds (each once) of one forward pass of one image.

    Args:
        model: a model of `ResNet` with a known input size.

    Returns:
        `params`: trainable parameters. `macs`: convolutions and dense layers. `flops_mmcv`: as
        OpenMMLab's tables: convolutions, 2 x batch-norm outputs, ReLU outputs and pooling inputs,
        without the dense layer. `flops_fvcore`: as fvcore counts: convolutions, dense layer,
        2 x batch-norm outputs and the global pooling's inputs.

    Raises:
        ValueError: the model takes images of any size.
    """
    if None in model.input_shape[1:]:
        raise ValueError(
            f"`count` needs a model of one input size. Received: input_shape={model.input_shape}"
        )
    conv = dense = norm = relu = pool = global_pool = 0
    for layer in model.layers:
        outputs = _size(layer.output)
        if isinstance(layer, keras.layers.Conv2D):
            height, width, channels, _ = layer.kernel.shape
            conv += outputs * height * width * channels
        elif isinstance(layer, keras.layers.Dense):
            dense += layer.kernel.shape[0] * layer.kernel.shape[1]
        elif isinstance(layer, keras.layers.BatchNormalization):
            norm += outputs
        elif isinstance(layer, keras.layers.Activation):
            relu += outputs
        elif isinstance(layer, keras.layers.MaxPooling2D | keras.layers.AveragePooling2D):
            # The tables count what is pooled, not the zeros around it.
            source = producer(layer.input)
            padded = isinstance(source, keras.layers.ZeroPadding2D)
            pool += _size(source.input if padded else layer.input)
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
            global_pool += _size(layer.input)
    return {
        "params": sum(math.prod(w.shape) for w in model.trainable_variables),
        "macs": conv + dense,
        "flops_mmcv": conv + 2 * norm + relu + pool + global_pool,
        "flops_fvcore": conv + dense + 2 * norm + global_pool,
    }


def _stem(x, spec: Spec, conv_norm):
    """From the image to the first stage: stride 4, or 1 with the CIFAR stem."""
    width = spec.widths[0]
    if spec.stem == "cifar":
        return conv_norm(x, width, 3, "conv1")
    if spec.stem == "conv7":
        x = conv_norm(x, width, 7, "conv1", stride=2)
    else:
        x = conv_norm(x, width // 2, 3, "conv1_1", stride=2)
        x = conv_norm(x, width // 2, 3, "conv1_2")
        x = conv_norm(x, width, 3, "conv1_3")
    # Padding with zeros is right here: nothing is below zero behind a ReLU.
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name="pool1_pool")(x)


def _block(x, spec: Spec, width, stride, dilation, drop, conv_norm, name):
    """One residual block: `(n, h, w, c)` -> `(n, h / stride, w / stride, expansion * width)`."""
    channels = width * spec.expansion
    shortcut = _shortcut(x, spec, channels, stride, conv_norm, f"{name}_0")
    # The last gamma starts at 0, so that a block starts as the identity (Goyal et al. 2017,
    # "Accurate, Large Minibatch SGD", section 5.1). Not where the shortcut pads with zeros: then
    # the new channels would be 0 behind their ReLU, whose gradient is 0 there, for ever.
    last = "ones" if spec.shortcut == "pad" else "zeros"
    if spec.block == "basic":
        # Only the first convolution dilates, as in OpenMMLab's BasicBlock.
        x = conv_norm(x, width, 3, f"{name}_1", stride=stride, dilation=dilation)
        x = conv_norm(x, channels, 3, f"{name}_2", relu=False, gamma=last)
    else:
        first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        x = conv_norm(x, width, 1, f"{name}_1", stride=first)
        x = conv_norm(x, width, 3, f"{name}_2", stride=second, dilation=dilation)
        x = conv_norm(x, channels, 1, f"{name}_3", relu=False, gamma=last)
    if drop:
        x = keras.layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _shortcut(x, spec: Spec, channels, stride, conv_norm, name):
    """The identity, or what makes the shapes agree."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    if spec.shortcut == "pad":
        if stride > 1:
            x = keras.layers.MaxPooling2D(1, stride, name=f"{name}_pool")(x)  # every second pixel
        # Read as channels_first, the last axis is a spatial one: this pads the channels.
        new = ((0, 0), (0, channels - x.shape[-1]))
        return keras.layers.ZeroPadding2D(new, data_format="channels_first", name=f"{name}_pad")(x)
    if spec.avg_down and stride > 1:
        # "same" never counts the padding: torch's ceil_mode with count_include_pad=False.
        x = keras.layers.AveragePooling2D(stride, stride, "same", name=f"{name}_pool")(x)
        stride = 1
    return conv_norm(x, channels, 1, name, stride=stride, relu=False)


def _conv_norm(
    x, filters, kernel, name, *, conv, norm, stride=1, dilation=1, relu=True, gamma="ones"
):
    """Convolution without bias, batch norm and (mostly) ReLU."""
    padding = "same"
    if stride > 1 and kernel > 1:
        # TensorFlow's "same" would pad even sizes (0, 1) where every published ResNet pads (1, 1).
        # A layer of its own: oneDNN is many times slower on padding inside a strided convolution.
        x = keras.layers.ZeroPadding2D(dilation * (kernel // 2), name=f"{name}_pad")(x)
        padding = "valid"
    x = conv(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        dilation_rate=dilation if kernel > 1 else 1,
        use_bias=False,
        # Kaiming normal over the fan-out, not truncated (He et al. 2015, "Delving Deep into
        # Rectifiers", equation 14). One object a layer: equal seeds would give equal weights.
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=f"{name}_conv",
    )(x)
    x = norm(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, gamma_initializer=gamma, name=f"{name}_bn")(
        x
    )
    return keras.layers.Activation("relu", name=f"{name}_relu")(x) if relu else x


def _normalise(x, mean, std):
    """`(pixels - mean) / std` as one multiply-add: Rescaling survives every export."""
    return keras.layers.Rescaling(
        scale=[1 / s for s in std],
        offset=[-m / s for m, s in zip(mean, std, strict=True)],
        name="normalise",
        dtype=_wide(),
    )(x)


def _pixel_statistics(channels: int, cifar: bool, mean, std) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel: those given, or the defaults."""
    defaults = (CIFAR10_MEAN, CIFAR10_STD) if cifar else (IMAGENET_MEAN, IMAGENET_STD)
    chosen = []
    for field, given, default in zip(("mean", "std"), (mean, std), defaults, strict=True):
        if given is None and channels == 1:
            given = [sum(default) / 3]
        given = [float(v) for v in (default if given is None else given)]
        if len(given) != channels or (field == "std" and min(given) <= 0):
            raise ValueError(
                f"`{field}` must be {channels} numbers, one a channel"
                f"{', above 0' if field == 'std' else ''}. Received: {field}={given}"
            )
        chosen.append(given)
    return chosen[0], chosen[1]


def _wide() -> str:
    """The policy's own type, but float32 where that is a half: for pixels and the head."""
    variable = keras.config.dtype_policy().variable_dtype
    return "float32" if variable in ("float16", "bfloat16") else variable


def _stages(model: keras.Model) -> list[int]:
    """The numbers of the stages in layer names: 2, 3, ..."""
    found = (re.match(r"conv(\d)_block1_out$", layer.name) for layer in model.layers)
    return [int(match[1]) for match in found if match]


def _stage_end(model: keras.Model, stage: int) -> str:
    """Name of the layer that ends a stage."""
    ends = [n.name for n in model.layers if re.fullmatch(rf"conv{stage}_block\d+_out", n.name)]
    return ends[-1]


def _size(tensor) -> int:
    """Number of values of one image's tensor."""
    return math.prod(tensor.shape[1:])
