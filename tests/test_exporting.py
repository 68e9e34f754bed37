"""An exported file computes what its model does, or is not kept."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from defaults import defaults
from runs import in_forks

from resnet_keras import SPECS, ResNet, ResNetV1D, __main__, data, evaluate, export
from resnet_keras.errors import InputError
from resnet_keras.exporting import BoundMissed, compare, folded, is_finished, plain
from resnet_keras.exporting.prove import BOUNDS, reason_to_refuse
from resnet_keras.model_files import Metadata, open_model_file
from resnet_keras.model_files.formats import format_named, format_of
from resnet_keras.model_files.layer_errors import layer_of
from resnet_keras.preprocessing import Preprocessing

FOREIGN = ["model.tflite", "model.onnx", "saved_model"]
FORMATS = [*FOREIGN, "copy.keras"]


def test_the_function_has_the_defaults_of_the_command():
    # The command proves on the split that the function takes by itself.
    assert defaults(export).items() <= (defaults(__main__.export) | {"split": None}).items()


@pytest.fixture(scope="module")
def digits(data_dir):
    """The test digits."""
    return data.Source("digits", data_dir=data_dir).open()


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, digits_run, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / request.param
    return out, export(digits_run / "model.keras", out, data_dir=data_dir)


def test_the_proof(exported):
    out, report = exported
    assert report["max_difference"] < 1e-4 and report["top1_agreement"] == 1
    assert report["mean_difference"] <= report["max_difference"]
    assert report["examples"] == 256 and report["top1"] == report["top1_source"] > 0.9
    assert report["kept"] and report["measure"] == "max_difference" and report["bound"] == 1e-4
    assert Path(report["clients"]).is_file()
    text = (out.parent / f"{out.name}.report.json").read_text()
    assert json.loads(text) == report
    # A fact a line, for people and for git.
    assert [line.split('"')[1] for line in text.splitlines() if line.startswith(' "')] == [*report]
    if out.suffix == ".keras":
        assert report["max_difference"] == 0  # none is folded: the same operations
    left = {path.name for path in out.parent.iterdir()}
    assert left == {out.name, f"{out.name}.report.json", f"{out.name}.md", f"{out.stem}.json"}
    assert (out.parent / f"{out.name}.md").read_text().startswith("---\n")  # front matter


def test_an_export_is_finished_when_all_of_it_is_there(exported, tmp_path):
    out, report = exported
    written = out.with_name(f"{out.name}.report.json").stat().st_mtime_ns
    assert all(path.stat().st_mtime_ns <= written for path in out.parent.iterdir())
    assert is_finished(out) and not is_finished(tmp_path / out.name)
    (tmp_path / "x.tflite").write_bytes(b"")
    assert not is_finished(tmp_path / "x.tflite")
    for kept in (False, True):  # at first: "the export was broken off"
        (tmp_path / "x.tflite.report.json").write_text(json.dumps(report | {"kept": kept}))
        assert is_finished(tmp_path / "x.tflite") is kept
    (tmp_path / "x.tflite").unlink()
    assert not is_finished(tmp_path / "x.tflite")


def test_the_report_tells_how_the_file_was_made(exported, digits_run):
    out, report = exported
    assert set(report) == {
        "model_file", "dataset", "split", "examples", "difference_of", "max_difference",
        "mean_difference", "mean_largest_difference", "top1_agreement", "top1", "top1_source",
        "decision_agreement", "measure", "bound", "further_bounds", "kept", "reason", "quantize",
        "io", "keep_float", "layout", "opset", "signatures", "rgb_input", "calibration", "layers",
        "operators", "bytes", "bytes_source", "latency_ms", "latency_ms_source", "cores",
        "seconds", "command", "clients",
    }  # fmt: skip
    assert (report["dataset"], report["split"]) == ("digits", "test")
    assert report["model_file"] == str(digits_run / "model.keras")
    assert report["bytes_source"] == (digits_run / "model.keras").stat().st_size
    assert (report["quantize"], report["io"], report["calibration"]) == ("none", None, None)
    assert report["keep_float"] == report["layers"] == [] and report["reason"] is None
    given = {
        ".onnx": {"layout": "nhwc", "opset": 17, "rgb_input": False},
        ".tflite": {"rgb_input": False},
        "": {"signatures": "all", "rgb_input": False},
    }.get(out.suffix, {})  # fmt: skip
    nothing = dict.fromkeys(("layout", "opset", "signatures", "rgb_input"))
    assert {name: report[name] for name in nothing} == nothing | given
    assert report["cores"] == os.cpu_count() and report["command"]
    assert isinstance(report["seconds"], float)
    assert 0.1 <= report["seconds"] < 600 and report["seconds"] == round(report["seconds"], 1)


def test_size_and_latency_are_measured(exported):
    out, report = exported
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    assert report["bytes"] == sum(len(path.read_bytes()) for path in files)
    threads = {"1", "4"} if out.suffix in (".tflite", ".onnx") else {"all"}
    assert set(report["latency_ms"]) == threads and set(report["latency_ms_source"]) == {"all"}
    assert min(report["latency_ms"].values()) > 0


@pytest.mark.parametrize("exported", FOREIGN, indirect=True)
def test_no_batch_norm_and_no_custom_operator_is_left(exported):
    out, report = exported
    # 19 convolutions; Rescaling is a product and a sum; with the option A shortcuts two pools.
    expected = {
        ".tflite": {"CONV_2D": 19, "MUL": 1, "ADD": 10, "FULLY_CONNECTED": 1, "MAX_POOL_2D": 2,
                    "PAD": 4, "MEAN": 1, "SOFTMAX": 1},
        # The last product's bias is an Add, too.
        ".onnx": {"Conv": 19, "Relu": 19, "Mul": 1, "Add": 11, "MatMul": 1, "MaxPool": 2, "Pad": 2,
                  "GlobalAveragePool": 1, "Flatten": 1, "Transpose": 1, "Softmax": 1},
    }  # fmt: skip
    if out.suffix in expected:
        assert report["operators"] == expected[out.suffix]
    else:
        counts = report["operators"]
        assert counts["Conv2D"] == 19 and counts["BiasAdd"] == 20 and counts["Relu"] == 19
        assert not {"FusedBatchNormV3", "Rsqrt", "Sub"} & set(counts)


def test_accuracy_is_that_of_the_run(exported, digits_run, data_dir):
    results = json.loads((digits_run / "results.json").read_text())
    measured = evaluate(exported[0], data_dir=data_dir)
    assert {k: measured[k] for k in ("top1", "top5", "examples")} == {
        k: results[k] for k in ("top1", "top5", "examples")
    }


def test_a_batch_of_any_size_is_predicted_alike(exported):
    model_file = open_model_file(exported[0])
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 1), dtype=np.uint8)
    whole = model_file.predict(images)
    assert whole.dtype == np.float32
    for i in range(5):
        assert np.abs(model_file.predict(images[i : i + 1]) - whole[i]).max() < 1e-5


def test_the_snippet_of_the_model_card_gives_the_same(exported):
    out, _ = exported
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    scope = {"pixels": images.astype(np.float32)}
    exec(format_of(out).module.SNIPPET.format(name=out), scope)
    assert np.abs(scope["scores"] - open_model_file(out).predict(images)).max() < 1e-5


# A .keras file is Keras' own: its metadata lies beside it.
@pytest.mark.parametrize("exported", FOREIGN, indirect=True)
def test_the_metadata_travels_inside(exported, tmp_path):
    out, _ = exported
    beside = open_model_file(out)
    alone = tmp_path / out.name
    shutil.copytree(out, alone) if out.is_dir() else shutil.copy(out, alone)
    inside = open_model_file(alone)
    assert inside.has_metadata and inside.metadata == beside.metadata
    assert inside.metadata.labels == tuple("0123456789")
    assert inside.metadata.preprocessing.size == (8, 8)


def test_the_name_of_a_folder_does_not_travel(colour_run):
    metadata = open_model_file(colour_run / "model.keras").metadata
    assert str(colour_run) in metadata.dataset and str(colour_run) not in metadata.public()
    assert json.loads(metadata.public())["labels"] == list(metadata.labels)


def test_folding_is_the_same_function():
    """Compared with the layers as they are, with statistics as training leaves them."""
    small = dataclasses.replace(SPECS["resnetv1d50"], depths=(1, 1), widths=(8, 16))
    model = ResNetV1D(small, input_shape=(32, 32, 3), classes=7)
    draw = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights([draw.uniform(0.5, 1.5, shape) for _ in range(4)])
    clone = folded(model)
    kinds = {type(layer) for layer in clone.layers}
    assert keras.layers.BatchNormalization not in kinds
    images = draw.integers(0, 255, (4, 32, 32, 3)).astype(np.float32)
    before, after = (
        keras.Model(m.input, m.get_layer("avg_pool").output).predict(images, verbose=0)
        for m in (model, clone)
    )
    assert np.abs(before - after).max() / np.abs(before).max() < 1e-5


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_tflite_has_a_number_for_each_colour_not_for_each_place_of_a_row(kind, tmp_path):
    """OpenCV reads `(width, channels)` in the wrong order."""
    model = ResNet("resnet20_cifar", input_shape=(12, 20, 3), classes=4)
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 20, 3), dtype=np.uint8)
    row = format_named("x.tflite")
    path = tmp_path / "x.tflite"
    options = {"quantize": kind} | ({"images": images} if kind == "int8" else {})
    network = folded(model, rescaling=row.rescaling)
    row.module.write(network, path, Metadata(Preprocessing((12, 20))), **options)
    counts = row.module.operators(path)
    assert "MUL" not in counts and counts["CONV_2D"] == 19 + 1 and counts["ADD"] == 9
    tensors = Interpreter(str(path)).get_tensor_details()
    assert not [t for t in tensors if tuple(t["shape"]) == (20, 3)]
    expected = model.predict(images, verbose=0)
    bound = 1e-5 if kind == "none" else 0.02
    assert np.abs(open_model_file(path).predict(images) - expected).max() < bound


def test_what_cannot_be_folded_stays():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="shared")(inputs)
    y = keras.layers.BatchNormalization(name="norm")(x)
    z = keras.layers.Conv2D(4, 1, activation="relu", name="relu_inside")(keras.layers.Add()([x, y]))
    z = keras.layers.BatchNormalization(scale=False, name="norm_behind_relu")(z)
    z = keras.layers.Conv2D(4, 1, name="folds")(z)
    z = keras.layers.BatchNormalization(center=False, scale=False, name="gone")(z)
    model = keras.Model(inputs, z)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
            layer.moving_variance.assign([0.5, 1.0, 2.0, 3.0])
    clone = folded(model)
    names = {layer.name for layer in clone.layers}
    assert {"norm", "norm_behind_relu"} <= names and "gone" not in names
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    assert np.abs(model(images) - clone(images)).max() < 1e-5


def test_layers_are_found_in_the_names_of_operators():
    names = ["normalise", "conv1_conv", "conv1_relu", "conv2_block1_1_conv", "conv2_block1_1"]
    assert layer_of("net_1/conv1_relu_1/Relu;net_1/conv1_conv_1/BiasAdd", names) == "conv1_conv"
    assert layer_of("conv2_block1_1_conv/convolution", names) == "conv2_block1_1_conv"
    assert layer_of("conv2_block1_1_1/Relu", names) == "conv2_block1_1"
    assert layer_of("StatefulPartitionedCall:0", names) is None


def test_a_wrong_mean_is_refused(digits_run, digits, tmp_path):
    model = keras.saving.load_model(digits_run / "model.keras")

    def sabotage(layer):
        config = layer.get_config()
        if layer.name == "normalise":
            config["offset"] = [v + 0.5 for v in config["offset"]]
        return type(layer).from_config(config)

    wrong = keras.models.clone_model(model, clone_function=sabotage)
    wrong.set_weights(model.get_weights())
    wrong.save(tmp_path / "wrong.keras")
    original = open_model_file(digits_run / "model.keras")
    report = compare(original, open_model_file(tmp_path / "wrong.keras"), digits)
    assert report["max_difference"] > 1e-2
    assert "differ by up to" in reason_to_refuse(report, *BOUNDS["none"])


def test_swapped_channels_are_refused(colour_run, tmp_path):
    model = keras.saving.load_model(colour_run / "model.keras")
    kernel = model.get_layer("conv1_conv").kernel
    kernel.assign(kernel.numpy()[:, :, ::-1])
    model.save(tmp_path / "bgr.keras")
    original = open_model_file(colour_run / "model.keras")
    test = data.Source(original.metadata.dataset).open()
    swapped = compare(original, open_model_file(tmp_path / "bgr.keras"), test)
    assert reason_to_refuse(swapped, *BOUNDS["none"])
    same = compare(original, open_model_file(colour_run / "model.keras"), test)
    assert reason_to_refuse(same, *BOUNDS["none"]) is None and same["max_difference"] == 0


def test_probabilities_that_are_not_finite_are_refused(digits_run, digits, tmp_path):
    model = keras.saving.load_model(digits_run / "model.keras")
    kernel = model.get_layer("predictions").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    model.save(tmp_path / "broken.keras")
    original, broken = (
        open_model_file(path) for path in (digits_run / "model.keras", tmp_path / "broken.keras")
    )
    report = compare(original, broken, digits, examples=8)
    assert report["max_difference"] is None and report["top1"] == report["top1_agreement"] == 0
    for kind in BOUNDS:
        assert reason_to_refuse(report, *BOUNDS[kind]) == (
            "some of its probabilities are not finite"
        )
    json.dumps(report, allow_nan=False)


def test_a_missed_bound_leaves_the_old_file(digits_run, digits, tmp_path):
    out = tmp_path / "model.tflite"
    out.write_bytes(b"what was here before")
    Metadata(Preprocessing(8)).write(tmp_path / "model.keras")
    before = (tmp_path / "model.json").read_text()
    with pytest.raises(BoundMissed, match="was not kept: its probabilities differ by up to"):
        export(digits_run / "model.keras", out, split=digits, examples=8, bound=0.0)
    assert out.read_bytes() == b"what was here before"
    assert (tmp_path / "model.json").read_text() == before
    report = json.loads((tmp_path / "model.tflite.report.json").read_text())
    assert report["max_difference"] >= report["bound"] == 0.0 and not report["kept"]
    assert "clients" not in report
    assert report["dataset"] == "digits" and report["split"] == "test"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.tflite", "model.json", "model.tflite.report.json"}


KILLED = """
import os, signal, sys
from resnet_keras import export
seen = 0
def watch(event, arguments):
    global seen
    if event == "os.rename" and str(arguments[1]) == {out!r} + {suffix!r}:
        seen += 1
        if seen == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
