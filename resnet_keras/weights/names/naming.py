"""What every source of checkpoints has in common: how its names lead to the parts of a ResNet."""

import abc
import re
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from resnet_keras.models import is_of_heatmaps
from resnet_keras.weights.formats import Contents
from resnet_keras.weights.names.told import Told

_LAYER = re.compile(r"conv\d+(?:_block\d+)?(?:_\d)?_(conv|bn)|predictions")
_VARIABLES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class Naming(abc.ABC):
    """The names that one source of checkpoints gives the variables of a ResNet.

    A source is a subclass in a file of its own, and its name in the list of `names/__init__.py`.
    It says how its files are recognised and what their names are; where its arrays are not as
    Keras has them, `shape` and `value`, too. The rest has defaults.

    Attributes:
        title: of the source, as reports say it.
        signature: the tensor that tells its files from others, as messages say it.
        antialias: whether its authors resized images as Pillow does.
        margin: whether they cropped the centre of larger images.
        mean: of the pixels, RGB, 0-255, if all its networks want the same; else None.
        std: standard deviation, likewise.
        bgr: whether its networks take BGR images, where nothing tells the opposite.
        whole: whether its names alone, with the shapes, tell all that its networks compute.
        head: the file's name of the last layer.
        prefix: what the file puts in front of all other layers' names.
        avg_down: as in `Spec`; None where the file does not tell.
        stride_in_1x1: as in `Spec`; None where the file does not tell.
        problem: what the file has for a head, where that is not one linear layer; else "".
        projects: whether the file's head is no classifier, as that of a network that was trained
            without labels.
        heatmaps: the file's name of a head that draws heatmaps of key points, which
            `add_heatmap_head` has, too; "" if there is none.
    """

    title: ClassVar[str]
    signature: ClassVar[str]
    antialias: ClassVar[bool] = True
    margin: ClassVar[bool] = True
    mean: ClassVar[tuple[float, ...] | None] = None
    std: ClassVar[tuple[float, ...] | None] = None
    bgr: ClassVar[bool] = False
    whole: ClassVar[bool] = False

    head: str
    prefix: str = ""
    avg_down: bool | None = None
    stride_in_1x1: bool | None = None
    problem: str = ""
    projects: bool = False
    heatmaps: str = ""

    @classmethod
    @abc.abstractmethod
    def recognise(cls, contents: Contents) -> Self | None:
        """The names in a file, if they are of this source; None if they are not.

        Raises:
            InputError: they are, more than once.
        """

    @abc.abstractmethod
    def name(self, layer: str, variable: str) -> str:
        """The file's name of a variable of ours: `conv3_block4_2_bn`, `gamma`."""

    def key(self, layer: str, variable: str) -> str | None:
        """As `name`; None for what is not a part of a ResNet, or of a head that the file has."""
        known = is_of_a_resnet(layer, variable) or (self.heatmaps and is_of_heatmaps(layer))
        return self.name(layer, variable) if known else None

    def inside(self, key: str) -> bool:
        """Whether a name of the file is one of the backbone's: no model may do without it."""
        return key.startswith(self.prefix)

    def beside(self, key: str) -> bool:
        """Whether what a file has beside a backbone and a head changes nothing in either."""
        return False

    def told(self, contents: Contents) -> Told:
        """What the file says of its network besides names and shapes.

        Raises:
            InputError: its network is none of ours, or the file is damaged.
        """
        return Told.from_metadata(contents.path, contents.facts.get("metadata", {}))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a variable that has the shape `ours` in the model."""
        return ours

    def value(self, array: np.ndarray) -> np.ndarray:
        """An array of the file in the model's layout: HWIO, (in, out); a view."""
        return array

    def arrays(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The file's arrays, changed where a network of ours computes the same with others."""
        return arrays


def is_of_a_resnet(layer: str, variable: str) -> bool:
    """Whether a variable of ours, `conv3_block4_2_bn` and `gamma`, is one of a ResNet."""
    return variable in _VARIABLES and _LAYER.fullmatch(layer) is not None
