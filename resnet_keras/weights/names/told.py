"""What a file says of its network besides names and shapes; and how ours for PyTorch say it."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from resnet_keras.errors import InputError
from resnet_keras.specs import Spec

# The entry in the metadata of a `.safetensors` file.
_ENTRY = "resnet_keras"

_RECORDED = ("spec", "mean", "std", "normalised", "output_stride", "input_shape", "activation")


@dataclass(frozen=True)
class Told:
    """What a file says of its network; None where it does not.

    Attributes:
        spec: which network it is.
        mean: of the pixels, RGB, 0-255, one number per channel.
        std: standard deviation, likewise.
        normalised: whether the network normalises pixels itself; False where it takes normalised
            images.
        output_stride: as in `ResNet`.
        input_shape: height, width and channels of an image; any of them None.
        activation: of the head, by Keras' name.
        layers: of a Keras file, `class_name` and `config` of each layer of the backbone, by our
            names, in the model's order.
        assumed: what the file leaves open and had to be assumed, in words.
    """

    spec: Spec | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalised: bool | None = None
    output_stride: int | None = None
    input_shape: tuple[int | None, ...] | None = None
    activation: str | None = None
    layers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

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
            return cls(**{name: fields[name] for name in _RECORDED})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{path} has a damaged description of its network, {_ENTRY!r}, in its metadata. "
                f"Received: {metadata[_ENTRY][:100]!r}"
            ) from error


def _tuple(value: Any) -> Any:
    """JSON has lists."""
    return tuple(value) if isinstance(value, list) else value
