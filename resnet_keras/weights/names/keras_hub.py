"""KerasHub's names, of its presets and of models that people saved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names import keras_layers
from resnet_keras.weights.names.naming import Naming
from resnet_keras.weights.names.told import Told

_OURS = re.compile(r"conv(\d+)(?:_block(\d+))?(?:_(\d))?_(conv|bn)")
_THEIRS = re.compile(r"(conv\d|stack\d+_block\d+_\d)_(conv|bn)/.*")


@dataclass(frozen=True)
class KerasHub(Naming):
    """`conv1_conv`, `stack0_block0_1_conv`, `stack0_block0_1_bn`, `predictions`.

    Attributes:
        deep: whether the stem has three convolutions, `conv1_conv`, `conv2_conv`, `conv3_conv`.
    """

    title = "KerasHub"
    signature = "stack0_block0_1_conv/kernel"
    antialias = False
    margin = False
    whole = True

    deep: bool = False

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first block's first kernel; `config.json` tells whether it is a ResNet-D.

        Raises:
            InputError: it is a network of KerasHub that is none of ours.
        """
        if cls.signature not in contents.arrays:
            return None
        keras_layers.refuse_relatives(contents)
        found = keras_layers.head(contents, _parts(contents).top, ["predictions"])
        deep = "conv2_conv/kernel" in contents.arrays
        names = cls(found.head, stride_in_1x1=False, problem=found.problem, deep=deep)
        task = _config(contents, "ResNetImageClassifier") or {}
        if task.get("pooling", "avg") != "avg":
            names = replace(names, problem=f"pooling={task['pooling']!r}")
        config = _config(contents, "ResNetBackbone")
        if config is None:
            return names
        stages = len(config["stackwise_num_strides"])
        wanted = {"use_pre_activation": False, "stackwise_num_strides": [1, 2, 2, 2][:stages]}
        for field, value in wanted.items():
            if config[field] != value:
                raise InputError(
                    f"{contents.path} is a network of KerasHub that is none of ours, which have "
                    f"{field}={value}. Received: {field}={config[field]}"
                )
        return replace(names, avg_down=config["block_type"].endswith("_vd"))

    def key(self, layer: str, variable: str) -> str | None:
        """As that of `Naming`; only one of `conv1_conv` and `conv1_1_conv` is `conv1_conv` here."""
        other = r"conv1_(conv|bn)" if self.deep else r"conv1_\d_(conv|bn)"
        return None if re.fullmatch(other, layer) else super().key(layer, variable)

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        match = _OURS.fullmatch(layer)
        if match is None:
            return f"{self.head}/{variable}"
        stage, block, number, kind = match.groups()
        if block is None:
            return f"conv{number or 1}_{kind}/{variable}"
        return f"stack{int(stage) - 2}_block{int(block) - 1}_{number}_{kind}/{variable}"

    def inside(self, key: str) -> bool:
        """As that of `Naming`."""
        return _THEIRS.fullmatch(key) is not None

    def told(self, contents: Contents) -> Told:
        """As that of `Naming`: `preprocessor.json` has the statistics."""
        front, _, top = _parts(contents)
        task = _config(contents, "ResNetImageClassifier")
        activation = (task.get("activation") or "linear") if task else None
        told = Told(
            activation=keras_layers.top(top).activation or activation,
            input_shape=keras_layers.input_shape(contents.layers),
        )
        if (pixels := keras_layers.pixels(contents.path, front)) is not None:
            if pixels.bgr:
                raise InputError(
                    f"{contents.path} gives BGR to a network of KerasHub, which wants RGB. "
                    f"Received: {', '.join(front)}"
                )
            return replace(told, mean=pixels.mean, std=pixels.std, bgr=False, normalised=True)
        converter = _config(contents, "ResNetImageConverter")
        if converter is None:
            return told
        size = converter.get("image_size")
        pixels = keras_layers.rescaled(converter["scale"] or 1.0, converter["offset"] or 0.0)
        return replace(
            told,
            mean=pixels.mean,
            std=pixels.std,
            bgr=False,
            input_shape=(*size, 3) if size else None,
        )


def _parts(contents: Contents) -> keras_layers.Parts:
    """The layers of a model around a backbone of KerasHub, which lists none of its own."""
    names = [n for n, layer in contents.layers.items() if layer["class_name"] == "ResNetBackbone"]
    return keras_layers.parts(contents.layers, re.compile("|".join(map(re.escape, names)) or "$^"))


def _config(contents: Contents, kind: str) -> Mapping[str, Any] | None:
    """The configuration of an object of a class, wherever it is in the file's or the folder's."""
    waiting = list(contents.facts.values())
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if value.get("class_name") == kind:
                return value["config"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return None
