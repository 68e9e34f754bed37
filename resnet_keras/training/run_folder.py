"""A run folder belongs to one recipe; what it says of a run that was begun or is finished."""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resnet_keras.console import say
from resnet_keras.errors import InputError
from resnet_keras.files import local_path, read_object
from resnet_keras.recipe import Recipe

if TYPE_CHECKING:
    from resnet_keras.backup import Saved
    from resnet_keras.training.job import Job

# What the user can do where a run was begun with something else.
_RESTORE = {
    "backend": "set KERAS_BACKEND={}",
    "precision": "resume with --precision {}",
    "replicas": "resume with --replicas {}",
    "images": "restore them",
    "validation": "restore these images",
    "teacher": "restore this file",
}

# What the user can do where `results.json` is damaged.
_REWRITTEN = "Delete it: the same command writes it again."


class Owner(Protocol):
    """A recipe of any kind, to which a run folder can belong."""

    @property
    def run_dir(self) -> Path | None:
        """The folder."""

    def conflict(self, earlier: dict[str, Any]) -> str | None:
        """As of `recipe.Row`."""

    def to_json(self) -> dict[str, Any]:
        """As of `recipe.Row`."""


def require_ours(recipe: Owner) -> Path:
    """Return the run folder of a recipe, unless another recipe has written there.

    Raises:
        InputError: it has, or the recipe names no folder.
    """
    if recipe.run_dir is None:
        raise InputError("`run_dir` must name the folder of the run. Received: run_dir=None")
    if recipe.run_dir.exists() and not recipe.run_dir.is_dir():
        raise InputError(
            "`run_dir` must be a folder, or nothing yet, and this is a file. "
            f"Received: run_dir={str(recipe.run_dir)!r}"
        )
    earlier = _recipe_in(recipe.run_dir)
    if earlier is None:
        return recipe.run_dir
    try:
        field = recipe.conflict(earlier)
    except InputError as error:
        raise InputError(f"{recipe.run_dir} cannot be resumed: {error}") from None
    if field is not None:
        raise InputError(
            f"{recipe.run_dir} belongs to another recipe: {field} is {earlier.get(field)!r} there, "
            f"{recipe.to_json()[field]!r} here. Choose another --run-dir."
        )
    return recipe.run_dir


def finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """Return the results of a run that has nothing left to do; None for every other run.

    Raises:
        InputError: they are damaged, or the images of one's own have changed since.
    """
    earlier = _recipe_in(folder) or {}
    if (earlier.get("epochs"), earlier.get("steps")) != (recipe.epochs, recipe.steps):
        return None
    if (results := results_in(folder)) is None:
        return None
    names: tuple[str, ...] = ("top1", "top5", "examples")
    if results.get("top1", 0) is None and "map" in results:  # images have several labels
        names = ("map", "micro_f1", "macro_f1", "threshold", "examples")
    if "top5" in results and results["top5"] is None:  # 5 classes or fewer
        names = tuple(name for name in names if name != "top5")
    require_numbers(results, names, folder)
    before = results.get("files")
    if before is not None and before != (now := files(recipe)):
        raise InputError(
            f"{folder} is finished, and {recipe.dataset} has changed since: to train on what is "
            f"there now, choose another --run-dir. Received: {now}, then {before}"
        )
    return results


def results_in(folder: Path) -> dict[str, Any] | None:
    """Read `results.json`; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    path = folder / "results.json"
    try:
        return read_object(path) if path.exists() else None
    except InputError as error:
        raise InputError(f"{error} {_REWRITTEN}") from error


def require_numbers(results: dict[str, Any], names: Iterable[str], folder: Path) -> None:
    """Refuse results without the numbers that they are summed up with.

    Raises:
        InputError: one is missing, or is no number.
    """
    for name in names:
        if type(results.get(name)) not in (int, float):
            raise InputError(
                f"{folder / 'results.json'} is damaged: {name} must be a number. {_REWRITTEN} "
                f"Received: {results.get(name)!r}"
            )


def files(recipe: Recipe) -> dict[str, Any] | None:
    """Return what `Source.files` says of one's own images; None for other data sets.

    Raises:
        InputError: they are gone.
    """
    if local_path(recipe.dataset) is None:
        return None
    from resnet_keras.data import Source

    return Source(recipe.dataset).files()


def warn_of_changes(recipe: Recipe, before: Mapping[str, Any] | None) -> None:
    """Say where one's own images have changed while they were trained on.

    Args:
        recipe: of the run.
        before: what `files` said when they were opened.
    """
    try:
        now = files(recipe)
    except InputError:  # they are gone, which is a change, too
        now = None
    if now != before:
        say(
            f"warning: {recipe.dataset} has changed since this training opened it: the model and "
            f"its results are of the images that were there then. Received: {now}, then {before}"
        )


def require_same(job: "Job", saved: "Saved | None") -> None:
    """Refuse a backup that was made with another backend, precision, replicas or images.

    Processes that do not stand at the same step of the same recipe are refused, too.

    Args:
        job: the training.
        saved: its newest backup.

    Raises:
        InputError: with what would restore the run.
    """
    require_settled(job.folder, job.fixed, saved)
    here = json.dumps([saved.step if saved else 0, job.recipe.identity()], sort_keys=True)
    if len(set(job.replicas.gather(zlib.crc32(here.encode()) >> 1))) > 1:
        raise InputError(
            "the processes have different recipes, or do not share the run folder, which must be "
            "on a file system that all of them can access. "
            f"Received: {job.folder.absolute()}"
        )


def require_settled(folder: Path, settled: Mapping[str, Any], saved: "Saved | None") -> None:
    """Refuse a backup of a run whose machine or data have changed since.

    Args:
        folder: of the run.
        settled: what it must share with the run that it resumes, beside the recipe.
        saved: its newest backup.

    Raises:
        InputError: with what would restore the run.
    """
    for name, ours in settled.items():
        if saved and (theirs := saved.notes.get(name, ours)) != ours:
            raise InputError(
                f"{folder} was trained with {name} {theirs}: {_RESTORE[name].format(theirs)}, "
                f"or choose another --run-dir. Received: {ours}"
            )


def _recipe_in(folder: Path) -> dict[str, Any] | None:
    """Return the recipe that a run folder belongs to; None where nothing was trained yet."""
    path = folder / "recipe.json"
    try:
        fields = read_object(path) if path.exists() else None
    except InputError as error:
        raise InputError(f"{error} Choose another --run-dir.") from error
    if fields is not None:
        return fields
    for left in (folder / "results.json", *folder.glob("backup/*.safetensors")):
        if left.exists():  # `train` writes the recipe before both
            raise InputError(
                f"{left} exists, but not the recipe.json of its run: restore that file, or choose "
                "another --run-dir."
            )
    return None
