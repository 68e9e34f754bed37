"""What tools/benchmark.py compares: each function is one measurement, in a process of its own.

    python tools/contestants.py train_ours '{"net": "resnet50", "dtype": "float32", "batch": 32}'

Each prints one line of JSON on stdout. Libraries are imported where they are used: a peer that is
missing is one row of the table, and Python without TensorFlow runs what needs none.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as resnet_keras does

NETS = {"resnet50": (224, 1000), "resnet18_cifar": (32, 10)}  # picture size, classes


def main() -> None:
    """Do what was asked for; add the peak of memory."""
    worker, arguments = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    answer = WORKERS[worker](**json.loads(arguments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(json.dumps({"peak_MiB": peak, **answer}), file=out, flush=True)
    os._exit(0)  # threads of a pipeline may still run


# --- training ---------------------------------------------------------------------------------


def train_ours(net: str, dtype: str, batch: int, size: int | None = None) -> dict:
    """Our network as `train` builds it."""
    keras = _keras(dtype)
    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.losses import CrossEntropy
    from resnet_keras.models import ResNet
    from resnet_keras.optim import SGD

    default, classes = NETS.get(net, NETS["resnet50"])
    size = size or default
    model = ResNet(
        net,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
        norm=BatchNormalization,
        conv=Conv2D,
    )
    optimizer = SGD(0.1, momentum=0.9, weight_decay=1e-4)
    model.compile(optimizer, CrossEntropy(), auto_scale_loss=False)
    assert keras.backend.backend() == backend()
    return _fit_speed(model, batch, size, classes, "uint8")


def train_applications(net: str, dtype: str, batch: int) -> dict:
    """The network of keras.applications, given floats."""
    keras = _keras(dtype)
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    return _stock_fit(keras, model, batch)


def train_hub(net: str, dtype: str, batch: int) -> dict:
    """The network of keras-hub, version 1 with the strides where ours are."""
    keras = _keras(dtype)
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


def _fit_speed(model, batch: int, size: int, classes: int, dtype: str) -> dict:
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
        batches = iter(lambda: on_device, None)

    def steps(number):
        model.fit(batches, steps_per_epoch=number, verbose=0)

    return {"images_per_second": batch * _steps_per_second(steps)}


def train_torch(net: str, dtype: str, batch: int, compiled: bool = False) -> dict:
    """The same network in PyTorch: channels last, autocast, fused SGD."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size, classes = NETS[net]
    model = _torch_resnet(net).to(device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,), device=device)
    fused = {"fused": True} if device == "cuda" else {"foreach": True}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4, **fused)
    forward = torch.compile(model) if compiled else model

    def steps(number):
        for _ in range(number):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for the device

    answer = {"images_per_second": batch * _steps_per_second(steps)}
    if device == "cuda":
        answer["peak_MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return answer


def matrix_products(net: str, dtype: str, batch: int) -> dict:
    """A step's multiply-adds as products of large matrices: what is left is not arithmetic.

    A training step has those of the forward pass three times: for the outputs, and for the
    gradients of the inputs and of the weights.
    """
    _keras(dtype)
    from resnet_keras.models import ResNet, count

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

    rate = edge**3 * _steps_per_second(steps)
    return {"images_per_second": rate / macs, "GMAC_per_second": rate / 1e9}


def _torch_resnet(net: str):
    """ResNet-50 v1.5 or the CIFAR ResNet-18 of the tables, in PyTorch's own layers."""
    from torch import nn

    def norm(width):
        return nn.BatchNorm2d(width)

    def conv(inputs, outputs, kernel, stride=1):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, bottleneck):
            super().__init__()
            outputs = 4 * width if bottleneck else width
            layers = [conv(inputs, width, 1), norm(width), nn.ReLU(True)] if bottleneck else []
            layers += [conv(width if bottleneck else inputs, width, 3, stride), norm(width)]
            layers += [nn.ReLU(True), conv(width, outputs, 1 if bottleneck else 3), norm(outputs)]
            self.body = nn.Sequential(*layers)
            changes = stride > 1 or inputs != outputs
            shortcut = [conv(inputs, outputs, 1, stride), norm(outputs)] if changes else []
            self.shortcut = nn.Sequential(*shortcut)
            self.relu = nn.ReLU(True)

        def forward(self, x):
            return self.relu(self.body(x) + self.shortcut(x))

    bottleneck = net == "resnet50"
    depths = (3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)
    stem = [conv(3, 64, 7, 2), norm(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    layers = stem if bottleneck else [conv(3, 64, 3), norm(64), nn.ReLU(True)]
    inputs = 64
    for stage, depth in enumerate(depths):
        for number in range(depth):
            width, stride = 64 * 2**stage, 2 if stage and not number else 1
            layers.append(Block(inputs, width, stride, bottleneck))
            inputs = 4 * width if bottleneck else width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, NETS[net][1])]
    return nn.Sequential(*layers, *head)


