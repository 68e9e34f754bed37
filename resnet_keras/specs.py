"""What a ResNet is: a frozen `Spec`, and one row of `SPECS` for each published network."""

from dataclasses import dataclass

EXPANSION = {"basic": 1, "bottleneck": 4}
STEMS = ("conv7", "deep", "cifar")
SHORTCUTS = ("projection", "pad", "pad_both")
DILATIONS = ("openmmlab", "torchvision")


@dataclass(frozen=True)
class Spec:
    """What distinguishes one ResNet from another; everything else is derived from it.

    Attributes:
        block: "basic" (two 3x3 convolutions; He et al. 2015, figure 5 left) or "bottleneck"
            (1x1, 3x3, 1x1 with four times the width at the end; figure 5 right).
        depths: number of blocks in each stage.
        widths: channels of the 3x3 convolutions in each stage; the stem ends with `widths[0]`.
        stem: "conv7" (7x7 stride 2, max pool stride 2), "deep" (three 3x3, max pool; He et al.
            2018, "Bag of Tricks", ResNet-C) or "cifar" (one 3x3, stride 1, no pool).
        avg_down: the shortcut of a strided block is a 2x2 average pool before a 1x1 convolution
            of stride 1 ("Bag of Tricks", ResNet-D).
        shortcut: where shapes change, "projection" (1x1 convolution; He et al. 2015, option B) or
            "pad" (every second pixel, new channels zero, no parameters; option A). "pad_both" puts
            half of the new channels in front of the others, as much PyTorch code does.
        stride_in_1x1: a bottleneck strides in its first 1x1 convolution, as the original Caffe
            release did, rather than in the 3x3.
        dilation: where strides become dilation (`output_stride` of `ResNet`), "openmmlab" dilates
            all blocks of a stage alike, in their first 3x3; "torchvision" dilates the first block
            of a stage as the stage before, and both 3x3 of a basic block, as timm does.

    Raises:
        ValueError: a field is out of its range.
    """

    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "conv7"
    avg_down: bool = False
    shortcut: str = "projection"
    stride_in_1x1: bool = False
    dilation: str = "openmmlab"

    def __post_init__(self):
        """Check the fields."""
        words = {"block": EXPANSION, "stem": STEMS, "shortcut": SHORTCUTS, "dilation": DILATIONS}
        for field, allowed in words.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"`{field}` must be one of {', '.join(allowed)}. "
                    f"Received: {field}={getattr(self, field)!r}"
                )
        for field in ("depths", "widths"):
            numbers = getattr(self, field)
            if not numbers or any(not isinstance(n, int) or n < 1 for n in numbers):
                raise ValueError(
                    f"`{field}` must be positive integers, one per stage. "
                    f"Received: {field}={numbers}"
                )
        if len(self.depths) != len(self.widths):
            raise ValueError(
                "`depths` and `widths` must both have one number per stage. "
                f"Received: depths={self.depths}, widths={self.widths}"
            )

    @property
    def expansion(self) -> int:
        """Channels at the end of a block over those of its 3x3 convolution."""
        return EXPANSION[self.block]


# The depth in a name counts weighted layers (He et al. 2015, table 1).
_DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def _paper_cifar(blocks: int) -> Spec:
    """He et al. 2015, section 4.2: 6n + 2 layers for 32x32 images, with n = `blocks` per stage."""
    return Spec("basic", (blocks,) * 3, (16, 32, 64), stem="cifar", shortcut="pad")


SPECS: dict[str, Spec] = {
    # He et al. 2015, table 1.
    **{f"resnet{n}": Spec(*row) for n, row in _DEPTHS.items()},
    # He et al. 2018 ("Bag of Tricks for Image Classification"), ResNet-C and ResNet-D.
    **{f"resnetv1c{n}": Spec(*_DEPTHS[n], stem="deep") for n in (50, 101, 152)},
    **{f"resnetv1d{n}": Spec(*_DEPTHS[n], stem="deep", avg_down=True) for n in (50, 101, 152)},
    # timm's resnet18d and resnet34d, KerasHub's resnet_vd_200: weights are published, tables not.
    **{f"resnetv1d{n}": Spec(*_DEPTHS[n], stem="deep", avg_down=True) for n in (18, 34)},
    "resnetv1d200": Spec("bottleneck", (3, 24, 36, 3), stem="deep", avg_down=True),
    # OpenMMLab's ResNet_CIFAR: the ImageNet stages behind a 3x3 stem.
    **{f"resnet{n}_cifar": Spec(*row, stem="cifar") for n, row in _DEPTHS.items()},
    # He et al. 2015, section 4.2, table 6.
    **{f"resnet{6 * n + 2}_cifar": _paper_cifar(n) for n in (3, 5, 7, 9, 18, 200)},
}
