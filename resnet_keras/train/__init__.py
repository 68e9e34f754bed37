"""Recipe -> run folder: policy, strategy, data, model, fit, evaluate, save."""

import json
import math
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_keras.recipe import KNOWN, Recipe
from resnet_keras.terminal import InputError, load_tensorflow
from resnet_keras.train.machine import choose_precision, choose_strategy

__all__ = ["choose_precision", "train", "versions"]

# Fields of a recipe that are arguments of `data.training_batches`, by the same names.
PIXELS = (
    *("repeats", "min_area", "rotate", "scale", "shear", "padding", "flip", "rand_ops"),
    *("rand_magnitude", "rand_std", "color_jitter", "erasing", "mixup", "cutmix"),
    *("interpolation", "antialias"),
)

# Rooms that load TensorFlow are imported inside functions, because a rehearsal of several replicas
# must set the environment before.


def train(recipe: Recipe) -> Path:
    """Train a network as a recipe says; where it was interrupted before, go on exactly there.

    Args:
        recipe: what to do; `run_dir` must be set (`Recipe.parse` sets it).

    Returns:
        The run folder: `recipe.json`, `log.csv`, `backup/`, `model.keras`, `model.json`,
        `labels.txt`, `results.json`. If the run is finished already, nothing is done.

    Raises:
        InputError: something that the user can mend.
        SystemExit: 0 after `--dry-run`; 1 where the loss is no number any more; 128 + signal
            after SIGTERM or SIGINT, when all is saved.
    """
    if recipe.dry_run:
        load_tensorflow()
        print(json.dumps(_resolved(recipe)))
        raise SystemExit(0)
    folder = _check_folder(recipe)
    if (results := _finished(recipe, folder)) is not None:
        print(f"{folder} is finished: {_summary(results)}")
        return folder

    strategy = choose_strategy(recipe)
    import keras
    import tensorflow as tf

    from resnet_keras import backup, data
    from resnet_keras.artefact import write_text

    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy, reason = choose_precision(recipe.precision)
    keras.config.set_dtype_policy(policy)
    print(f"{policy}: {reason}", file=sys.stderr)

    source = {"data_dir": recipe.data_dir, "skip_bad": recipe.skip_bad}
    test = data.open_split(recipe.dataset, "test", **source)
    pictures = data.open_split(recipe.dataset, "train", **source)
    steps = recipe.steps_per_epoch(pictures.examples)
    # After the data: preparing them draws from the same generators as the weights.
    keras.utils.set_random_seed(recipe.seed)
    with strategy.scope():
        replicas = strategy.num_replicas_in_sync
        model, metrics = _compiled(recipe, pictures, policy, replicas)
    saved = backup.load(folder / "backup")

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)  # of a shorter run that now goes on
    write_text(folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
    total = recipe.total_steps(pictures.examples)
    print(
        f"{recipe.model} on {recipe.dataset}: {pictures.examples:,} training pictures, "
        f"{test.examples:,} test pictures, {total:,} steps, {steps} an epoch, "
        f"{replicas} replica{'s' if replicas > 1 else ''}. Writing {folder}/"
        + (f", going on at step {saved.step:,}" if saved else ""),
        file=sys.stderr,
    )
    rows = _fit(recipe, model, metrics, pictures, test, folder, steps, saved)
    facts = {
        "train_seconds": round(sum(row["seconds"] for row in rows), 1),
        "precision": policy,
        "replicas": replicas,
        "skipped": {"train": len(pictures.skipped), "test": len(test.skipped)},
        "versions": versions(),
    }
    print(_summary(_publish(recipe, model, pictures, folder, facts)))
    return folder


def _compiled(recipe: Recipe, pictures, policy: str, replicas: int):
    """The model of a recipe, compiled, and its metrics; to be called in the scope."""
    from resnet_keras.losses import Accuracy, CrossEntropy
    from resnet_keras.weights import load_weights

    model = _model(recipe, pictures.channels, len(pictures.labels), replicas)
    if recipe.weights is not None:
        print(load_weights(model, recipe.weights, skip_head=recipe.skip_head), file=sys.stderr)
    metrics = [Accuracy()]
    model.compile(
        _optimizer(recipe, pictures.examples, policy),
        CrossEntropy(sigmoid=recipe.loss == "sigmoid", label_smoothing=recipe.label_smoothing),
        metrics=metrics,
        auto_scale_loss=False,  # our optimizers scale it themselves, and hear every replica
    )
    # Now, so that a backup finds its variables.
    model.optimizer.build(model.trainable_variables)
    if recipe.ema:
        model.optimizer.follow(model.non_trainable_variables)
    return model, metrics


def _optimizer(recipe: Recipe, examples: int, policy: str):
    """The optimizer of a recipe."""
    from resnet_keras.optim import LAMB, SGD, Table

    steps = recipe.steps_per_epoch(examples)
    total = recipe.total_steps(examples)
    rates = Table([recipe.rate(i, steps_per_epoch=steps) for i in range(total)])
    half = policy == "mixed_float16"
    shared = {
        "weight_decay": recipe.weight_decay,
        "exclude": recipe.exclude,
        "accumulate": recipe.accumulate,
        "ema": recipe.ema,
        "loss_scale": (recipe.loss_scale or 2.0**15) if half else None,
        "growth_steps": 2000 if half and recipe.loss_scale is None else None,
    }
    if recipe.optimizer == "lamb":
        return LAMB(
            rates,
            beta_1=recipe.betas[0],
            beta_2=recipe.betas[1],
            epsilon=recipe.epsilon,
            max_grad_norm=recipe.clip_norm,
            **shared,
        )
    return SGD(
        rates,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        clip_norm=recipe.clip_norm,
        **shared,
    )


def _fit(
    recipe: Recipe, model, metrics, pictures, test, folder: Path, steps: int, saved
) -> list[dict]:
    """Train from where the backup stands to the end; gives the rows of the log."""
    from resnet_keras import data
    from resnet_keras.train import watch

    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, [])
    total = recipe.total_steps(pictures.examples)
    place = watch.Place(step, recipe.accumulate, steps, total, rows)
    keep = watch.Keep(place, folder / "backup", _interval(recipe.backup_every), metrics)
    callbacks = [
        watch.Count(place),
        watch.Log(place, folder / "log.csv", partial(recipe.rate, steps_per_epoch=steps)),
        keep,
        watch.Progress(place, recipe.batch_size // recipe.accumulate),
        *([watch.Average()] if recipe.ema else []),
    ]
    if saved:
        keep.set_model(model)
        keep.restore(saved)
        watch.write_rows(folder / "log.csv", place.rows)

    test_batches = data.evaluation_batches(
        test,
        size=recipe.eval_size,
        resize=recipe.eval_resize,
        batch_size=recipe.batch_size,
        interpolation=recipe.interpolation,
        antialias=recipe.antialias,
    )
    try:
        with _signals(keep.on_signal), data.naming_files():
            # The rest of an epoch that was interrupted, then all the others.
            while place.step < total:
                first, end, length = place.next_epochs()
                batches = data.training_batches(
                    pictures,
                    size=recipe.train_size,
                    batch_size=recipe.batch_size,
                    seed=recipe.seed,
                    start=place.step,
                    **{name: getattr(recipe, name) for name in PIXELS},
                )
                model.fit(
                    batches.rebatch(recipe.batch_size // recipe.accumulate),
                    initial_epoch=first,
                    epochs=end,
                    steps_per_epoch=length * recipe.accumulate,
                    validation_data=test_batches,
                    callbacks=callbacks,
                    shuffle=False,  # the data are shuffled already
                    verbose=int(recipe.verbose),
                )
    except watch.Interrupted as stop:
        print(f"{stop}. To go on: {_command()}", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None
    except watch.Diverged as error:
        print(
            f"error: {error}. Try a lower --learning-rate, a longer warm-up or --precision "
            f"float32, in another --run-dir; the last backup is kept.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    if recipe.ema:
        model.optimizer.exchange()
    return place.rows


def _publish(recipe: Recipe, model, pictures, folder: Path, facts: dict) -> dict[str, Any]:
    """Write the model, its card and its accuracy, which is that of the written file."""
    from resnet_keras.artefact import Card, write_text
    from resnet_keras.evaluate import evaluate
    from resnet_keras.export import save_plain
    from resnet_keras.report import write_report

    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in pictures.labels))
    card = Card(
        input_size=recipe.eval_size,
        eval_resize=recipe.eval_resize,
        crop=recipe.eval_size,
        interpolation=recipe.interpolation,
        antialias=recipe.antialias,
        mean=recipe.mean,
        std=recipe.std,
        labels=pictures.labels,
        dataset=recipe.dataset,
    )
    card.write(folder / "model.keras")
    save_plain(model, folder / "model.keras")
    results = evaluate(
        folder / "model.keras",
        data_dir=recipe.data_dir,
        skip_bad=recipe.skip_bad,
        save=folder / "predictions.npz",  # which the report reads
    )
    results |= facts
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_report([folder])
    return results


@contextmanager
def _signals(handler) -> Iterator[None]:
    """SIGTERM and SIGINT go to `handler` for a while."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _interval(every: str) -> tuple[int, str]:
    """Read `500` as steps; `90s`, `10m` and `2h` as seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (every[:-1], every[-1:]) if every[-1:] in units else (every, "")
    if not number.isdigit() or int(number) == 0:
        raise InputError(
            "`backup_every` must be steps (500) or a time (90s, 10m, 2h). "
            f"Received: backup_every={every!r}"
        )
    return (int(number) * units[unit], "seconds") if unit else (int(number), "steps")


def _command() -> str:
    """The command that this process was started with."""
    return " ".join(["python", *sys.argv])


def _model(recipe: Recipe, channels: int, classes: int, replicas: int = 1):
    """The network of a recipe, as training wants it: logits, fused batch norm."""
    from resnet_keras.layers import BatchNormalization
    from resnet_keras.models import ResNet, freeze

    synchronized = recipe.sync_batch_norm and replicas > 1
    # One size is faster; with two the network is built for any.
    size = recipe.train_size if recipe.train_size == recipe.eval_size else None
    try:
        model = ResNet(
            recipe.model,
            input_shape=(size, size, channels),
            classes=classes,
            classifier_activation=None,
            mean=recipe.mean,
            std=recipe.std,
            drop_path=recipe.drop_path,
            norm=partial(BatchNormalization, synchronized=synchronized, replicas=replicas),
        )
        freeze(model, recipe.freeze, norm_eval=recipe.norm_eval)
    except ValueError as error:
        raise InputError(str(error)) from error
    return model


def _check_folder(recipe: Recipe) -> Path:
    """The run folder, unless it belongs to another recipe."""
    from resnet_keras.specs import SPECS

    if recipe.model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: {recipe.model!r}")
    if recipe.run_dir is None:
        raise InputError("`run_dir` must say where the run is written. Received: None")
    path = recipe.run_dir / "recipe.json"
    try:
        theirs = json.loads(path.read_text()) if path.exists() else recipe.to_json()
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}). Take another --run-dir.") from None
    field = recipe.conflict(theirs)
    if field is not None:
        raise InputError(
            f"{recipe.run_dir} belongs to another recipe: {field} is {theirs.get(field)!r} there, "
            f"{recipe.to_json()[field]!r} here. Take another --run-dir."
        )
    return recipe.run_dir