# --- prediction -------------------------------------------------------------------------------


def predict_ours(folder: str) -> dict:
    """What `evaluate` and `predict` do with a .keras file."""
    from resnet_keras.artefact import open_artefact

    artefact = open_artefact(_our_model(folder))
    return _predict_speed(artefact.predict, 32, "uint8")


def predict_applications() -> dict:
    """keras.applications and Keras' own loop."""
    import keras

    model = keras.applications.ResNet50(weights=None)
    return _predict_speed(lambda images: model.predict(images, verbose=0), 32, "float32")


def _predict_speed(predict: Callable, batch: int, dtype: str) -> dict:
    import numpy as np

    images = np.random.default_rng(0).integers(0, 256, (batch, 224, 224, 3)).astype(dtype)

    def steps(number):
        for _ in range(number):
            predict(images)

    return {"images_per_second": batch * _steps_per_second(steps)}


def onnx_ours(folder: str) -> dict:
    """Our ONNX file."""
    path = Path(folder) / "ours.onnx"
    if not path.exists():
        _write(folder, path)
    return _onnx_speed(path, (1, 224, 224, 3))


def onnx_torch(folder: str) -> dict:
    """PyTorch's export of the same network."""
    import torch

    path = Path(folder) / "torch.onnx"
    if not path.exists():
        network = torch.nn.Sequential(_torch_resnet("resnet50"), torch.nn.Softmax(1)).eval()
        torch.onnx.export(network, torch.randn(1, 3, 224, 224), str(path), dynamo=False)
    return _onnx_speed(path, (1, 3, 224, 224))


def _onnx_speed(path: Path, shape: tuple) -> dict:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    dtype = "uint8" if "uint8" in entry.type else "float32"
    image = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)

    def steps(number):
        for _ in range(number):
            session.run(None, {entry.name: image})

    return {"images_per_second": _steps_per_second(steps)}


def tflite_ours(folder: str, quantize: str) -> dict:
    """Our TFLite file; multiply-adds as `summary` counts them."""
    from resnet_keras.models import ResNet, count

    path = Path(folder) / f"ours-{quantize}.tflite"
    if not path.exists():
        _write(folder, path, quantize)
    return _tflite_speed(path.read_bytes(), count(ResNet("resnet50"))["macs"])


def tflite_applications(quantize: str) -> dict:
    """TensorFlow's converter run on keras.applications' ResNet-50."""
    from dataclasses import replace

    import keras
    import tensorflow as tf

    from resnet_keras.models import SPECS, ResNet, count

    model = keras.applications.ResNet50(weights=None)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [batch.astype("float32")] for batch in _calibration()
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    # Its strides are in the first convolution of a block.
    theirs = ResNet(replace(SPECS["resnet50"], stride_in_1x1=True))
    return _tflite_speed(converter.convert(), count(theirs)["macs"])


def _tflite_speed(content: bytes, macs: int) -> dict:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(entry["dtype"])

    def steps(number):
        for _ in range(number):
            interpreter.set_tensor(entry["index"], image)
            interpreter.invoke()

    speed = _steps_per_second(steps)
    return {"images_per_second": speed, "GMAC_per_second": speed * macs / 1e9}


