"""The names of ResNets in Hugging Face's transformers."""

from dataclasses import dataclass
from typing import ClassVar, Self

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.torch_names import VARIABLES, TorchNaming, part


@dataclass(frozen=True)
class Transformers(TorchNaming):
    """`embedder.embedder.convolution`, `encoder.stages.0.layers.0.layer.0.convolution`."""

    title = "transformers"
    signature = "[resnet.]encoder.stages.0.layers.0.layer.0.convolution.weight"
    first: ClassVar[str] = "encoder.stages.0.layers.0.layer.0.convolution.weight"
    roots: ClassVar[str] = r"(embedder|encoder)\."

    @classmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """By the first layer; a repository's `config.json` tells what shapes do not.

        Raises:
            InputError: it tells of another computation than that of a ResNet.
        """
        config = contents.facts.get("config.json") or {}
        stride = config.get("downsample_in_bottleneck", False) if config else None
        naming = cls.found(contents, avg_down=False, stride_in_1x1=stride)
        if naming is None:
            return None
        for field, expected in (("hidden_act", "relu"), ("downsample_in_first_stage", False)):
            if config.get(field, expected) != expected:
                raise InputError(
                    f"{contents.path} is of another network than those here: {field} in "
                    f"config.json must be {expected!r}. Received: {field}={config[field]!r}"
                )
        return naming

    @classmethod
    def default_head(cls, prefix: str) -> str:
        """As that of `TorchNaming`."""
        return f"{prefix.removesuffix('resnet.')}classifier.1"

    def local(self, layer: str, variable: str) -> str:
        """As that of `TorchNaming`."""
        stage, block, number, norm = part(layer)
        kind = "normalization" if norm else "convolution"
        if not block:
            # Of a deep stem, which its ResNets do not have.
            name = f"embedder.embedder{number or ''}"
        else:
            name = f"encoder.stages.{stage - 2}.layers.{block - 1}"
            name += f".layer.{number - 1}" if number else ".shortcut"
        return f"{name}.{kind}.{VARIABLES[variable]}"
