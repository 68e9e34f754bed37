"""What `export` takes: models of any outputs, sizes and makers; what it refuses, and how."""

import dataclasses
import functools
import shutil
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers
from PIL import Image

from resnet_keras import ResNet, Spec, evaluate, export, predict
from resnet_keras.data import ArraySplit, Source
from resnet_keras.errors import InputError
from resnet_keras.exporting import compare, folded
from resnet_keras.exporting.options import settle
from resnet_keras.exporting.prove import prove
from resnet_keras.model_files import Metadata, open_model_file, read_metadata, tflite
from resnet_keras.model_files import onnx as onnx_format
from resnet_keras.model_files.formats import KERAS
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import convert

SMALL = Spec("basic", (1, 1), (8, 16))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of noise, bright and dark: 120 images for training, 24 for the test."""
    root, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 12)):
        for label, least in (("bright", 128), ("dark", 0)):
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(least, least + 128, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    return f"folder:{root}"


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)


def varied(model):
    """Random in all weights, so that folding and outputs are not trivial."""
    draw = np.random.default_rng(2)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))
    return model


def expected(model, pixels):
    return model.predict(pixels.astype(np.float32), verbose=0)


# ------------------------------------------------------------------------- features


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        # Maps are the harder ones.
        pytest.param(
            name, pooling, marks=[pytest.mark.slow] if pooling and name != "m.onnx" else []
        )
        for name in ("m.tflite", "m.onnx", "m.xml", "saved")
        for pooling in ("avg", None)
    ],
)
def test_embeddings_and_feature_maps(pooling, name, images, pixels, tmp_path):
    model = varied(ResNet(SMALL, include_top=False, pooling=pooling, input_shape=(16, 24, 3)))
    model.save(tmp_path / "m.keras")
    report = export(tmp_path / "m.keras", tmp_path / "out" / name, dataset=images, examples=8)
    assert report["difference_of"] == "features" and report["max_difference"] < 1e-5
    assert report["top1"] is report["top1_agreement"] is report["decision_agreement"] is None
    # The metadata says so to whoever opens the file alone.
    alone = tmp_path / name
    shutil.move(tmp_path / "out" / name, alone)
    if name == "m.xml":
        shutil.move(tmp_path / "out" / "m.bin", tmp_path)
    opened = open_model_file(alone)
    assert opened.metadata.features and opened.classes is None
    right = expected(model, pixels)
    assert right.ndim == (4 if pooling is None else 2)
    assert np.abs(opened.predict(pixels) - right).max() < 1e-4 * np.abs(right).max()
    with pytest.raises(InputError, match="`evaluate` needs scores .* gives features"):
        evaluate(opened, dataset=images)
    image = next(iter(Source(images, "test").open().paths))
    with pytest.raises(InputError, match="`predict` needs scores .* gives features"):
        predict(opened, image)


def test_features_of_int8_are_bounded_by_their_differences(images, tmp_path):
    model = varied(ResNet(SMALL, include_top=False, pooling="avg", input_shape=(16, 24, 3)))
    model.save(tmp_path / "m.keras")
    report = export(
        tmp_path / "m.keras", tmp_path / "m.tflite", dataset=images, examples=24, quantize="int8"
    )
    assert report["measure"] == "mean_largest_difference" and report["bound"] == 0.05
    assert 0 < report["mean_largest_difference"] < report["max_difference"] < 0.1


def test_an_embedding_with_named_columns_is_a_classifier(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1)(inputs)
    keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(tmp_path / "m.keras")
    assert open_model_file(tmp_path / "m.keras").metadata.features
    for told in ({"labels": ("a", "b")}, {"features": False}):
        Metadata(Preprocessing(8), **told).write(tmp_path / "m.keras")
        assert open_model_file(tmp_path / "m.keras").classes == 2


def test_a_page_needs_classes(images, tmp_path):
    model = ResNet(SMALL, include_top=False, pooling="avg", input_shape=(16, 24, 3))
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="the page needs scores of classes"):
        export(tmp_path / "m.keras", tmp_path / "page", dataset=images, format="web")


def test_a_backbone_keeps_no_labels(colour_run, tmp_path):
    convert(colour_run / "model.keras", tmp_path / "backbone.keras", backbone_only=True)
    assert read_metadata(tmp_path / "backbone.keras").labels == ()
    # A copy of the whole network's metadata is of no harm either.
    shutil.copy(colour_run / "model.json", tmp_path / "backbone.json")
    opened = open_model_file(tmp_path / "backbone.keras")
    assert opened.metadata.features and opened.metadata.labels == ()


def test_several_outputs_are_refused_at_once(images, tmp_path):
    model = ResNet(SMALL, input_shape=(16, 16, 3))
    ends = [model.get_layer(name).output for name in ("conv2_block1_out", "conv3_block1_out")]
    keras.Model(model.input, ends).save(tmp_path / "m.keras")
    with pytest.raises(InputError, match="save a model of one of each.*1 inputs, 2 outputs"):
        export(tmp_path / "m.keras", tmp_path / "m.onnx", dataset=images)


# ------------------------------------------------------------------------- heads


def single(activation, path):
    model = ResNet(SMALL, classes=1, classifier_activation=activation, input_shape=(16, 24, 3))
    varied(model).save(path)
    return model


def test_one_sigmoid_is_judged_by_its_decisions(images, pixels, tmp_path):
    """On images of two classes, between which it decides."""
    model = single("sigmoid", tmp_path / "m.keras")
    for kind, measure in (("none", "max_difference"), ("dynamic", "decision_agreement")):
        out = tmp_path / f"{kind}.tflite"
        report = export(tmp_path / "m.keras", out, dataset=images, examples=24, quantize=kind)
        assert report["measure"] == measure and report["decision_agreement"] == 1
        assert report["top1"] is report["top1_agreement"] is None
        far = np.abs(open_model_file(out).predict(pixels) - expected(model, pixels)).max()
        assert far < (1e-5 if kind == "none" else 0.05)


def test_a_softmax_of_one_class_is_refused(images, tmp_path):
    single("softmax", tmp_path / "m.keras")
    with pytest.raises(InputError, match="1.0 for every image.*Received: predictions"):
        export(tmp_path / "m.keras", tmp_path / "m.tflite", dataset=images)
    assert not (tmp_path / "m.tflite").exists()


# ------------------------------------------------------------------------- sizes


def test_a_phone_file_of_any_size_gets_that_of_its_metadata(images, tmp_path):
    model = varied(ResNet(SMALL, classes=2, input_shape=(None, None, 3)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(InputError, match=r"takes images of one size.*Received: input_shape=\(Non"):
        export(tmp_path / "m.keras", tmp_path / "m.tflite", dataset=images)
    Metadata(Preprocessing((12, 20)), labels=("bright", "dark")).write(tmp_path / "m.keras")
    export(tmp_path / "m.keras", tmp_path / "m.tflite", dataset=images, examples=8)
    (entry,) = Interpreter(str(tmp_path / "m.tflite")).get_input_details()
    assert entry["shape"].tolist() == [1, 12, 20, 3]
    assert entry["shape_signature"].tolist() == [-1, 12, 20, 3]


# ------------------------------------------------------------------------- images


def test_bad_files_are_named_or_left_out_and_then_what_else_is_wrong(tmp_path):
    of_layers(path=tmp_path / "m.keras")
    for label in "abc":
        (tmp_path / "images" / "test" / label).mkdir(parents=True)
        Image.new("RGB", (24, 16)).save(tmp_path / "images" / "test" / label / "good.png")
    (tmp_path / "images" / "test" / "a" / "bad.png").write_text("no image")
    dataset = f"folder:{tmp_path / 'images'}"
    for options, words in (({}, "bad.png"), ({"skip_bad": True}, "has 2 classes, folder:.* has 3")):
        with pytest.raises(InputError, match=words):
            export(tmp_path / "m.keras", tmp_path / "m.onnx", dataset=dataset, **options)


def test_the_latency_is_that_of_one_image(images, tmp_path, monkeypatch):
    batches = []

    class Noted(onnxruntime.InferenceSession):
        def run(self, names, inputs, *arguments):
            batches.extend(len(images) for images in inputs.values())
            return super().run(names, inputs, *arguments)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    of_layers(layers.Rescaling(1 / 255), path=tmp_path / "m.keras")
    export(tmp_path / "m.keras", tmp_path / "m.onnx", dataset=images, examples=8)
    proof, *latency = batches
    assert proof == 8 and len(latency) > 2 * 3 and set(latency) == {1}


# ------------------------------------------------------------------------- the proof


def changed(model, activation=None, sharper=1.0, offset=None):
    def make(layer):
        config = layer.get_config()
        if layer.name == "predictions" and activation:
            config["activation"] = activation
        if layer.name == "normalise" and offset is not None:
            config["scale"], config["offset"] = 1.0, offset
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=make)
    clone.set_weights(model.get_weights())
    head = clone.get_layer("predictions")
    head.set_weights([sharper * weight for weight in head.get_weights()])
    return clone


@pytest.fixture(scope="module")
def judged(colour_run, tmp_path_factory):
    """Judges a TFLite file of weights in int8 that was made of another network than the model."""
    root = tmp_path_factory.mktemp("judged")
    metadata = read_metadata(colour_run / "model.keras")
    split = Source(metadata.dataset, "test").open()
    source = root / "model.keras"
    shutil.copy(colour_run / "model.json", root / "model.json")

    def judge(right, wrong, unquantized=None):
        right.save(source)
        files = {}
        for kind, network in (("dynamic", wrong), ("none", unquantized or wrong)):
            files[kind] = root / f"{kind}.tflite"
            tflite.write(folded(network), files[kind], metadata, quantize=kind)
        settings = settle(source, files["dynamic"], {"quantize": "dynamic"})
        original, candidate, float32 = map(open_model_file, (source, *files.values()))
        return prove(
            original, candidate, split, settings, unquantized=float32, examples=100, bound=None
        )

    return judge


@pytest.mark.parametrize(
    "head",
    [pytest.param("softmax", marks=pytest.mark.slow), "sigmoid",
     pytest.param("linear", marks=pytest.mark.slow)],
)  # fmt: skip
def test_an_honest_file_is_kept_whatever_its_head(head, judged, colour_run):
    model = changed(keras.saving.load_model(colour_run / "model.keras", compile=False), head)
    report = judged(model, model)
    assert report["kept"], report["reason"]
    assert report["mean_largest_difference"] < 0.02
    assert report["unquantized_max_difference"] < 1e-4
    assert set(report["further_bounds"]) == {
        "mean_largest_difference", "unquantized_max_difference",
        *(["decision_agreement"] if head == "sigmoid" else []),
    }  # fmt: skip


@pytest.mark.parametrize("head", ["sigmoid", pytest.param("linear", marks=pytest.mark.slow)])
def test_a_head_that_became_softmax_is_refused(head, judged, colour_run):
    """The top class is the same on all images; so it was kept."""
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    right = changed(trained, head)
    report = judged(right, changed(right, "softmax"), unquantized=right)
    assert report["top1_agreement"] > 0.99 and not report["kept"]
    assert report["mean_largest_difference"] > 0.3


def test_a_sharper_softmax_is_refused(judged, colour_run):
    """Which int8's own rounding would hide where most probabilities are near 1."""
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    report = judged(trained, changed(trained, sharper=1.2))
    assert report["top1_agreement"] >= 0.99 and not report["kept"]
    assert report["reason"].startswith("even without quantization its probabilities differ by")