def _our_model(folder: str) -> Path:
    """A ResNet-50 as `.keras`; speed does not ask how well it was trained.

    But int8 asks for ranges: blocks that still begin as the identity have none.
    """
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    from resnet_keras import ResNet
    from resnet_keras.export import save_plain

    path = Path(folder) / "model.keras"
    if not path.exists():
        model = ResNet("resnet50")
        for layer in model.layers:
            if hasattr(layer, "gamma"):
                layer.gamma.assign(layer.gamma * 0 + 1)
        save_plain(model, path)
    return path


def _calibration():
    """A hundred windows of photos, uint8 `(1, 224, 224, 3)`, to find the ranges with."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photos = load_sample_images().images
    for number in range(100):
        top, left = rng.integers(0, 200), rng.integers(0, 400)
        yield photos[number % 2][top : top + 224, left : left + 224][None]


def export_all(folder: str) -> dict:
    """The three files, one after the other."""
    _write(folder, Path(folder) / "all")
    _write(folder, Path(folder) / "all.tflite", "int8")
    _write(folder, Path(folder) / "all.onnx")
    return {}


def _write(folder: str, path: Path, quantize: str = "none") -> None:
    """Our ResNet-50 in the format of the suffix, as `export` writes it, unproved."""
    import keras
    import numpy as np

    from resnet_keras.artefact import Card
    from resnet_keras.export import folded, onnx, saved_model, tflite

    model = folded(keras.saving.load_model(_our_model(folder), compile=False))
    card = Card(input_size=224, eval_resize=256, crop=224)
    if path.suffix == ".tflite":
        pictures = np.concatenate(list(_calibration())) if quantize == "int8" else None
        tflite.write(model, path, card, quantize=quantize, pictures=pictures)
    elif path.suffix == ".onnx":
        onnx.write(model, path, card, layout="nhwc", opset=17)
    else:
        saved_model.write(model, path, card)


# --- pipeline ---------------------------------------------------------------------------------

PICTURES, HEIGHT, WIDTH = 256, 375, 500


def write_pictures(folder: Path) -> None:
    """JPEG of photos that scikit-learn ships, of the size that ImageNet's mostly have."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i in range(PICTURES):
        left, top = (i * 37) % 140, (i * 11) % 52
        window = photos[i % 2].crop((left, top, left + WIDTH, top + HEIGHT))
        (folder / "class").mkdir(exist_ok=True)
        window.save(folder / "class" / f"{i:04d}.jpg", quality=88)


def pipeline_ours(folder: str, **options) -> dict:
    """Our training pipeline from a folder: random resized crop, flip, batches of uint8."""
    _one_core()
    return _pipeline_speed(_our_batches(folder, **options))


def pipeline_ours_with_rand_augment(folder: str) -> dict:
    """The same with RandAugment as ResNet strikes back has it."""
    return pipeline_ours(folder, rand_ops=2)


def pipeline_memory(folder: str) -> dict:
    """What memory 20 epochs add, after five."""
    batches = _our_batches(folder)
    epoch = PICTURES // 64

    def epochs(number):
        for _ in range(number * epoch):
            next(batches)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    before = epochs(5)
    return {"MiB": epochs(20) - before}


def _our_batches(folder: str, **options):
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    from resnet_keras import data

    pictures = data.open_split(f"folder:{folder}", "train")
    batches = data.training_batches(
        pictures, size=224, batch_size=64, seed=0, min_area=0.08, flip=True, **options
    )
    return iter(batches.as_numpy_iterator())


def pipeline_bare_decode(folder: str) -> dict:
    """Nothing but decoding a random window: what no pipeline can beat."""
    _one_core()
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    from resnet_keras import augment

    files = sorted(str(path) for path in Path(folder).glob("class/*.jpg"))

    def decode(number, path):
        contents = tf.io.read_file(path)
        seed = augment.example_seed(0, 0, number)
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(contents))
        window = tf.stack(augment.random_crop_window(height, width, seed, min_area=0.08))
        image = tf.io.decode_and_crop_jpeg(contents, window, 3, dct_method="INTEGER_ACCURATE")
        return tf.reduce_max(tf.shape(image))

    stream = tf.data.Dataset.from_tensor_slices(files).repeat().enumerate()
    stream = stream.map(decode, tf.data.AUTOTUNE).batch(64).prefetch(2)
    return _pipeline_speed(iter(stream.as_numpy_iterator()))


