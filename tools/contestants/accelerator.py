"""What an accelerator does: the measurements of tools/gpu.py, which need JAX or PyTorch.

A worker that measures several things yields its answer after each, so that a time limit takes away
only what is missing.
"""

import importlib.metadata
import itertools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from contestants.workload import (
    NETS,
    keras_of,
    our_network,
    random_batch,
    steps_per_second,
    torch_resnet,
)

PACKAGES = ("jax", "jaxlib", "keras", "tensorflow-cpu", "numpy", "torch", "torchvision")


def machine(edge: int, seconds: float) -> dict:
    """The device, the versions, and what its arithmetic and its memory do at best."""
    import torch

    smi = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    cuda = torch.cuda.is_available()
    answer = {
        "gpu": subprocess.run(smi, capture_output=True, text=True).stdout.strip() if cuda else None,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    device = "cuda" if cuda else "cpu"
    for dtype in ("bfloat16", "float16", "float32"):
        a = torch.randn(edge, edge, device=device, dtype=getattr(torch, dtype))
        rate = steps_per_second(_torch_repeat(lambda a=a: a @ a), seconds)
        answer[f"{dtype}_TFLOP_per_second"] = 2 * edge**3 * rate / 1e12
    source = torch.randn(edge**2 * 4, device=device)
    target = torch.empty_like(source)
    rate = steps_per_second(_torch_repeat(lambda: target.copy_(source)), seconds)
    answer["copied_GB_per_second"] = 2 * source.nbytes * rate / 1e9
    return answer


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_repeat(function: Callable) -> Callable[[int], None]:
    """Make `steps(number)`, which calls a function of PyTorch and waits for the device."""
    import torch

    def steps(number):
        for _ in range(number):
            function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return steps


# --- one thing at a time ----------------------------------------------------------------------


def variants(net: str, dtype: str, batch: int, seconds: float, folder: str) -> Iterator[dict]:
    """Training steps of ours as they are, then with one thing changed at a time."""
    keras = keras_of(dtype)
    answer: dict[str, dict] = {}
    for name, change in _changes(keras).items():
        start = time.perf_counter()
        try:
            found = _changed(net, batch, seconds, folder, **change)
        except Exception as error:  # an option that this version does not have: a row that says so
            found = {"not_measured": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        answer[name] = {**found, "seconds": round(time.perf_counter() - start, 1)}
        yield answer
    for name, late in {"in fit": True, "in fit, logs at once": False}.items():
        answer[name] = {"images_per_second": _in_fit(net, batch, seconds, late)}
        yield answer


def _in_fit(net: str, batch: int, seconds: float, late: bool) -> float:
    """Images a second of `fit`, which looks at the loss of every batch, at once or one late."""
    import jax
    import keras

    from resnet_keras.training.watch import LateLogs, Position, StepCounter

    model = our_network(net)
    data = jax.device_put(random_batch(net, batch))

    def steps(number):
        counter = [StepCounter(Position(0, 1, number, number, []))]
        kind = LateLogs if late else keras.callbacks.CallbackList
        model.fit(
            itertools.repeat(data, number), steps_per_epoch=number, verbose=0,
            callbacks=kind(counter, add_history=True, model=model),
        )  # fmt: skip

    return batch * steps_per_second(steps, seconds)


def _changes(keras) -> dict[str, dict]:
    """What is changed, by the name of the row; the first row is ours as it is."""

    def option(name, value):
        return {"options": {f"xla_gpu_{name}": value}}

    on_gpu = {
        "NCHW convolutions": option("force_conv_nchw", True),
        "no Triton matrix products": option("enable_triton_gemm", False),
        "no CUDA graphs": option("enable_command_buffer", ""),
        "latency-hiding scheduler": option("enable_latency_hiding_scheduler", True),
        "deterministic": option("deterministic_ops", True),
        "fusion autotuner": option("experimental_enable_fusion_autotuner", True),
        "convolution fusion": option("experimental_enable_conv_fusion", True),
        "NHWC convolutions": option("force_conv_nhwc", True),
        "cuDNN runtime fusion": option("use_runtime_fusion", True),
    }
    return {
        "as it is": {"profile": True},
        "max pooling by comparisons": {"pool": True},
        "1x1 convolutions as products": {"network": {"conv": _product_convolution(keras)}},
        "both": {"pool": True, "network": {"conv": _product_convolution(keras)}},
        "stock moments in batch norm": {"composed": True},
        "no donation": {"donate": False},
        "two steps an execution": {"unrolled": 2},
        **on_gpu,
    }


def _changed(
    net: str,
    batch: int,
    seconds: float,
    folder: str,
    *,
    network: dict | None = None,
    composed: bool = False,
    pool: bool = False,
    options: dict | None = None,
    donate: bool = True,
    unrolled: int = 1,
    profile: bool = False,
) -> dict:
    """Measure training steps with one change."""
    import jax
    import keras

    from resnet_keras.layers import BatchNormalization

    on_jax, stock_pool = BatchNormalization._on_jax, keras.layers.MaxPooling2D.call
    if composed:
        BatchNormalization._on_jax = BatchNormalization._composed
    if pool:
        keras.layers.MaxPooling2D.call = lambda self, x: _max_pool()(x)
    try:
        model = our_network(net, **(network or {}))
        data = random_batch(net, batch)
        step, state = jax_step(model, data)
        several = _repeated(step, unrolled)
        # A copy: what is donated is gone, and the model still holds it.
        state = jax.tree.map(jax.numpy.copy, state)
        jitted = jax.jit(
            several, donate_argnums=0 if donate else (), compiler_options=options
        )
        data = jax.device_put(data)
        start = time.perf_counter()
        compiled = jitted.lower(state, data).compile()
        answer = {"compile_seconds": time.perf_counter() - start}
    finally:
        BatchNormalization._on_jax, keras.layers.MaxPooling2D.call = on_jax, stock_pool
    held = [state]
    del state, model

    def steps(number):
        for _ in range(number):
            logs, held[0] = compiled(held[0], data)
        jax.block_until_ready(logs)

    answer["images_per_second"] = batch * unrolled * steps_per_second(steps, seconds)
    memory = compiled.memory_analysis()
    answer["step_MiB"] = (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    ) / 2**20
    if profile:
        answer["kernels"] = _kernels(lambda: steps(5), Path(folder), 5)
    return answer


def jax_step(model, data) -> tuple[Callable, tuple]:
    """A model's training step as a function of JAX, and the state that it starts from."""
    model._symbolic_build(data_batch=data)
    lists = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return model.train_step, tuple([v.value for v in variables] for variables in lists)


def _repeated(step: Callable, number: int) -> Callable:
    def several(state, data):
        for _ in range(number):
            logs, state = step(state, data)
        return logs, state

    return several


def _product_convolution(keras):
    """Make a convolution that computes 1x1 kernels as matrix products."""
    from jax import numpy as jnp

    class Product(keras.layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            if self.kernel_size != (1, 1):
                return super().convolution_op(inputs, kernel)
            rows, columns = self.strides
            inputs = inputs[:, ::rows, ::columns]
            return jnp.tensordot(inputs, kernel[0, 0].astype(inputs.dtype), 1)

    return Product


def _max_pool() -> Callable:
    """Make the 3x3 max pool of stride 2 with a gradient by comparisons: no scatter."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    def forward(x):
        lowest = jnp.array(-jnp.inf, x.dtype)
        padding = ((0, 0), (0, 0), (0, 0), (0, 0))
        y = lax.reduce_window(x, lowest, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
        return y, (x, y)

    def backward(kept, upstream):
        x, y = kept
        rows, columns = y.shape[1:3]
        taken = jnp.zeros(y.shape, bool)
        total = jnp.zeros(x.shape, x.dtype)
        for i, j in itertools.product(range(3), range(3)):
            stop = (i + 2 * rows - 1, j + 2 * columns - 1)
            seen = x[:, i : stop[0] : 2, j : stop[1] : 2]
            chosen = (seen == y) & ~taken
            taken |= chosen
            part = jnp.where(chosen, upstream, jnp.zeros((), upstream.dtype))
            edges = [(0, 0, 0)]
            edges += [(i, x.shape[1] - stop[0], 1), (j, x.shape[2] - stop[1], 1), (0, 0, 0)]
            total += lax.pad(part, jnp.zeros((), part.dtype), edges)
        return (total,)

    function = jax.custom_vjp(lambda x: forward(x)[0])
    function.defvjp(forward, backward)
    return function


def _kernels(function: Callable, folder: Path, number: int) -> list[dict]:
    """The longest kernels of a function, in ms for each of its `number` steps."""
    import jax

    with jax.profiler.trace(str(folder)):
        function()
    total: dict[str, list[float]] = {}
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            if "GPU" not in plane.name:
                continue
            for line in plane.lines:
                if "Stream" not in line.name:
                    continue
                for event in line.events:
                    kept = total.setdefault(event.name, [0.0, 0.0])
                    kept[0] += event.duration_ns / 1e6 / number
                    kept[1] += 1 / number
    longest = sorted(total.items(), key=lambda item: -item[1][0])
    rows = [{"kernel": name, "ms": ms, "calls": calls} for name, (ms, calls) in longest[:40]]
    whole = sum(ms for ms, _ in total.values())
    return [{"kernel": "all", "ms": whole, "calls": sum(c for _, c in total.values())}, *rows]


# --- memory -----------------------------------------------------------------------------------


def memory(net: str, dtype: str, batches: list[int]) -> Iterator[dict]:
    """The memory of a training step: our estimate, and what the compiler will take."""
    import jax

    keras_of(dtype)
    from resnet_keras import Recipe
    from resnet_keras.training.memory import available, estimate

    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"
    answer: dict = {"available_MiB": (available() or 0) / 2**20, "batches": []}
    for batch in batches:
        model = our_network(net)
        size, classes = NETS[net].size, NETS[net].classes
        recipe = Recipe(
            model="resnet50", dataset="imagenet2012", train_size=size, eval_size=size,
            batch_size=batch, momentum=0.9,
        )  # fmt: skip
        need = estimate(recipe, model, policy)
        data = random_batch(net, batch)
        step, state = jax_step(model, data)
        sizes = jax.jit(step, donate_argnums=0).lower(state, data).compile().memory_analysis()
        found = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
        row = {"batch": batch, "estimate_MiB": need.total / 2**20, "compiled_MiB": found / 2**20}
        answer["batches"].append(row | {"estimate_over_compiled": need.total / found})
        yield answer


def images(folder: str, images: int) -> dict:
    """An ImageNet of a few photographs."""
    from synthetic_imagenet import write

    start = time.perf_counter()
    write(folder, {"train": images, "validation": images // 10})
    size = sum(path.stat().st_size for path in Path(folder).rglob("*.tfrecord*"))
    return {"seconds": time.perf_counter() - start, "bytes_each": size / (1.1 * images)}


# --- the whole recipe -------------------------------------------------------------------------


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
            train, plan, batch_size=batch, seed=0, start=0, rows=Replicas(nullcontext).rows(batch, 1)
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

        def fit(source, number):
            place = watch.Position(0, 1, number, number, [])
            calls = watch.LateLogs([watch.StepCounter(place)], add_history=True, model=network)
            network.fit(source, steps_per_epoch=number, verbose=0, callbacks=calls, shuffle=False)

        device = (first for _ in itertools.count())
        fit(device, 3)
        start = time.perf_counter()
        fit(device, steps)
        answer["device_images_per_second"] = steps * batch / (time.perf_counter() - start)
        yield answer
        source = batches()
        fit(source, 2)
        start = time.perf_counter()
        fit(source, steps)
        answer["together_images_per_second"] = steps * batch / (time.perf_counter() - start)
    device_rate, rate = answer["device_images_per_second"], answer["together_images_per_second"]
    answer["device_waits_percent"] = 100 * (1 - rate / device_rate)
    each = answer["pipeline_images_per_second"] / answer["cores"]
    answer["cores_not_to_wait"] = device_rate / each
    yield answer


def jax_batch(batch):
    """A batch of tf.data, on the device."""
    import jax

    return tuple(jax.device_put(part.numpy()) for part in batch)


# --- float16 ----------------------------------------------------------------------------------


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


# --- inference --------------------------------------------------------------------------------


def inference_ours(net: str, dtype: str, batches: list[int], seconds: float) -> Iterator[dict]:
    """Logits of our network, its variables as arguments, from uint8 images."""
    import jax

    keras_of(dtype)
    model = our_network(net)
    state = [v.value for v in model.trainable_variables], [
        v.value for v in model.non_trainable_variables
    ]

    @jax.jit
    def predict(state, images):
        return model.stateless_call(*state, images, training=False)[0]

    answer = {}
    for batch in batches:
        images = jax.device_put(random_batch(net, batch)[0])

        def steps(number, images=images):
            for _ in range(number):
                scores = predict(state, images)
            scores.block_until_ready()

        answer[f"batch {batch}"] = batch * steps_per_second(steps, seconds)
        yield answer


def inference_torch(net: str, dtype: str, batches: list[int], seconds: float) -> Iterator[dict]:
    """The same of PyTorch, compiled; on a GPU with CUDA graphs."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    model = torch_resnet(net).to(device, kind, memory_format=torch.channels_last).eval()
    mode = "reduce-overhead" if device == "cuda" else None
    predict = torch.compile(model, mode=mode, dynamic=False)
    size, answer = NETS[net].size, {}
    for batch in batches:
        images = torch.randn(batch, 3, size, size, device=device, dtype=kind)
        images = images.contiguous(memory_format=torch.channels_last)

        def once(images=images):
            with torch.inference_mode():
                predict(images)

        answer[f"batch {batch}"] = batch * steps_per_second(_torch_repeat(once), seconds)
        yield answer


# --- exactness --------------------------------------------------------------------------------


def exactness(recipe: str, flags: list[str], folder: str, kill_after: int) -> Iterator[dict]:
    """The same deterministic training twice, and once killed with SIGKILL and resumed."""
    import signal
    import sys

    root = Path(__file__).parents[2]

    def command(name):
        return [sys.executable, str(root / recipe), *flags, "--deterministic", "--logger", "none",
                "--no-verbose", "--backup-every", "10", "--run-dir", f"{folder}/{name}"]  # fmt: skip

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
        lambda path, item: found.update({path: item[()].tobytes()})
        if isinstance(item, h5py.Dataset)
        else None
    )
    return found


# --- accuracy ---------------------------------------------------------------------------------


def accuracy(recipe: str, flags: list[str], seeds: list[int], folder: str) -> dict:
    """A recipe with several seeds at once: the top-1 of each."""
    import json
    import sys

    root = Path(__file__).parents[2]
    start = time.perf_counter()
    runs = [
        subprocess.Popen(
            [sys.executable, str(root / recipe), *flags, "--seed", str(seed), "--logger", "none",
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
