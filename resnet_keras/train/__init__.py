"""Recipe -> run folder: policy, strategy, data, model, fit, evaluate, save."""

import json
import os
import platform
import signal
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_keras.recipe import KNOWN, Recipe
from resnet_keras.terminal import InputError, load_tensorflow
from resnet_keras.train import memory
from resnet_keras.train.machine import HOSTS, Replicas, choose_precision, choose_replicas

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

    with ExitStack() as stack:
        replicas = choose_replicas(recipe)
        with replicas.together():
            model, pictures, facts = _trained(recipe, folder, replicas, stack)
        if replicas.process == 0:
            print(_summary(_publish(recipe, model, pictures, folder, facts)))
    return folder


def _trained(recipe: Recipe, folder: Path, replicas: Replicas, stack: ExitStack):
    """The model at the end of its training, its pictures, and facts about the run."""
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
    if replicas.process:
        replicas.gather(0)  # until the first process has prepared them
    test = data.open_split(recipe.dataset, "test", **source)
    pictures = data.open_split(recipe.dataset, "train", **source)
    if not replicas.process:
        replicas.gather(0)
    steps = recipe.steps_per_epoch(pictures.examples)
    # After the data: preparing them draws from the same generators as the weights.
    keras.utils.set_random_seed(recipe.seed)
    with replicas.scope():
        model, metrics = _compiled(recipe, pictures, policy, replicas.count)

    if replicas.process == 0:
        stack.enter_context(backup.alone(folder))
    saved = backup.load(folder / "backup")
    _check_backup(recipe, folder, saved, replicas)
    total = recipe.total_steps(pictures.examples)
    if replicas.process == 0:
        (folder / "results.json").unlink(missing_ok=True)  # of a shorter run that now goes on
        write_text(folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
        print(
            f"{recipe.model} on {recipe.dataset}: {pictures.examples:,} training pictures, "
            f"{test.examples:,} test pictures, {total:,} steps, {steps} an epoch, "
            f"{replicas.count} replica{'s' if replicas.count > 1 else ''}. Writing {folder}/"
            + (f", going on at step {saved.step:,}" if saved else ""),
            file=sys.stderr,
        )
    try:
        with replicas.scope():
            rows = _fit(recipe, model, metrics, pictures, test, folder, steps, saved, replicas)
    except Exception as error:
        if not memory.ran_out(error):
            raise
        need = memory.estimate(recipe, model, policy, replicas.count)
        raise InputError(
            f"{memory.advice(need, recipe)}; in another --run-dir. The last backup is kept."
        ) from error
    return (
        model,
        pictures,
        {
            "train_seconds": round(sum(row["seconds"] for row in rows), 1),
            "precision": policy,
            "replicas": replicas.count,
            "skipped": {"train": len(pictures.skipped), "test": len(test.skipped)},
            "versions": versions(),
        },
    )


def _check_backup(recipe: Recipe, folder: Path, saved, replicas: Replicas) -> None:
    """Refuse a backup of another backend, and processes that stand at different steps."""
    import keras

    backend = keras.backend.backend()
    theirs = saved.notes.get("backend", backend) if saved else backend
    if theirs != backend:
        raise InputError(
            f"{folder} was trained with KERAS_BACKEND={theirs}. Received: KERAS_BACKEND={backend}"
        )
    here = json.dumps([saved.step if saved else 0, recipe.identity()], sort_keys=True)
    if len(set(replicas.gather(zlib.crc32(here.encode()) >> 1))) > 1:
        raise InputError(
            "the processes differ in their recipes or in what they see of the run folder, which "
            f"must be on a file system that all of them share. Received: {folder.absolute()}"
        )


def _compiled(recipe: Recipe, pictures, policy: str, replicas: int):
    """The model of a recipe, compiled, and its metrics; to be called in the scope."""
    from resnet_keras.losses import Accuracy, CrossEntropy
    from resnet_keras.weights import load_weights

    model = _model(recipe, pictures.channels, len(pictures.labels), replicas)
    if recipe.weights is not None:
        print(load_weights(model, recipe.weights, skip_head=recipe.skip_head), file=sys.stderr)
    metrics = [Accuracy()]
    _follow_on_jax(model)
    model.compile(
        _optimizer(recipe, pictures.examples, policy),
        CrossEntropy(sigmoid=recipe.loss == "sigmoid", label_smoothing=recipe.label_smoothing),
        weighted_metrics=metrics,  # pictures that fill a batch weigh nothing
        auto_scale_loss=False,  # our optimizers scale it themselves, and hear every replica
    )
    # Now, so that a backup finds its variables.
    model.optimizer.build(model.trainable_variables)
    if recipe.ema:
        model.optimizer.follow(model.non_trainable_variables)
    return model, metrics


def _follow_on_jax(model) -> None:
    """On JAX, let each step move the averages of batch norm's statistics, too."""
    import keras

    if keras.backend.backend() != "jax":
        return
    step = model.train_step

    def train_step(state, data):
        logs, (trainable, others, optimizer, metrics) = step(state, data)
        values = {id(v): x for v, x in zip(model.non_trainable_variables, others, strict=True)}
        optimizer = model.optimizer.follow_stateless(state[2], optimizer, values)
        return logs, (trainable, others, optimizer, metrics)

    model.train_step = train_step


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
    recipe: Recipe,
    model,
    metrics,
    pictures,
    test,
    folder: Path,
    steps: int,
    saved,
    replicas: Replicas,
) -> list[dict]:
    """Train from where the backup stands to the end; gives the rows of the log."""
    from resnet_keras import data
    from resnet_keras.train import watch

    step, rows = (saved.step, saved.notes["rows"]) if saved else (0, [])
    total = recipe.total_steps(pictures.examples)
    place = watch.Place(step, recipe.accumulate, steps, total, rows)
    every = _interval(recipe.backup_every)
    first = replicas.process == 0
    path = folder / "log.csv" if first else None
    keep = watch.Keep(place, folder / "backup", every, metrics, replicas)
    callbacks = [
        watch.Count(place),
        watch.Log(place, path, partial(recipe.rate, steps_per_epoch=steps)),
        keep,
        *([watch.Progress(place, recipe.batch_size // recipe.accumulate)] if first else []),
        *([watch.Average()] if recipe.ema else []),
    ]
    if saved:
        keep.set_model(model)
        keep.restore(saved)
        if first:
            watch.write_rows(path, place.rows)

    test_batches = data.evaluation_batches(
        test,
        size=recipe.eval_size,
        resize=recipe.eval_resize,
        batch_size=recipe.batch_size // replicas.processes,
        interpolation=recipe.interpolation,
        antialias=recipe.antialias,
        share=(replicas.process, replicas.processes) if _shares_must_be_whole(replicas) else None,
    )
    micro = recipe.batch_size // recipe.accumulate // replicas.processes
    rows = replicas.rows(recipe.batch_size, recipe.accumulate)
    try:
        with _signals(keep.on_signal), data.naming_files():
            # The rest of an epoch that was interrupted, then all the others.
            while place.step < total:
                epoch, end, length = place.next_epochs()
                batches = data.training_batches(
                    pictures,
                    size=recipe.train_size,
                    batch_size=recipe.batch_size,
                    seed=recipe.seed,
                    start=place.step,
                    rows=rows,
                    **{name: getattr(recipe, name) for name in PIXELS},
                )
                model.fit(
                    batches.rebatch(micro),
                    initial_epoch=epoch,
                    epochs=end,
                    steps_per_epoch=length * recipe.accumulate,
                    validation_data=test_batches,
                    callbacks=callbacks,
                    shuffle=False,  # the data are shuffled already
                    verbose=int(recipe.verbose and first),
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
    results = evaluate(folder / "model.keras", data_dir=recipe.data_dir, skip_bad=recipe.skip_bad)
    results |= facts
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
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
    set_ = [f"{n}={os.environ[n]}" for n in ("KERAS_BACKEND", *HOSTS) if os.environ.get(n)]
    return " ".join([*set_, "python", *sys.argv])


def _shares_must_be_whole(replicas: Replicas) -> bool:
    """Whether the last test batch must be filled: JAX shares out whole batches only."""
    import keras

    return keras.backend.backend() == "jax" and replicas.count > 1


def _model(recipe: Recipe, channels: int, classes: int, replicas: int = 1):
    """The network of a recipe, as training wants it: logits, fused batch norm."""
    import keras

    from resnet_keras.layers import BatchNormalization
    from resnet_keras.models import ResNet, freeze

    if keras.backend.backend() == "jax":
        replicas = 1  # a batch is one array there, whose statistics are all replicas' anyway
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
    policy, _ = choose_precision(recipe.precision)
    need = memory.estimate(recipe, model, policy, recipe.replicas or 1)
    return recipe.to_json() | {
        "steps_per_epoch": steps,
        "total_steps": recipe.total_steps(examples) if examples else recipe.steps,
        "rates": _knots(recipe, examples) if examples else None,
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
        step: recipe.rate(step, steps_per_epoch=steps) for step in sorted(bends) if step < total
    }


def versions() -> dict[str, str]:
    """What this run stands on."""
    import keras

    backend = keras.backend.backend()
    names = ("resnet-keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    names += () if backend in names else (backend,)
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _summary(results: dict[str, Any]) -> str:
    return (
        f"top-1 {100 * results['top1']:.2f} %, top-5 {100 * results['top5']:.2f} % "
        f"of {results['examples']:,} test pictures"
    )