@pytest.mark.slow
def test_swapped_channels_and_pixels_that_are_not_normalised_are_refused(judged, colour_run):
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    swapped = changed(trained)
    kernel = swapped.get_layer("conv1_conv").kernel
    kernel.assign(kernel.numpy()[:, :, ::-1])
    for wrong in (swapped, changed(trained, offset=0.0)):
        assert not judged(trained, wrong)["kept"]


@pytest.mark.parametrize("quantize", ["none", "float16"])
def test_the_wrong_classes_are_refused_however_small_the_differences_are(quantize, tmp_path):
    """One huge score of all hides what the others are."""
    inputs = keras.Input((8, 8, 3))
    head = layers.Dense(10)
    model = keras.Model(inputs, head(layers.GlobalAveragePooling2D()(inputs)))
    kernel = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32) / 100
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    names = tuple("0123456789")
    split = ArraySplit(labels=names, channels=3, arrays=(images, np.zeros(40, np.int64)))
    for name, sign in (("right", 1), ("wrong", -1)):
        head.set_weights([sign * kernel, np.float32([0] * 9 + [-1e6])])
        model.save(tmp_path / f"{name}.keras")
    files = [open_model_file(tmp_path / f"{name}.keras") for name in ("right", "wrong")]
    settings = settle(files[0].path, tmp_path / "x.tflite", {"quantize": quantize})
    settings = dataclasses.replace(settings, format=KERAS)
    judge = functools.partial(prove, unquantized=None, examples=40, bound=None)
    report = judge(*files, split, settings)
    assert report["max_difference"] < report["bound"] and not report["kept"]
    assert report["reason"].startswith("its top class is the same on ")
    assert judge(files[0], files[0], split, settings)["kept"]