def _finished(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do."""
    if not (folder / "results.json").exists():
        return None
    theirs = json.loads((folder / "recipe.json").read_text())
    if (theirs.get("epochs"), theirs.get("steps")) != (recipe.epochs, recipe.steps):
        return None
    return json.loads((folder / "results.json").read_text())


def _resolved(recipe: Recipe) -> dict[str, Any]:
    """What `--dry-run` prints."""
    from resnet_keras.models import count

    examples, classes, channels = KNOWN.get(recipe.dataset, (None, None, 3))
    model = _model(recipe, channels, classes)
    counts = count(model)
    steps = recipe.steps_per_epoch(examples) if examples else None
    return recipe.to_json() | {
        "steps_per_epoch": steps,
        "total_steps": recipe.total_steps(examples) if examples else recipe.steps,
        "rates": _knots(recipe, examples) if examples else None,
        "params": counts["params"],
        "macs": counts["macs"],
        "estimated_memory_bytes": _memory(recipe, model),
    }


def _knots(recipe: Recipe, examples: int) -> dict[int, float]:
    """The learning rate at the steps where its curve bends."""
    steps, total = recipe.steps_per_epoch(examples), recipe.total_steps(examples)
    unit = 1 if recipe.steps else steps
    warm = recipe.warmup_steps or round(recipe.warmup_epochs * steps)
    bends = {0, warm, *(m * unit for m in recipe.milestones), total - 1}
    return {
        step: recipe.rate(step, steps_per_epoch=steps) for step in sorted(bends) if step < total
    }


def _memory(recipe: Recipe, model) -> int:
    """Bytes of one training step.

    Weights, gradients and momentum, and what the backward pass keeps: the outputs of
    convolutions, batch norms and additions.
    """
    kept = ("_conv", "_bn", "_add", "normalise")
    activations = sum(
        math.prod(layer.output.shape[1:]) for layer in model.layers if layer.name.endswith(kept)
    )
    return 3 * 4 * model.count_params() + 4 * activations * recipe.batch_size // recipe.accumulate


def versions() -> dict[str, str]:
    """What this run stands on."""
    names = ("resnet-keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _summary(results: dict[str, Any]) -> str:
    return (
        f"top-1 {100 * results['top1']:.2f} %, top-5 {100 * results['top5']:.2f} % "
        f"of {results['examples']:,} test pictures"
    )
