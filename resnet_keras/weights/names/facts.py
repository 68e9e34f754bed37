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


# Arguments of timm's networks that change nothing of what one computes on images of its size.
_NEUTRAL = {"num_classes", "in_chans", "pretrained", "zero_init_last", "img_size"}
_NEUTRAL |= {"drop_rate", "drop_path_rate", "drop_block_rate"}

# timm's names of the networks that are those of `SPECS`; others have their names and shapes, too:
# resnetaa50 and resnetblur50 (anti-aliased), resnet50_gn, resnetrs50.
_PLAIN = re.compile(r"((tv|gluon|ssl|swsl|ig)_)?resnet\d+(_v1)?[bcd]?(\..+)?")


# Of networks with the names and shapes of those here, in the `arch` of training scripts, where
# people also write names of their own.
_OTHERS = re.compile(r"resnet(aa|blur|rs)\d|resnet\d+_gn")


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
    if isinstance(arch := facts.get("arch"), str) and _OTHERS.match(arch):
        raise InputError(
            f"{path} is of timm's {arch}, which is not among the networks here, though its tensors "
            f"may have their names: see resnet_keras.SPECS. Received: arch={arch!r} in it"
        )
    network = config.get("architecture")
    if isinstance(network, str) and not _PLAIN.fullmatch(network):
        raise InputError(
            f"{path} is of timm's {network}, which is not among the networks here, though its "
            f"tensors may have their names: see resnet_keras.SPECS. "
            f"Received: architecture={network!r} in config.json"
        )
    told = told.or_else(_told_by_arguments(config, path))
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


def _told_by_arguments(config: Mapping[str, Any], path: str) -> Told:
    """Read the arguments that timm's `save_for_hf` writes beside the name of a network.

    Raises:
        InputError: with them it computes something else than the networks here.
    """
    given = _entry(config, "model_args")
    arguments = dict(given) if isinstance(given, Mapping) else {}
    if "architecture" in config and isinstance(config.get("global_pool"), str):
        arguments.setdefault("global_pool", config["global_pool"])
    stride = arguments.get("output_stride", 32)
    # An empty pool: the features of a network without its head.
    usual = {"output_stride": (8, 16, 32), "global_pool": ("avg", "", None)}
    for name, value in arguments.items():
        if name not in _NEUTRAL and value not in usual.get(name, ()):
            raise InputError(
                f"{path} is of a network that is not among those here: timm's with {name}={value!r}"
                f". Received: {name!r} in config.json"
            )
    # A strided network's weights are often dilated, but not the other way.
    return Told() if stride == 32 else Told(output_stride=stride, dilation="torchvision")


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
                    f"{source} describes a preprocessing that is not known here: copy its weights "
                    "alone to another folder, and convert them with --mean and --std. "
                    f"Received: {type(error).__name__} {error}"
                ) from error
    return None


def _timm(config: Mapping[str, Any]) -> Preprocessing | None:
    """Read timm's `pretrained_cfg`: the short edge becomes floor(size / crop_pct).

    Of images with other than three channels it still has the numbers for three: None.
    """
    channels, height, width = config["input_size"]
    if (mode := config.get("crop_mode") or "center") != "center":
        raise ValueError(f"crop_mode={mode}")
    if channels != 3:
        return None
    return Preprocessing(
        (height, width),
        math.floor(min(height, width) / config.get("crop_pct", _CROP)),
        config["interpolation"],
        True,
        _pixels(config["mean"]),
        _pixels(config["std"]),
    )


def _transformers(config: Mapping[str, Any]) -> Preprocessing:
    """Read an image processor: its sizes, and pixels `(factor * pixel - mean) / std`."""
    size, resize = _transformers_size(config)
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean, std = config["image_mean"], config["image_std"]
    return Preprocessing(
        size,
        resize,
        _RESAMPLE[config.get("resample", 3)],
        True,
        _pixels(mean, 1 / factor),
        _pixels(std, 1 / factor),
    )


def _transformers_size(config: Mapping[str, Any]) -> tuple[tuple[int, int], int | None]:
    """The size of an image for the network, and of its short edge before the crop."""
    size = config["size"]
    if not config.get("do_resize", True):
        raise ValueError("do_resize=False")
    crop = config.get("crop_size")
    if crop is not None and config.get("do_center_crop", True):  # as `BitImageProcessor` does
        edges = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
        return edges, size["shortest_edge"] if isinstance(size, Mapping) else size
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "ConvNext"
    if isinstance(size, Mapping) and "height" in size and not kind.startswith("ConvNext"):
        return (size["height"], size["width"]), None  # as `ViTImageProcessor`
    # As `ConvNextImageProcessor`: below 384 pixels, int(size / crop_pct) and a centre crop.
    edge = size.get("shortest_edge") or size["height"] if isinstance(size, Mapping) else size
    return (edge, edge), int(edge / config.get("crop_pct", _CROP)) if edge < 384 else edge


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


def _pixels(fractions: Any, whole: float = 255) -> tuple[float, ...]:
    """Numbers of 0-1 as of 0-255; those of the published networks are written as we write them."""
    return tuple(round(whole * number, 6) for number in fractions)


def _three(number: Any) -> tuple[float, ...]:
    return tuple(number) if isinstance(number, list | tuple) else (number,) * 3
