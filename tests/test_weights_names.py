"""The names that other projects give the parts of a ResNet, one project after the other."""

import io
import pickle
import re
import subprocess
from dataclasses import replace

import keras
import numpy as np
import pytest
from checkpoints import few, relative, without_head
from pth_writer import torch_python, write_zip
from safetensors.numpy import load_file, save_file

from resnet_keras import SPECS, ResNet
from resnet_keras.weights import convert, load_weights, save_torch
from resnet_keras.weights.formats import Contents, read
from resnet_keras.weights.names import recognise


def randomised(spec, **arguments):
    """A network with random statistics, too, without preprocessing and softmax."""
    arguments = {"include_preprocessing": False, "classifier_activation": None} | arguments
    model = ResNet(spec, classes=7, input_shape=(64, 64, 3), **arguments)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    return model


def state_of(model, folder):
    """Its weights by torchvision's or timm's names, as PyTorch code has them."""
    save_torch(model, folder / "state.safetensors")
    return load_file(folder / "state.safetensors")


def renamed(state, *rules):
    """A state dict with names changed, rule after rule."""
    names = {}
    for key in state:
        name = key
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        names[name] = state[key]
    assert len(names) == len(state)
    return names


def plus(number):
    return lambda match: match[0].replace(match[1], str(int(match[1]) + number))


TRANSFORMERS = (
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^fc\.", "classifier.1."),
)
DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "stem.fc."),
)
KUANGLIU = ((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))
MMSEGMENTATION = (
    (r"^bn1\.", "conv1.7."),
    (r"^conv1\.", "stem."),
    (r"^(?!fc)", "backbone."),
    (r"^fc\.", "head.fc."),
)
SEQUENTIAL = (
    (r"^conv1\.", "0."),
    (r"^bn1\.", "1."),
    (r"^layer(\d)\.", lambda m: f"{int(m[1]) + 3}."),
    (r"^fc\.", "10."),
)

