"""Train a task into a run folder: resumed exactly, tested at the end on scenes it has not seen."""

import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras import backup
from resnet_keras.console import load_tensorflow, say
from resnet_keras.errors import InputError
from resnet_keras.files import whole, write_text
from resnet_keras.recipe.checks import interval
from resnet_keras.signals import signals_to, stopping
from resnet_keras.training import run_folder
from resnet_keras.training.machine import choose_precision, quiet_retracing, versions
from resnet_keras.training.replicas import Replicas, StoppedTogether, command
from resnet_keras.vision.task import Task

if TYPE_CHECKING:
    import keras

    from resnet_keras.vision.scenes import Scene

# Modules that load TensorFlow are imported inside functions: `--help` needs none of it.


def train(task: Task) -> Path:
    """Train a task as its recipe says; a run that was interrupted is resumed exactly.

    Args:
        task: with a recipe whose `run_dir` is set (`recipe.parse` sets it).

    Returns:
        The run folder: `recipe.json`, `log.csv`, `backup/`, `crops/` (see `classifier_of_crops`),
        `model.keras`, `results.json`, `report.html`. A run that is finished is left as it is.

    Raises:
        InputError: something that the user can fix.
        SystemExit: 0 after `--dry-run`; 1 where the loss is NaN or infinite; 128 + signal after
            SIGTERM or SIGINT, when everything is saved.
    """
    recipe = task.recipe
    if recipe.dry_run:
        print(json.dumps(recipe.resolved()))
        raise SystemExit(0)
    folder = run_folder.require_ours(recipe)
    if (results := run_folder.results_in(folder)) is not None:
        run_folder.require_numbers(results, task.MEASURES, folder)
        print(f"{folder} is finished: {_summary(task, results)}")
        return folder
    task.require_packages()
    load_tensorflow()
    import keras

    from resnet_keras.vision.backbones import crop_seconds

    if (backend := keras.backend.backend()) != "tensorflow":
        raise InputError(f"this training needs TensorFlow. Received: KERAS_BACKEND={backend}")
    with ExitStack() as stack, quiet_retracing(), _images_or_a_dict_of_them():
        # Before the first step and after the last one; between them the run saves first.
        stack.enter_context(stopping(f"To resume: {command()}"))
        stack.enter_context(backup.alone(folder))
        run_folder.require_ours(recipe)  # again: others could write until now
        policy, reason = choose_precision(recipe.precision)
        say(f"{policy}: {reason}")
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        model, rows = _trained(task, folder, policy)
        results = _publish(task, model, folder)
        results |= {
            "measure": next(iter(task.MEASURES)),
            "train_seconds": round(sum(row["seconds"] for row in rows) + crop_seconds(folder), 1),
            "precision": policy,
            "versions": versions(),
        }
        text = json.dumps(results, indent=1) + "\n"
        # Before the results: a run that has them is finished, and left as it is.
        write_report(task, folder, json.loads(text))
        write_text(folder / "results.json", text)
    print(_summary(task, results))
    return folder


def test_scenes(task: Task) -> "list[Scene]":
    """Make the scenes that a task is tested on: the same for every seed of a training."""
    from resnet_keras.vision.scenes import digit_scene

    recipe = task.recipe
    return [digit_scene("test", n, size=recipe.size) for n in range(recipe.test_scenes)]


def write_report(task: Task, folder: Path, results: dict[str, Any] | None = None) -> Path:
    """Write `report.html` about a finished run: its results, curves, figures and recipe.

    Args:
        task: whose run it is.
        folder: of the run; what was exported into it is shown, too.
        results: in place of those in `results.json`.

    Returns:
        The path of the page.
    """
    import keras

    from resnet_keras.report import read_run
    from resnet_keras.vision.page import page

    model = keras.saving.load_model(folder / "model.keras", compile=False)
    with _images_or_a_dict_of_them():
        _, figures = task.test(model, test_scenes(task)[:_SHOWN])
    path = folder / "report.html"
    write_text(path, page(task, read_run(folder, results), figures))
    return path


def show_exports(task: Task, folder: Path) -> None:
    """Write the report of a finished run again, unless it shows all that was exported.

    Args:
        task: whose run it is.
        folder: of the run.
    """
    from resnet_keras.report import read_run
    from resnet_keras.report.page import exports_section

    path = folder / "report.html"
    shown = exports_section(read_run(folder))
    if not path.exists() or shown not in path.read_text(encoding="utf-8"):
        write_report(task, folder)


# Scenes in the report.
_SHOWN = 24


