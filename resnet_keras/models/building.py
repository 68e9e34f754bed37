"""One builder and one block function for every row of `SPECS`."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import keras
import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.specs import SPECS, Spec

# Mean and standard deviation of the training pixels, RGB, 0-255: ImageNet's as every published
# recipe has them (123.675 = 255 x 0.485), CIFAR-10's as OpenMMLab has them.
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CIFAR10_MEAN, CIFAR10_STD = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)

# PyTorch's momentum of 0.1 is 0.9 here; all published ResNets were trained with these two.
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-5


@dataclass(frozen=True)
class Normalisation:
    """The first layer: `(pixels - mean) / std`, computed in at least float32.

    Attributes:
        mean: one number per channel, 0-255. None: ImageNet's, or CIFAR-10's with the CIFAR stem;
            where the image does not have three channels, the average of these three for each.
        std: standard deviation, likewise, above 0.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


@dataclass(frozen=True)
class Head:
    """What follows the last stage.

    Attributes:
        include_top: `avg_pool` and `predictions`; if not, see `pooling`.
        classes: by default 1000, or 10 with the CIFAR stem.
        activation: of `predictions`; None gives logits.
        pooling: without the top, None (feature map), "avg" or "max" (`(batch, features)`).
    """

    include_top: bool = True
    classes: int | None = None
    activation: str | Callable | None = "softmax"
    pooling: str | None = None


def build(
    spec: str | Spec,
    *,
    input_shape: Sequence[int | None] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    head: Head = Head(),
    normalisation: Normalisation | None = Normalisation(),
    drop_path: float = 0.0,
    output_stride: int = 32,
    norm: Callable[..., keras.layers.Layer] = keras.layers.BatchNormalization,
    conv: Callable[..., keras.layers.Layer] = keras.layers.Conv2D,
    name: str | None = None,
) -> keras.Model:
    """Build a ResNet with random weights; `zoo.ResNet` describes the arguments.

    Args:
        spec: a name in `SPECS`, or a `Spec`.
        input_shape: `(height, width, channels)`.
        input_tensor: the images, where they are the output of another layer.
        head: what follows the last stage.
        normalisation: the first layer; None: there is none.
        drop_path: rate of stochastic depth at the last block.
        output_stride: 32, 16 or 8.
        norm: the batch-norm class.
        conv: the convolution class.
        name: of the model.

    Returns:
        As `zoo.ResNet`.

    Raises:
        InputError: (a ValueError) as `zoo.ResNet`.
    """
    if isinstance(spec, str):
        if spec not in SPECS:
            raise InputError(f"`spec` must be one of {', '.join(SPECS)}. Received: spec={spec!r}")
        name, spec = name or spec, SPECS[spec]
    if not 0 <= drop_path < 1:
        raise InputError(f"`drop_path` must be in [0, 1). Received: drop_path={drop_path}")
    if output_stride not in (8, 16, 32):
        raise InputError(
            f"`output_stride` must be 8, 16 or 32. Received: output_stride={output_stride}"
        )
    images, inputs = _images(spec, input_shape, input_tensor)
    x = images
    if normalisation is not None:
        x = _normalise(x, *_statistics(spec, x.shape[-1], normalisation))
    # Keras walks a graph by recursion, about eight frames a block; Python's 1000 end at ResNet-300.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 1000 + 16 * sum(spec.depths)))
    conv_norm = partial(_conv_norm, conv=conv, norm=norm)
    x = _stages(_stem(x, spec, conv_norm), spec, output_stride, drop_path, conv_norm)
    return keras.Model(inputs, _end(x, spec, head), name=name or "resnet")


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Three numbers of RGB for images of another number of channels: their average for each."""
    return tuple(values) if channels == 3 else (sum(values) / 3,) * channels


def _images(
    spec: Spec, shape: Sequence[int | None] | None, tensor: keras.KerasTensor | None
) -> tuple[keras.KerasTensor, keras.KerasTensor | list[keras.KerasTensor]]:
    """The images that the network sees, and the inputs of the model, from which they come."""
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "the networks are built for images of (height, width, channels): call "
            "keras.config.set_image_data_format('channels_last') before. "
            f"Received: image_data_format={keras.config.image_data_format()!r}"
        )
    if tensor is None:
        edge = 32 if spec.stem == "cifar" else 224
        shape = (edge, edge, 3) if shape is None else tuple(shape)
        _require_images("input_shape", shape)
        images = keras.Input(shape, name="images")
        return images, images
    if not isinstance(tensor, keras.KerasTensor):
        raise InputError(
            "`input_tensor` must be a KerasTensor, the output of keras.Input or of a layer. "
            f"Received: a {type(tensor).__name__}"
        )
    own = tuple(tensor.shape[1:])
    _require_images("input_tensor", own)
    if shape is not None and tuple(shape) != own:
        raise InputError(
            f"`input_shape` must be that of `input_tensor`, {own}, or None. "
            f"Received: input_shape={tuple(shape)}"
        )
    sources = keras.utils.get_source_inputs(tensor)
    return tensor, sources[0] if len(sources) == 1 else sources


def _require_images(argument: str, shape: tuple[int | None, ...]) -> None:
    """Refuse a shape that is not of images."""
    if (
        len(shape) != 3
        or shape[2] is None
        or any(n is not None and (not isinstance(n, int) or n < 1) for n in shape)
    ):
        raise InputError(
            f"`{argument}` must be (height, width, channels), positive; height and width may be "
            f"None. Received: {argument}={shape}"
        )


def _end(x, spec: Spec, head: Head):
    """From the last feature map to the output of the model."""
    classes = head.classes
    if classes is None:
        classes = 10 if spec.stem == "cifar" else 1000
    if not isinstance(classes, int) or classes < 1:
        raise InputError(f"`classes` must be a positive integer. Received: classes={classes}")
    if head.pooling not in (None, "avg", "max"):
        raise InputError(
            f"`pooling` must be None, 'avg' or 'max'. Received: pooling={head.pooling!r}"
        )
    if head.include_top or head.pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype=wide())(x)
    elif head.pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool", dtype=wide())(x)
    if not head.include_top:
        return x
    return keras.layers.Dense(
        classes,
        activation=head.activation,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name="predictions",
        dtype=wide(),
    )(x)


def _stages(x, spec: Spec, output_stride: int, drop_path: float, conv_norm):
    """All residual blocks: `(n, h, w, c)` -> `(n, h / s, w / s, expansion * widths[-1])`."""
    first = 1 if spec.stem == "cifar" else 4
    stride = first
    blocks = sum(spec.depths)
    drops = iter([drop_path * i / max(blocks - 1, 1) for i in range(blocks)])
    before = 1
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        wanted = 1 if stage == 0 else 2
        step = wanted if stride * wanted <= output_stride else 1
        stride *= step
        # Strides that were given up so far widen the kernels instead.
        dilation = first * 2**stage // stride
        for block in range(depth):
            first_of_stage = block == 0
            dilations = (dilation, 1)
            if spec.dilation == "torchvision":
                dilations = (before if first_of_stage else dilation, dilation)
            x = _block(
                x, spec, width, step if first_of_stage else 1, dilations, next(drops), conv_norm,
                name=f"conv{stage + 2}_block{block + 1}",
            )  # fmt: skip
        before = dilation
    return x


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


def _block(x, spec: Spec, width, stride, dilations, drop, conv_norm, name):
    """One residual block: `(n, h, w, c)` -> `(n, h / stride, w / stride, expansion * width)`.

    `dilations` are those of its first 3x3 convolution, and of the second of a basic block.
    """
    channels = width * spec.expansion
    # timm keeps the pool of a shortcut whose stride became dilation.
    still = spec.dilation == "torchvision" and dilations[1] > 1
    shortcut = _shortcut(x, spec, channels, stride, still, conv_norm, f"{name}_0")
    # The last gamma starts at 0, so that a block starts as the identity (Goyal et al. 2017,
    # "Accurate, Large Minibatch SGD", section 5.1). Not where the shortcut pads with zeros: then
    # the new channels would be 0 behind their ReLU, whose gradient is 0 there, for ever.
    last = "zeros" if spec.shortcut == "projection" else "ones"
    if spec.block == "basic":
        # Only the first convolution dilates in OpenMMLab's BasicBlock.
        x = conv_norm(x, width, 3, f"{name}_1", stride=stride, dilation=dilations[0])
        x = conv_norm(x, channels, 3, f"{name}_2", dilation=dilations[1], relu=False, gamma=last)
    else:
        first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        x = conv_norm(x, width, 1, f"{name}_1", stride=first)
        x = conv_norm(x, width, 3, f"{name}_2", stride=second, dilation=dilations[0])
        x = conv_norm(x, channels, 1, f"{name}_3", relu=False, gamma=last)
    if drop:
        x = keras.layers.Dropout(drop, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(x)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _shortcut(x, spec: Spec, channels, stride, still, conv_norm, name):
    """The identity, or what makes the shapes agree; `still`: where a pool has stride 1."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    if spec.shortcut != "projection":
        if stride > 1:
            x = keras.layers.MaxPooling2D(1, stride, name=f"{name}_pool")(x)  # every second pixel
        # Read as channels_first, the last axis is a spatial one: this pads the channels.
        new_channels = channels - x.shape[-1]
        front = new_channels // 2 if spec.shortcut == "pad_both" else 0
        new = ((0, 0), (front, new_channels - front))
        return keras.layers.ZeroPadding2D(new, data_format="channels_first", name=f"{name}_pad")(x)
    if spec.avg_down and stride > 1:
        # "same" never counts the padding: torch's ceil_mode with count_include_pad=False.
        x = keras.layers.AveragePooling2D(stride, stride, "same", name=f"{name}_pool")(x)
        stride = 1
    elif spec.avg_down and still:
        # timm's AvgPool2dSame: the zeros behind the last row and column count.
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
        x = keras.layers.AveragePooling2D(2, 1, name=f"{name}_pool")(x)
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
        dtype=wide(),
    )(x)


