"""Recipe -> run folder: policy, strategy, data, model, fit, evaluate, save."""

import dataclasses
import json
import platform
import zlib
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resnet_keras.console import load_tensorflow, refusal, say, stopping
from resnet_keras.errors import InputError
from resnet_keras.files import read_object, write_text
from resnet_keras.recipe import KNOWN, Recipe, splits, tested
from resnet_keras.training import memory, tracking
from resnet_keras.training.building import compiled, network
from resnet_keras.training.machine import Replicas, choose_precision, choose_replicas, command

__all__ = ["choose_precision", "train", "versions"]

# Rooms that load TensorFlow are imported inside functions, because a rehearsal of several replicas
# must set the environment before.


def train(recipe: Recipe) -> Path:
    """Train a network as a recipe says; where it was interrupted before, go on exactly there.

    Args:
        recipe: what to do; `run_dir` must be set (`Recipe.parse` sets it).

    Returns:
        The run folder: `recipe.json`, `log.csv`, `backup/`, `model.keras`, `model.json`,
        `labels.txt`, `results.json`, `predictions.npz`, `report.html`; with `quantize` also
        `model.quantization.json`. If the run is finished already, nothing is done.

    Raises:
        InputError: something that the user can fix.
        SystemExit: 0 after `--dry-run`; 1 where the loss is no number any more; 128 + signal
            after SIGTERM or SIGINT, when all is saved.
    """
    if recipe.dry_run:
        load_tensorflow()
        print(json.dumps(_resolved(recipe)))
        raise SystemExit(0)
    folder = _check_folder(recipe)
    if (results := _finished(recipe, folder)) is not None:
        print(f"{folder} is finished: {_summary(recipe, results)}")
        return folder

    tracking.demand(recipe)
    with ExitStack() as stack:
        # Until the first step and behind the last one; between them `fit` saves before.
        stack.enter_context(stopping(f"To go on: {command()}"))
        replicas = choose_replicas(recipe)
        with replicas.together():
            policy, reason = choose_precision(recipe.precision)
            say(f"{policy}: {reason}")
            model, images, facts = _trained(recipe, folder, replicas, policy, stack)
        if replicas.process == 0:
            print(_summary(recipe, _publish(recipe, model, images, folder, facts)))
    return folder


