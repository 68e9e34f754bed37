"""How checkpoints name the parts of a ResNet, and which ResNet a checkpoint is of."""

import re
from dataclasses import dataclass, replace

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.models import BN_EPSILON
from resnet_keras.specs import SPECS, Spec
from resnet_keras.weights.files import Contents

# keras.applications' batch norms have this epsilon; it subtracts this mean, of BGR pixels.
APPLICATIONS_EPSILON = 1.001e-5
APPLICATIONS_MEAN = (123.68, 116.779, 103.939)

_TORCH_VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_LAYER = re.compile(r"conv(\d+)(?:_block(\d+))?(?:_(\d))?_(conv|bn)")


def torch_key(layer: str, variable: str, *, stem: str = "timm", shortcut: int = 0) -> str | None:
    """The name that PyTorch code gives a variable of ours.

    Args:
        layer: a layer's name, as `conv3_block4_2_bn`.
        variable: a variable's name, as `gamma`.
        stem: whose names a deep stem has, "timm" or "OpenMMLab".
        shortcut: index of the convolution in `downsample`; 1 behind an average pool.

    Returns:
        As `layer2.3.bn2.weight`; None for what is no part of a ResNet.
    """
    match = _LAYER.fullmatch(layer)
    if variable not in _TORCH_VARIABLES or not (match or layer == "predictions"):
        return None
    if layer == "predictions":
        name = "fc"
    else:
        stage, block, number, kind = match.groups()
        norm = int(kind == "bn")
        if block is None:
            name = _stem_name(number, norm, stem)
        else:
            name = f"layer{int(stage) - 1}.{int(block) - 1}."
            name += f"downsample.{shortcut + norm}" if number == "0" else f"{kind}{number}"
    return f"{name}.{_TORCH_VARIABLES[variable]}"


def _stem_name(number: str | None, norm: int, stem: str) -> str:
    if number is None or (stem == "timm" and number == "3" and norm):
        return "bn1" if norm else "conv1"
    if stem == "timm":  # a Sequential of convolution, norm, activation, ...
        return f"conv1.{3 * (int(number) - 1) + norm}"
    return f"stem.{int(number) - 1}.{'bn' if norm else 'conv'}"


@dataclass(frozen=True)
class Checkpoint:
    """A file's arrays, and how to find there what the model wants.

    Attributes:
        path: of the file.
        arrays: by the file's names.
        naming: "torchvision" (and plain ResNets of timm), "timm" (c and d variants), "OpenMMLab",
            "keras.applications" or "resnet_keras".
        prefix: of all names of the backbone.
        head: name of the last layer, prefix included.
        avg_down: whether strided shortcuts pool; None where the file does not tell.
        stride_in_1x1: as in `Spec`; None where the file does not tell.
    """

    path: str
    arrays: dict[str, np.ndarray]
    naming: str
    prefix: str
    head: str
    avg_down: bool | None = None
    stride_in_1x1: bool | None = None

    @property
    def is_torch(self) -> bool:
        """Whether arrays have PyTorch's layout: OIHW, (out, in)."""
        return self.naming not in ("keras.applications", "resnet_keras")

    def key(self, layer: str, variable: str) -> str | None:
        """The file's name for a variable of ours; None for what is no part of a ResNet."""
        stem = "OpenMMLab" if self.naming == "OpenMMLab" else "timm"
        key = torch_key(layer, variable, stem=stem)
        if key is None:
            return None
        if not self.is_torch:
            return f"{self.head if layer == 'predictions' else layer}/{variable}"
        if layer == "predictions":
            return f"{self.head}{key.removeprefix('fc')}"
        block, shortcut, _ = key.partition("downsample.")
        if shortcut:
            # OpenMMLab's ResNet-D numbers differently in its first stage, timm's does not, and
            # a dilated one differs again: what the file has is right, `avg_down` is checked once.
            behind = self.arrays.get(f"{self.prefix}{block}downsample.1.weight")
            index = int(behind is not None and behind.ndim == 4)
            key = torch_key(layer, variable, shortcut=index)
        return f"{self.prefix}{key}"

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a variable that has shape `ours` in the model."""
        if not self.is_torch:
            return ours
        return (ours[3], ours[2], *ours[:2]) if len(ours) == 4 else ours[::-1]

    def value(self, key: str) -> np.ndarray:
        """An array in the model's layout: HWIO, (in, out); a view."""
        array = self.arrays[key]
        if not self.is_torch:
            return array
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    def kernel(self, layer: str) -> tuple[int, ...] | None:
        """The shape in the model's layout of a layer's kernel; None if the file has none."""
        key = self.key(layer, "kernel")
        return self.value(key).shape if key in self.arrays else None

    def spec(self) -> Spec:
        """The ResNet that this file is of, as far as names and shapes tell.

        Raises:
            InputError: they tell of no ResNet, or leave open which.
        """
        depths = []
        while self.kernel(f"conv{len(depths) + 2}_block1_1_conv"):
            blocks = 1
            while self.kernel(f"conv{len(depths) + 2}_block{blocks + 1}_1_conv"):
                blocks += 1
            depths.append(blocks)
        stages = range(2, len(depths) + 2)
        bottleneck = self.kernel("conv2_block1_3_conv") is not None
        kernels = [self.kernel(f"conv{s}_block1_{1 + bottleneck}_conv") for s in stages]
        first = self.kernel("conv1_conv")
        deep = self.kernel("conv1_1_conv")
        if not depths or not all(k and len(k) == 4 for k in [*kernels, deep or first]):
            raise InputError(f"{self.path} is of no ResNet. Received: depths={tuple(depths)}")
        if deep and self.avg_down is None:
            raise InputError(
                f"{self.path} does not tell ResNet-C from ResNet-D; name the model. "
                f"Received: {self.naming} names"
            )
        projection = any(self.kernel(f"conv{s}_block1_0_conv") for s in stages[1:])
        return Spec(
            "bottleneck" if bottleneck else "basic",
            tuple(depths),
            tuple(kernel[3] for kernel in kernels),
            stem="deep" if deep else "cifar" if first[0] == 3 else "conv7",
            avg_down=bool(self.avg_down),
            shortcut="projection" if projection or len(depths) == 1 else "pad",
            stride_in_1x1=bottleneck and bool(self.stride_in_1x1),
        )


