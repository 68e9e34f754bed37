"""What a training works with, opened once and handed down."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.files import sha256
from resnet_keras.recipe import Recipe
from resnet_keras.training.replicas import Replicas

if TYPE_CHECKING:
    from resnet_keras.data import Split


@dataclasses.dataclass(frozen=True)
class Job:
    """A training in its run folder, on its machine, with its data.

    Attributes:
        recipe: what to do.
        folder: of the run.
        replicas: on which it trains, and which of them belong to this process.
        policy: the dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".
        train: images to train on.
        validation: images to validate on after each epoch; the test images where there are none.
        test: images to evaluate on at the end.
        files: what `run_folder.files` said of one's own images before they were opened.
        spent: seconds that computing features took, in this process.
        earlier: the training of this run that this one continues with other columns; None: there is
            none.
    """

    recipe: Recipe
    folder: Path
    replicas: Replicas
    policy: str
    train: "Split"
    validation: "Split"
    test: "Split"
    files: dict[str, Any] | None
    spent: float = 0.0
    earlier: "Job | None" = None

    @property
    def backups(self) -> Path:
        """The folder of its backups."""
        return self.folder / "backup" / ("then" if self.earlier else "")

    @property
    def epochs_before(self) -> int:
        """Epochs of the training before this one."""
        if self.earlier is None:
            return 0
        return math.ceil(self.earlier.total_steps / self.earlier.steps_per_epoch)

    @property
    def tested_on(self) -> str:
        """The split of the test images, by its name: "test", "val", or what is held out."""
        return self.test.name or self.recipe.splits.test

    @property
    def validated_on(self) -> str:
        """The split of the validation images, likewise."""
        return self.validation.name or self.recipe.splits.validation or self.tested_on

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the training images."""
        return self.recipe.steps_per_epoch(self.train.examples)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.recipe.total_steps(self.train.examples)

    def then(self) -> "Job | None":
        """Return the training of the whole network that follows; None where there is none."""
        if not self.recipe.then_epochs:
            return None
        recipe = self.recipe.then(self.train.examples)
        return dataclasses.replace(self, recipe=recipe, spent=0.0, earlier=self)

    @property
    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with the run that it resumes, beside the recipe."""
        import keras

        shared: dict[str, Any] = {
            "backend": keras.backend.backend(),
            "precision": self.policy,
            "replicas": self.replicas.count,
            "images": self.train.identity,
        }
        if self.recipe.chooses_epoch:
            shared["validation"] = self.validation.identity
        if self.recipe.teacher is not None:
            shared["teacher"] = sha256(Path(self.recipe.teacher))
        return shared
