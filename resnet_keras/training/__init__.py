"""Train a recipe into a run folder: machine, data, model, fit, evaluation, written files."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_keras.console import load_tensorflow, say
from resnet_keras.errors import InputError, refusal
from resnet_keras.files import write_text
from resnet_keras.recipe import Recipe, images_of
from resnet_keras.signals import stopping
from resnet_keras.training import memory, run_folder, tracking
from resnet_keras.training.building import compiled
from resnet_keras.training.dry_run import resolved
from resnet_keras.training.job import Job
from resnet_keras.training.machine import choose_precision, quiet_retracing, versions
from resnet_keras.training.replicas import Replicas, choose_replicas, command

if TYPE_CHECKING:
    import keras

    from resnet_keras.backup import Saved
    from resnet_keras.data import Split
    from resnet_keras.model_files import ModelFile
    from resnet_keras.training.fitting import Fitted

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
    if recipe.save_memory:
        memory.return_at_once()
    with ExitStack() as stack, quiet_retracing():
        # Before the first step and after the last one; between them `fit` saves first.
        stack.enter_context(stopping(f"To resume: {command()}"))
        replicas = choose_replicas(recipe)
        with replicas.together():
            policy, reason = choose_precision(recipe.precision)
            say(f"{policy}: {reason}")
            job = prepared(recipe, folder, replicas, policy, stack)
            model, fitted = trained(job, stack)
        if replicas.process == 0:
            print(_summary(recipe, _publish(job, model, fitted)))
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
    files = run_folder.files(recipe)  # before they are listed to be opened, not after
    source = data.Source(recipe.dataset, data_dir=recipe.data_dir, skip_bad=recipe.skip_bad)
    made, names = source.made, recipe.splits
    if made is not None:
        fold = names.test if recipe.fold else None
        source = dataclasses.replace(
            source, holdout=recipe.holdout, fold=fold, channels=recipe.channels or 3
        )
    train = dataclasses.replace(source, split=names.train).open()
    test = dataclasses.replace(source, split=names.test).open()
    validation, name = test, names.validation
    if made is not None and (recipe.holdout or ("val" in made and not recipe.fold)):
        name = "val"
    if name is not None:
        validation = dataclasses.replace(source, split=name).open()
    _require_validation(recipe, validation, test)
    _warn_of_imbalance(train, recipe)
    if len(train.labels) < 2 and not train.multi_label:
        raise InputError(
            f"{recipe.dataset} must have two classes or more. Received: {', '.join(train.labels)}"
        )
    if not replicas.process:
        replicas.gather(0)
    # After the data: preparing them draws from the same generators as the weights.
    keras.utils.set_random_seed(recipe.seed)
    return Job(recipe, folder, replicas, policy, train, validation, test, files)


def _require_validation(recipe: Recipe, validation: "Split", test: "Split") -> None:
    """Refuse to choose an epoch by the test images; say where the two cannot be told apart."""
    if not recipe.chooses_epoch:
        return
    if validation is test:
        raise InputError(
            f"{recipe.dataset} has no validation images, by which `keep` and `patience` choose: "
            "add a split val, or hold some out with --holdout. "
            f"Received: keep={recipe.keep!r}, patience={recipe.patience}, holdout=0"
        )
    if test.name == "val":
        say(
            f"warning: {recipe.dataset} has no test images: the accuracy at the end is that of the "
            "validation images, by which the epoch is chosen, and so too high"
        )


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


def trained(job: Job, stack: ExitStack) -> "tuple[keras.Model, Fitted]":
    """Train, from the backup if there is one, to the end.

    Args:
        job: the training.
        stack: holds the lock of the run folder.

    Returns:
        The model, and what `fit` gave.

    Raises:
        InputError: the run folder belongs to another run, or the memory does not suffice.
        SystemExit: as from `train`.
    """
    from resnet_keras import backup

    then = job.then()
    if then is None:
        return _fitted(job, stack)
    if backup.exist(then.backups):
        return _fitted(then, stack)
    return _fitted(then, stack, before=_fitted(job, stack))


def _fitted(
    job: Job,
    stack: ExitStack,
    before: "tuple[keras.Model, Fitted] | None" = None,
) -> "tuple[keras.Model, Fitted]":
    """Do one training of a run; `before` is what the one before it returned, in this process."""
    import keras

    from resnet_keras import backup
    from resnet_keras.training import features, watch
    from resnet_keras.training.distillation import distil, open_teacher
    from resnet_keras.training.fitting import fit

    recipe, replicas = job.recipe, job.replicas
    cached = features.used(recipe, replicas.count)
    if job.earlier:  # the same, whether the training before it ran in this process or not
        keras.utils.set_random_seed(recipe.seed)
    with replicas.scope():
        fresh = not backup.exist(job.backups) and job.earlier is None
        model, metrics = compiled(recipe, job.train, job.policy, replicas.count, fresh, cached)
        if (teacher := open_teacher(recipe, job.train, job.policy)) is not None:
            distil(model, teacher, recipe, sigmoid=model.loss.sigmoid)
    whole = model.network if cached else model
    here = replicas.count // replicas.processes
    need = _memory_needed(job, whole, cached, here, teacher.params if teacher else 0)

    if replicas.process == 0 and before is None:
        stack.enter_context(backup.alone(job.folder))
        run_folder.require_ours((job.earlier or job).recipe)  # again: others could write until now
    saved = backup.load(job.backups)
    run_folder.require_same(job, saved)
    if saved:
        with replicas.scope():
            saved = watch.restore(saved, model, metrics)
    elif before:
        with replicas.scope():
            model.set_weights(before[0].get_weights())
    if replicas.process == 0:
        _begin(job, saved)
    try:
        with replicas.scope():
            if cached and (saved is None or saved.step < job.total_steps):
                job = features.on_features(job, whole)
            fitted = fit(job, model, metrics, saved, before[1].rows if before else ())
    except Exception as error:
        # TensorFlow has the same error for a full disk.
        if isinstance(error, InputError) or refusal(error) or not memory.ran_out(error):
            raise
        raise InputError(memory.advice(need, recipe, memory.available(here))) from error
    if cached:
        features.remove(job.folder)
    return whole, fitted


def _memory_needed(
    job: Job, network: "keras.Model", cached: bool, here: int, others: int
) -> memory.Need:
    """Estimate the memory of a step; refuse one, or one of the training that follows, if too much.

    Args:
        job: the training.
        network: that is trained.
        cached: whether it is on features: then a forward pass is all, which keeps nothing.
        here: number of replicas on this machine.
        others: weights of a teacher, which are float32.
    """
    from resnet_keras.training.features import batch_of

    recipe, count = job.recipe, job.replicas.count
    then = job.then()
    for one in [then.recipe] if then else []:
        memory.require(memory.estimate(one, network, job.policy, count), one, here)
    if cached:
        recipe = dataclasses.replace(recipe, batch_size=batch_of(recipe), accumulate=1)
    need = memory.estimate(recipe, network, job.policy, count)
    need = need._replace(fixed=need.fixed + 4 * others)
    if not cached:
        memory.require(need, recipe, here)
    return need


def _begin(job: Job, saved: "Saved | None") -> None:
    """Write the recipe into the run folder, and say what is trained."""
    from resnet_keras import backup

    if saved:
        backup.prune(job.backups, saved.step)
    (job.folder / "results.json").unlink(missing_ok=True)  # of a shorter run, which now continues
    recipe, count = job.recipe, job.replicas.count
    resuming = f", resuming at step {saved.step:,}" if saved else ""
    own = (job.earlier or job).recipe
    write_text(job.folder / "recipe.json", json.dumps(own.to_json(), indent=1) + "\n")
    if job.earlier:
        say(
            f"then the whole network: {job.total_steps:,} steps, {job.steps_per_epoch} an epoch, "
            f"learning rate {recipe.learning_rate:g}{resuming}"
        )
        return
    heads = f"a sigmoid for each of {len(job.train.labels)} labels, "
    say(
        f"{recipe.model} on {recipe.dataset}: "
        f"{heads if job.train.multi_label else ''}{job.train.examples:,} training images, "
        + ("" if job.validation is job.test else f"{job.validation.examples:,} validation images, ")
        + f"{job.test.examples:,} {images_of(job.tested_on)}, {job.total_steps:,} steps, "
        f"{job.steps_per_epoch} an epoch, {count} replica{'s' if count > 1 else ''}. "
        f"Writing {job.folder}/{resuming}"
    )


def _publish(job: Job, model: "keras.Model", fitted: "Fitted") -> dict[str, Any]:
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
        recipe.preprocessing,
        labels,
        recipe.dataset,
        split=None if job.tested_on in ("test", "val") else job.tested_on,
        threshold=0.5 if several else None,
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
        "train_seconds": round(sum(row["seconds"] for row in fitted.rows), 1),
        "epoch": fitted.epoch,
        "epoch_reason": _reason(job, fitted),
        "precision": job.policy,
        "replicas": job.replicas.count,
        "skipped": {"train": len(job.train.skipped), "test": len(job.test.skipped)},
        "tested_on": job.tested_on,
        "validated_on": job.validated_on,
        **({"threshold_on": job.validated_on} if several else {}),
        "files": job.files,
        "versions": versions(),
    }
    run_folder.warn_of_changes(recipe, job.files)
    text = json.dumps(results, indent=1) + "\n"
    # Before the results: a run that has them is finished, and left as it is.
    write_report([job.folder], test=job.test, results=json.loads(text))
    write_text(job.folder / "results.json", text)
    return results


def _reason(job: Job, fitted: "Fitted") -> str:
    """Say why the model has the weights of this epoch, and why the training ended."""
    rows = {row["epoch"]: row for row in fitted.rows}
    recipe, before, last = job.recipe, job.epochs_before, max(rows)
    if recipe.keep == "best":
        epochs = _epochs(last - before) + " of the whole network" * bool(before)
        best = rows[fitted.epoch]["val_accuracy"]
        reason = f"highest val_accuracy, {best:.4f}, of {epochs}"
    else:
        reason = f"last of {_epochs(last)}"
    stopped = f", stopped after {recipe.patience} without a higher val_accuracy"
    if recipe.patience and (last - before) * job.steps_per_epoch < job.total_steps:
        reason += stopped
    # Numbers of epochs that an early end has left out are not given to the training after it.
    if before and before not in rows:
        alone = max(number for number in rows if number < before)
        reason += f"; the last layer alone: {_epochs(alone)}{stopped}"
    return reason


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def _fitted_threshold(job: Job, model_file: "ModelFile") -> float:
    """Choose the threshold of a model on the validation images, as `best_threshold` does."""
    from resnet_keras.evaluation import measures, predict_split

    if job.validation is job.test:
        say(
            "warning: without other validation images the threshold is chosen on the "
            f"{images_of(job.tested_on)} themselves, so that F1 is too high on them: "
            "try --holdout 0.1"
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
    tested_on = images_of(results.get("tested_on", recipe.splits.test))
    if results.get("threshold") is not None:
        shares[-1] += f" at threshold {results['threshold']:.2f}"
    return f"{', '.join(shares)} of {results['examples']:,} {tested_on}"