export({source!r}, {out!r}, data_dir={data_dir!r}, examples=8)
"""


@pytest.mark.slow
def test_a_kill_leaves_no_report_about_another_file(digits_run, data_dir, tmp_path):
    moments = {"before the file": ("", 1), "behind it": (".report.json", 2)}
    commands = []
    for moment, (suffix, number) in moments.items():
        out = tmp_path / moment / "model.keras"
        out.parent.mkdir()
        out.write_bytes(b"what was here before")
        commands.append(KILLED.format(
            suffix=suffix, number=number, source=str(digits_run / "model.keras"), out=str(out),
            data_dir=str(data_dir),
        ))  # fmt: skip
    for answer in in_forks(commands, tmp_path).values():
        assert answer["code"] == -signal.SIGKILL, answer["output"]
    for moment in moments:
        out = tmp_path / moment / "model.keras"
        assert (out.read_bytes() == b"what was here before") == (moment == "before the file")
        report = json.loads(Path(f"{out}.report.json").read_text())
        assert not report["kept"] and report["reason"] == "the export was broken off"


def test_a_saved_model_replaces_a_saved_model_and_nothing_else(digits_run, data_dir, tmp_path):
    def again(out):
        export(digits_run / "model.keras", out, data_dir=data_dir, examples=8)

    out = tmp_path / "served"
    out.mkdir()
    (out / "saved_model.pb").write_text("an old one")
    again(out)
    assert (out / "variables").is_dir()
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    (tmp_path / "notes").write_text("a file")
    for occupied in (home, tmp_path / "notes"):
        with pytest.raises(InputError, match="is not a SavedModel folder"):
            again(occupied)
    assert (home / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_half_precision_is_exported_as_float32(digits_run, digits, data_dir, tmp_path):
    """Left as it is, TFLite would need Flex operators for it."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = ResNet("resnet20_cifar", input_shape=(8, 8, 1), mean=(127.5,), std=(127.5,))
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(keras.saving.load_model(digits_run / "model.keras").get_weights())
    half.save(tmp_path / "half.keras")
    assert half.get_layer("conv1_conv").compute_dtype == "bfloat16"
    assert plain(half).get_layer("conv1_conv").compute_dtype == "float32"
    shutil.copy(digits_run / "model.json", tmp_path / "half.json")
    report = export(tmp_path / "half.keras", tmp_path / "half.tflite", data_dir=data_dir)
    assert report["kept"] and report["operators"]["CONV_2D"] == 19
    assert not {"CAST", "DEQUANTIZE"} & set(report["operators"])
    # The run's own file has the same weights.
    whole = open_model_file(digits_run / "model.keras")
    apart = compare(whole, open_model_file(tmp_path / "half.tflite"), digits)
    assert apart["max_difference"] < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [("model.h5", {}, "a .onnx file, a .xml file or a SavedModel folder"),
     ("model.tar.gz", {}, "OUT must be"),
     ("m.onnx", {"quantize": "float16"}, "`quantize` of a .onnx file must be none or int8"),
     ("m.keras", {"quantize": "int8"}, "`quantize` of a .keras file must be none"),
     ("folder", {"quantize": "dynamic"}, "`quantize` of a SavedModel folder must be none"),
     ("m.tflite", {"io": "uint8"}, "`io` is for int8"),
     ("m.tflite", {"keep_float": ["conv1_conv"]}, "`keep_float` is for int8"),
     ("m.tflite", {"calibrate": "digits"}, "`calibrate` is for int8"),
     ("m.onnx", {"quantize": "int8", "io": "int8"}, "must be uint8 or float32"),
     ("m.tflite", {"layout": "nchw"}, "`layout` is for a .onnx file or a .xml file only"),
     ("m.tflite", {"opset": 17}, "`opset` is for a .onnx file only"),
     ("m.onnx", {"opset": 19}, "`opset` of a .onnx file must be 13 to 18"),
     ("m.onnx", {"opset": 12}, "must be 13 to 18"),
     ("m.onnx", {"layout": "hwcn"}, "must be nhwc or nchw")],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(digits_run, tmp_path, name, options, message):
    with pytest.raises(InputError, match=message) as refused:
        export(digits_run / "model.keras", tmp_path / name, **options)
    assert "Received: " in str(refused.value) and not list(tmp_path.iterdir())