def test_a_file_with_an_operator_that_not_every_runtime_has_is_refused(tmp_path):
    """Its scores are right: what it needs decides."""
    inputs = keras.Input((8, 8, 3))
    scores = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(inputs))
    model = varied(keras.Model(inputs, scores))
    model.save(tmp_path / "m.keras")
    onnx_format.write(folded(model), tmp_path / "m.onnx", Metadata(Preprocessing(8)))
    graph = onnx.load(tmp_path / "m.onnx")
    (last,) = [node for node in graph.graph.node if "probabilities" in node.output]
    last.output[0] = "before"
    values = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "variance": 1.0}
    for name, value in values.items():
        graph.graph.initializer.append(
            onnx.numpy_helper.from_array(np.full(4, value, np.float32), name)
        )
    graph.graph.node.append(
        onnx.helper.make_node(
            "BatchNormalization", ["before", *values], ["probabilities"], epsilon=0.0
        )
    )
    onnx.save(graph, tmp_path / "odd.onnx")
    images = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    split = ArraySplit(labels=tuple("abcd"), channels=3, arrays=(images, np.zeros(20, np.int64)))
    settings = settle(tmp_path / "m.keras", tmp_path / "m.onnx", {"quantize": "none"})
    original, plain, odd = (
        open_model_file(tmp_path / n) for n in ("m.keras", "m.onnx", "odd.onnx")
    )
    judge = functools.partial(prove, unquantized=None, examples=20, bound=None)
    report = judge(original, odd, split, settings)
    assert report["max_difference"] < 1e-6 and not report["kept"]
    assert report["reason"].startswith("it needs BatchNormalization, which ")
    assert report["operators"]["BatchNormalization"] == 1
    report = judge(original, plain, split, settings)
    assert report["kept"] and report["reason"] is None


