"""How an image becomes the pixels that a network sees: one value, and one spelling, everywhere."""

import dataclasses
import math
from typing import Any, Self

from resnet_keras.errors import InputError

# The largest edge that a file may ask for; networks see a tenth of it.
LARGEST = 4096

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop and normalisation of an image for evaluation.

    The same fields are in the JSON beside a model file, inside `.tflite`, `.onnx` and SavedModel,
    in the web page and in the table of published weights.

    Attributes:
        size: height and width of the centre crop, in pixels; one integer stands for both.
        resize: length of the short edge before the crop, in pixels. None: images are scaled to
            just cover `size`, and left as they are where they have that size.
        interpolation: "bilinear" or "bicubic".
        antialias: True resizes as Pillow does, False as OpenCV does.
        mean: of the pixels, 0-255, one number per channel; None: the network's default. Model
            files contain the normalisation, so nobody has to apply it.
        std: standard deviation of the pixels, likewise, above 0.

    Raises:
        InputError: a field out of its range.
    """

    size: tuple[int, int]
    resize: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        """Check the fields."""
        if _is_edge(self.size):
            object.__setattr__(self, "size", (self.size, self.size))
        for name in ("size", "mean", "std"):  # JSON has lists
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        checks = {
            "size": isinstance(self.size, tuple)
            and len(self.size) == 2
            and all(map(_is_edge, self.size)),
            "resize": self.resize is None or _is_edge(self.resize),
            "interpolation": self.interpolation in INTERPOLATIONS,
            "antialias": type(self.antialias) is bool,
            "mean": _are_numbers(self.mean),
            "std": _are_numbers(self.std) and min(self.std or (1,)) > 0,
        }
        for name, right in checks.items():
            if not right:
                raise InputError(
                    f"`{name}` {_RULES[name]}. Received: {name}={str(getattr(self, name))[:100]!r}"
                )

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """What `to_json` gave, from a file that may be anybody's.

        Raises:
            InputError: a field that is missing, unknown or out of its range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - names):
            raise InputError(
                f"preprocessing has the fields {', '.join(sorted(names))}. Received: {unknown[0]!r}"
            )
        if "size" not in fields:
            raise InputError(f"preprocessing needs `size`. Received: {', '.join(fields)}")
        return cls(**fields)


_RULES = {
    "size": f"must be height and width, from 1 to {LARGEST} pixels each",
    "resize": f"must be from 1 to {LARGEST} pixels, or None",
    "interpolation": f"must be one of {', '.join(INTERPOLATIONS)}",
    "antialias": "must be true or false",
    "mean": "must be a number for each channel, or None",
    "std": "must be a number above 0 for each channel, or None",
}


def _is_edge(value: object) -> bool:
    return type(value) is int and 0 < value <= LARGEST


def _are_numbers(value: object) -> bool:
    """None, or a tuple of finite numbers, of which there is at least one."""
    return value is None or (
        isinstance(value, tuple)
        and len(value) > 0
        and all(type(n) in (int, float) and math.isfinite(n) for n in value)
    )
