"""Whole networks in every format; takes minutes."""

import json
import time

import keras
import numpy as np
import pytest
from parity import meta, save_state
from PIL import Image

from resnet_keras import Recipe, ResNet, evaluate, export, train
from resnet_keras.model_files import Metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import convert

pytestmark = pytest.mark.slow

FLOAT_FORMATS = ("model.tflite", "half.tflite", "model.onnx", "saved")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Crops of the two photographs that scikit-learn brings: 140 for training, 40 for the test."""
    from sklearn.datasets import load_sample_images

    root, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for label, photograph in zip(("china", "flower"), load_sample_images().images, strict=True):
        for i in range(90):
            edge = draw.integers(240, 400)
            top, left = (draw.integers(0, n - edge) for n in photograph.shape[:2])
            folder = root / ("train" if i < 70 else "test") / label
            folder.mkdir(parents=True, exist_ok=True)
            crop = photograph[top : top + edge, left : left + edge]
            Image.fromarray(crop).save(folder / f"{i:02}.jpg", quality=92)
    return f"folder:{root}"


@pytest.mark.parametrize("reference", ["resnet50_in1k", "resnetv1d50_in1k", "resnet18_cifar10"])
def test_converted_networks_in_every_float_format(tmp_path, photographs, reference):
    """With the weights of tests/golden/parity, whose outputs OpenMMLab computed."""
    save_state(reference, tmp_path / "theirs.safetensors")
    source = tmp_path / "model.keras"
    convert(tmp_path / "theirs.safetensors", source)
    size = meta(reference)["input_shape"][-1]
    Metadata(Preprocessing(size, 256 if size == 224 else None), dataset=photographs).write(source)
    layers = keras.saving.load_model(source, compile=False).layers
    convolutions = sum(isinstance(layer, keras.layers.Conv2D) for layer in layers)
    for name in FLOAT_FORMATS:
        kind = "float16" if name == "half.tflite" else "none"
        report = export(source, tmp_path / "out" / name, quantize=kind, examples=16)
        assert report["kept"] and report["top1_agreement"] == 1, name
        counts = report["operators"]
        # In TFLite the normalisation of the pixels is a convolution, too.
        expected = convolutions + name.endswith(".tflite")
        assert counts.get("Conv", counts.get("CONV_2D", counts.get("Conv2D"))) == expected
        assert counts.get("Transpose", 0) <= 1


def test_resnet50_within_three_minutes(tmp_path, photographs, capsys):
    """SavedModel, int8 and ONNX together, in the time of two cores."""
    keras.utils.set_random_seed(0)
    ResNet("resnet50", classes=2).save(tmp_path / "model.keras")
    Metadata(Preprocessing(224, 256), labels=("china", "flower"), dataset=photographs).write(
        tmp_path / "model.keras"
    )
    # The network is not trained: the accuracy of int8 does not matter here, the size does.
    jobs = {"saved": {}, "int8.tflite": {"quantize": "int8", "bound": 0.0}, "model.onnx": {}}
    start, reports = time.process_time(), {}
    for name, options in jobs.items():
        reports[name] = export(
            tmp_path / "model.keras", tmp_path / "out" / name, examples=32, **options
        )
    assert time.process_time() - start < 2 * 180
    int8 = reports["int8.tflite"]
    assert int8["bytes"] / int8["bytes_float32"] <= 0.27
    said = capsys.readouterr().err
    for word in ("calibrating", "converting", "proving", "measuring"):
        assert word in said


def test_onnx_takes_no_more_than_thirty_times_the_weights(run_python, tmp_path):
    """Copies of TensorFlow and tf2onnx; if those not in use were kept, it would be twice that."""
    # Not getrusage: its peak is also that of the process which started this one.
    code = (
        "import re, sys; from pathlib import Path; from resnet_keras import ResNet;"
        "from resnet_keras.model_files import Metadata, onnx;"
        "from resnet_keras.preprocessing import Preprocessing;"
        "status = lambda: Path('/proc/self/status').read_text();"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', status())[1]);"
        "model = ResNet('resnet50'); before = peak();"
        "onnx.write(model, Path(sys.argv[1]), Metadata(Preprocessing(224, 256)));"
        "print((peak() - before) / (4 * model.count_params()))"
    )
    assert 1 < float(run_python("-c", code, tmp_path / "m.onnx").stdout) < 30


def test_a_run_trained_in_half_precision(tmp_path, data_dir):
    recipe = Recipe(
        model="resnet20_cifar", dataset="digits", train_size=8, padding=1, eval_size=8,
        mean=(127.5,), std=(127.5,), batch_size=64, learning_rate=0.1, nesterov=True,
        weight_decay=5e-4, epochs=12, schedule="cosine", data_dir=data_dir,
        precision="mixed_bfloat16", run_dir=tmp_path / "run",
    )  # fmt: skip
    run = train(recipe)
    results = json.loads((run / "results.json").read_text())
    kinds = {"m.tflite": "none", "q.tflite": "int8", "m.onnx": "none", "saved": "none"}
    for name, kind in kinds.items():
        report = export(run / "model.keras", tmp_path / name, quantize=kind, data_dir=data_dir)
        assert report["kept"] and not {"CAST", "Cast"} & set(report["operators"])
        measured = evaluate(tmp_path / name, data_dir=data_dir)
        assert abs(measured["top1"] - results["top1"]) <= (0.005 if kind == "int8" else 0)