def test_decisions_are_compared_where_probabilities_do_not_sum_to_1(tmp_path):
    """Two features, 0 to 1; a bias of the copy changes what is near a half."""
    inputs = keras.Input((1, 2, 1))
    flat = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 2, 1), dtype=np.uint8)
    split = ArraySplit(labels=("a", "b"), channels=1, arrays=(images, np.zeros(40, np.int64)))

    def opened(activation, bias):
        head = layers.Dense(2, activation=activation)
        model = keras.Model(inputs, head(flat))
        head.set_weights([8 * np.eye(2, dtype=np.float32), np.float32([bias, bias])])
        model.save(tmp_path / "x.keras")
        Metadata(Preprocessing((1, 2))).write(tmp_path / "x.keras")
        return open_model_file(tmp_path / "x.keras")

    report = compare(opened("sigmoid", -4), opened("sigmoid", -3), split)
    pixels = images.reshape(40, 2) / 255
    assert report["decision_agreement"] == np.mean((pixels >= 4 / 8) == (pixels >= 3 / 8)) < 0.95
    assert report["top1_agreement"] == 1 and report["difference_of"] == "probabilities"
    report = compare(opened("softmax", -4), opened("softmax", -3), split)
    assert report["decision_agreement"] is None and report["top1_agreement"] == 1


