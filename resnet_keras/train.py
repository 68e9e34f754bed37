"""Recipe -> run folder: policy, strategy, data, model, fit, evaluate, save."""

import csv
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from resnet_keras.recipe import KNOWN, Recipe
from resnet_keras.terminal import InputError, load_tensorflow

# TensorFlow is imported inside `train`, because a rehearsal must set the environment before.


def train(recipe: Recipe) -> Path:
    """Train a network as a recipe says.

    Args:
        recipe: what to do; `run_dir` must be set (`Recipe.parse` sets it).

    Returns:
        The run folder: `recipe.json`, `log.csv`, `model.keras`, `model.json`, `labels.txt`,
        `results.json`. If the run is finished already, nothing is done.

    Raises:
        InputError: something that the user can mend.
    """
    if recipe.dry_run:
        load_tensorflow()
        print(json.dumps(_resolved(recipe)))
        raise SystemExit(0)
    folder = _check_folder(recipe)
    if (folder / "results.json").exists():
        results = json.loads((folder / "results.json").read_text())
        print(f"{folder} is finished: {_summary(results)}")
        return folder

    strategy = _strategy(recipe)
    import keras
    import tensorflow as tf

    from resnet_keras import data
    from resnet_keras.artefact import Card, write_text
    from resnet_keras.evaluate import evaluate
    from resnet_keras.export import save_plain
    from resnet_keras.optim import SGD, Table

    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy, reason = choose_precision(recipe.precision)
    keras.config.set_dtype_policy(policy)
    print(f"{policy}: {reason}", file=sys.stderr)

    test = data.open_split(recipe.dataset, "test", data_dir=recipe.data_dir)
    pictures = data.open_split(recipe.dataset, "train", data_dir=recipe.data_dir)
    resizing = {"interpolation": recipe.interpolation, "antialias": recipe.antialias}
    batches = data.training_batches(
        pictures,
        size=recipe.train_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        min_area=recipe.min_area,
        padding=recipe.padding,
        flip=recipe.flip,
        rotate=recipe.rotate,
        scale=recipe.scale,
        shear=recipe.shear,
        **resizing,
    )
    test_batches = data.evaluation_batches(
        test,
        size=recipe.eval_size,
        resize=recipe.eval_resize,
        batch_size=recipe.batch_size,
        **resizing,
    )
    steps = recipe.steps_per_epoch(pictures.examples)
    rates = [recipe.rate(i, steps_per_epoch=steps) for i in range(recipe.epochs * steps)]

    with strategy.scope():
        replicas = strategy.num_replicas_in_sync
        model = _model(recipe, pictures.channels, len(pictures.labels), replicas)
        model.compile(
            optimizer=SGD(
                Table(rates),
                momentum=recipe.momentum,
                nesterov=recipe.nesterov,
                weight_decay=recipe.weight_decay,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.json", json.dumps(recipe.to_json(), indent=1) + "\n")
    print(
        f"{recipe.model} on {recipe.dataset}: {pictures.examples:,} training pictures, "
        f"{test.examples:,} test pictures, {recipe.epochs} epochs of {steps} steps, "
        f"{replicas} replica{'s' if replicas > 1 else ''}. Writing {folder}/",
        file=sys.stderr,
    )
    start = time.perf_counter()
    model.fit(
        batches,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=test_batches,
        callbacks=_callbacks(recipe, folder, rates, steps),
        shuffle=False,  # the data are shuffled already
        verbose=int(recipe.verbose),
    )
    seconds = time.perf_counter() - start

    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in pictures.labels))
    Card(
        input_size=recipe.eval_size,
        eval_resize=recipe.eval_resize,
        crop=recipe.eval_size,
        mean=recipe.mean,
        std=recipe.std,
        labels=pictures.labels,
        dataset=recipe.dataset,
        **resizing,
    ).write(folder / "model.keras")
    save_plain(model, folder / "model.keras")
    results = evaluate(folder / "model.keras", data_dir=recipe.data_dir)
    results |= {
        "train_seconds": round(seconds, 1),
        "precision": policy,
        "replicas": replicas,
        "versions": versions(),
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    print(_summary(results))
    return folder


def choose_precision(asked: str = "auto") -> tuple[str, str]:
    """The dtype policy for this machine.

    Args:
        asked: "auto", "float32", "mixed_bfloat16" or "mixed_float16".

    Returns:
        The policy and, in one line, why.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("TPU"):
        automatic = "mixed_bfloat16", "a TPU"
    elif tf.config.list_physical_devices("GPU"):
        automatic = "mixed_float16", "a GPU"
    elif _bfloat16_units():
        automatic = "mixed_bfloat16", "a CPU with bfloat16 units"
    else:
        automatic = "float32", "a CPU without bfloat16 units"
    if asked == "auto":
        return automatic
    if asked == "mixed_float16" and "CPU" in automatic[1]:
        return automatic[0], (
            "mixed_float16 was asked for, but float16 convolutions are hundreds of times slower "
            f"on a CPU; this is {automatic[1]}"
        )
    return asked, "as asked for"


def _strategy(recipe: Recipe):
    """Where the replicas live: no strategy for one accelerator, MirroredStrategy for several."""
    wanted = recipe.replicas
    if wanted and wanted > 1 and "tensorflow" not in sys.modules:
        # oneDNN crashes on virtual CPU devices; only heeded before TensorFlow is loaded.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0" if not _has_gpu() else "1"
    load_tensorflow()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    wanted = wanted or max(len(gpus), 1)
    if gpus and wanted > len(gpus):
        raise InputError(f"this machine has {len(gpus)} GPUs. Received: replicas={wanted}")
    if recipe.batch_size % wanted:
        raise InputError(
            f"`batch_size` must divide by the {wanted} replicas. "
            f"Received: batch_size={recipe.batch_size}"
        )
    if wanted == 1:
        return tf.distribute.get_strategy()
    if not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        virtual = [tf.config.LogicalDeviceConfiguration()] * wanted
        tf.config.set_logical_device_configuration(cpu, virtual)
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(wanted)])


def _has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded; asked before TensorFlow is."""
    return Path("/dev/nvidia0").exists()


def _bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 (AVX-512 BF16 or AMX; Linux tells)."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text().split() if cpu.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _model(recipe: Recipe, channels: int, classes: int, replicas: int = 1):
    """The network of a recipe, as training wants it: logits, fused batch norm."""
    from functools import partial

    from resnet_keras.layers import BatchNormalization
    from resnet_keras.models import ResNet

    synchronized = recipe.sync_batch_norm and replicas > 1
    # One size is faster; with two the network is built for any.
    size = recipe.train_size if recipe.train_size == recipe.eval_size else None
    try:
        return ResNet(
            recipe.model,
            weights=recipe.weights,
            input_shape=(size, size, channels),
            classes=classes,
            classifier_activation=None,
            mean=recipe.mean,
            std=recipe.std,
            norm=partial(BatchNormalization, synchronized=synchronized, replicas=replicas),
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _callbacks(recipe: Recipe, folder: Path, rates: list[float], steps: int) -> list:
    """What watches a run: log, progress bar, a stop at the first NaN."""
    import keras

    class Log(keras.callbacks.Callback):
        """`log.csv`: one row an epoch."""

        def on_train_begin(self, logs=None):
            self.rows = []

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            rate = rates[(epoch + 1) * steps - 1]
            seconds = round(time.perf_counter() - self.start, 2)
            numbers = {name: float(value) for name, value in sorted(logs.items())}
            self.rows.append(
                {"epoch": epoch + 1, "learning_rate": rate, **numbers, "seconds": seconds}
            )
            part = folder / "log.csv.part"
            with open(part, "w", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
            os.replace(part, folder / "log.csv")

    class Speed(keras.utils.Progbar):
        """Keras' bar, with images a second where it has milliseconds a step."""

        def _format_time(self, time_per_unit, unit_name):
            return f" {recipe.batch_size / max(time_per_unit, 1e-9):.0f} images/s"

    class Progress(keras.callbacks.ProgbarLogger):
        """Keras' progress bar of an epoch; above it the time left of the run."""

        def on_train_begin(self, logs=None):
            self.start = time.perf_counter()
            return super().on_train_begin(logs)

        def on_epoch_begin(self, epoch, logs=None):
            self._reset_progbar()
            self._maybe_init_progbar()
            if self.verbose:
                spent = time.perf_counter() - self.start
                left = f", {_clock(spent / epoch * (self.epochs - epoch))} left" if epoch else ""
                print(f"Epoch {epoch + 1}/{self.epochs}{left}", flush=True)

        def _maybe_init_progbar(self):
            if self.progbar is None:
                # Without a terminal, one line an epoch.
                verbose = self.verbose and (1 if sys.stdout.isatty() else 2)
                self.verbose = verbose
                self.progbar = Speed(
                    self.target, width=10, verbose=verbose, stateless_metrics=set()
                )

    return [Log(), Progress(), keras.callbacks.TerminateOnNaN()]


def _check_folder(recipe: Recipe) -> Path:
    """The run folder, unless it belongs to another recipe."""
    from resnet_keras.specs import SPECS

    if recipe.model not in SPECS:
        raise InputError(f"`model` must be one of {', '.join(SPECS)}. Received: {recipe.model!r}")
    if recipe.run_dir is None:
        raise InputError("`run_dir` must say where the run is written. Received: None")
    folder, mine = recipe.run_dir, recipe.identity()
    path = folder / "recipe.json"
    theirs = json.loads(path.read_text()) if path.exists() else mine
    changed = [field for field in mine if mine[field] != theirs.get(field)]
    if changed:
        raise InputError(
            f"{folder} belongs to another recipe: {changed[0]} is {theirs.get(changed[0])!r} "
            f"there, {mine[changed[0]]!r} here. Take another --run-dir."
        )
    return folder


def _resolved(recipe: Recipe) -> dict[str, Any]:
    """What `--dry-run` prints."""
    from resnet_keras.models import count

    examples, classes, channels = KNOWN.get(recipe.dataset, (None, None, 3))
    model = _model(recipe, channels, classes)
    counts = count(model)
    steps = recipe.steps_per_epoch(examples) if examples else None
    return recipe.to_json() | {
        "steps_per_epoch": steps,
        "total_steps": steps and steps * recipe.epochs,
        "params": counts["params"],
        "macs": counts["macs"],
        "estimated_memory_bytes": _memory(recipe, model),
    }


def _memory(recipe: Recipe, model) -> int:
    """Bytes of one training step.

    Weights, gradients and momentum, and what the backward pass keeps: the outputs of
    convolutions, batch norms and additions.
    """
    import math

    kept = ("_conv", "_bn", "_add", "normalise")
    activations = sum(
        math.prod(layer.output.shape[1:]) for layer in model.layers if layer.name.endswith(kept)
    )
    return 3 * 4 * model.count_params() + 4 * activations * recipe.batch_size


def versions() -> dict[str, str]:
    """What this run stands on."""
    names = ("resnet-keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _summary(results: dict[str, Any]) -> str:
    return (
        f"top-1 {100 * results['top1']:.2f} %, top-5 {100 * results['top5']:.2f} % "
        f"of {results['examples']:,} test pictures"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
