"""What a task on scenes has to say for itself, so that `training.train` can do the rest."""

import abc
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.vision.recipe import SceneRecipe

if TYPE_CHECKING:
    import keras

    from resnet_keras.vision.scenes import Scene

R = TypeVar("R", bound=SceneRecipe)


class Figure(NamedTuple):
    """What a network makes of a scene, for the report.

    Attributes:
        image: uint8 `(height, width, 3)`.
        caption: below it, as text.
    """

    image: np.ndarray
    caption: str


class Task(abc.ABC, Generic[R]):
    """A task: its network, what it learns of a scene, and how it is measured.

    Attributes:
        TITLE: of the report.
        PACKAGES: that it needs beside those of a training, by the names that they are imported by.
        MEASURES: the numbers of `test`, by name, with what they are called; the first one is what
            the network is judged by. All are shares of 1.
        recipe: what to do.
    """

    TITLE: ClassVar[str]
    PACKAGES: ClassVar[tuple[str, ...]] = ()
    MEASURES: ClassVar[dict[str, str]]

    def __init__(self, recipe: R):
        self.recipe = recipe

    @abc.abstractmethod
    def build(self, *, training: bool, weights: str | None = None) -> "keras.Model":
        """Build the network; its layers are always in the same order.

        Args:
            training: with the layers that train fast, and frozen as the recipe says; else of stock
                layers, for the file.
            weights: of the backbone, which a new training begins with. None: random ones.

        Returns:
            A model that is not compiled, from pixels 0-255, `(batch, size, size, 3)`.
        """

    @abc.abstractmethod
    def compile(self, model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> None:
        """Compile what `build` gave, with `auto_scale_loss=False`: our optimizers scale losses."""

    @abc.abstractmethod
    def example(self, scene: "Scene") -> tuple[np.ndarray, Any]:
        """Make of a scene what `fit` takes: the image, and the targets; see `scene_batches`."""

    @abc.abstractmethod
    def test(
        self, model: "keras.Model", scenes: Sequence["Scene"]
    ) -> tuple[dict[str, float], list[Figure]]:
        """Measure a network.

        Args:
            model: as it was read from its file.
            scenes: that it has not seen.

        Returns:
            The numbers of `MEASURES` and any others, and figures of some predictions.
        """

    def require_packages(self) -> None:
        """Refuse to begin without a package.

        Raises:
            InputError: it is not installed.
        """
        for name in self.PACKAGES:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                raise InputError(
                    f"this needs the package {name}: pip install 'resnet-keras[vision]'. "
                    f"Received: {error}"
                ) from error