# Network, names, their source, and what of the network the file tells by itself.
NAMINGS = {
    "transformers": ("resnet50", TRANSFORMERS),
    "transformers, basic blocks": ("resnet18", TRANSFORMERS),
    "detectron2": ("resnet50", DETECTRON2),
    "pytorch-cifar": ("resnet18_cifar", KUANGLIU),
    "pytorch-cifar, bottlenecks": ("resnet50_cifar", KUANGLIU),
    "MMSegmentation": ("resnetv1c50", MMSEGMENTATION),
    "MMSegmentation, pooled": ("resnetv1d50", MMSEGMENTATION),
    "torch.nn.Sequential": ("resnet18", SEQUENTIAL),
    "torch.nn.Sequential, pooled": ("resnetv1d50", SEQUENTIAL),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_names_of_other_projects(tmp_path, case):
    """Recognised, and every variable is where it was."""
    name, rules = NAMINGS[case]
    model = randomised(few(name))
    state = state_of(model, tmp_path)
    save_file(renamed(state, *rules), tmp_path / "x.safetensors")
    checkpoint = recognise(read(tmp_path / "x.safetensors"))
    assert checkpoint.spec() == few(name)
    clone = randomised(few(name))
    report = load_weights(clone, tmp_path / "x.safetensors")
    assert report.naming == case.split(",")[0] and not report.skipped and not report.new
    for got, truth in zip(clone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, truth)


@pytest.mark.parametrize("case", ["transformers", "detectron2", "MMSegmentation"])
def test_backbones_of_other_projects(tmp_path, case):
    """Without a head, in a larger network, and with what a detector has beside."""
    name, rules = NAMINGS[case]
    model = randomised(few(name))
    state = renamed(without_head(state_of(model, tmp_path)), *rules)
    state = {f"backbone.bottom_up.{key}": array for key, array in state.items()}
    if case == "MMSegmentation":
        state = {key.removeprefix("backbone.bottom_up."): a for key, a in state.items()}
    state["decode_head.conv_seg.weight"] = np.zeros((3, 8, 1, 1), np.float32)
    write_zip(tmp_path / "x.pth", {"model": state})
    shape = (64, 64, 3)
    clone = ResNet(few(name), include_top=False, include_preprocessing=False, input_shape=shape)
    assert load_weights(clone, tmp_path / "x.pth").skipped == ("decode_head.conv_seg.weight",)
    features = keras.Model(model.input, model.get_layer("avg_pool").input)
    images = np.random.default_rng(1).normal(size=(1, 64, 64, 3))
    assert relative(clone(images), keras.ops.convert_to_numpy(features(images))) == 0


def test_transformers_configuration(tmp_path):
    """What shapes do not tell, its `config.json` does."""
    state = renamed(state_of(randomised(few("resnet50")), tmp_path), *TRANSFORMERS)
    for facts, stride in (
        ({}, None),
        ({"hidden_act": "relu"}, False),
        ({"downsample_in_bottleneck": True}, True),
        ({"downsample_in_first_stage": False, "hidden_act": "relu"}, False),
    ):
        contents = Contents("x", state, {}, facts={"config.json": facts})
        checkpoint = recognise(contents)
        assert checkpoint.naming.stride_in_1x1 is stride
        assert checkpoint.spec().stride_in_1x1 is bool(stride)
    for facts in ({"hidden_act": "gelu"}, {"downsample_in_first_stage": True}):
        with pytest.raises(ValueError, match=f"x .*{next(iter(facts))} in config.json must be"):
            recognise(Contents("x", state, {}, facts={"config.json": facts}))


CAFFE2 = (
    (r"num_batches_tracked$", "unused"),
    (r"^conv1\.weight", "conv1_w"),
    (r"^bn1\.", "res_conv1_bn_"),
    (r"^layer(\d)\.(\d+)\.", lambda m: f"res{int(m[1]) + 1}_{m[2]}_"),
    (r"_conv(\d)\.weight", lambda m: f"_branch2{'abc'[int(m[1]) - 1]}_w"),
    (r"_bn(\d)\.", lambda m: f"_branch2{'abc'[int(m[1]) - 1]}_bn_"),
    (r"_downsample\.0\.weight", "_branch1_w"),
    (r"_downsample\.1\.", "_branch1_bn_"),
    (r"_running_mean", "_rm"),
    (r"_running_var", "_riv"),
    (r"_bn_weight", "_bn_s"),
    (r"_bn_bias", "_bn_b"),
    (r"^fc\.weight", "pred_w"),
    (r"^fc\.bias", "pred_b"),
)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_caffe2_pickles(tmp_path, protocol):
    """MSRA's: BGR pixels less their mean, strides in the first convolution, conv biases."""
    spec = replace(few("resnet50"), stride_in_1x1=True)
    mean = (122.7717, 115.9465, 102.9801)
    model = randomised(spec, include_preprocessing=True, mean=mean, std=(1, 1, 1))
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3))
    truth = keras.ops.convert_to_numpy(model(pixels))
    state = state_of(model, tmp_path)
    state = {key: a for key, a in state.items() if not key.endswith("tracked")}
    blobs = renamed(state, *CAFFE2)
    blobs["conv1_w"] = blobs["conv1_w"][:, ::-1]
    blobs["conv1_b"] = np.full(8, 0.5, np.float32)
    blobs["res_conv1_bn_rm"] = blobs["res_conv1_bn_rm"] + blobs["conv1_b"]
    blobs["conv1_w_momentum"] = blobs["conv1_w"]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs, "weight_order": []}, protocol))
    clone = randomised(spec, include_preprocessing=True, mean=mean, std=(1, 1, 1))
    report = load_weights(clone, tmp_path / "x.pkl")
    assert relative(clone(pixels), truth) < 1e-5
    convert(tmp_path / "x.pkl", tmp_path / "x.keras")
    config = keras.saving.load_model(tmp_path / "x.keras").get_layer("normalise").get_config()
    assert config == clone.get_layer("normalise").get_config()
    assert report.naming == "Caffe2" and set(report.skipped) == {"conv1_b", "conv1_w_momentum"}


def test_caffe2_scales_without_statistics(tmp_path):
    spec = replace(few("resnet50"), stride_in_1x1=True)
    model = randomised(spec)
    for layer in model.layers:
        if "_bn" in layer.name:
            layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(keras.ops.ones_like(layer.moving_mean) - layer.epsilon)
    state = {k: a for k, a in state_of(model, tmp_path).items() if "running" not in k}
    blobs = renamed({k: a for k, a in state.items() if "tracked" not in k}, *CAFFE2)
    blobs["conv1_w"] = blobs["conv1_w"][:, ::-1]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(blobs, 2))
    # Some of its files call the head otherwise.
    named = {re.sub("^pred_", "fc1000_", key): array for key, array in blobs.items()}
    assert recognise(Contents("x", named, {})).naming.head == "fc1000"
    clone = ResNet(spec, classes=7, mean=(122.7717, 115.9465, 102.9801), std=(1, 1, 1))
    report = load_weights(clone, tmp_path / "x.pkl")
    assert "not in the file, so 0 (a variance: 1): res" in report.adapted
    assert not any(key.endswith(("rm", "riv")) for key in report.matched)
    for got, truth in zip(clone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, truth)


