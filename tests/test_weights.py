"""Other people's checkpoints compute here what they compute at home."""

import json
import subprocess
from dataclasses import replace

import keras
import numpy as np
import pytest
from checkpoints import (
    SMALL,
    few,
    kernels,
    prefixed,
    relative,
    small,
    small_state,
    without_head,
    write_keras2,
)
from parity import PARITY, meta, state
from parity import images as parity_images
from pth_writer import torch_python, write_legacy, write_zip
from safetensors.numpy import load_file, save_file

from resnet_keras import SPECS, ResNet
from resnet_keras.weights import convert, load_weights, save_torch
from resnet_keras.weights.formats import Contents, read
from resnet_keras.weights.names import recognise, spec_name

REFERENCES = {
    "resnet18_in1k": ("resnet18", "OpenMMLab"),
    "resnet50_in1k": ("resnet50", "OpenMMLab"),
    "resnet50_odd": ("resnet50", "OpenMMLab"),
    "resnetv1d50_in1k": ("resnetv1d50", "OpenMMLab"),
    "resnet18_cifar10": ("resnet18_cifar", "OpenMMLab"),
    "timm_resnet50d": ("resnetv1d50", "timm"),
}


@pytest.mark.parametrize("reference", REFERENCES)
def test_parity(tmp_path, reference):
    """What OpenMMLab and timm computed: logits to 3e-6, pooled features and stages to 1e-5."""
    name, naming = REFERENCES[reference]
    write = write_legacy if reference == "resnet50_odd" else write_zip
    write(tmp_path / "x.pth", {"meta": {"epoch": 100}, "state_dict": state(reference)})
    _, _, height, width = meta(reference)["input_shape"]
    model = ResNet(
        name,
        include_preprocessing=False,
        classifier_activation=None,
        input_shape=(height, width, 3),
    )
    report = load_weights(model, tmp_path / "x.pth")
    assert report.naming == naming and not report.skipped and not report.new
    assert len(report.matched) == len(model.weights)

    truth = np.load(PARITY / f"{reference}.npz")
    ends = [f"conv{s + 2}_block{n}_out" for s, n in enumerate(SPECS[name].depths)]
    layers = [model.get_layer(layer) for layer in ["predictions", "avg_pool", *ends]]
    images = parity_images(reference).transpose(0, 2, 3, 1)
    outputs = keras.Model(model.input, [layer.output for layer in layers])(images)
    logits, pooled, *stages = map(keras.ops.convert_to_numpy, outputs)
    assert relative(logits, truth["logits"]) < 3e-6
    assert relative(pooled, truth["pooled"]) < 1e-5
    for stage, features in enumerate(stages, start=1):
        nchw = features.transpose(0, 3, 1, 2)
        got = nchw.reshape(-1)[truth[f"stage{stage}_idx"]]
        assert relative(got, truth[f"stage{stage}_val"]) < 1e-5


PEER = r"""
import json, sys, numpy as np, torch, torchvision
folder = sys.argv[1]
torch.manual_seed(0)
shapes = {}
for name in ("resnet18", "resnet34", "resnet50", "resnet101"):
    model = getattr(torchvision.models, name)(weights=None).eval()
    shapes[name] = {key: list(value.shape) for key, value in model.state_dict().items()}
    if name in ("resnet34", "resnet101"):
        continue
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif key.endswith("running_var") or value.ndim == 1:
            value.uniform_(0.5, 1.0)
    x = torch.randn(2, 3, 97, 64)
    torch.save(model.state_dict(), f"{folder}/{name}_whole.pth")
    results = dict(x=x.permute(0, 2, 3, 1), whole=model(x).detach())
    torch.save(
        model.half().state_dict(), f"{folder}/{name}_half.pth", _use_new_zipfile_serialization=False
    )
    np.savez(f"{folder}/{name}.npz", half=model.float()(x).detach(), **results)
print(json.dumps(shapes))
"""


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory):
    """A folder of torchvision's files with its logits, and its names and shapes."""
    folder = tmp_path_factory.mktemp("torchvision")
    command = [torch_python(), "-c", PEER, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True)
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_live(torchvision, name):
    """Its own file, and one in half precision and the older format, run with those weights."""
    folder, _ = torchvision
    peer = np.load(folder / f"{name}.npz")
    model = ResNet(
        name, include_preprocessing=False, classifier_activation=None, input_shape=(97, 64, 3)
    )
    for kind in ("whole", "half"):
        assert load_weights(model, folder / f"{name}_{kind}.pth").naming == "torchvision"
        assert relative(model(peer["x"]), peer[kind]) < 1e-5