@contextmanager
def _images_or_a_dict_of_them() -> Iterator[None]:
    """Let keras-cv give its networks images, where they were built with a dict of images."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*structure of `inputs` doesn't match", UserWarning)
        yield


def _trained(task: Task, folder: Path, policy: str) -> "tuple[keras.Model, list[dict[str, Any]]]":
    """Train, from the backup if there is one, to the end; gives the rows of the log, too."""
    import keras
    import tensorflow as tf

    from resnet_keras.training import watch
    from resnet_keras.vision.backbones import classifier_of_crops

    recipe = task.recipe
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    settled = {"backend": keras.backend.backend(), "precision": policy}
    saved = backup.load(folder / "backup")
    run_folder.require_settled(folder, settled, saved)
    if saved:
        backup.prune(folder / "backup", saved.step)
    write_text(folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
    weights = None if saved else classifier_of_crops(recipe, folder)
    keras.config.set_dtype_policy(policy)
    # After the crops, whose training draws from the same generators.
    keras.utils.set_random_seed(recipe.seed)
    model = task.build(training=True, weights=weights)
    _compile(task, model, policy)
    if saved:
        saved = watch.restore(saved, model, [])
    say(
        f"{recipe.TASK} with {recipe.model}: {recipe.total_steps:,} steps of {recipe.batch_size} "
        f"scenes, {recipe.steps_per_epoch} an epoch. Writing {folder}/"
        + (f", resuming at step {saved.step:,}" if saved else "")
    )
    return model, _fit(task, model, folder, saved, settled)


def _compile(task: Task, model: "keras.Model", policy: str) -> None:
    """Compile a network, and make every variable of its training, so that a backup finds them."""
    from resnet_keras.optimizers import AdamW, Table
    from resnet_keras.vision.scenes import scene_batches

    recipe, half = task.recipe, policy == "mixed_float16"
    optimizer = AdamW(
        Table([recipe.learning_rate_at(step) for step in range(recipe.total_steps)]),
        weight_decay=recipe.weight_decay,
        exclude=("bias", "gamma", "beta"),
        clip_norm=recipe.clip_norm,
        loss_scale=2.0**15 if half else None,
        growth_steps=2000 if half else None,
    )
    task.compile(model, optimizer)
    optimizer.build(model.trainable_variables)
    # Keras makes the means of several losses when it first computes these.
    batch = scene_batches("train", task.example, batch_size=1, seed=recipe.seed, size=recipe.size)
    images, targets = next(iter(batch))
    model.compute_loss(x=images, y=targets, y_pred=model(images), sample_weight=None)


def _fit(
    task: Task,
    model: "keras.Model",
    folder: Path,
    saved: backup.Saved | None,
    settled: dict[str, Any],
) -> list[dict[str, Any]]:
    """Let Keras train from a backup, or from the start, to the end."""
    from resnet_keras import data
    from resnet_keras.training import watch
    from resnet_keras.training.progress import ProgressBar
    from resnet_keras.vision.scenes import scene_batches

    recipe, log = task.recipe, folder / "log.csv"
    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, [])
    place = watch.Position(step, 1, recipe.steps_per_epoch, recipe.total_steps, rows)
    every = interval(recipe.backup_every)
    keep = watch.Backups(place, folder / "backup", every, [], Replicas(nullcontext), settled, saved)
    with watch.ending_where_diverged(), ExitStack() as stack:
        stack.enter_context(signals_to(keep.on_signal))
        waiting = data.Waiting()
        watch.write_rows(log, place.rows)
        callbacks = [
            watch.StepCounter(place),
            watch.EpochRow(place, recipe.learning_rate_at),
            watch.LogWriter(place, log, lambda epoch, row: None),
        ]
        if recipe.verbose:
            bar = ProgressBar(place, recipe.batch_size, waited=lambda: waiting.seconds)
            stack.callback(bar.close)
            callbacks.append(bar)
        callbacks.append(keep)
        # The rest of an epoch that was interrupted, then all the others.
        while place.step < place.total:
            epoch, end, steps = place.next_epochs()
            batches = scene_batches(
                "train",
                task.example,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                size=recipe.size,
                deformation=recipe.deformation,
                start=place.step,
            )
            model.fit(
                waiting.measured(batches),
                initial_epoch=epoch,
                epochs=end,
                steps_per_epoch=steps,
                callbacks=watch.LateLogs(callbacks, add_history=True, model=model),
                shuffle=False,
                verbose=0,  # the bar is ours
            )
        if keep.signal:  # came behind the last step, whose backup is there
            raise StoppedTogether(keep.signal)
    return place.rows


def _publish(task: Task, model: "keras.Model", folder: Path) -> dict[str, Any]:
    """Write the network in float32, of stock layers, and test what was written."""
    import keras

    from resnet_keras.model_files.keras import save

    keras.config.set_dtype_policy("float32")
    plain = task.build(training=False)
    plain.set_weights(model.get_weights())
    path = folder / "model.keras"
    with whole(path) as part:
        save(plain, part)
    scenes = test_scenes(task)
    say(f"testing on {len(scenes)} scenes of digits that no training scene has")
    results, _ = task.test(keras.saving.load_model(path, compile=False), scenes)
    return {**results, "scenes": len(scenes)}


def _summary(task: Task, results: dict[str, Any]) -> str:
    """Say in one line how good the network is."""
    measured = (f"{words} {results[name]:.4f}" for name, words in task.MEASURES.items())
    return f"{', '.join(measured)} of {results['scenes']:,} test scenes"
