"""Train from the last backup to the end; stop early for a signal or a loss that diverged."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import keras

from resnet_keras import data
from resnet_keras.backup import Saved
from resnet_keras.console import say, signals_to
from resnet_keras.recipe import Recipe
from resnet_keras.training import tracking, watch
from resnet_keras.training.machine import Replicas, StoppedTogether


def fit(
    recipe: Recipe,
    model: keras.Model,
    metrics: list,
    train: data.Split,
    test: data.Split,
    folder: Path,
    saved: Saved | None,
    replicas: Replicas,
    settled: dict[str, Any],
) -> list[dict[str, Any]]:
    """Train from the last backup to the end.

    Args:
        recipe: how to train.
        model: compiled.
        metrics: those that it was compiled with.
        train: images to train on.
        test: images to validate on after each epoch.
        folder: the run folder.
        saved: the backup to resume from, as returned by `watch.restore`, which has put it into the
            model; None: train from the start.
        replicas: all of them, and those of this process.
        settled: what must be the same when the run is resumed; noted in the backups.

    Returns:
        The rows of the log, one per epoch.

    Raises:
        SystemExit: 1 if the loss becomes NaN or infinite; 128 + signal after SIGTERM or SIGINT,
            once everything is saved.
    """
    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, [])
    steps = recipe.steps_per_epoch(train.examples)
    total = recipe.total_steps(train.examples)
    place = watch.Place(step, recipe.accumulate, steps, total, rows)
    every = recipe.interval()
    keep = watch.Keep(place, folder / "backup", every, metrics, replicas, settled, saved)
    try:
        with ExitStack() as stack:
            stack.enter_context(signals_to(keep.on_signal))
            stack.enter_context(data.reading(train, test))
            watching = [watch.Average()] if recipe.ema else []
            if replicas.process == 0:
                watching += _shown(recipe, place, folder, stack)
            callbacks = [
                watch.Count(place),
                watch.Row(place, partial(recipe.learning_rate_at, steps_per_epoch=steps)),
                *watching,
                keep,
            ]
            # The rest of an interrupted epoch, then all others.
            while place.step < total:
                _fit(recipe, model, train, test, place, callbacks, replicas)
            if keep.signal:  # it came after the last step, which is in a backup already
                raise StoppedTogether(keep.signal)
    except watch.Diverged as error:
        say(
            f"error: {error}. Try a lower --learning-rate, a longer warm-up or --precision "
            "float32, with another --run-dir; the last backup is kept."
        )
        raise SystemExit(1) from None
    if recipe.ema:
        model.optimizer.exchange()
    return place.rows


def _shown(recipe: Recipe, place: watch.Place, folder: Path, stack: ExitStack) -> list:
    """Make the callbacks that show the run: in its folder, on the screen, in a tracker."""
    watch.write_rows(folder / "log.csv", place.rows)
    profile = watch.Profile(place, recipe.profiled(), folder / "tensorboard")
    stack.callback(profile.close)
    report = stack.enter_context(tracking.reporting(recipe, folder))
    return [
        watch.Log(place, folder / "log.csv", report),
        watch.Progress(place, recipe.batch_size // recipe.accumulate),
        profile,
    ]


def _fit(
    recipe: Recipe,
    model: keras.Model,
    train: data.Split,
    test: data.Split,
    place: watch.Place,
    callbacks: list[keras.callbacks.Callback],
    replicas: Replicas,
) -> None:
    """Let Keras train the next epochs."""
    epoch, end, steps = place.next_epochs()
    batches = data.training_batches(
        train,
        recipe,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start=place.step,
        rows=replicas.rows(recipe.batch_size, recipe.accumulate),
    )
    # JAX divides only whole batches among replicas, so the last one must be filled.
    whole = keras.backend.backend() == "jax" and replicas.count > 1
    test_batches = data.evaluation_batches(
        test,
        recipe.preprocessing,
        batch_size=recipe.batch_size // replicas.processes,
        share=(replicas.process, replicas.processes) if whole else None,
    )
    model.fit(
        batches.rebatch(recipe.batch_size // recipe.accumulate // replicas.processes),
        initial_epoch=epoch,
        epochs=end,
        steps_per_epoch=steps * recipe.accumulate,
        validation_data=test_batches,
        callbacks=callbacks,
        shuffle=False,  # they are shuffled already
        verbose=int(recipe.verbose and replicas.process == 0),
    )
