"""What a user says of a checkpoint whose file leaves it open."""

from dataclasses import dataclass

from resnet_keras.errors import InputError
from resnet_keras.specs import DILATIONS
from resnet_keras.weights.names.told import CHANNEL_PADDINGS, Told


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file is to be read; by default as its names, or most files like it, say.

    Attributes:
        key: the entry of a training checkpoint that holds the weights, as `model_ema`; by default
            the only one, or the first of a common name.
        prefix: how the names of the network begin, `module.encoder_k`, where a file holds several.
        bgr: the network was trained on BGR images; the model takes RGB, and `mean` and `std` are
            RGB, all the same.
        rgb: it was trained on RGB images, as most were, but not those of keras.applications.
        stride_in_1x1: as in `Spec`: the network is in the caffe style.
        dilation: as in `Spec`: the network is dilated, in this way. No PyTorch file shows it.
        output_stride: as in `ResNet`; by default 32, or 8 where `dilation` is given.
        channel_padding: "end" or "both": where the shortcuts of He et al.'s option A put the new
            channels, behind the others or on both sides.

    Raises:
        InputError: (a ValueError) a field out of its range, or `bgr` with `rgb`.
    """

    key: str | None = None
    prefix: str | None = None
    bgr: bool = False
    rgb: bool = False
    stride_in_1x1: bool = False
    dilation: str | None = None
    output_stride: int | None = None
    channel_padding: str | None = None

    def __post_init__(self):
        """Check the fields."""
        for name, allowed in (
            ("dilation", DILATIONS),
            ("output_stride", (8, 16, 32)),
            ("channel_padding", CHANNEL_PADDINGS),
        ):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                listed = ", ".join(map(str, allowed))
                raise InputError(f"`{name}` must be one of {listed}. Received: {name}={value!r}")
        if self.bgr and self.rgb:
            raise InputError("the images are `bgr` or `rgb`. Received: both")

    def added(self, told: Told, path: str) -> Told:
        """What is known of a file's network: what the file tells, and what the user says.

        Args:
            told: by the file.
            path: of the file, for messages.

        Raises:
            InputError: the file tells something else.
        """
        said = Told(
            bgr=True if self.bgr else False if self.rgb else None,
            stride_in_1x1=self.stride_in_1x1 or None,
            dilation=self.dilation,
            output_stride=self.output_stride or (8 if self.dilation else None),
            channel_padding=self.channel_padding,
        )
        for name in ("bgr", "stride_in_1x1", "dilation", "output_stride", "channel_padding"):
            theirs, ours = getattr(told, name), getattr(said, name)
            if None not in (theirs, ours) and theirs != ours:
                raise InputError(
                    f"{path} shows that its network has {name}={theirs!r}. "
                    f"Received: {name}={ours!r}"
                )
        return said.or_else(told)