def test_differences_of_scores_are_shares_of_the_largest(tmp_path, colour_run):
    trained = keras.saving.load_model(colour_run / "model.keras", compile=False)
    shutil.copy(colour_run / "model.json", tmp_path / "a.json")
    shutil.copy(colour_run / "model.json", tmp_path / "b.json")
    logits = changed(trained, "linear")
    logits.save(tmp_path / "a.keras")
    changed(logits, sharper=1.01).save(tmp_path / "b.keras")
    split = Source(read_metadata(tmp_path / "a.keras").dataset, "test").open()
    a, b = open_model_file(tmp_path / "a.keras"), open_model_file(tmp_path / "b.keras")
    report = compare(a, b, split, examples=20)
    assert report["difference_of"] == "scores" and report["decision_agreement"] is None
    # Each score is larger by a hundredth, and so is the largest.
    assert report["max_difference"] == pytest.approx(0.01, rel=1e-3)


# ------------------------------------------------------------------------- other people's layers


def of_layers(*middle, path):
    """A classifier of two classes with these layers in the middle, saved."""
    inputs = x = keras.Input((16, 24, 3))
    for layer in middle:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax", name="head")(x))
    model.save(path)
    return model


def statistics(**options):
    """A layer that knows the mean and the variance of images."""
    layer = layers.Normalization(name="statistics", **options)
    layer.adapt(np.random.default_rng(3).integers(0, 256, (9, 16, 24, 3)).astype(np.float32))
    return layer


# Statistics of colours, rows and rows and columns, and the other way round.
STATISTICS = [{}, {"axis": 1}, {"axis": (2, 3)}, {"invert": True}]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # ONNX has all of them by default, and the others the first.
        pytest.param(
            name, options, marks=[pytest.mark.slow] if options and name != "m.onnx" else []
        )
        for name in ("m.tflite", "m.onnx", "m.xml", "saved", "m.keras")
        for options in STATISTICS
    ],
)
def test_statistics_within_a_model_within_the_model(name, options, images, pixels, tmp_path):
    """Keras loads them into the layer, and not into what it computes with."""
    inputs = keras.Input((16, 24, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3)(statistics(**options)(inputs)))
    inner = keras.Model(inputs, layers.ReLU()(x), name="inner")
    source = tmp_path / "source.keras"
    model = varied(of_layers(inner, path=source))
    inner.get_layer("statistics").finalize_state()
    model.save(source)
    right = expected(model, pixels)
    assert (
        0.01 < right.std() and np.abs(open_model_file(source).predict(pixels) - right).max() < 1e-5
    )
    report = export(source, tmp_path / name, dataset=images, examples=8)
    assert np.abs(open_model_file(tmp_path / name).predict(pixels) - right).max() < 1e-5
    assert not any("BatchNorm" in operator for operator in report["operators"] or {})