def _trained(recipe: Recipe, folder: Path, replicas: Replicas, policy: str, stack: ExitStack):
    """The model at the end of its training, its images, and facts about the run."""
    import keras
    import tensorflow as tf

    from resnet_keras import backup, data
    from resnet_keras.training import watch
    from resnet_keras.training.fitting import fit

    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
    keras.config.set_dtype_policy(policy)

    source = {"data_dir": recipe.data_dir, "skip_bad": recipe.skip_bad}
    if replicas.process:
        replicas.gather(0)  # until the first process has prepared them
    trained_on, tested_on = splits(recipe.holdout)
    test = data.Source(recipe.dataset, tested_on, **source).open()
    train = data.Source(recipe.dataset, trained_on, **source).open()
    if not replicas.process:
        replicas.gather(0)
    steps = recipe.steps_per_epoch(train.examples)
    # After the data: preparing them draws from the same generators as the weights.
    keras.utils.set_random_seed(recipe.seed)
    with replicas.scope():
        fresh = not backup.exist(folder / "backup")
        model, metrics = compiled(recipe, train, policy, replicas.count, fresh)
    need = memory.estimate(recipe, model, policy, replicas.count)
    here = replicas.count // replicas.processes
    memory.demand(need, recipe, here)

    if replicas.process == 0:
        stack.enter_context(backup.alone(folder))
        _check_folder(recipe)  # again: until now, another command could write there
    saved = backup.load(folder / "backup")
    settled = {
        "backend": keras.backend.backend(),
        "precision": policy,
        "replicas": replicas.count,
        "images": train.identity,
    }
    _check_backup(recipe, folder, saved, replicas, settled)
    if saved:
        with replicas.scope():
            saved = watch.restore(saved, model, metrics)
    total = recipe.total_steps(train.examples)
    if replicas.process == 0:
        if saved:
            backup.prune(folder / "backup", saved.step)
        (folder / "results.json").unlink(missing_ok=True)  # of a shorter run that now goes on
        write_text(folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
        say(
            f"{recipe.model} on {recipe.dataset}: {train.examples:,} training images, "
            f"{test.examples:,} {tested(recipe.holdout)}, {total:,} steps, {steps} an epoch, "
            f"{replicas.count} replica{'s' if replicas.count > 1 else ''}. Writing {folder}/"
            + (f", going on at step {saved.step:,}" if saved else "")
        )
    try:
        with replicas.scope():
            rows = fit(recipe, model, metrics, train, test, folder, saved, replicas, settled)
    except Exception as error:
        if refusal(error) or not memory.ran_out(error):  # TensorFlow calls a full disk the same
            raise
        raise InputError(memory.advice(need, recipe, memory.available(here))) from error
    return (
        model,
        train,
        {
            "train_seconds": round(sum(row["seconds"] for row in rows), 1),
            "precision": policy,
            "replicas": replicas.count,
            "skipped": {"train": len(train.skipped), "test": len(test.skipped)},
            "versions": versions(),
        },
    )


# How a run goes on with what it began with.
_AS_BEFORE = {
    "backend": "set KERAS_BACKEND={}",
    "precision": "go on with --precision {}",
    "replicas": "go on with --replicas {}",
    "images": "bring those back",
}


def _check_backup(
    recipe: Recipe, folder: Path, saved, replicas: Replicas, settled: dict[str, Any]
) -> None:
    """Refuse a backup that was made with another backend, precision, replicas or images.

    So are processes that stand at different steps.
    """
    for name, ours in settled.items():
        if saved and (theirs := saved.notes.get(name, ours)) != ours:
            raise InputError(
                f"{folder} was trained with {name} {theirs}: {_AS_BEFORE[name].format(theirs)}, or "
                f"take another --run-dir. Received: {ours}"
            )
    here = json.dumps([saved.step if saved else 0, recipe.identity()], sort_keys=True)
    if len(set(replicas.gather(zlib.crc32(here.encode()) >> 1))) > 1:
        raise InputError(
            "the processes differ in their recipes or in what they see of the run folder, which "
            f"must be on a file system that all of them share. Received: {folder.absolute()}"
        )


def _publish(recipe: Recipe, model, train, folder: Path, facts: dict) -> dict[str, Any]:
    """Write the model, its metadata and its accuracy, which is that of the written file."""
    from resnet_keras.evaluation import evaluate
    from resnet_keras.exporting import save_plain
    from resnet_keras.model_files import Metadata, label_lines
    from resnet_keras.quantize import activation_ranges, dequantized, write_ranges
    from resnet_keras.report import write_report

    write_text(folder / "labels.txt", label_lines(train.labels))
    metadata = Metadata(
        recipe.preprocessing,
        labels=train.labels,
        dataset=recipe.dataset,
    )
    metadata.write(folder / "model.keras")
    save_plain(dequantized(model) if recipe.quantize else model, folder / "model.keras")
    if recipe.quantize:
        write_ranges(folder / "model.keras", activation_ranges(model))
    results = evaluate(
        folder / "model.keras",
        data_dir=recipe.data_dir,
        split=splits(recipe.holdout)[1],
        skip_bad=recipe.skip_bad,
        save=folder / "predictions.npz",  # which the report reads
    )
    results |= facts
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_report([folder])
    return results


def _check_folder(recipe: Recipe) -> Path:
    """The run folder, unless it belongs to another recipe."""
    from resnet_keras.specs import SPECS

    if recipe.model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: {recipe.model!r}")
    if recipe.run_dir is None:
        raise InputError("`run_dir` must say where the run is written. Received: None")
    if recipe.weights is None:
        _refuse_without_weights(recipe)
    theirs = _theirs(recipe)
    field = recipe.conflict(theirs)
    if field is not None:
        raise InputError(
            f"{recipe.run_dir} belongs to another recipe: {field} is {theirs.get(field)!r} there, "
            f"{recipe.to_json()[field]!r} here. Take another --run-dir."
        )
    return recipe.run_dir


def _refuse_without_weights(recipe: Recipe) -> None:
    """Refuse what keeps, or starts from, what a network has learnt, where it has learnt nothing."""
    for field in ("quantize", "norm_eval", "freeze"):
        value = getattr(recipe, field)
        if value is not False and value != -1:  # stage 0 is the stem, not nothing
            raise InputError(
                f"`{field}` needs a trained network: name it with --weights. "
                f"Received: {field}={value!r}, weights=None"
            )


def _theirs(recipe: Recipe) -> dict[str, Any]:
    """The recipe that a run folder belongs to; where nothing was trained yet, this one."""
    path = recipe.run_dir / "recipe.json"
    try:
        if path.exists():
            return read_object(path)
    except InputError as error:
        raise InputError(f"{error} Take another --run-dir.") from None
    for left in (path.with_name("results.json"), *path.parent.glob("backup/*.safetensors")):
        if left.exists():  # `train` writes the recipe before both
            raise InputError(
                f"{left} is there, but no recipe.json, which tells of which recipe it is: put it "
                "back, or take another --run-dir."
            )
    return recipe.to_json()


def _finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do."""
    path = folder / "results.json"
    if not path.exists():
        return None
    theirs = _theirs(recipe)
    if (theirs.get("epochs"), theirs.get("steps")) != (recipe.epochs, recipe.steps):
        return None
    hint = "Delete it: the same command writes it again."
    try:
        results = read_object(path)
    except InputError as error:
        raise InputError(f"{error} {hint}") from None
    for name in ("top1", "top5", "examples"):
        if type(results.get(name)) not in (int, float):
            raise InputError(f"{path} is damaged: {name} is no number. {hint}")
    return results


def _resolved(recipe: Recipe) -> dict[str, Any]:
    """What `--dry-run` prints."""
    from resnet_keras.models import count

    examples = recipe.examples()
    _, classes, channels = KNOWN.get(recipe.dataset, (None, None, 3))
    # Of one size, even where the network is built for two: multiply-adds are those of training.
    model = network(dataclasses.replace(recipe, eval_size=recipe.train_size), channels, classes)
    counts = count(model)
    steps = recipe.steps_per_epoch(examples) if examples else None
    policy, _ = choose_precision(recipe.precision)
    need = memory.estimate(recipe, model, policy, recipe.replicas or 1)
    return recipe.to_json() | {
        "steps_per_epoch": steps,
        "total_steps": recipe.total_steps(examples) if examples else recipe.steps,
        "learning_rates": _knots(recipe, examples) if examples else None,
        "params": counts["params"],
        "macs": counts["macs"],
        "estimated_memory_bytes": need.total,
    }


def _knots(recipe: Recipe, examples: int) -> dict[int, float]:
    """The learning rate at the steps where its curve bends."""
    steps, total = recipe.steps_per_epoch(examples), recipe.total_steps(examples)
    unit = 1 if recipe.steps else steps
    warm = recipe.warmup_steps or round(recipe.warmup_epochs * steps)
    bends = {0, warm, *(m * unit for m in recipe.milestones), total - 1}
    return {
        step: recipe.learning_rate_at(step, steps_per_epoch=steps)
        for step in sorted(bends)
        if step < total
    }


def versions() -> dict[str, str]:
    """What this run stands on."""
    import keras

    backend = keras.backend.backend()
    names = ("resnet-keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    names += () if backend in names else (backend,)
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    """Of a package; a copy of the sources on the path is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _summary(recipe: Recipe, results: dict[str, Any]) -> str:
    return (
        f"top-1 {100 * results['top1']:.2f} %, top-5 {100 * results['top5']:.2f} % "
        f"of {results['examples']:,} {tested(recipe.holdout)}"
    )