def test_recognises_torchvisions_depths(torchvision):
    _, depths = torchvision
    for name, shapes in depths.items():
        arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
        spec = recognise(Contents("x", arrays, {})).spec()
        assert spec == SPECS[name] and spec_name(spec) == name


HOME = r"""
import json, struct, sys, numpy as np, torch, torchvision
path, images, out = sys.argv[1:]
data = open(path, "rb").read()
size = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8 : 8 + size])
kinds = {"F32": np.float32, "I64": np.int64}
state = {}
for key, entry in header.items():
    if key != "__metadata__":
        start, end = (8 + size + n for n in entry["data_offsets"])
        values = np.frombuffer(data[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
        state[key] = torch.from_numpy(values.copy())
model = torchvision.models.resnet18(num_classes=7).eval()
model.load_state_dict(state, strict=True)
np.save(out, model(torch.from_numpy(np.load(images)).permute(0, 3, 1, 2)).detach())
"""


def test_the_way_back_to_torchvision(tmp_path):
    model = ResNet(
        "resnet18",
        classes=7,
        include_preprocessing=False,
        classifier_activation=None,
        input_shape=(64, 64, 3),
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    save_torch(model, tmp_path / "x.safetensors")
    images = rng.standard_normal((2, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = [tmp_path / n for n in ("x.safetensors", "images.npy", "out.npy")]
    subprocess.run([torch_python(), "-c", HOME, *map(str, arguments)], check=True)
    assert relative(model(images), np.load(tmp_path / "out.npy")) < 1e-5


@pytest.fixture(scope="module")
def applications(tmp_path_factory):
    """keras.applications' ResNet-50, random in all its variables: its files, pixels, scores."""
    peer = keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3), classes=20)
    rng = np.random.default_rng(0)
    ranges = {"moving_variance": (0.5, 1.5), "gamma": (0.2, 0.6)}
    for variable in peer.weights:
        values = np.array(variable)
        if variable.name != "kernel":
            values = rng.uniform(*ranges.get(variable.name, (-0.5, 0.5)), variable.shape)
        # As in real files, some channels are nearly dead: there the epsilon matters.
        if variable.path.startswith("conv") and variable.name not in ("gamma", "beta"):
            values[..., ::7] *= 1e-6 if variable.name == "moving_variance" else 1e-3
        variable.assign(values)
    folder = tmp_path_factory.mktemp("applications")
    write_keras2(peer, folder / "x.h5", predictions="probs")  # the files are of 2019
    peer.save_weights(folder / "x.weights.h5")
    peer.save(folder / "x.keras")
    pixels = rng.integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    scores = peer(keras.applications.resnet50.preprocess_input(pixels.copy()))
    return folder, pixels, keras.ops.convert_to_numpy(scores)


@pytest.mark.slow
def test_keras_applications_live(tmp_path, applications):
    """The same probabilities from raw pixels: biases, epsilon, BGR and strides are all theirs."""
    folder, pixels, scores = applications
    assert scores.std() > 1e-3  # the image matters
    report = convert(folder / "x.h5", tmp_path / "out.keras")
    assert (report.naming, report.model) == ("keras.applications", "resnet50")
    assert relative(keras.saving.load_model(tmp_path / "out.keras")(pixels), scores) < 1e-5


def test_all_layouts_of_keras_hold_the_same(applications):
    folder, _, _ = applications
    old, *others = (recognise(read(folder / n)) for n in ("x.h5", "x.weights.h5", "x.keras"))
    for other in others:
        assert other.spec() == old.spec() == replace(SPECS["resnet50"], stride_in_1x1=True)
        renamed = {key.replace("probs", "predictions"): array for key, array in old.arrays.items()}
        assert set(other.arrays) == set(renamed)
        for key, array in renamed.items():
            np.testing.assert_array_equal(other.arrays[key], array)


def test_applications_want_their_own_preprocessing(applications):
    folder, _, _ = applications
    with pytest.raises(ValueError, match="stride_in_1x1=True.*Received: stride_in_1x1=False"):
        load_weights(ResNet("resnet50", classes=20), folder / "x.h5")
    caffe = ResNet(replace(SPECS["resnet50"], stride_in_1x1=True), classes=20)
    with pytest.raises(ValueError, match=r"build resnet with mean=\(123.68, .*Received: scale="):
        load_weights(caffe, folder / "x.h5")


@pytest.mark.parametrize(
    "name",
    [f"resnet{n}" for n in ("18", "50", "v1c50", "v1d50", "18_cifar", "50_cifar", "20_cifar")],
)
def test_round_trip_is_byte_equal(tmp_path, name):
    """To torchvision's names and back, through both formats; the network is recognised."""
    model = ResNet(few(name), classes=7)
    model.save(tmp_path / "a.keras")
    for file in ("a.keras", "b.safetensors"):
        if file == "b.safetensors":
            convert(tmp_path / "a.keras", tmp_path / file)
        assert recognise(read(tmp_path / file)).spec() == few(name)
    convert(tmp_path / "b.safetensors", tmp_path / "c.keras")
    again = keras.saving.load_model(tmp_path / "c.keras")
    configs = [json.dumps(m.get_config()["layers"], sort_keys=True) for m in (again, model)]
    assert configs[0] == configs[1]
    for got, truth in zip(again.get_weights(), model.get_weights(), strict=True):
        assert got.tobytes() == truth.tobytes()
    counters = [k for k in load_file(tmp_path / "b.safetensors") if k.endswith("tracked")]
    assert len(counters) == sum("_bn" in layer.name for layer in model.layers)


@pytest.mark.parametrize("reference", REFERENCES)
def test_recognises_the_references(reference):
    name, naming = REFERENCES[reference]
    checkpoint = recognise(Contents("x", state(reference), {}))
    assert checkpoint.spec() == SPECS[name] and checkpoint.naming.title == naming
    assert spec_name(checkpoint.spec()) == name


@pytest.mark.parametrize("suffix", [".safetensors", ".keras", ".weights.h5"])
def test_our_own_files(tmp_path, suffix):
    """A trained model's too, with an optimizer and the random states of its dropouts inside."""
    model = small(drop_path=0.5)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / f"x{suffix}"
    if suffix == ".safetensors":
        save_torch(model, path)
    elif suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    clone = ResNet(SMALL)
    report = load_weights(clone, path)
    assert report.naming == ("torchvision" if suffix == ".safetensors" else "resnet_keras")
    assert not report.skipped and not report.new
    got, truth = kernels(clone), kernels(model)
    assert set(got) == set(truth)
    for path in truth:
        np.testing.assert_array_equal(got[path], truth[path])


@pytest.mark.parametrize(
    "wrapped, naming, head",
    [
        (lambda s: s, "torchvision", "fc"),
        (lambda s: {"model": prefixed("module.", s)}, "torchvision", "module.fc"),
        (lambda s: {"state_dict_ema": s, "epoch": 1}, "torchvision", "fc"),
        (lambda s: {"state_dict": mmlab(s)}, "OpenMMLab", "head.fc"),
        (lambda s: {"state_dict": prefixed("module.", mmlab(s))}, "OpenMMLab", "module.head.fc"),
    ],
)
def test_wrappers_and_prefixes(tmp_path, wrapped, naming, head):
    write_zip(tmp_path / "x.pth", wrapped(small_state()))
    model = small()
    report = load_weights(model, tmp_path / "x.pth")
    assert report.naming == naming and f"{head}.weight" in report.matched
    kernel = model.get_layer("conv2_block1_1_conv").kernel
    truth = small_state()["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, truth)
    truth = small_state()["fc.weight"].T
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, truth)


def mmlab(arrays: dict) -> dict:
    heads = {k: v for k, v in arrays.items() if k.startswith("fc.")}
    return prefixed("backbone.", without_head(arrays)) | prefixed("head.", heads)


def test_skip_head(tmp_path):
    save_file(small_state(), tmp_path / "x.safetensors")
    model = small(classes=5)
    before = kernels(model)
    report = load_weights(model, tmp_path / "x.safetensors", skip_head=True)
    assert set(report.skipped) == {"fc.weight", "fc.bias"}
    assert set(report.new) == {"predictions/kernel", "predictions/bias"}
    assert str(report) == (
        f"{tmp_path}/x.safetensors: torchvision names, 30 tensors read; "
        f"skipped: {', '.join(report.skipped)}; new: predictions/kernel, predictions/bias; "
        f"assumed: {', '.join(report.assumed)}"
    )
    after = kernels(model)
    for path in after:
        assert np.array_equal(after[path], before[path]) == path.startswith("predictions")


def test_backbones(tmp_path):
    """A detector's file for a model without a top; a backbone's for one that keeps its head."""
    detector = prefixed("backbone.", without_head(small_state())) | {
        "neck.lateral_convs.0.conv.weight": np.zeros((4, 4, 1, 1), np.float32),
        "rpn_head.rpn_conv.bias": np.zeros(4, np.float32),
    }
    save_file(detector, tmp_path / "detector.safetensors")
    report = load_weights(ResNet(SMALL, include_top=False), tmp_path / "detector.safetensors")
    assert set(report.skipped) == {"neck.lateral_convs.0.conv.weight", "rpn_head.rpn_conv.bias"}

    save_file(without_head(small_state()), tmp_path / "backbone.safetensors")
    report = load_weights(small(), tmp_path / "backbone.safetensors", skip_head=True)
    assert set(report.new) == {"predictions/kernel", "predictions/bias"} and not report.skipped
    report = convert(tmp_path / "backbone.safetensors", tmp_path / "x.keras")
    assert keras.saving.load_model(tmp_path / "x.keras").output_shape == (None, 16, 16, 32)

    save_file(small_state(), tmp_path / "whole.safetensors")
    report = load_weights(ResNet(SMALL, include_top=False), tmp_path / "whole.safetensors")
    assert set(report.skipped) == {"fc.weight", "fc.bias"}


def test_half_precision_models(tmp_path):
    save_file(
        {k: v.astype(np.float16) for k, v in small_state().items()}, tmp_path / "x.safetensors"
    )
    keras.config.set_dtype_policy("float16")
    try:
        model = ResNet(SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    load_weights(model, tmp_path / "x.safetensors")
    kernel = model.get_layer("conv1_conv").kernel
    truth = small_state()["conv1.weight"].astype(np.float16).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, truth)


def test_dilated_models_take_the_strided_ones_weights(tmp_path):
    strided = ResNet(few("resnetv1d50"))
    save_torch(strided, tmp_path / "x.safetensors")
    dilated = ResNet(few("resnetv1d50"), output_stride=8, weights=tmp_path / "x.safetensors")
    assert dilated.get_layer("conv4_block1_0_conv").strides == (1, 1)
    for got, truth in zip(dilated.get_weights(), strided.get_weights(), strict=True):
        np.testing.assert_array_equal(got, truth)


def test_keras_applications_in_grey(applications):
    """Its mean, for one channel, is the average of the three; another is refused."""
    folder, _, _ = applications
    spec = replace(SPECS["resnet50"], stride_in_1x1=True)
    shape = (32, 32, 1)
    mean = (123.68 + 116.779 + 103.939) / 3
    model = ResNet(spec, classes=20, input_shape=shape, mean=(mean,), std=(1,))
    assert load_weights(model, folder / "x.h5").adapted == (
        "conv1_conv/kernel from 3 input channels to 1, summed"
    )
    for statistics in ({"mean": (mean + 1,), "std": (1,)}, {"mean": (mean,), "std": (2,)}):
        with pytest.raises(ValueError, match=r"mean=\(114.7993.*,\), std=\(1.0,\). Received"):
            load_weights(ResNet(spec, input_shape=shape, classes=20, **statistics), folder / "x.h5")