def test_files_that_are_no_models_are_named(tmp_path):
    for name in ("x.keras", "x.tflite", "x.onnx"):
        (tmp_path / name).write_text("<html>")
        with pytest.raises(InputError, match=name):
            open_model_file(tmp_path / name)
    with pytest.raises(InputError, match="no such model file"):
        open_model_file(tmp_path / "missing.keras")


def test_assumed_preprocessing_is_said_before_it_travels(tmp_path, capsys):
    ResNet("resnet20_cifar", input_shape=(8, 8, 1)).save(tmp_path / "found.keras")
    with pytest.raises(InputError, match="does not say what it was trained on"):
        export(tmp_path / "found.keras", tmp_path / "out.tflite")
    assert "found.keras has no found.json beside it: images are scaled to cover 8 x 8 pixels" in (
        capsys.readouterr().err
    )


def test_the_command_line_exits_1_and_leaves_nothing(digits_run, data_dir, tmp_path, run_python):
    arguments = ("-m", "resnet_keras", "export", digits_run / "model.keras", tmp_path / "m.onnx")
    options = ("--layout", "nchw", "--data-dir", data_dir, "--examples", "8", "--bound", "1e-30")
    done = run_python(*arguments, *options, "--json")
    assert done.returncode == 1 and not done.stdout
    said = done.stderr.splitlines()
    assert said[-1].startswith("error: ") and "was not kept" in said[-1]
    told = [line for line in said if line.startswith(("converting to", "proving on"))]
    assert told == ["converting to ONNX, float32", "proving on 8 test images of digits"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx.report.json"]


@pytest.mark.parametrize(
    ("out", "there", "text", "words"),
    [("results.tflite", "results.json", '{"top1": 0.9}', "preprocessing has the fields"),
     ("recipe.onnx", "recipe.json", "[1]", "recipe.json exists, is not the metadata"),
     ("served", "served.md", "# my notes", "served.md exists, is not a model card")],
)  # fmt: skip
def test_what_is_not_metadata_is_not_replaced_by_it(
    digits_run, data_dir, tmp_path, out, there, text, words
):
    (tmp_path / there).write_text(text)
    with pytest.raises(InputError, match=words):
        export(digits_run / "model.keras", tmp_path / out, data_dir=data_dir)
    assert (tmp_path / there).read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == [there]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metadata", "words"),
    [(Metadata(Preprocessing(8), labels=("a", "b")), "which has 10 classes. Received: 2 labels"),
     (Metadata(Preprocessing(32)), "takes images of 8 x 8. Received: size=\\(32, 32\\)"),
     (b'{"size": [8, 8], "labels": ["\xe9"]}', "m.json does not describe a model: 'utf-8'"),
     (None, "m.json cannot be read: Is a directory")],
)  # fmt: skip
def test_metadata_of_another_model_is_refused(digits_run, tmp_path, metadata, words):
    shutil.copyfile(digits_run / "model.keras", tmp_path / "m.keras")
    path = tmp_path / "m.json"
    if metadata is None:
        path.mkdir()
    elif isinstance(metadata, bytes):
        path.write_bytes(metadata)
    else:
        metadata.write(tmp_path / "m.keras")
    with pytest.raises(InputError, match=words):
        open_model_file(tmp_path / "m.keras")
    assert open_model_file(tmp_path / "m.keras", beside=False).classes == 10


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ""])
def test_a_network_of_any_image_size_is_exported(tmp_path, suffix):
    """As training with two image sizes leaves it."""
    small = dataclasses.replace(SPECS["resnet18_cifar"], depths=(1, 1), widths=(8, 16))
    network = ResNet(small, input_shape=(None, None, 3), classes=3)
    network.save(tmp_path / "m.keras")
    metadata = Metadata(Preprocessing(12), labels=("a", "b", "c"))
    out = tmp_path / f"out{suffix}"
    format_named(out).module.write(folded(network), out, metadata)
    metadata.write(out)
    model_file = open_model_file(out)
    assert model_file.classes == 3 and model_file.channels == 3
    images = np.random.default_rng(0).integers(0, 255, (2, 12, 12, 3), dtype=np.uint8)
    expected = open_model_file(tmp_path / "m.keras").predict(images)
    assert np.abs(model_file.predict(images) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"examples": 0}, "`examples` must be above 0. Received: examples=0"),
     ({"seed": -1}, "`seed` must be 0 or more. Received: seed=-1"),
     ({"bound": float("nan")}, "`bound` must be 0 or more. Received: bound=nan"),
     ({"bound": -1.0}, "`bound` must be 0 or more. Received: bound=-1.0"),
     ({"format": "foo"}, "`format` must be None or 'web'. Received: format='foo'")],
)  # fmt: skip
def test_options_out_of_range_are_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        export(tmp_path / "missing.keras", tmp_path / "x.tflite", **options)


