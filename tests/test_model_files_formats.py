"""A format costs a row and a module: all else in the package reads the row."""

import numpy as np
import pytest
import split_onnx

from resnet_keras import evaluate, export
from resnet_keras.errors import InputError
from resnet_keras.model_files import formats, open_model_file
from resnet_keras.model_files.formats import FORMATS, format_named, format_of


@pytest.fixture
def trial(monkeypatch):
    """A sixth format."""
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, split_onnx.ROW))


@pytest.mark.slow
@pytest.mark.usefixtures("trial")
def test_a_new_format_is_exported_proved_timed_and_evaluated(digits_run, data_dir, tmp_path):
    out = tmp_path / "out" / "digits.split"
    report = export(digits_run / "model.keras", out, data_dir=data_dir, examples=64)
    assert report["kept"] and report["max_difference"] < 1e-4
    assert report["layout"] == "nchw" and report["opset"] is None and report["io"] is None
    assert report["operators"]["Conv"] == 19 and "Transpose" not in report["operators"]
    assert set(report["latency_ms"]) == {"1", "4"}
    names = {path.name for path in out.parent.iterdir()}
    assert names == {
        "digits.split", "digits.bin", "digits.json", "digits.split.md", "digits.split.report.json",
    }  # fmt: skip
    weights = out.with_suffix(".bin").stat().st_size
    # Kernels of the three stages and of the head; conv1, of 576 bytes, is in the other file.
    stages = [6 * 16 * 16, (1 * 16 + 5 * 32) * 32, (1 * 32 + 5 * 64) * 64]
    assert weights == 4 * (9 * sum(stages) + 64 * 10)
    assert report["bytes"] == out.stat().st_size + weights
    measured = evaluate(out, data_dir=data_dir)
    assert measured["top1"] == evaluate(digits_run / "model.keras", data_dir=data_dir)["top1"]


@pytest.mark.usefixtures("trial")
def test_a_new_format_is_in_the_messages(digits_run, tmp_path):
    with pytest.raises(InputError, match="OUT must be .*a SavedModel folder or a .split file"):
        export(digits_run / "model.keras", tmp_path / "x.h5")
    with pytest.raises(InputError, match="`quantize` of a .split file must be none. Received"):
        export(digits_run / "model.keras", tmp_path / "x.split", quantize="int8")
    takers = "a .onnx file, a .xml file or a .split file"
    with pytest.raises(InputError, match=f"`layout` is for {takers} only"):
        export(digits_run / "model.keras", tmp_path / "x.tflite", layout="nchw")
    (tmp_path / "x.bin").write_text("my own")
    with pytest.raises(InputError, match="x.bin exists, is not part of an earlier export"):
        export(digits_run / "model.keras", tmp_path / "x.split")


def test_a_file_is_of_the_format_that_its_suffix_says(tmp_path):
    assert format_named("a/b.tflite").name == "TFLite" and format_named("a/b").name == "SavedModel"
    assert format_named("a/b.h5") is None
    assert format_of(tmp_path / "b.onnx").name == "ONNX"
    message = "a .onnx file, a .xml file or a SavedModel folder. Received: "
    for path in (tmp_path, tmp_path / "b.h5"):
        with pytest.raises(InputError, match=message):
            format_of(path)


def test_a_folder_of_any_name_is_a_saved_model_if_it_holds_one(tmp_path):
    (tmp_path / "resnet.v2").mkdir()
    (tmp_path / "resnet.v2" / "saved_model.pb").write_bytes(b"")
    assert format_of(tmp_path / "resnet.v2").name == "SavedModel"


WITHOUT = """
import sys
for name in ("onnx", "onnxruntime", "tf2onnx"):
    sys.modules[name] = None  # cannot be imported
from pathlib import Path
import keras
import numpy as np
from resnet_keras.model_files import Metadata, open_model_file
from resnet_keras.model_files.formats import TFLITE
from resnet_keras.preprocessing import Preprocessing
pixels = keras.Input((8, 8, 3))
model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
TFLITE.module.write(model, Path(sys.argv[1]), Metadata(Preprocessing(8)))
images = np.full((2, 8, 8, 3), 7, np.uint8)
print(open_model_file(sys.argv[1]).predict(images).tolist())
"""


@pytest.mark.slow
def test_a_format_needs_no_library_of_another(run_python, tmp_path):
    done = run_python("-c", WITHOUT, tmp_path / "mean.tflite")
    assert done.stdout.strip() == str(np.full((2, 3), 7.0).tolist()), done.stderr


def test_a_tflite_file_that_is_damaged_is_named(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"TFL3" * 100)
    with pytest.raises(InputError, match=r"x\.tflite can't be read as a model: [^\n]+$"):
        open_model_file(tmp_path / "x.tflite")
