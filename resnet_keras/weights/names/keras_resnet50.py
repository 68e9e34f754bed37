"""The names of Keras' ResNet-50 until 2019: `res2a_branch2a`, as in the original Caffe release."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names import keras_layers
from resnet_keras.weights.names.keras_applications import KerasApplications
from resnet_keras.weights.names.keras_layers import Layers
from resnet_keras.weights.names.told import Told

_THEIRS = re.compile(r"conv1|bn_conv1|conv1_pad|pool1_pad|(res|bn)\d[a-z]_branch(1|2[abc])")
_OURS = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)")
_BRANCHES = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}
_STEM = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}


@dataclass(frozen=True)
class KerasResNet50(KerasApplications):
    """`conv1/kernel`, `bn_conv1/gamma`, `res2a_branch2a/kernel`, `bn2a_branch2a/gamma`, `fc1000`.

    Of keras-applications 1.0.0 to 1.0.7 and TensorFlow 1.4 to 2.0.
    """

    title = "keras.applications until 2019"
    signature = "res2a_branch2a/kernel"
    heads: ClassVar[tuple[str, ...]] = ("fc1000",)

    epsilon: float = 1e-3

    @classmethod
    def parts(cls, layers: Layers) -> keras_layers.Parts:
        """As that of `KerasApplications`; its pool, sums and ReLUs have numbers for names."""
        front, backbone, top = keras_layers.parts(layers, _THEIRS)
        # Behind the last named layer is the last ReLU: of that block, and of no head.
        if top and next(iter(top.values()))["class_name"] == "Add":
            rest = list(top)[:2]
            backbone = {**backbone, **{name: top[name] for name in rest}}
            top = {name: layer for name, layer in top.items() if name not in rest}
        ours, last = {}, ""
        for name, layer in backbone.items():
            kind = layer["class_name"]
            if kind == "MaxPooling2D":
                last = "pool1_pool"
            elif kind == "Add":
                last = f"{last.rsplit('_', 2)[0]}_add"
            elif kind == "Activation":
                end = "out" if last.endswith("_add") else "relu"
                last = f"{last.rpartition('_')[0]}_{end}"
            else:
                last = _our_name(name)
            ours[last] = layer
        return keras_layers.Parts(front, ours, top)

    def told(self, contents: Contents) -> Told:
        """As that of `KerasApplications`."""
        told = super().told(contents)
        if told.layers:
            return told
        pool = "a max pool that is padded, as since keras-applications 1.0.5"
        return replace(told, assumed=(*told.assumed, pool))

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        if (match := _OURS.fullmatch(layer)) is not None:
            stage, block, number, kind = match.groups()
            kind = "res" if kind == "conv" else "bn"
            layer = f"{kind}{stage}{chr(96 + int(block))}_branch{_BRANCHES.get(number)}"
            return f"{layer}/{variable}"
        return super().name(_STEM.get(layer, layer), variable)

    def inside(self, key: str) -> bool:
        """As that of `Naming`."""
        return _THEIRS.fullmatch(key.split("/")[0]) is not None

    @staticmethod
    def partner(layer: str) -> str:
        """As that of `KerasApplications`."""
        for one, other in (("res", "bn"), ("bn_", ""), ("bn", "res"), ("", "bn_")):
            if layer.startswith(one):
                return other + layer.removeprefix(one)
        return layer


def _our_name(layer: str) -> str:
    """Our name of one of its layers."""
    for ours, theirs in _STEM.items():
        if layer == theirs:
            return ours
    match = re.fullmatch(r"(res|bn)(\d)([a-z])_branch(1|2[abc])", layer)
    if match is None:
        return layer
    kind, stage, block, branch = match.groups()
    number = next(n for n, theirs in _BRANCHES.items() if theirs == branch)
    kind = "conv" if kind == "res" else "bn"
    return f"conv{stage}_block{ord(block) - 96}_{number}_{kind}"