def test_one_image_and_the_first_seed_are_enough(tmp_path):
    with pytest.raises(InputError, match="no such model file"):
        export(tmp_path / "missing.keras", tmp_path / "x.tflite", examples=1, seed=0)


def test_the_split_is_the_one_that_is_asked_for_where_its_data_are(digits_run, data_dir, tmp_path):
    """TFDS has a name for no images; what is refused says where it was looked for."""
    out = tmp_path / "x.tflite"
    with pytest.raises(InputError, match=f"'test\\[:0%\\]' of digits in {data_dir}.* is empty"):
        export(digits_run / "model.keras", out, split="test[:0%]", data_dir=data_dir)


def test_an_option_that_does_not_exist_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="unexpected keyword argument 'quantise'"):
        export(tmp_path / "missing.keras", tmp_path / "x.tflite", quantise="int8")


def test_an_opened_split_must_fit_the_model(colour_run, digits, tmp_path):
    with pytest.raises(InputError, match="takes images of 3 channels, digits has 1"):
        export(colour_run / "model.keras", tmp_path / "x.tflite", split=digits)


def test_a_sequential_model_is_exported(data_dir, tmp_path):
    """Which, once it is loaded, has no `input`."""
    layers = keras.layers
    keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"),
        layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax"),
    ]).save(tmp_path / "m.keras")  # fmt: skip
    out = tmp_path / "m.tflite"
    report = export(tmp_path / "m.keras", out, dataset="digits", data_dir=data_dir, examples=16)
    assert report["examples"] == 16 and report["max_difference"] < 1e-5
