"""What an accelerator does: the measurements of tools/gpu.py, which need JAX or PyTorch.

A worker that measures several things yields its answer after each, so that a time limit takes away
only what is missing.
"""

import importlib.metadata
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
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
    for name, late in {"in fit": True, "in fit, logs at once": False}.items():
        answer[name] = {"images_per_second": _in_fit(net, batch, seconds, late)}
        yield answer
    for name, change in _changes(keras).items():
        start = time.perf_counter()
        try:
            found = _changed(net, batch, seconds, folder, **change)
        except Exception as error:  # an option that this version does not have: a row that says so
            found = {"not_measured": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        answer[name] = {**found, "seconds": round(time.perf_counter() - start, 1)}
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
            (data for _ in range(number)), steps_per_epoch=number, verbose=0,
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
        jitted = jax.jit(several, donate_argnums=0 if donate else (), compiler_options=options)
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
        size = NETS[net].size
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


# --- inference --------------------------------------------------------------------------------


def inference_ours(
    net: str, dtype: str, batches: list[int], seconds: float, constants: bool
) -> Iterator[dict]:
    """Logits of our network from uint8 images; its weights are arguments, or compiled in."""
    import jax

    keras_of(dtype)
    model = our_network(net)
    state = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )

    @jax.jit
    def with_arguments(state, images):
        return model.stateless_call(*state, images, training=False)[0]

    @jax.jit
    def with_constants(images):
        return with_arguments(state, images)

    predict = with_constants if constants else partial(with_arguments, state)
    answer = {}
    for batch in batches:
        images = jax.device_put(random_batch(net, batch)[0])

        def steps(number, images=images):
            for _ in range(number):
                scores = predict(images)
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