def normalisation_of(model: keras.Model) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of pixels that a network normalises with.

    Args:
        model: has the layer `normalise`, of any weights.

    Returns:
        Two lists of one number per channel, 0-255.
    """
    layer = model.get_layer("normalise")
    scale, offset = (np.asarray(value, np.float64) for value in (layer.scale, layer.offset))
    return (-offset / scale).tolist(), (1 / scale).tolist()


def _statistics(
    spec: Spec, channels: int, normalisation: Normalisation
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel: those given, or the defaults."""
    cifar = spec.stem == "cifar"
    defaults = (CIFAR10_MEAN, CIFAR10_STD) if cifar else (IMAGENET_MEAN, IMAGENET_STD)
    chosen = []
    for field, default in zip(("mean", "std"), defaults, strict=True):
        given = getattr(normalisation, field)
        given = [float(v) for v in (for_channels(default, channels) if given is None else given)]
        if len(given) != channels or (field == "std" and min(given) <= 0):
            raise InputError(
                f"`{field}` must be {channels} numbers, one per channel"
                f"{', above 0' if field == 'std' else ''}. Received: {field}={given}"
            )
        chosen.append(given)
    return chosen[0], chosen[1]


def wide() -> str:
    """The policy's own type, but float32 where that is a half: for pixels and the head."""
    variable = keras.config.dtype_policy().variable_dtype
    return "float32" if variable in ("float16", "bfloat16") else variable
