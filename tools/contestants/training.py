"""Training steps of a whole network, on images that lie in memory."""

import itertools
from collections.abc import Callable
from functools import partial

from contestants.workload import (
    NETS,
    backend,
    keras_of,
    our_network,
    steps_per_second,
    torch_resnet,
)


def ours(
    net: str,
    dtype: str,
    batch: int,
    size: int | None = None,
    seconds: float = 8.0,
    save_memory: bool = False,
) -> dict:
    """Ours."""
    layers = {}
    if save_memory:
        from resnet_keras.training import memory

        memory.return_at_once()
    keras = keras_of(dtype)
    if save_memory:
        from resnet_keras.layers import Conv2D

        layers["conv"] = partial(Conv2D, recompute=True)
    shape = NETS.get(net, NETS["resnet50"])
    size = size or shape.size
    model = our_network(net, size, **layers)
    assert keras.backend.backend() == backend()
    from resnet_keras.training.watch import LateLogs, Position, StepCounter

    def callbacks(number):  # as in `train`, which looks at every loss
        counter = StepCounter(Position(0, 1, number, number, []))
        return LateLogs([counter], add_history=True, model=model)

    return _fit_speed(model, batch, size, shape.classes, "uint8", seconds, callbacks)


def applications(net: str, dtype: str, batch: int) -> dict:
    """The network of keras.applications, given floats."""
    keras = keras_of(dtype)
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    return _stock_fit(keras, model, batch)


def hub(net: str, dtype: str, batch: int) -> dict:
    """The network of keras-hub, version 1 with the strides where ours are."""
    keras = keras_of(dtype)
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        [64],
        [7],
        [64, 128, 256, 512],
        [3, 4, 6, 3],
        [1, 2, 2, 2],
        "bottleneck_block",
        image_shape=(224, 224, 3),
    )
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    x = keras.layers.Dense(1000, dtype="float32")(x)
    return _stock_fit(keras, keras.Model(backbone.input, x), batch)


def _stock_fit(keras, model, batch: int) -> dict:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4), loss)
    return _fit_speed(model, batch, 224, 1000, "float32")


def _fit_speed(
    model,
    batch: int,
    size: int,
    classes: int,
    dtype: str,
    seconds: float = 8.0,
    callbacks: Callable = lambda steps: None,
) -> dict:
    """Images a second of `fit` on one batch that comes again and again."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3)).astype(dtype)
    labels = rng.integers(0, classes, batch)
    if backend() == "tensorflow":
        import tensorflow as tf

        options = tf.data.Options()
        options.autotune.enabled = False  # as in our pipeline: `fit` would wait for it at its end
        batches = tf.data.Dataset.from_tensors((images, labels)).repeat().with_options(options)
    else:  # a machine that has no TensorFlow
        import jax

        on_device = jax.device_put(images), jax.device_put(labels)
        batches = (on_device for _ in itertools.count())

    def steps(number):
        model.fit(batches, steps_per_epoch=number, verbose=0, callbacks=callbacks(number))

    answer = {"images_per_second": batch * steps_per_second(steps, seconds)}
    if backend() == "jax" and (memory := jax.devices()[0].memory_stats()):  # a CPU has none
        answer["peak_MiB"] = memory["peak_bytes_in_use"] / 2**20
    return answer


def torch(net: str, dtype: str, batch: int, compiled: bool = False, seconds: float = 8.0) -> dict:
    """The same network in PyTorch: channels last, autocast, fused SGD; float16 with a scaler."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True  # its fastest convolutions, as XLA looks for
    torch.backends.cuda.matmul.allow_tf32 = True  # float32 as XLA computes it by default
    size, classes = NETS[net][:2]
    model = torch_resnet(net).to(device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,), device=device)
    fused = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, **fused)
    forward = torch.compile(model) if compiled else model
    scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")

    def steps(number):
        for _ in range(number):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        loss.item()  # waits for the device

    answer = {"images_per_second": batch * steps_per_second(steps, seconds)}
    if device == "cuda":
        answer["peak_MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return answer


def matrix_products(net: str, dtype: str, batch: int) -> dict:
    """A step's multiply-adds as products of large matrices: what is left is not arithmetic.

    A training step has those of the forward pass three times: for the outputs, and for the
    gradients of the inputs and of the weights.
    """
    keras_of(dtype)
    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    macs = 3 * count(ResNet(net))["macs"]
    import torch

    on_gpu = torch.cuda.is_available()
    edge = 8192 if on_gpu else 2048
    a = torch.randn(edge, edge, device="cuda" if on_gpu else "cpu", dtype=getattr(torch, dtype))

    def steps(number):
        for _ in range(number):
            a @ a
        if on_gpu:
            torch.cuda.synchronize()

    rate = edge**3 * steps_per_second(steps)
    return {"images_per_second": rate / macs, "GMAC_per_second": rate / 1e9}
