"""Train a recipe into a run folder: machine, data, model, fit, evaluation, written files."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.console import load_tensorflow, say
from resnet_keras.errors import InputError, refusal
from resnet_keras.files import write_text
from resnet_keras.recipe import Recipe, splits, tested
from resnet_keras.signals import stopping
from resnet_keras.training import memory, run_folder, tracking
from resnet_keras.training.building import compiled
from resnet_keras.training.dry_run import resolved
from resnet_keras.training.job import Job
from resnet_keras.training.machine import choose_precision, versions
from resnet_keras.training.replicas import Replicas, choose_replicas, command

if TYPE_CHECKING:
    import keras

    from resnet_keras.backup import Saved
    from resnet_keras.data import Split
    from resnet_keras.model_files import ModelFile

__all__ = ["train"]

# Modules that load TensorFlow are imported inside functions: a rehearsal of several replicas sets
# the environment before.


def train(recipe: Recipe) -> Path:
    """Train a network as a recipe says; a run that was interrupted is resumed exactly.

    Args:
        recipe: what to do; `run_dir` must be set (`Recipe.parse` sets it).

    Returns:
        The run folder: `recipe.json`, `log.csv`, `backup/`, `model.keras`, `model.json`,
        `labels.txt`, `results.json`, `predictions.npz`, `report.html`; with `quantize` also
        `model.quantization.json`. A run that is finished is left as it is.

    Raises:
        InputError: something that the user can fix.
        SystemExit: 0 after `--dry-run`; 1 where the loss is NaN or infinite; 128 + signal after
            SIGTERM or SIGINT, when everything is saved.
    """
    if recipe.dry_run:
        load_tensorflow()
        print(json.dumps(resolved(recipe)))
        raise SystemExit(0)
    folder = run_folder.require_ours(recipe)
    if (results := run_folder.finished(recipe, folder)) is not None:
        print(f"{folder} is finished: {_summary(recipe, results)}")
        return folder

    tracking.require_package(recipe)
    with ExitStack() as stack:
        # Before the first step and after the last one; between them `fit` saves first.
        stack.enter_context(stopping(f"To resume: {command()}"))
        replicas = choose_replicas(recipe)
        with replicas.together():
            policy, reason = choose_precision(recipe.precision)
            say(f"{policy}: {reason}")
            job = prepared(recipe, folder, replicas, policy, stack)
            model, rows = trained(job, stack)
        if replicas.process == 0:
            print(_summary(recipe, _publish(job, model, rows)))
    return folder


def prepared(
    recipe: Recipe, folder: Path, replicas: Replicas, policy: str, stack: ExitStack
) -> Job:
    """Set up the machine and open the data of a training.

    Args:
        recipe: what to do.
        folder: of the run.
        replicas: on which it trains.
        policy: the dtype policy, which is that of this process until the stack is closed.
        stack: undoes what must not outlive the training.
    """
    import keras
    import tensorflow as tf

    from resnet_keras import data

    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
    keras.config.set_dtype_policy(policy)
    if replicas.process:
        replicas.gather(0)  # until the first process has prepared the data
    source = data.Source(recipe.dataset, data_dir=recipe.data_dir, skip_bad=recipe.skip_bad)
    made = source.made
    if made is not None:
        source = dataclasses.replace(source, holdout=recipe.holdout)
    names = splits(recipe.dataset, recipe.holdout)
    train, test = (dataclasses.replace(source, split=name).open() for name in names)
    validation = test
    if made is not None and ("val" in made or recipe.holdout):
        validation = dataclasses.replace(source, split="val").open()
    _warn_of_imbalance(train, recipe)
    if len(train.labels) < 2 and not train.multi_label:
        raise InputError(
            f"{recipe.dataset} must have two classes or more. Received: {', '.join(train.labels)}"
        )
    if not replicas.process:
        replicas.gather(0)
    # After the data: preparing them draws from the same generators as the weights.
    keras.utils.set_random_seed(recipe.seed)
    return Job(recipe, folder, replicas, policy, train, validation, test)


def _warn_of_imbalance(train: "Split", recipe: Recipe) -> None:
    """Say where the largest class has ten times as many training images as the smallest."""
    counts = train.counts
    advice = (
        "look at the balanced accuracy, and try --class-weights balanced or --sampling balanced"
    )
    if train.multi_label:
        advice = "look at the average precision of each label, and try --class-weights balanced"
    if counts is None or (recipe.class_weights, recipe.sampling) != ("none", "all"):
        return
    there = {name: int(n) for name, n in zip(train.labels, counts, strict=True) if n}
    if not there:
        return
    most, least = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
    if there[most] >= 10 * there[least]:
        say(
            f"warning: {there[most]:,} training images of {most} and {there[least]:,} of {least}: "
            f"{advice}"
        )


def trained(job: Job, stack: ExitStack) -> "tuple[keras.Model, list[dict[str, Any]]]":
    """Train, from the backup if there is one, to the end.

    Args:
        job: the training.
        stack: holds the lock of the run folder.

    Returns:
        The model, and the rows of the log, one per epoch.

    Raises:
        InputError: the run folder belongs to another run, or the memory does not suffice.
        SystemExit: as from `train`.
    """
    from resnet_keras import backup
    from resnet_keras.training import watch
    from resnet_keras.training.fitting import fit

    recipe, replicas = job.recipe, job.replicas
    backups = job.folder / "backup"
    with replicas.scope():
        fresh = not backup.exist(backups)
        model, metrics = compiled(recipe, job.train, job.policy, replicas.count, fresh)
    need = memory.estimate(recipe, model, job.policy, replicas.count)
    here = replicas.count // replicas.processes
    memory.require(need, recipe, here)

    if replicas.process == 0:
        stack.enter_context(backup.alone(job.folder))
        run_folder.require_ours(recipe)  # again: until now, another command could write there
    saved = backup.load(backups)
    run_folder.require_same(job, saved)
    if saved:
        with replicas.scope():
            saved = watch.restore(saved, model, metrics)
    if replicas.process == 0:
        _begin(job, saved)
    try:
        with replicas.scope():
            rows = fit(job, model, metrics, saved)
    except Exception as error:
        # TensorFlow has the same error for a full disk.
        if isinstance(error, InputError) or refusal(error) or not memory.ran_out(error):
            raise
        raise InputError(memory.advice(need, recipe, memory.available(here))) from error
    return model, rows


def _begin(job: Job, saved: "Saved | None") -> None:
    """Write the recipe into the run folder, and say what is trained."""
    from resnet_keras import backup

    if saved:
        backup.prune(job.folder / "backup", saved.step)
    (job.folder / "results.json").unlink(missing_ok=True)  # of a shorter run, which now continues
    recipe, count = job.recipe, job.replicas.count
    write_text(job.folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
    heads = f"a sigmoid for each of {len(job.train.labels)} labels, "
    say(
        f"{recipe.model} on {recipe.dataset}: "
        f"{heads if job.train.multi_label else ''}{job.train.examples:,} training images, "
        + ("" if job.validation is job.test else f"{job.validation.examples:,} validation images, ")
        + f"{job.test.examples:,} {job.tested}, {job.total_steps:,} steps, "
        f"{job.steps_per_epoch} an epoch, {count} replica{'s' if count > 1 else ''}. "
        f"Writing {job.folder}/" + (f", resuming at step {saved.step:,}" if saved else "")
    )


def _publish(job: Job, model: "keras.Model", rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the model, its metadata and its results, which are those of the written file."""
    from resnet_keras.evaluation import evaluate
    from resnet_keras.exporting import save_plain
    from resnet_keras.model_files import Metadata, label_lines, open_model_file
    from resnet_keras.quantize import activation_ranges, dequantized, write_ranges
    from resnet_keras.report import write_report

    recipe, path = job.recipe, job.folder / "model.keras"
    labels, several = job.train.labels, job.train.multi_label
    activation = "sigmoid" if several else "softmax"
    write_text(job.folder / "labels.txt", label_lines(labels))
    metadata = Metadata(
        recipe.preprocessing, labels, recipe.dataset, threshold=0.5 if several else None
    )
    metadata.write(path)
    save_plain(dequantized(model, activation) if recipe.quantize else model, path, activation)
    if several:
        threshold = _fitted_threshold(job, open_model_file(path))
        dataclasses.replace(metadata, threshold=threshold).write(path)
    if recipe.quantize:
        write_ranges(path, activation_ranges(model))
    results = evaluate(
        path,
        split=job.test,
        save=job.folder / "predictions.npz",  # which the report reads
    )
    results |= {
        "train_seconds": round(sum(row["seconds"] for row in rows), 1),
        "precision": job.policy,
        "replicas": job.replicas.count,
        "skipped": {"train": len(job.train.skipped), "test": len(job.test.skipped)},
        "tested_on": job.test.name or "test",
        **({"threshold_on": job.validation.name} if several else {}),
        "files": run_folder.files(recipe),
        "versions": versions(),
    }
    write_text(job.folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_report([job.folder], test=job.test)
    return results


def _fitted_threshold(job: Job, model_file: "ModelFile") -> float:
    """Choose the threshold of a model on the validation images, as `best_threshold` does."""
    from resnet_keras.evaluation import measures, predict_split

    if job.validation is job.test:
        say(
            f"warning: without other validation images the threshold is chosen on the {job.tested} "
            "themselves, so that F1 is too high on them: try --holdout 0.1"
        )
    predictions = predict_split(model_file, job.validation)
    return measures.best_threshold(predictions.scores, predictions.labels)


def _summary(recipe: Recipe, results: dict[str, Any]) -> str:
    """Say in one line how good the network is."""
    measured = {
        "mAP": results.get("map"),
        "top-1": results.get("top1"),
        "top-5": results.get("top5"),
        "balanced": results.get("balanced_accuracy"),
        "macro F1": results.get("macro_f1"),
        "micro F1": results.get("micro_f1"),
    }
    shares = [f"{name} {100 * x:.2f} %" for name, x in measured.items() if x is not None]
    tested_on = tested(recipe.dataset, recipe.holdout, results.get("tested_on", "test"))
    if results.get("threshold") is not None:
        shares[-1] += f" at threshold {results['threshold']:.2f}"
    return f"{', '.join(shares)} of {results['examples']:,} {tested_on}"
