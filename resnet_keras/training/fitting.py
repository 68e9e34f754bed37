"""Fit from where the backup stands to the end, and how a run ends before it."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras

from resnet_keras import data
from resnet_keras.backup import Saved
from resnet_keras.models import normalisation_of
from resnet_keras.recipe import Recipe
from resnet_keras.signals import signals_to
from resnet_keras.training import tracking, watch
from resnet_keras.training.best_epoch import BestEpoch
from resnet_keras.training.features import OnFeatures
from resnet_keras.training.job import Job
from resnet_keras.training.progress import ProgressBar
from resnet_keras.training.replicas import StoppedTogether


class Fitted(NamedTuple):
    """What a training has done.

    Attributes:
        rows: of the log, one per epoch.
        epoch: whose weights the model has now.
    """

    rows: list[dict[str, Any]]
    epoch: int


def fit(
    job: Job,
    model: keras.Model,
    metrics: list,
    saved: Saved | None,
    earlier: Sequence[dict[str, Any]] = (),
) -> Fitted:
    """Train from the last backup to the end.

    Args:
        job: the training.
        model: compiled.
        metrics: those that it was compiled with.
        saved: the backup to resume from, as returned by `watch.restore`, which has put it into the
            model; None: train from the start.
        earlier: the rows of the training that this one continues; `saved` has them, too.

    Returns:
        The rows of the log, and the epoch whose weights the model has.

    Raises:
        SystemExit: 1 if the loss becomes NaN or infinite; 128 + signal after SIGTERM or SIGINT,
            once everything is saved.
    """
    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, list(earlier))
    recipe, replicas, folder = job.recipe, job.replicas, job.folder
    steps, total = job.steps_per_epoch, job.total_steps
    place = watch.Position(step, recipe.accumulate, steps, total, rows)
    place.epochs_before = job.epochs_before
    every = recipe.interval()
    best = None
    if recipe.chooses_epoch:
        best = BestEpoch(
            place,
            metrics,
            keep=recipe.keep == "best",
            patience=recipe.patience,
            averages=recipe.ema > 0,
            saved=saved,
        )
        best.set_model(model)
    keep = watch.Backups(place, job.backups, every, metrics, replicas, job.fixed, saved, best)
    with watch.ending_where_diverged(), ExitStack() as stack:
        stack.enter_context(signals_to(keep.on_signal))
        stack.enter_context(data.reading(job.train, job.validation))
        watching = [watch.ValidateAverages()] if recipe.ema else []
        waiting = data.Waiting()
        if replicas.process == 0:
            watching += _shown(recipe, place, folder, waiting, stack)
        callbacks = [
            watch.StepCounter(place),
            watch.EpochRow(
                place, partial(recipe.learning_rate_at, steps_per_epoch=steps), job.spent
            ),
            *watching,
            *([best] if best else []),
            keep,
        ]
        # The rest of an epoch that was interrupted, then all the others.
        while place.step < total and not place.stopped:
            _fit(job, model, place, waiting, callbacks)
        if keep.signal:  # came behind the last step, whose backup is there
            raise StoppedTogether(keep.signal)
    if best and best.arrays:
        best.restore()
    elif recipe.ema:
        model.optimizer.swap_averages()
    return Fitted(place.rows, best.epoch if best and best.arrays else place.rows[-1]["epoch"])


def _shown(
    recipe: Recipe, place: watch.Position, folder: Path, waiting: data.Waiting, stack: ExitStack
) -> list:
    """Make the callbacks that show the run: in its folder, on the screen, in a tracker."""
    watch.write_rows(folder / "log.csv", place.rows)
    profile = watch.Profiler(place, recipe.profiled(), folder / "tensorboard")
    stack.callback(profile.close)
    report = stack.enter_context(tracking.reporting(recipe, folder))
    shown: list[keras.callbacks.Callback] = [
        watch.LogWriter(place, folder / "log.csv", report),
        profile,
    ]
    if recipe.verbose:
        bar = ProgressBar(
            place, recipe.batch_size // recipe.accumulate, waited=lambda: waiting.seconds
        )
        stack.callback(bar.close)
        shown.append(bar)
    return shown


def _fit(
    job: Job,
    model: keras.Model,
    place: watch.Position,
    waiting: data.Waiting,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Let Keras train the next epochs."""
    recipe, replicas = job.recipe, job.replicas
    epoch, end, steps = place.next_epochs()
    batches = data.training_batches(
        job.train,
        recipe,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start=place.step,
        rows=replicas.rows(recipe.batch_size, recipe.accumulate),
        # What trains on features sees no pixels.
        normalisation=None if isinstance(model, OnFeatures) else normalisation_of(model),
    )
    # JAX shares out whole batches only: the last one must be filled.
    whole = keras.backend.backend() == "jax" and replicas.count > 1
    test_batches = data.evaluation_batches(
        job.validation,
        recipe.preprocessing,
        batch_size=recipe.batch_size // replicas.processes,
        share=(replicas.process, replicas.processes) if whole else None,
    )
    model.fit(
        waiting.measured(
            batches.rebatch(recipe.batch_size // recipe.accumulate // replicas.processes)
        ),
        initial_epoch=epoch,
        epochs=end,
        steps_per_epoch=steps * recipe.accumulate,
        validation_data=test_batches,
        callbacks=watch.LateLogs(callbacks, add_history=True, model=model),
        shuffle=False,  # the data are shuffled already
        verbose=0,  # the bar is ours
    )
