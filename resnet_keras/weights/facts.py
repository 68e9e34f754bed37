"""What a repository's JSON files say about its weights: how images are prepared, which network."""

import math
from collections.abc import Mapping
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing

# Pillow's numbers, which transformers writes.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}

# timm's and transformers' defaults where a file does not tell.
_CROP = 0.875


def preprocessing_of(facts: Mapping[str, Any], source: str) -> Preprocessing | None:
    """Read how the authors prepare images.

    Args:
        facts: as of `Contents`: "config.json" with timm's `pretrained_cfg`,
            "preprocessor_config.json" of transformers, "preprocessor.json" of KerasHub.
        source: what they are of, for messages.

    Returns:
        The preprocessing for the size that the weights were trained with; None where nothing says.

    Raises:
        InputError: it asks for something that is not built here.
    """
    readers = (
        (_timm, facts.get("config.json", {}).get("pretrained_cfg")),
        (_transformers, facts.get("preprocessor_config.json")),
        (_keras_hub, _converter(facts.get("preprocessor.json"))),
    )
    for reader, found in readers:
        if isinstance(found, Mapping):
            try:
                return reader(found)
            except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
                raise InputError(
                    f"{source} describes a preprocessing that is not known here: convert its file "
                    f"with --mean and --std. Received: {type(error).__name__} {error}"
                ) from error
    return None


def _timm(config: Mapping[str, Any]) -> Preprocessing:
    """Read timm's `pretrained_cfg`: the short edge becomes floor(size / crop_pct)."""
    channels, height, width = config["input_size"]
    if channels != 3 or config.get("crop_mode", "center") != "center":
        raise ValueError(f"crop_mode={config.get('crop_mode')}, input_size={config['input_size']}")
    return Preprocessing(
        (height, width),
        math.floor(min(height, width) / config.get("crop_pct", _CROP)),
        config["interpolation"],
        True,
        _pixels(config["mean"]),
        _pixels(config["std"]),
    )


def _transformers(config: Mapping[str, Any]) -> Preprocessing:
    """Read a `ConvNextImageProcessor`: below 384 pixels, int(size / crop_pct) and a centre crop."""
    size = config["size"]
    edge = size.get("shortest_edge") or size["height"] if isinstance(size, Mapping) else size
    resize = int(edge / config.get("crop_pct", _CROP)) if edge < 384 else edge
    return Preprocessing(
        (edge, edge),
        resize,
        _RESAMPLE[config.get("resample", 3)],
        True,
        _pixels(config["image_mean"]),
        _pixels(config["image_std"]),
    )


def _converter(preprocessor: Any) -> Any:
    """The configuration of the image converter in KerasHub's file."""
    if not isinstance(preprocessor, Mapping):
        return None
    config = preprocessor.get("config", preprocessor)
    return (config.get("image_converter") or {}).get("config")


def _keras_hub(config: Mapping[str, Any]) -> Preprocessing:
    """Read KerasHub's `pixels * scale + offset`, after a resize to the image's size."""
    height, width = config["image_size"]
    scale, offset = (_three(config[name]) for name in ("scale", "offset"))
    return Preprocessing(
        (height, width),
        None,
        config.get("interpolation", "bilinear"),
        bool(config.get("antialias", False)),
        tuple(-o / s for s, o in zip(scale, offset, strict=True)),
        tuple(1 / s for s in scale),
    )


def _pixels(fractions: Any) -> tuple[float, ...]:
    """Numbers of 0-1 as of 0-255; those of the published networks are written as we write them."""
    return tuple(round(255 * number, 6) for number in fractions)


def _three(number: Any) -> tuple[float, ...]:
    return tuple(number) if isinstance(number, list | tuple) else (number,) * 3
