"""The names of Caffe2's ResNets, as MSRA's for Detectron and detectron2."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from resnet_keras.models import BN_EPSILON
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import TorchNaming, part

_VARIABLES = {
    "kernel": "w",
    "bias": "b",
    "gamma": "s",
    "beta": "b",
    "moving_mean": "rm",
    "moving_variance": "riv",
}


@dataclass(frozen=True)
class Caffe2(TorchNaming):
    """`conv1_w`, `res_conv1_bn_s`, `res2_0_branch2a_w`, `res2_0_branch1_bn_b`, `fc1000_w`."""

    title = "Caffe2"
    signature = "res2_0_branch2a_w"
    first: ClassVar[str] = signature
    roots: ClassVar[str] = r"conv1_[wb]$|res_conv1_bn_|res\d+_\d+_branch"
    # Detectron subtracts this mean, of BGR pixels, and divides by nothing.
    mean = (122.7717, 115.9465, 102.9801)
    std = (1.0, 1.0, 1.0)
    bgr = True

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first block; bottlenecks stride in their first convolution."""
        if cls.first not in contents.arrays:
            return None
        head = "pred" if "pred_w" in contents.arrays else "fc1000"
        return cls(head, avg_down=False, stride_in_1x1=True)

    def name(self, layer: str, variable: str) -> str:
        """As that of `Naming`."""
        if layer == "predictions":
            return f"{self.head}_{_VARIABLES[variable]}"
        return self.local(layer, variable)

    def local(self, layer: str, variable: str) -> str:
        """As that of `TorchNaming`."""
        stage, block, number, norm = part(layer)
        if block:
            branch = f"2{' abc'[number]}" if number else "1"
            name = f"res{stage}_{block - 1}_branch{branch}"
        else:
            # Its networks have no deep stem.
            name = f"{'res_' if norm else ''}conv1{number or ''}"
        return f"{name}{'_bn' if norm else ''}_{_VARIABLES[variable]}"

    def beside(self, key: str) -> bool:
        """As that of `Naming`: all else is a detector's, or the optimizer's."""
        return not self.inside(key) or key.endswith(("_momentum", "_b"))

    def arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Give every batch norm statistics: some files have scales and offsets alone.

        Those stand for a mean of 0 and a variance of 1. The bias of a convolution belongs to the
        mean: (conv + b - mean) = conv - (mean - b).
        """
        changed = dict(arrays)
        for key, scale in arrays.items():
            if not key.endswith("_bn_s") or not self.inside(key):
                continue
            norm = key.removesuffix("s")
            mean, variance = f"{norm}rm", f"{norm}riv"
            if mean not in arrays:
                changed[mean] = np.zeros(scale.shape, np.float32)
                changed[variance] = np.full(scale.shape, 1 - BN_EPSILON, np.float32)
            bias = arrays.get(norm.replace("res_conv1", "conv1").replace("_bn_", "_b"))
            if bias is not None:
                changed[mean] = changed[mean] - bias
        return changed
