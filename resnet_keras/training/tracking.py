"""Show a run elsewhere: TensorBoard, Weights & Biases, MLflow."""

import contextlib
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.files import read_object, write_text
from resnet_keras.recipe import Recipe

# Takes the number of an epoch and its row of `log.csv`.
Report = Callable[[int, dict[str, Any]], None]


def require_package(recipe: Recipe) -> None:
    """Refuse a logger whose package is not installed, before anything is computed."""
    if recipe.logger not in ("wandb", "mlflow"):
        return
    spec = find_spec(recipe.logger)
    # Both leave folders of their own name behind, which look like empty packages to Python.
    if spec is None or spec.origin is None:
        raise InputError(
            f"`logger` needs a package that is not installed: pip install {recipe.logger}. "
            f"Received: logger={recipe.logger!r}"
        )


@contextlib.contextmanager
def reporting(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Show a run in the recipe's `logger`.

    A resumed run is resumed there, too: its identifier is kept in `tracking.json`.

    Args:
        recipe: with the logger; its columns are shown with the run.
        folder: of the run; TensorBoard's events are written into its `tensorboard/`.

    Yields:
        A function that takes the number of an epoch and its row of the log.
    """
    openers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    if recipe.logger == "none":
        yield lambda epoch, row: None
        return
    with openers[recipe.logger](recipe, folder) as report:
        yield report


@contextlib.contextmanager
def profiling(folder: Path) -> Iterator[None]:
    """Trace what is computed within, for TensorBoard's profiler.

    Args:
        folder: where the trace is written.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        with jax.profiler.trace(str(folder)):
            yield
        return
    import tensorflow as tf

    with tf.profiler.experimental.Profile(str(folder)):
        yield


@contextlib.contextmanager
def _tensorboard(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Write TensorBoard's events."""
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def report(epoch, row):
        with writer.as_default(step=epoch):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        writer.flush()

    with contextlib.closing(writer):
        yield report


@contextlib.contextmanager
def _wandb(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Begin or resume a run in Weights & Biases."""
    import wandb

    identifier = _known(folder).get("wandb")
    run = wandb.init(
        project="resnet_keras",
        name=folder.name,
        id=identifier,
        resume="allow",
        dir=folder,
        config=recipe.to_json(),
    )
    with run:
        _note(folder, wandb=run.id)
        yield lambda epoch, row: run.log(row, step=epoch)


@contextlib.contextmanager
def _mlflow(recipe: Recipe, folder: Path) -> Iterator[Report]:
    """Begin or resume a run in MLflow."""
    import mlflow

    identifier = _known(folder).get("mlflow")
    if identifier is None:
        mlflow.set_experiment("resnet_keras")
    with mlflow.start_run(run_id=identifier, run_name=folder.name) as run:
        if identifier is None:
            mlflow.log_params(recipe.to_json())
            _note(folder, mlflow=run.info.run_id)
        yield lambda epoch, row: mlflow.log_metrics(row, step=epoch)


def _known(folder: Path) -> dict[str, str]:
    """Read the identifiers that loggers have given this run."""
    path = folder / "tracking.json"
    return read_object(path) if path.exists() else {}


def _note(folder: Path, **identifiers: str) -> None:
    """Keep the identifier that a logger has given this run."""
    write_text(folder / "tracking.json", json.dumps(_known(folder) | identifiers) + "\n")
