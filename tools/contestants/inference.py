"""Prediction: batches of images in memory; one image on one thread for exported files."""

from collections.abc import Callable
from pathlib import Path

from contestants.workload import steps_per_second, torch_resnet


def predict_ours(folder: str) -> dict:
    """What `evaluate` and `predict` do with a .keras file."""
    from resnet_keras.model_files import open_model_file

    model_file = open_model_file(our_model(folder))
    return _predict_speed(model_file.predict, 32, "uint8")


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

    return {"images_per_second": batch * steps_per_second(steps)}


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
        network = torch.nn.Sequential(torch_resnet("resnet50"), torch.nn.Softmax(1)).eval()
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

    return {"images_per_second": steps_per_second(steps)}


def openvino_ours(folder: str, quantize: str) -> dict:
    """Our OpenVINO file of version 1, the network of keras.applications."""
    path = Path(folder) / f"ours-{quantize}.xml"
    if not path.exists():
        _write(folder, path, quantize, "1")
    return _openvino_speed(path)


def openvino_applications(folder: str) -> dict:
    """OpenVINO's converter run on keras.applications' ResNet-50."""
    import keras

    from resnet_keras.model_files.openvino import openvino

    path = Path(folder) / "theirs.xml"
    if not path.exists():
        saved = str(path.with_name("theirs"))
        keras.applications.ResNet50(weights=None).export(saved, verbose=False)
        openvino.save_model(openvino.convert_model(saved), path, compress_to_fp16=False)
    return _openvino_speed(path)


def _openvino_speed(path: Path) -> dict:
    import numpy as np

    from resnet_keras.model_files.openvino import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", options)
    dtype = model.input().element_type.to_dtype()
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(dtype)

    def steps(number):
        for _ in range(number):
            model(image)

    return {"images_per_second": steps_per_second(steps)}


def tflite_ours(folder: str, quantize: str, version: str) -> dict:
    """Our TFLite file, with multiply-adds as `summary` counts them."""
    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    path = Path(folder) / f"ours-{quantize}-{version}.tflite"
    if not path.exists():
        _write(folder, path, quantize, version)
    return _tflite_speed(path.read_bytes(), count(ResNet(_spec(version)))["macs"])


def tflite_applications(folder: str, quantize: str) -> dict:
    """TensorFlow's converter run on keras.applications' ResNet-50, which is version 1."""
    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    path = Path(folder) / f"theirs-{quantize}.tflite"
    if not path.exists():
        path.write_bytes(_converted(quantize))
    return _tflite_speed(path.read_bytes(), count(ResNet(_spec("1")))["macs"])


def _converted(quantize: str) -> bytes:
    import keras
    import tensorflow as tf

    model = keras.applications.ResNet50(weights=None)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantize == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [batch.astype("float32")] for batch in _calibration()
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    return converter.convert()


def _spec(version: str):
    """ResNet-50: "1.5", or "1", with the strides in the first convolution of a block."""
    from dataclasses import replace

    from resnet_keras.specs import SPECS

    return replace(SPECS["resnet50"], stride_in_1x1=version == "1")


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

    speed = steps_per_second(steps)
    return {"images_per_second": speed, "GMAC_per_second": speed * macs / 1e9}


def our_model(folder: str, version: str = "1.5") -> Path:
    """Write a ResNet-50 as `.keras`: speed does not depend on how well it was trained.

    But int8 needs ranges: blocks that still begin as the identity have none.
    """
    from resnet_keras.console import load_tensorflow

    load_tensorflow()
    from resnet_keras import ResNet
    from resnet_keras.exporting import save_plain

    path = Path(folder) / f"model-{version}.keras"
    if not path.exists():
        model = ResNet(_spec(version))
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


def _write(folder: str, path: Path, quantize: str = "none", version: str = "1.5") -> None:
    """Write our ResNet-50 in the format of the suffix, as `export` does, unproved."""
    import numpy as np

    from resnet_keras.exporting import folded
    from resnet_keras.model_files import Metadata, load_keras
    from resnet_keras.model_files.formats import format_named
    from resnet_keras.preprocessing import Preprocessing

    options = {}
    if quantize == "int8":
        options = {"quantize": quantize, "images": np.concatenate(list(_calibration()))}
    elif quantize != "none":
        options = {"quantize": quantize}
    row = format_named(path)
    model = folded(load_keras(our_model(folder, version)), rescaling=row.rescaling)
    row.module.write(model, path, Metadata(Preprocessing(224, 256)), **options)


def in_turns(before: str, after: str, threads: int, rounds: int = 40) -> dict:
    """Two model files, one image at a time, in turns of half a second; the median ratio of turns.

    In turns, in one process: what else the machine does meets both.
    """
    import statistics
    import time

    import numpy as np

    from resnet_keras.model_files import open_model_file

    files = [open_model_file(path, threads=threads) for path in (before, after)]
    shape = (1, *files[1].metadata.preprocessing.size, files[1].channels)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def milliseconds(file, number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            file.predict(image)
        return 1000 * (time.perf_counter() - start) / number

    number = max(1, round(500 / max(milliseconds(file, 3) for file in files)))
    turns = [[milliseconds(file, number) for file in files] for _ in range(rounds)]
    first, second = zip(*turns, strict=True)
    return {
        "before_ms": statistics.median(first),
        "after_ms": statistics.median(second),
        "ratio": statistics.median(new / old for old, new in turns),
        "turns": turns,
    }
