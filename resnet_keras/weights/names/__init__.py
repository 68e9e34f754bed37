"""Recognise whose names a checkpoint uses, and which ResNet it is."""

from dataclasses import dataclass, replace

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.published import Pretrained
from resnet_keras.specs import SPECS, Spec
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.caffe2 import Caffe2
from resnet_keras.weights.names.detectron2 import Detectron2
from resnet_keras.weights.names.facts import told_by_facts
from resnet_keras.weights.names.keras_applications import KerasApplications
from resnet_keras.weights.names.keras_hub import KerasHub
from resnet_keras.weights.names.keras_resnet50 import KerasResNet50
from resnet_keras.weights.names.kuangliu import Kuangliu
from resnet_keras.weights.names.mmpose import MMPose
from resnet_keras.weights.names.mmsegmentation import MMSegmentation
from resnet_keras.weights.names.naming import Naming
from resnet_keras.weights.names.networks import one_network
from resnet_keras.weights.names.openmmlab import OpenMMLab
from resnet_keras.weights.names.other_networks import refuse_relatives, refuse_shapes
from resnet_keras.weights.names.reading import Reading
from resnet_keras.weights.names.resnet_keras import ResNetKeras
from resnet_keras.weights.names.sequential import Sequential
from resnet_keras.weights.names.timm import Timm
from resnet_keras.weights.names.told import Told
from resnet_keras.weights.names.torch_names import TorchNaming
from resnet_keras.weights.names.torchvision import Torchvision
from resnet_keras.weights.names.transformers import Transformers

# The first convolution of a network: the one that sees the image's channels.
STEMS = ("conv1_1_conv", "conv1_conv")

# The first that recognises its names in a file reads it, so those with more to show come first.
NAMINGS: tuple[type[Naming], ...] = (
    KerasApplications,
    KerasResNet50,
    KerasHub,
    ResNetKeras,
    Transformers,
    Detectron2,
    Caffe2,
    MMPose,
    MMSegmentation,
    OpenMMLab,
    Kuangliu,
    Timm,
    Torchvision,
    Sequential,
)


@dataclass(frozen=True)
class Checkpoint:
    """A file's arrays, and how to find there what the model wants.

    Attributes:
        path: of the file.
        arrays: by the file's names.
        naming: whose names these are.
        published: the row of published weights that it is, where it was asked for by name.
        filled: the keys of `arrays` that the file leaves out, as the zeros of a missing bias.
        others: entries and prefixes of other networks in the file.
        told: what the file says of its network besides.
    """

    path: str
    arrays: dict[str, np.ndarray]
    naming: Naming
    published: Pretrained | None
    filled: tuple[str, ...]
    others: tuple[str, ...]
    told: Told

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Mean of the pixels, RGB, 0-255, that its network wants; None where that is open."""
        return self.told.mean or (self.naming.mean if self.bgr == self.naming.bgr else None)

    @property
    def std(self) -> tuple[float, ...] | None:
        """Standard deviation, likewise."""
        return self.told.std or (self.naming.std if self.bgr == self.naming.bgr else None)

    @property
    def bgr(self) -> bool:
        """Whether its network takes BGR images, as far as anybody says so."""
        return self.naming.bgr if self.told.bgr is None else self.told.bgr

    @property
    def stride_in_1x1(self) -> bool:
        """As in `Spec`, as far as anybody says so."""
        return bool(self.told.stride_in_1x1)

    def value(self, key: str) -> np.ndarray:
        """An array in the model's layout, HWIO, (in, out), for RGB images; a view."""
        array = self.naming.value(self.arrays[key])
        stems = [self.naming.key(layer, "kernel") for layer in STEMS]
        if self.bgr and key in stems and array.ndim == 4 and array.shape[2] == 3:
            return array[:, :, ::-1]
        return array

    def kernel(self, layer: str) -> tuple[int, ...] | None:
        """The shape in the model's layout of a layer's kernel; None if the file has none."""
        if layer == "predictions" and (self.naming.problem or self.naming.projects):
            return None
        key = self.naming.key(layer, "kernel")
        return self.value(key).shape if key in self.arrays else None

    def head_filters(self) -> tuple[int, ...]:
        """The filters of each deconvolution of a head that draws heatmaps; none if it has none."""
        filters: list[int] = []
        while kernel := self.kernel(f"deconv{len(filters) + 1}_conv"):
            filters.append(kernel[2])  # HWOI
        return tuple(filters)

    def stem(self) -> tuple[int, ...] | None:
        """As `kernel`, of the first convolution."""
        return next((shape for layer in STEMS if (shape := self.kernel(layer))), None)

    def spec(self) -> Spec:
        """Return the ResNet that this file is, as far as names and shapes tell.

        Raises:
            InputError: it is not a ResNet, or they leave open which.
        """
        if self.told.spec is not None:
            return self.told.spec
        depths: list[int] = []
        while self.kernel(f"conv{len(depths) + 2}_block1_1_conv"):
            blocks = 1
            while self.kernel(f"conv{len(depths) + 2}_block{blocks + 1}_1_conv"):
                blocks += 1
            depths.append(blocks)
        stages = range(2, len(depths) + 2)
        bottleneck = self.kernel("conv2_block1_3_conv") is not None
        kernels = [self.kernel(f"conv{s}_block1_{1 + bottleneck}_conv") for s in stages]
        stem = self.stem()
        widths = tuple(kernel[3] for kernel in kernels if kernel and len(kernel) == 4)
        empty = next((key for key, array in self.arrays.items() if array.shape == (0,)), None)
        if empty is not None:
            raise InputError(
                f"{self.path} has tensors without values, which DeepSpeed's ZeRO-3 keeps in other "
                f"files: its zero_to_fp32.py puts them together. Received: {empty!r} of shape (0,)"
            )
        if not depths or len(widths) < len(depths) or stem is None or len(stem) != 4:
            raise InputError(f"{self.path} is not a ResNet. Received: depths={tuple(depths)}")
        deep = self.kernel("conv1_1_conv") is not None
        if deep and self.naming.avg_down is None:
            raise InputError(
                f"{self.path} may be a ResNet-C or a ResNet-D: give `model`. "
                f"Received: {self.naming.title} names"
            )
        projection = any(self.kernel(f"conv{s}_block1_0_conv") for s in stages[1:])
        pad = "pad_both" if self.told.channel_padding == "both" else "pad"
        return Spec(
            "bottleneck" if bottleneck else "basic",
            tuple(depths),
            widths,
            stem="deep" if deep else "cifar" if stem[0] == 3 else "conv7",
            avg_down=bool(self.naming.avg_down),
            shortcut="projection" if projection or len(depths) == 1 else pad,
            stride_in_1x1=bottleneck and bool(self.naming.stride_in_1x1),
            dilation=self.told.dilation or "openmmlab",
        )