def python2(arrays):
    """As Python 2 wrote a dict of arrays: their bytes are a text."""
    out = io.BytesIO()

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save_text(self, value):
            self.write(b"T" + len(value).to_bytes(4, "little") + value)

        dispatch[bytes] = save_text

    Pickler(out, 2).dump(arrays)
    return out.getvalue().replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i8", "|u1", "|b1"])
@pytest.mark.parametrize("write", [python2, lambda a: pickle.dumps(a, 2), pickle.dumps])
def test_arrays_of_pickles(tmp_path, dtype, write):
    values = np.arange(256, dtype=np.uint8).reshape(2, 128).astype(dtype)
    arrays = {"a": values, "f": np.asfortranarray(values), "empty": values[:0], "one": values[0, 0]}
    arrays["scalar"] = np.array(values[1, 3])
    (tmp_path / "x.pkl").write_bytes(write({"model": arrays, "__author__": "me"}))
    found = read(tmp_path / "x.pkl").arrays
    assert set(found) == set(arrays) - {"one"}  # no array, but a number of NumPy's
    for key, array in found.items():
        assert array.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(array, arrays[key])


def test_arrays_that_lie(tmp_path):
    good = pickle.dumps({"model": {"w": np.zeros(3, np.float32)}}, 2)
    for old, new, message in (
        (b"K\x03\x85", b"K\x09\x85", "another size than its shape"),
        (b"\x02\x00\x00\x00f4", b"\x02\x00\x00\x00O8", "other than numbers"),
        (b"\x02\x00\x00\x00f4", b"\x02\x00\x00\x00f1", "other than numbers"),
    ):
        assert old in good
        (tmp_path / "x.pkl").write_bytes(good.replace(old, new))
        with pytest.raises(ValueError, match=rf"x\.pkl has an array .*{message}.*Received: "):
            read(tmp_path / "x.pkl")
    # An array of many names would be copied for each.
    many = dict.fromkeys(["w0", "w1", "w2", "w3"], np.zeros(100_000, np.uint8))
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(many, 2))
    assert len(read(tmp_path / "y.pkl").arrays) == 4
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(many | {"w4": many["w0"]}, 2))
    with pytest.raises(ValueError, match="y.pkl has arrays that together are larger than it"):
        read(tmp_path / "y.pkl")


PEER = r"""
import sys, numpy as np, torch, torchvision
from torch import nn
folder = sys.argv[1]
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self, entry, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(entry, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or entry != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(entry, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
    def forward(self, x):
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()

class Cifar(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2))
        self.linear = nn.Linear(16, 7)
    def forward(self, x):
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.linear(nn.functional.avg_pool2d(x, 16).flatten(1))

resnet = torchvision.models.resnet18(num_classes=7)
children = list(resnet.children())
cut = nn.Sequential(nn.Sequential(*children[:-1]), nn.Flatten(), nn.Dropout(), children[-1])
for name, model, size in (("cifar", Cifar(), 32), ("cut", cut, 64)):
    for key, value in model.state_dict().items():
        if value.ndim == 1:
            value.uniform_(0.5, 1.0)
    x = torch.randn(2, 3, size, size)
    torch.save({"net": model.state_dict(), "acc": 93.1, "epoch": 7}, f"{folder}/{name}.pth")
    logits = model.eval()(x).detach().numpy()
    np.savez(f"{folder}/{name}.npz", x=x.permute(0, 2, 3, 1).numpy(), logits=logits)
"""


def test_live(tmp_path):
    """CIFAR code of the usual kind, and torchvision's network cut into a Sequential."""
    subprocess.run([torch_python(), "-c", PEER, str(tmp_path)], check=True)
    cifar = replace(SPECS["resnet18_cifar"], depths=(2, 1), widths=(8, 16))
    for name, spec in (("cifar", cifar), ("cut", SPECS["resnet18"])):
        peer = np.load(tmp_path / f"{name}.npz")
        assert recognise(read(tmp_path / f"{name}.pth")).spec() == spec
        model = ResNet(
            spec, classes=7, include_preprocessing=False, classifier_activation=None,
            input_shape=peer["x"].shape[1:],
        )  # fmt: skip
        assert not load_weights(model, tmp_path / f"{name}.pth").skipped
        assert relative(model(peer["x"]), peer["logits"]) < 1e-5