@pytest.mark.parametrize(
    "name", [pytest.param("m.tflite", marks=pytest.mark.slow), "m.onnx", "m.keras"]
)
def test_half_precision_within_a_model_within_the_model(name, images, pixels, tmp_path):
    inputs = keras.Input((16, 24, 3))
    half = layers.Conv2D(4, 3, dtype="mixed_bfloat16")
    x = layers.BatchNormalization(dtype="float32")(half(layers.Rescaling(1 / 255)(inputs)))
    inner = keras.Model(inputs, x, name="inner")
    source = tmp_path / "source.keras"
    model = of_layers(inner, path=source)
    report = export(source, tmp_path / name, dataset=images, examples=8)
    half.dtype_policy = "float32"
    assert (
        np.abs(open_model_file(tmp_path / name).predict(pixels) - expected(model, pixels)).max()
        < 1e-2
    )
    if name == "m.keras":
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert b"bfloat16" not in archive.read("config.json")
        # Neither it nor what it is compared with is folded: the same operations.
        assert report["max_difference"] == 0


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
@pytest.mark.parametrize(
    "layer",
    [layers.Conv2D(8, 3, name="grey"),
     pytest.param(layers.LayerNormalization(name="normalise"), marks=pytest.mark.slow),
     pytest.param(layers.Normalization(axis=(2, 3), name="normalise"), marks=pytest.mark.slow)],
)  # fmt: skip
def test_int8_of_layers_that_have_our_names(name, layer, images, tmp_path):
    if isinstance(layer, layers.Normalization):
        layer.adapt(np.random.default_rng(3).integers(0, 256, (9, 16, 24, 3)).astype(np.float32))
        of_layers(layer, path=tmp_path / "m.keras")
    else:
        of_layers(layers.Rescaling(1 / 255), layer, path=tmp_path / "m.keras")
    options = {"quantize": "int8", "dataset": images, "examples": 8, "bound": 0.0}
    export(tmp_path / "m.keras", tmp_path / name, **options)


@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "saved"])
def test_layers_of_efficientnet_and_convnext(name, images, pixels, tmp_path):
    """Statistics that are tensors; convolutions in groups; GELU by the error function."""
    keras.utils.set_random_seed(0)
    statistics = layers.Normalization(name="statistics")
    model = of_layers(
        statistics, layers.Conv2D(8, 3), layers.Conv2D(8, 3, groups=8), layers.LayerNormalization(),
        layers.Activation("gelu"), layers.Conv2D(8, 1, groups=2), path=tmp_path / "m.keras",
    )  # fmt: skip
    statistics.set_weights([np.array([90.0, 120, 150]), np.array([4e3, 5e3, 6e3]), np.array(9)])
    statistics.finalize_state()
    model.save(tmp_path / "m.keras")
    right = expected(model, pixels)
    export(tmp_path / "m.keras", tmp_path / name, dataset=images, examples=8)
    assert np.abs(open_model_file(tmp_path / name).predict(pixels) - right).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "method", "operator"),
    [("m.tflite", "bicubic", "TFLite has no built-in operator ResizeBicubic"),
     ("m.onnx", "lanczos3", "ONNX has no operator ScaleAndTranslate")],
)  # fmt: skip
def test_a_layer_that_a_format_lacks_is_named(name, method, operator, images, tmp_path, capfd):
    shrink = layers.Resizing(8, 8, interpolation=method, name="shrink")
    of_layers(shrink, path=tmp_path / "m.keras")
    with pytest.raises(InputError, match=f"{operator}, which the layer shrink needs.*: shrink$"):
        export(tmp_path / "m.keras", tmp_path / name, dataset=images)
    said = capfd.readouterr().err
    assert "not supported" not in said and "MLIR" not in said and "loc(" not in said


@pytest.mark.slow
@pytest.mark.parametrize("network", ["MobileNetV2", "EfficientNetB0", "ConvNeXtTiny"])
def test_networks_of_keras_applications(network, images, pixels, tmp_path):
    build = getattr(keras.applications, network)
    model = varied(build(weights=None, input_shape=(32, 32, 3), classes=2))
    model.save(tmp_path / "m.keras")
    for name in ("m.tflite", "m.onnx", "saved"):
        report = export(tmp_path / "m.keras", tmp_path / name, dataset=images, examples=8)
        assert report["max_difference"] < 1e-4
