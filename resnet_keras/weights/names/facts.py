"""What a file's or a repository's descriptions say: how images are prepared, which network."""

import math
import re
from collections.abc import Mapping
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights.names.config_text import told_by_config
from resnet_keras.weights.names.told import Told

# Pillow's numbers, which transformers writes.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}

# timm's and transformers' defaults where a file does not tell.
_CROP = 0.875


# timm's names of the networks that are those of `SPECS`; others have their names and shapes, too:
# resnetaa50 and resnetblur50 (anti-aliased), resnet50_gn, resnetrs50.
_PLAIN = re.compile(r"((tv|gluon|ssl|swsl|ig)_)?resnet\d+(_v1)?[bcd]?(\..+)?")


def told_by_facts(facts: Mapping[str, Any], path: str) -> Told:
    """Read what is said of a network besides names, shapes and layers.

    Args:
        facts: as of `Contents`.
        path: of the file, for messages.

    Raises:
        InputError: it is of another network than those here, or its preprocessing is not known.
    """
    meta, config = facts.get("meta"), facts.get("config.json")
    told = told_by_config(meta, path) if isinstance(meta, Mapping) else Told()
    if not isinstance(config, Mapping):
        config = {}
    network = config.get("architecture")
    if isinstance(network, str) and not _PLAIN.fullmatch(network):
        raise InputError(
            f"{path} is of timm's {network}, which is not among the networks here, though its "
            f"tensors may have their names: see resnet_keras.SPECS. "
            f"Received: architecture={network!r} in config.json"
        )
    if (preprocessing := preprocessing_of(facts, path)) is not None:
        told = told.or_else(
            Told(
                mean=preprocessing.mean,
                std=preprocessing.std,
                bgr=False,
                preprocessing=preprocessing,
            )
        )
    described = isinstance(network, str) or config.get("model_type") == "resnet"
    return told.or_else(Told(labels=_labels(config), whole=described))


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes: transformers' `id2label`."""
    names = config.get("id2label")
    if not isinstance(names, Mapping):
        return ()
    labels = [names.get(str(number)) for number in range(len(names))]
    known = tuple(name for name in labels if isinstance(name, str))
    return known if len(known) == len(labels) else ()


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
        (_timm, _entry(facts.get("config.json"), "pretrained_cfg")),
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
    config = _entry(preprocessor, "config") or preprocessor
    return _entry(_entry(config, "image_converter"), "config")


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


def _entry(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _pixels(fractions: Any) -> tuple[float, ...]:
    """Numbers of 0-1 as of 0-255; those of the published networks are written as we write them."""
    return tuple(round(255 * number, 6) for number in fractions)


def _three(number: Any) -> tuple[float, ...]:
    return tuple(number) if isinstance(number, list | tuple) else (number,) * 3