def recognise(contents: Contents, reading: Reading | None = None) -> Checkpoint:
    """Recognise the source of a file by the names in it.

    Args:
        contents: the file.
        reading: what the user says of it.

    Raises:
        InputError: it is none of those known here, or there are several networks.
    """
    reading = reading or Reading()
    firsts = {kind.first for kind in NAMINGS if issubclass(kind, TorchNaming)}
    contents = one_network(contents, sorted(firsts), reading.prefix)
    refuse_relatives(contents)
    for kind in NAMINGS:
        if (naming := kind.recognise(contents)) is not None:
            naming, told = _told(contents, naming, reading)
            arrays = naming.arrays(contents.arrays)
            filled = tuple(key for key in arrays if key not in contents.arrays)
            checkpoint = Checkpoint(
                contents.path, arrays, naming, contents.published, filled, contents.others, told
            )
            seen = checkpoint.stem()
            if reading.bgr and seen is not None and len(seen) == 4 and seen[2] != 3:
                raise InputError(
                    f"{contents.path} is of a network of images with {seen[2]} channels, so that "
                    "they are neither RGB nor BGR. Received: bgr=True"
                )
            block = "conv2_block1"
            kernels = [checkpoint.kernel(f"{block}_{number}_conv") for number in (1, 2, 3)]
            norm = [naming.key(f"{block}_1_bn", v) for v in ("gamma", "moving_mean")]
            refuse_shapes(contents._replace(arrays=arrays), kernels, norm)
            return checkpoint
    signatures = " or ".join(kind.signature for kind in NAMINGS)
    raise InputError(
        f"{contents.path} has no ResNet's names: none of its tensors is {signatures}. "
        f"Received: {next(iter(contents.arrays), None)!r} ..."
    )


def _told(contents: Contents, naming: Naming, reading: Reading) -> tuple[Naming, Told]:
    """All that is known of a file's network: by itself, by what is beside it, and by the user."""
    told = naming.told(contents).or_else(Told(stride_in_1x1=naming.stride_in_1x1))
    if (row := contents.published) is not None:
        pixels = row.preprocessing
        told = Told(
            mean=pixels.mean, std=pixels.std, bgr=naming.bgr, preprocessing=pixels, whole=True
        ).or_else(told)
    if (spec := told.spec) is not None:
        naming = replace(naming, avg_down=spec.avg_down)
        padding = {"pad": "end", "pad_both": "both"}.get(spec.shortcut)
        told = replace(told, stride_in_1x1=spec.stride_in_1x1, channel_padding=padding)
    told = told.or_else(told_by_facts(contents.facts, contents.path))
    told = reading.added(told, contents.path)
    return replace(naming, stride_in_1x1=told.stride_in_1x1), told


def spec_name(spec: Spec) -> str:
    """The name in `SPECS` of what `spec` is, caffe style or not; else "resnet"."""
    plain = replace(spec, stride_in_1x1=False, dilation="openmmlab")
    return next((name for name, row in SPECS.items() if row == plain), "resnet")