def pipeline_torchvision(folder: str) -> dict:
    """Torchvision's reference pipeline in the main process, its best on one core."""
    _one_core()
    import torch
    from torchvision import datasets, transforms

    torch.set_num_threads(1)
    steps = [
        transforms.RandomResizedCrop(224),
        transforms.RandomHorizontalFlip(),
        transforms.PILToTensor(),
    ]
    pictures = datasets.ImageFolder(folder, transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(pictures, batch_size=64, shuffle=True, drop_last=True)

    def endless():
        while True:
            yield from loader

    return _pipeline_speed(endless())


def _one_core() -> None:
    """Before any library looks."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})


def _pipeline_speed(batches, warm_up: int = 8, measured: int = 50) -> dict:
    """Images a second of batches of 64."""
    for _ in range(warm_up):
        next(batches)
    start = time.perf_counter()
    for _ in range(measured):
        next(batches)
    return {"images_per_second": 64 * measured / (time.perf_counter() - start)}


# --- startup, backup --------------------------------------------------------------------------


def first_step_ours() -> dict:
    """One step of our network, from a cold process."""
    import resnet_keras  # noqa: F401

    return _one_step(_build_ours)


def _build_ours(keras):
    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.losses import CrossEntropy
    from resnet_keras.models import ResNet
    from resnet_keras.optim import SGD

    shape = (224, 224, 3)
    model = ResNet(
        "resnet50",
        input_shape=shape,
        classifier_activation=None,
        norm=BatchNormalization,
        conv=Conv2D,
    )
    model.compile(SGD(0.1, momentum=0.9), CrossEntropy(), auto_scale_loss=False)
    return model


def first_step_applications() -> dict:
    """One step of keras.applications' network, from a cold process."""

    def build(keras):
        model = keras.applications.ResNet50(weights=None, classifier_activation=None)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        return model

    return _one_step(build)


def _one_step(build: Callable) -> dict:
    import keras
    import numpy as np
    import tensorflow as tf

    batch = np.zeros((8, 224, 224, 3), np.uint8), np.zeros(8, np.int64)
    build(keras).fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    return {}


def help_text() -> dict:
    """The command line's help, the best of five: files are in memory then."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        command = [sys.executable, "-m", "resnet_keras", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return {"seconds": min(times)}


def backup_save(folder: str) -> dict:
    """A backup of ResNet-50 and its momentum."""
    from resnet_keras.terminal import load_tensorflow

    load_tensorflow()
    import keras

    from resnet_keras import backup

    model = _build_ours(keras)
    model.optimizer.build(model.trainable_variables)
    times = []
    for step in range(1, 6):
        start = time.perf_counter()
        variables = [*model.variables, *model.optimizer.variables]
        arrays = {f"{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
        backup.save(Path(folder) / "backup", backup.Saved(step, arrays, {}))
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {"seconds": seconds, "percent": 100 * seconds / 600}


# --- shared -----------------------------------------------------------------------------------


def backend() -> str:
    """Keras' backend, by its variable."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def _keras(dtype: str):
    """Keras under the policy of a type."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    return keras


def _steps_per_second(steps: Callable[[int], None], seconds: float = 8.0) -> float:
    """How many a second `steps(number)` does, after a warm-up that also tells how many to ask."""
    steps(2)
    start = time.perf_counter()
    steps(1)
    number = max(3, round(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    steps(number)
    return number / (time.perf_counter() - start)


WORKERS = {
    function.__name__: function
    for function in (
        *(train_ours, train_applications, train_hub, train_torch, matrix_products),
        *(predict_ours, predict_applications, onnx_ours, onnx_torch),
        *(tflite_ours, tflite_applications, export_all),
        *(pipeline_ours, pipeline_ours_with_rand_augment, pipeline_memory),
        *(pipeline_bare_decode, pipeline_torchvision),
        *(first_step_ours, first_step_applications, help_text, backup_save),
    )
}


if __name__ == "__main__":
    main()
