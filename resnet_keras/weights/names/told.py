"""What a file says of its network besides names and shapes; and how ours for PyTorch say it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.specs import Spec

# The entry in the metadata of a `.safetensors` file.
_ENTRY = "resnet_keras"

# Where the shortcuts of He et al.'s option A put new channels.
CHANNEL_PADDINGS = ("end", "both")

_RECORDED = ("spec", "mean", "std", "normalised", "output_stride", "input_shape", "activation")


@dataclass(frozen=True)
class Told:
    """What a file says of its network; None where it does not.

    Attributes:
        spec: which network it is.
        mean: of the pixels, RGB, 0-255, one number per channel.
        std: standard deviation, likewise.
        bgr: whether its network takes BGR images; a model of ours takes RGB.
        normalised: whether the network normalises pixels itself; False where it takes normalised
            images.
        stride_in_1x1: as in `Spec`.
        dilation: as in `Spec`.
        channel_padding: "end" or "both", by the shortcut of `Spec`: "pad" or "pad_both".
        output_stride: as in `ResNet`.
        input_shape: height, width and channels of an image; any of them None.
        activation: of the head, by Keras' name.
        layers: of a Keras file, `class_name` and `config` of each layer of the backbone, by our
            names, in the model's order.
        preprocessing: how its authors prepare images for evaluation.
        labels: names of the classes.
        keypoints: names of the key points, in the order of the heatmaps.
        whole: whether the file describes all that its network computes.
        assumed: what it leaves open that no option settles, in words.
    """

    spec: Spec | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None
    normalised: bool | None = None
    stride_in_1x1: bool | None = None
    dilation: str | None = None
    channel_padding: str | None = None
    output_stride: int | None = None
    input_shape: tuple[int | None, ...] | None = None
    activation: str | None = None
    layers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    whole: bool = False
    assumed: tuple[str, ...] = ()

    def or_else(self, other: Self) -> Self:
        """What this says, and what `other` says where this says nothing."""
        nothing = type(self)()
        names = [f.name for f in dataclasses.fields(self)]
        mine = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(nothing, n)}
        return dataclasses.replace(other, **mine)

    def to_metadata(self) -> dict[str, str]:
        """Return an entry for the metadata of a `.safetensors` file."""
        fields = {name: getattr(self, name) for name in _RECORDED}
        fields["spec"] = self.spec and dataclasses.asdict(self.spec)
        return {_ENTRY: json.dumps(fields)}

    @classmethod
    def from_metadata(cls, path: str, metadata: Mapping[str, str]) -> Self:
        """What `to_metadata` gave, from a file that may be anybody's.

        Raises:
            InputError: it is damaged.
        """
        if _ENTRY not in metadata:
            return cls()
        try:
            fields = {k: _tuple(v) for k, v in json.loads(metadata[_ENTRY]).items()}
            if fields["spec"] is not None:
                spec = {k: _tuple(v) for k, v in fields["spec"].items()}
                fields["spec"] = Spec(**spec)
            known = {name: fields[name] for name in _RECORDED}
            whole = fields["spec"] is not None
            return cls(**known, bgr=False if whole else None, whole=whole)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} has a damaged description of its network, {_ENTRY!r}, in its metadata. "
                f"Received: {metadata[_ENTRY][:100]!r}"
            ) from error


def _tuple(value: Any) -> Any:
    """JSON has lists."""
    return tuple(value) if isinstance(value, list) else value