def spec_name(spec: Spec) -> str:
    """The name in `SPECS` of what `spec` is, caffe style or not; else "resnet"."""
    plain = replace(spec, stride_in_1x1=False)
    return next((name for name, row in SPECS.items() if row == plain), "resnet")


def style(layers: dict[str, dict]) -> tuple[bool | None, bool | None]:
    """`avg_down` and `stride_in_1x1` of a Keras model.

    Args:
        layers: `class_name` and `config` of each layer by name, at least those of `conv3_block1`.

    Returns:
        Both; None where the layers do not tell.
    """
    if "conv3_block1_1_conv" not in layers:
        return None, None
    pool = layers.get("conv3_block1_0_pool", {}).get("class_name") == "AveragePooling2D"
    strides = layers["conv3_block1_1_conv"]["config"]["strides"]
    bottleneck = "conv3_block1_3_conv" in layers
    return pool, tuple(strides) != (1, 1) if bottleneck else None


def recognise(contents: Contents) -> Checkpoint:
    """Tell from the names whose they are.

    Raises:
        InputError: nobody's that is known here.
    """
    path, arrays, layers = contents
    if "conv1_conv/bias" in arrays:
        arrays = _without_biases(arrays)
        head = "probs" if "probs/kernel" in arrays else "predictions"  # before 2020, and since
        return Checkpoint(path, arrays, "keras.applications", "", head, False, True)
    if "conv1_conv/kernel" in arrays or "conv1_1_conv/kernel" in arrays:
        return Checkpoint(path, arrays, "resnet_keras", "", "predictions", *style(layers))

    first = "layer1.0.conv1.weight"
    ends = [key for key in arrays if key == first or key.endswith(f".{first}")]
    if len(ends) != 1:
        received = f"{ends[0]!r} and {ends[1]!r}" if ends else f"{next(iter(arrays), None)!r} ..."
        raise InputError(
            f"{path} must have one tensor named [PREFIX.]{first}, or Keras' conv1_conv. "
            f"Received: {received}"
        )
    prefix = ends[0].removesuffix(first)
    outside = prefix.removesuffix("backbone.")
    openmmlab = outside != prefix or f"{prefix}stem.0.conv.weight" in arrays
    naming = "torchvision"
    if openmmlab:
        naming = "OpenMMLab"
    elif f"{prefix}conv1.0.weight" in arrays:
        naming = "timm"
    plain, pooled = (arrays.get(f"{prefix}layer2.0.downsample.{i}.weight") for i in (0, 1))
    avg_down = None
    if plain is not None or pooled is not None:
        avg_down = pooled is not None and pooled.ndim == 4
    head = f"{outside}head.fc" if openmmlab else f"{prefix}fc"
    return Checkpoint(path, arrays, naming, prefix, head, avg_down)


def _without_biases(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """keras.applications' arrays as a network of ours computes the same with them.

    (conv + b - mean) / sqrt(var + e) = (conv - (mean - b)) / sqrt((var + e - 1e-5) + 1e-5), and
    its pixels are BGR.
    """
    changed = {}
    for key, array in arrays.items():
        layer, variable = key.split("/")
        bias = arrays.get(f"{layer.removesuffix('_bn')}_conv/bias")
        if variable == "bias" and f"{layer.removesuffix('_conv')}_bn/moving_mean" in arrays:
            continue
        if variable == "moving_mean" and bias is not None:
            array = array - bias
        elif variable == "moving_variance":
            array = array + np.float32(APPLICATIONS_EPSILON - BN_EPSILON)
        elif key == "conv1_conv/kernel":
            array = array[:, :, ::-1]
        changed[key] = array
    return changed
