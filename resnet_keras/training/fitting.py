"""Fit from where the backup stands to the end, and how a run ends before it."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import keras

from resnet_keras import data
from resnet_keras.backup import Saved
from resnet_keras.console import say
from resnet_keras.recipe import Recipe
from resnet_keras.signals import signals_to
from resnet_keras.training import tracking, watch
from resnet_keras.training.job import Job
from resnet_keras.training.replicas import Replicas, StoppedTogether

# Fields of a recipe that are arguments of `data.training_batches`, by the same names.
PIXELS = (
    *("repeats", "min_area", "rotate", "scale", "shear", "padding", "flip", "rand_ops"),
    *("rand_magnitude", "rand_std", "color_jitter", "erasing", "mixup", "cutmix"),
    *("interpolation", "antialias"),
)


def fit(job: Job, model: keras.Model, metrics: list, saved: Saved | None) -> list[dict[str, Any]]:
    """Train from where the backup stands to the end.

    Args:
        job: the training.
        model: compiled.
        metrics: it was compiled with.
        saved: the backup to resume from, as `watch.restore` gave it: it is in the model already.

    Returns:
        The rows of the log, one per epoch.

    Raises:
        SystemExit: 1 where the loss is NaN or infinite; 128 + signal after SIGTERM or SIGINT, when
            everything is saved.
    """
    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, [])
    recipe, replicas, folder = job.recipe, job.replicas, job.folder
    train, test = job.train, job.test
    steps, total = job.steps_per_epoch, job.total_steps
    place = watch.Place(step, recipe.accumulate, steps, total, rows)
    every = recipe.interval()
    keep = watch.Keep(place, folder / "backup", every, metrics, replicas, job.fixed, saved)
    try:
        with ExitStack() as stack:
            stack.enter_context(signals_to(keep.on_signal))
            stack.enter_context(data.naming_files(train.record_files + test.record_files))
            watching = [watch.Average()] if recipe.ema else []
            if replicas.process == 0:
                watching += _shown(recipe, place, folder, stack)
            callbacks = [
                watch.Count(place),
                watch.Row(place, partial(recipe.learning_rate_at, steps_per_epoch=steps)),
                *watching,
                keep,
            ]
            # The rest of an epoch that was interrupted, then all the others.
            while place.step < total:
                _fit(recipe, model, train, test, place, callbacks, replicas)
            if keep.signal:  # came behind the last step, whose backup is there
                raise StoppedTogether(keep.signal)
    except watch.Diverged as error:
        say(
            f"error: {error}. Try a lower --learning-rate, a longer warm-up or --precision "
            "float32, in another --run-dir; the last backup is kept."
        )
        raise SystemExit(1) from None
    if recipe.ema:
        model.optimizer.exchange()
    return place.rows


def _shown(recipe: Recipe, place: watch.Place, folder: Path, stack: ExitStack) -> list:
    """The callbacks that show the run: in its folder, on the screen, elsewhere."""
    watch.write_rows(folder / "log.csv", place.rows)
    profile = watch.Profile(place, recipe.profiled(), folder / "tensorboard")
    stack.callback(profile.close)
    report = stack.enter_context(tracking.reporting(recipe, folder))
    return [
        watch.Log(place, folder / "log.csv", report),
        watch.Progress(place, recipe.batch_size // recipe.accumulate),
        profile,
    ]


def _fit(recipe, model, train, test, place, callbacks, replicas: Replicas) -> None:
    """Let Keras train the epochs that come next."""
    epoch, end, steps = place.next_epochs()
    batches = data.training_batches(
        train,
        size=recipe.train_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        start=place.step,
        rows=replicas.rows(recipe.batch_size, recipe.accumulate),
        **{name: getattr(recipe, name) for name in PIXELS},
    )
    # JAX shares out whole batches only: the last one must be filled.
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
        shuffle=False,  # the data are shuffled already
        verbose=int(recipe.verbose and replicas.process == 0),
    )
