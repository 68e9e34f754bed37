"""What a training does on an accelerator: the parts of tools/gpu.py that read data.

A worker that finds several things yields its answer after each.
"""

import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def images(folder: str, images: int) -> dict:
    """An ImageNet of a few photographs."""
    from synthetic_imagenet import write

    start = time.perf_counter()
    write(folder, {"train": images, "validation": images // 10})
    size = sum(path.stat().st_size for path in Path(folder).rglob("*.tfrecord*"))
    return {"seconds": time.perf_counter() - start, "bytes_each": size / (1.1 * images)}


def recipe(net: str, batch: int, steps: int, folder: str, model: str, size: int) -> Iterator[dict]:
    """JPEGs to training steps: the pipeline alone, the device alone, and both together."""
    from contextlib import ExitStack, nullcontext

    from resnet_keras import Recipe, data
    from resnet_keras.training import watch
    from resnet_keras.training.building import compiled
    from resnet_keras.training.machine import choose_precision
    from resnet_keras.training.replicas import Replicas, choose_replicas

    plan = Recipe(
        model=model, dataset="imagenet2012", data_dir=folder, train_size=size, eval_size=size,
        batch_size=batch, momentum=0.9, epochs=1000,
    )  # fmt: skip
    choose_replicas(plan)
    import keras

    policy, _ = choose_precision()
    keras.config.set_dtype_policy(policy)
    train = data.Source("imagenet2012", "train", data_dir=folder).open()
    network, _ = compiled(plan, train, policy, 1, True)
    answer: dict = {"precision": policy, "cores": len(os.sched_getaffinity(0))}

    def batches():
        return data.training_batches(
            train,
            plan,
            batch_size=batch,
            seed=0,
            start=0,
            rows=Replicas(nullcontext).rows(batch, 1),
        ).rebatch(batch)

    with ExitStack() as stack:
        stack.enter_context(data.reading(train, train))
        reader = iter(batches())
        first = jax_batch(next(reader))
        start = time.perf_counter()
        for _ in range(steps):
            next(reader)
        answer["pipeline_images_per_second"] = steps * batch / (time.perf_counter() - start)
        yield answer

        def fit(source):
            """Steps a second once the pipeline has filled its buffers and all is compiled."""
            number, times = steps + 20, _Times()
            place = watch.Position(0, 1, number, number, [])
            calls = [watch.StepCounter(place), times]
            calls = watch.LateLogs(calls, add_history=True, model=network)
            network.fit(source, steps_per_epoch=number, verbose=0, callbacks=calls, shuffle=False)
            return steps / (times.ends[-1] - times.ends[19])

        answer["device_images_per_second"] = batch * fit(first for _ in itertools.count())
        yield answer
        answer["together_images_per_second"] = batch * fit(batches())
    device_rate, rate = answer["device_images_per_second"], answer["together_images_per_second"]
    answer["device_waits_percent"] = 100 * (1 - rate / device_rate)
    each = answer["pipeline_images_per_second"] / answer["cores"]
    answer["cores_not_to_wait"] = device_rate / each
    yield answer


def _Times():
    """Make a callback that notes when each batch is done."""
    import keras

    class Times(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    return Times()


def jax_batch(batch):
    """A batch of tf.data, on the device."""
    import jax

    return tuple(jax.device_put(part.numpy()) for part in batch)


def float16(model: str, dataset: str, steps: int, batch: int) -> Iterator[dict]:
    """The same training in several precisions: losses, overflows, the path of the loss scale."""
    import dataclasses
    from contextlib import nullcontext

    from resnet_keras import Recipe, data
    from resnet_keras.training.building import compiled
    from resnet_keras.training.replicas import Replicas, choose_replicas

    size = 8 if dataset == "digits" else 28
    plan = Recipe(
        model=model, dataset=dataset, train_size=size, eval_size=size, momentum=0.9,
        batch_size=batch, learning_rate=0.1, epochs=1000, mean=(72.94,), std=(90.02,),
    )  # fmt: skip
    choose_replicas(plan)
    import keras

    runs = {
        "float32": ("float32", None, 0),
        "float32, other order": ("float32", None, 1),
        "float16, dynamic": ("mixed_float16", None, 0),
        "float16, static 512": ("mixed_float16", 512.0, 0),
        "bfloat16": ("mixed_bfloat16", None, 0),
    }
    split = data.Source(dataset, "train").open()
    answer: dict[str, dict] = {}
    for name, (policy, scale, seed) in runs.items():
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        chosen = dataclasses.replace(plan, seed=seed, loss_scale=scale)
        network, _ = compiled(chosen, split, policy, 1, True)
        record = _Record(network)
        with data.reading(split, split):
            rows = Replicas(nullcontext).rows(batch, 1)
            batches = data.training_batches(
                split, chosen, batch_size=batch, seed=seed, start=0, rows=rows
            )
            network.fit(
                batches.rebatch(batch), steps_per_epoch=steps, verbose=0, callbacks=[record]
            )
        optimizer = network.optimizer
        made = int(optimizer.updates.value) if scale or policy == "mixed_float16" else steps
        answer[name] = {
            "losses": record.losses(),
            "last_50": statistics.fmean(record.losses()[-50:]),
            "overflows": steps - made,
            "loss_scale": record.scales,
        }
        yield answer


def _Record(network):
    """Make a callback that notes the loss of each batch and each change of the loss scale."""
    import keras

    class Record(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.means: list[float] = []
            self.scales: list[list] = []

        def on_train_batch_end(self, batch, logs=None):
            self.means.append(float(logs["loss"]))
            optimizer = network.optimizer
            if not optimizer.loss_scale:
                return
            place = [v is optimizer.scale for v in optimizer.variables].index(True)
            scale = float(network._jax_state["optimizer_variables"][place])
            if not self.scales or self.scales[-1][1] != scale:
                self.scales.append([batch, scale])

        def losses(self):
            # Keras gives the mean so far.
            sums = [mean * (n + 1) for n, mean in enumerate(self.means)]
            return [round(b - a, 4) for a, b in zip([0.0, *sums], sums, strict=False)]

    return Record()


def exactness(recipe: str, flags: list[str], folder: str, kill_after: int) -> Iterator[dict]:
    """The same deterministic training twice, and once killed with SIGKILL and resumed."""

    def command(name):
        ours = ["--deterministic", "--logger", "none", "--no-verbose", "--backup-every", "10"]
        run = ["--run-dir", f"{folder}/{name}"]
        return [sys.executable, str(ROOT / recipe), *flags, *ours, *run]

    start = time.perf_counter()
    two = [subprocess.Popen(command(name), stdout=2) for name in ("a", "b")]
    codes = [process.wait() for process in two]
    answer: dict = {"exit_codes": codes, "seconds": time.perf_counter() - start}
    answer["twice_bit_identical"] = _weights(folder, "a") == _weights(folder, "b")
    yield answer

    killed = subprocess.Popen(command("c"), stdout=2)
    backups = Path(folder) / "c" / "backup"
    while killed.poll() is None and _last_step(backups) < kill_after:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    answer["killed"] = killed.wait() == -signal.SIGKILL
    answer["killed_after_step"] = _last_step(backups)
    code = subprocess.run(command("c"), stdout=2).returncode
    answer["exit_codes"] = [*codes, code]
    answer["resumed_bit_identical"] = _weights(folder, "a") == _weights(folder, "c")
    yield answer


def _last_step(folder: Path) -> int:
    """The step of the last backup; 0 where there is none."""
    return max((int(path.stem) for path in folder.glob("*.safetensors")), default=0)


def _weights(folder: str, name: str) -> dict[str, bytes]:
    """Every array of a run's model file."""
    import io
    import zipfile

    import h5py

    with zipfile.ZipFile(Path(folder) / name / "model.keras") as archive:
        file = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    found: dict[str, bytes] = {}
    file.visititems(
        lambda path, item: (
            found.update({path: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    )
    return found


def accuracy(recipe: str, flags: list[str], seeds: list[int], folder: str) -> dict:
    """A recipe with several seeds at once: the top-1 of each."""
    import json

    start = time.perf_counter()
    runs = [
        subprocess.Popen(
            [sys.executable, str(ROOT / recipe), *flags, "--seed", str(seed), "--logger", "none",
             "--no-verbose", "--run-dir", f"{folder}/{seed}"], stdout=2,
        )
        for seed in seeds
    ]  # fmt: skip
    codes = [run.wait() for run in runs]
    results = [json.loads((Path(folder) / str(s) / "results.json").read_text()) for s in seeds]
    return {
        "exit_codes": codes,
        "seconds": time.perf_counter() - start,
        "top1": [result["top1"] for result in results],
        "top5": [result["top5"] for result in results],
        "train_seconds": [result["train_seconds"] for result in results],
        "precision": [result["precision"] for result in results],
    }
