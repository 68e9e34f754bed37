"""What a file does not tell: said by its configuration or the user, else assumed aloud."""

import dataclasses
import json
import re
import subprocess

import keras
import numpy as np
import pytest
from checkpoints import SMALL, few, kernels, relative, small, small_state
from defaults import defaults
from pth_writer import torch_python, write_zip
from safetensors.numpy import load_file, save_file

from resnet_keras import ResNet, Spec, __main__, load_weights
from resnet_keras.errors import InputError
from resnet_keras.model_files import read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import convert, save_torch
from resnet_keras.weights.names.config_text import told_by_config
from resnet_keras.weights.names.facts import told_by_facts
from resnet_keras.weights.names.reading import Reading

# mmcv's `Config.pretty_text` of MMDetection's faster_rcnn_r50_caffe_fpn_1x_coco, shortened.
CAFFE = """
model = dict(
    type='FasterRCNN',
    backbone=dict(
        type='ResNet', depth=50, num_stages=4, out_indices=(0, 1, 2, 3), frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True, style='caffe',
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet50_caffe')))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
]
"""
# MMSegmentation 1, pspnet_r50-d8, shortened.
DILATED = """
data_preprocessor = dict(type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0)
model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', depth=50, num_stages=4,
    dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), norm_eval=False, style='pytorch',
    contract_dilation=True))
"""
CAFFE_MEAN = (123.675, 116.28, 103.53)

PEER = r"""
import sys, numpy as np, torch, torchvision
from torch import nn
folder, caffe = sys.argv[1:]
torch.manual_seed(0)

def randomised(model):
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif key.endswith("running_var") or value.ndim == 1:
            value.uniform_(0.5, 1.0)
    return model.eval()

pixels = torch.randint(0, 256, (2, 3, 64, 96)).float()  # RGB
results = {"pixels": pixels.permute(0, 2, 3, 1)}
mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (
    (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))

segmenter = randomised(torchvision.models.segmentation.fcn_resnet50(
    weights=None, weights_backbone=None, num_classes=3))
torch.save(segmenter.state_dict(), f"{folder}/fcn.pth")
results["fcn"] = segmenter.backbone((pixels - mean) / std)["out"].permute(0, 2, 3, 1)

model = torchvision.models.resnet50(weights=None)
for stage in (model.layer2, model.layer3, model.layer4):
    stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
randomised(model)
results["caffe"] = model((pixels - mean).flip(1))
torch.save(model.state_dict(), f"{folder}/caffe.pth")
arrays = {f"backbone.{k}": v for k, v in model.state_dict().items() if not k.startswith("fc")}
arrays |= {f"head.fc.{k}": v for k, v in model.fc.state_dict().items()}
torch.save({"meta": {"config": caffe, "epoch": 12}, "state_dict": arrays}, f"{folder}/mmcv.pth")

class Block(nn.Module):  # as in akamaster's pytorch_resnet_cifar10
    def __init__(self, before, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.padded = width - before

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.padded:
            half = self.padded // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return (x + y).relu()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)).relu())))
        return self.linear(x.mean((2, 3)))

net = randomised(Net())
torch.save(net.state_dict(), f"{folder}/both.pth")
results["both"] = net(pixels / 255)
np.savez(f"{folder}/results.npz", **{k: v.detach().numpy() for k, v in results.items()})
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A folder of PyTorch's files, and what PyTorch computes from RGB pixels."""
    folder = tmp_path_factory.mktemp("peer")
    command = [torch_python(), "-c", PEER, str(folder), CAFFE]
    subprocess.run(command, check=True, capture_output=True)
    return folder, dict(np.load(folder / "results.npz"))


def converted(folder, name, tmp_path, **options):
    """The model of a file, with logits in place of probabilities, and the report."""
    report = convert(folder / name, tmp_path / "x.keras", **options)
    model = keras.saving.load_model(tmp_path / "x.keras", compile=False)
    if model.layers[-1].name == "predictions":
        model.layers[-1].activation = None
    return model, report


def scores(model, pixels):
    """Whatever size the model was made for."""
    images = keras.Input((*pixels.shape[1:3], 3), name="images")
    model = keras.models.clone_model(model, images, clone_function=lambda layer: layer)
    return model(pixels)


@pytest.mark.slow
def test_torchvisions_dilation(peer, tmp_path):
    folder, truth = peer
    model, report = converted(folder, "fcn.pth", tmp_path, dilation="torchvision")
    assert relative(scores(model, truth["pixels"]), truth["fcn"]) < 1e-5
    assert not any("dilation" in line for line in report.assumed)
    # The model says so itself.
    spec = Spec("bottleneck", (3, 4, 6, 3), dilation="torchvision")
    ours = ResNet(spec, False, input_shape=(64, 96, 3), output_stride=8)
    load_weights(ours, tmp_path / "x.keras")
    assert relative(ours(truth["pixels"]), truth["fcn"]) < 1e-5
    theirs = dataclasses.replace(spec, dilation="openmmlab")
    with pytest.raises(InputError, match="dilation=torchvision.*Received: dilation=openmmlab"):
        load_weights(ResNet(theirs, False, output_stride=8), tmp_path / "x.keras")
    with pytest.raises(InputError, match="shows that its network has dilation='torchvision'"):
        load_weights(ours, tmp_path / "x.keras", dilation="openmmlab")


def test_a_segmenter_hints_at_its_dilation(peer, tmp_path):
    folder, truth = peer
    model, report = converted(folder, "fcn.pth", tmp_path)
    assert "no dilation (--dilation; the file has 'classifier')" in report.assumed
    assert scores(model, truth["pixels"]).shape == (2, 2, 3, 2048)


@pytest.mark.slow
def test_bgr_and_strides_by_options(peer, tmp_path):
    folder, truth = peer
    options = {"bgr": True, "stride_in_1x1": True, "mean": CAFFE_MEAN, "std": (1, 1, 1)}
    model, report = converted(folder, "caffe.pth", tmp_path, **options)
    assert relative(scores(model, truth["pixels"]), truth["caffe"]) < 1e-5
    assert "mean 123.675 116.28 103.53 in the order of RGB" in report.assumed
    model, report = converted(folder, "caffe.pth", tmp_path)
    assert relative(scores(model, truth["pixels"]), truth["caffe"]) > 0.1
    assert report.assumed == (
        "RGB (--bgr)", "mean 123.675 116.28 103.53 (--mean)", "std 58.395 57.12 57.375 (--std)",
        "stride in the 3x3 (--stride-in-1x1)", "no dilation (--dilation)",
        "max pool behind the stem, no anti-aliasing, batch norm epsilon 1e-5",
        "ReLU, stem of stride 2, stages of the usual strides, average of the last map",
    )  # fmt: skip


def test_the_configuration_in_a_training_checkpoint_is_heeded(peer, tmp_path):
    folder, truth = peer
    model, report = converted(folder, "mmcv.pth", tmp_path)
    assert relative(scores(model, truth["pixels"]), truth["caffe"]) < 1e-5
    assert report.assumed == ()
    shown = r"mmcv\.pth shows that its network has bgr=True.*bgr=False"
    with pytest.raises(InputError, match=shown):
        convert(folder / "mmcv.pth", tmp_path / "y.keras", rgb=True)
    assert not (tmp_path / "y.keras").exists()


def test_channels_padded_on_both_sides(peer, tmp_path):
    folder, truth = peer
    options = {"mean": (0, 0, 0), "std": (255, 255, 255)}
    model, report = converted(folder, "both.pth", tmp_path, channel_padding="both", **options)
    assert relative(scores(model, truth["pixels"]), truth["both"]) < 1e-5
    assert "every second pixel in the shortcut" in report.assumed
    # There and back, the two files say so.
    convert(tmp_path / "x.keras", tmp_path / "x.safetensors")
    again, report = converted(tmp_path, "x.safetensors", tmp_path)
    assert relative(scores(again, truth["pixels"]), truth["both"]) < 1e-5
    assert report.assumed == ()
    model, report = converted(folder, "both.pth", tmp_path, **options)
    assert relative(scores(model, truth["pixels"]), truth["both"]) > 0.1
    assert "new channels padded at the end (--channel-padding)" in report.assumed
    with pytest.raises(InputError, match="channel_padding='end'.*Received.*'both'"):
        convert(tmp_path / "x.keras", tmp_path / "x.safetensors", channel_padding="both")


def test_load_weights_flips_the_first_kernel(tmp_path):
    save_file(small_state(), tmp_path / "x.safetensors")
    model = small()
    assert "RGB (--bgr)" in load_weights(model, tmp_path / "x.safetensors").assumed
    before = kernels(model)
    report = load_weights(model, tmp_path / "x.safetensors", bgr=True)
    assert not any("BGR" in line for line in report.assumed)
    for path, kernel in kernels(model).items():
        stem = path == "conv1_conv/kernel"
        np.testing.assert_array_equal(kernel, before[path][:, :, ::-1] if stem else before[path])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"bgr": True, "rgb": True}, "`bgr` or `rgb`"),
     ({"dilation": "timm"}, "`dilation` must be one of openmmlab, torchvision"),
     ({"output_stride": 4}, "`output_stride` must be one of 8, 16, 32"),
     ({"channel_padding": "front"}, "`channel_padding` must be one of end, both")],
)  # fmt: skip
def test_options_out_of_their_range(tmp_path, options, words):
    save_file(small_state(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mean": (1, 2, 3), "std": (1, 1, 1)}, ("RGB (--bgr)",)),
     ({"mean": (1, 2, 3), "std": (1, 1, 1), "bgr": True},
      ("mean 1 2 3 in the order of RGB", "std 1 in the order of RGB")),
     ({"std": (2, 2, 2)}, ("RGB (--bgr)", "mean 125.307 122.961 113.858 (--mean)")),
     ({"mean": (7, 7, 7), "rgb": True}, ("std 51.5865 50.847 51.255 (--std)",))],
)  # fmt: skip
def test_what_is_said_of_pixels_is_not_assumed(tmp_path, options, words):
    save_file(small_state(), tmp_path / "x.safetensors")
    found = convert(tmp_path / "x.safetensors", tmp_path / "x.keras", **options).assumed
    assert tuple(line for line in found if re.match("RGB|BGR|mean|std", line)) == words


DILATIONS = {"openmmlab": "OpenMMLab's", "torchvision": "torchvision's"}


@pytest.mark.parametrize("dilation", DILATIONS)
@pytest.mark.parametrize("stride", [8, 16])
def test_the_dilation_of_the_model_is_assumed_of_its_file(tmp_path, dilation, stride):
    spec = dataclasses.replace(
        few("resnet50"), depths=(1, 1, 2, 2), dilation=dilation, stride_in_1x1=True
    )
    shape = {"input_shape": (32, 32, 3)}
    save_torch(ResNet(spec, **shape), tmp_path / "ours.safetensors")
    save_file(load_file(tmp_path / "ours.safetensors"), tmp_path / "x.safetensors")
    model = ResNet(spec, output_stride=stride, **shape)
    assumed = load_weights(model, tmp_path / "x.safetensors").assumed
    words = f"{DILATIONS[dilation]} dilation (--dilation)"
    assert f"output stride {stride} by {words}" in assumed and "stride in the 1x1" in assumed
    said = {"output_stride": stride, "stride_in_1x1": True}
    assumed = load_weights(model, tmp_path / "x.safetensors", **said).assumed
    assert words in assumed and not any("1x1" in line for line in assumed)
    said["dilation"] = dilation
    assumed = load_weights(model, tmp_path / "x.safetensors", **said).assumed
    assert not any("dilation" in line for line in assumed)


def test_resnet_says_what_it_assumes(tmp_path, capsys):
    save_file(small_state(), tmp_path / "x.safetensors")
    model = ResNet(SMALL, weights=tmp_path / "x.safetensors")
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path}/x.safetensors: assumed: RGB (--bgr), mean 125.307")
    model.save(tmp_path / "x.keras")
    ResNet(SMALL, weights=tmp_path / "x.keras")
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_the_command_has_every_option(tmp_path, run_python):
    save_file(small_state(), tmp_path / "x.safetensors")
    flags = ("--bgr", "--mean", "1,2,3", "--std", "1,1,1", "--json")
    done = run_python(
        "-m", "resnet_keras", "convert", tmp_path / "x.safetensors", tmp_path / "x.keras", *flags
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["assumed"][0] == "mean 1 2 3 in the order of RGB"
    assert "; assumed: mean 1 2 3 in the order of RGB, std 1 in" in done.stderr
    scale = keras.saving.load_model(tmp_path / "x.keras").get_layer("normalise")
    assert scale.offset == [-1, -2, -3]


def test_a_reading_has_the_defaults_of_the_command():
    ours = defaults(Reading)
    assert ours == defaults(__main__.Unsaid)
    assert all(value is None or value is False for value in ours.values())


def test_a_configuration_of_mmcv():
    told = told_by_config({"config": CAFFE, "CLASSES": ("person", "bicycle")}, "x")
    assert (told.bgr, told.mean, told.std) == (True, CAFFE_MEAN, (1.0,) * 3)
    assert (told.stride_in_1x1, told.output_stride, told.dilation) == (True, 32, None)
    assert told.whole and told.labels == ("person", "bicycle")


def test_a_configuration_of_mmengine():
    told = told_by_config({"cfg": DILATED, "dataset_meta": {"classes": ["road"]}}, "x")
    assert (told.bgr, told.mean, told.stride_in_1x1) == (False, CAFFE_MEAN, False)
    assert (told.output_stride, told.dilation) == (8, "torchvision")
    assert told.labels == ("road",)
    told = told_by_config({"cfg": DILATED.replace("contract_dilation=True", "a=1")}, "x")
    assert told.dilation == "openmmlab"


@pytest.mark.parametrize(
    ("norm", "received"),
    [("norm_cfg=dict(type='BN', eps=1e-2)", "eps=0.01"),
     ("norm_cfg={'type': 'BN', 'eps': 1e-3}", "eps=0.001"),
     ("conv_cfg=dict(type='ConvWS')", "conv_cfg={'type': 'ConvWS'}"),
     ("norm_cfg=dict(type='BN', eps=1e-5), conv_cfg=dict(type='Conv2d')", None),
     ("norm_cfg=dict(type='BN', momentum=0.1), conv_cfg=None", None)],
)  # fmt: skip
def test_layers_that_a_configuration_changes(norm, received):
    text = CAFFE.replace("norm_cfg=dict(type='BN', requires_grad=False)", norm)
    assert text != CAFFE
    if received is None:
        assert told_by_config({"config": text}, "x") == told_by_config({"config": CAFFE}, "x")
        return
    with pytest.raises(InputError, match=f"^x is of a network .*Received: {re.escape(received)}"):
        told_by_config({"config": text}, "x")


def test_a_dilated_last_stage():
    """MMSegmentation's and MMDetection's `dc5`: an output stride of 16."""
    text = DILATED.replace("(1, 1, 2, 4)", "(1, 1, 1, 2)").replace("(1, 2, 1, 1)", "(1, 2, 2, 1)")
    told = told_by_config({"cfg": text}, "x")
    assert (told.output_stride, told.dilation) == (16, "torchvision")
    for stages, stride in ((3, 32), (2, 32)):
        text = CAFFE.replace("num_stages=4", f"num_stages={stages}")
        assert told_by_config({"cfg": text}, "x").output_stride == stride


@pytest.mark.parametrize("head", ["classifier", "aux_classifier", "decode_head", "auxiliary_head"])
def test_heads_of_segmenters_hint_at_a_dilation(tmp_path, head):
    """torchvision's names, and MMSegmentation's."""
    arrays = {f"backbone.{k}": a for k, a in small_state().items() if not k.startswith("fc")}
    arrays[f"{head}.conv.weight"] = np.zeros((3, 32, 3, 3), np.float32)
    save_file(arrays, tmp_path / "x.safetensors")
    report = load_weights(ResNet(SMALL, include_top=False), tmp_path / "x.safetensors")
    assert f"no dilation (--dilation; the file has {head!r})" in report.assumed


@pytest.mark.parametrize(
    "text",
    ["", "not ( python", "x = [" * 5000, "model = dict(backbone=dict(type='Swin', depth=50))",
     "a = dict(mean=[1, 2, 3], std=[1, 1, 1], to_rgb=True)\n"
     "b = dict(mean=[1, 2, 4], std=[1, 1, 1], to_rgb=True)",
     "a = dict(mean=[1, 2, 3], std=[1, 1, 1])", "a = dict(mean='no', std=[1, 2], to_rgb=True)"],
)  # fmt: skip
def test_configurations_that_leave_all_open(text):
    told = told_by_config({"config": text}, "x")
    assert (told.mean, told.bgr, told.stride_in_1x1, told.whole) == (None, None, None, False)


def test_other_strides_are_refused():
    text = DILATED.replace("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 1, 1)")
    with pytest.raises(InputError, match=r"other strides.*Received: strides=\(1, 2, 1, 1\)"):
        told_by_config({"cfg": text}, "x")


@pytest.mark.parametrize(
    "name", ["resnet50", "resnet50d", "resnet18d.ra2_in1k", "tv_resnet34", "gluon_resnet50_v1c"]
)
def test_timms_plain_networks(name):
    assert told_by_facts({"config.json": {"architecture": name}}, "x").whole


@pytest.mark.parametrize(
    "name", ["resnetaa50", "resnetblur50", "resnet50_gn", "seresnet50", "resnetrs50", "resnet26t"]
)
def test_timms_relatives_are_refused_by_their_architecture(name):
    with pytest.raises(InputError, match=f"x is of timm's {name}"):
        told_by_facts({"config.json": {"architecture": name}}, "x")


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [("config.json", {"architecture": "resnetaa50"}, "is of timm's resnetaa50"),
     ("preprocessor_config.json", {"size": 224}, "describes a preprocessing that is not known"),
     ("preprocessor.json", {"image_converter": {"config": {}}}, "describes a preprocessing")],
)  # fmt: skip
def test_what_is_said_beside_weights_is_refused_by_the_folder(tmp_path, name, facts, words):
    save_file(small_state(), tmp_path / "model.safetensors")
    (tmp_path / name).write_text(json.dumps(facts))
    with pytest.raises(InputError, match=f"^{tmp_path} {words}"):
        load_weights(small(), tmp_path)


def test_a_folder_of_transformers_tells_its_preprocessing(tmp_path):
    """As huggingface.co/microsoft/resnet-50 has it, with weights that PyTorch wrote."""
    write_zip(tmp_path / "pytorch_model.bin", small_state())
    facts = {"size": 64, "crop_pct": 0.5, "resample": 2, "image_mean": [0.5, 0.4, 0.3],
             "image_std": [0.2, 0.25, 0.3]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    convert(tmp_path, tmp_path / "x.keras")
    found = read_metadata(tmp_path / "x.keras").preprocessing
    assert found == Preprocessing((64, 64), 128, "bilinear", True)
    scale = keras.saving.load_model(tmp_path / "x.keras").get_layer("normalise").scale
    np.testing.assert_allclose(scale, [1 / 51, 1 / 63.75, 1 / 76.5])
    # Of two files of weights the safer one is read, wherever the other comes from.
    state = {key: array + 1 for key, array in small_state().items()}
    save_file(state, tmp_path / "model.safetensors")
    model = small(mean=(127.5, 102, 76.5), std=(51, 63.75, 76.5))
    load_weights(model, tmp_path)
    truth = state["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("conv1_conv").kernel, truth)


def test_a_repository_tells_its_preprocessing_and_its_labels(tmp_path):
    """A folder as the hub has it: timm's ra4 weights are for means and deviations of a half."""
    save_file(small_state(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet18", "num_classes": 10,
        "id2label": {str(n): f"digit {n}" for n in range(10)},
        "pretrained_cfg": {
            "input_size": [3, 32, 48], "crop_pct": 0.9, "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        },
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = convert(tmp_path, tmp_path / "x.keras")
    assert report.assumed == ()
    found = read_metadata(tmp_path / "x.keras")
    assert found.preprocessing == Preprocessing((32, 48), 35, "bicubic", True)
    assert found.labels == tuple(f"digit {n}" for n in range(10))
    model = keras.saving.load_model(tmp_path / "x.keras")
    assert model.input_shape == (None, 32, 48, 3)
    np.testing.assert_allclose(model.get_layer("normalise").scale, [1 / 127.5] * 3)


@pytest.mark.parametrize(
    ("name", "output_stride"), [("resnet18", 16), ("resnetv1d50", 8), ("resnetv1d50", 16)]
)
def test_every_dilation_has_the_same_shapes(name, output_stride):
    for dilation in ("openmmlab", "torchvision"):
        spec = dataclasses.replace(few(name), depths=(1, 2, 2, 2), dilation=dilation)
        model = ResNet(spec, False, input_shape=(64, 64, 3), output_stride=output_stride)
        assert model.output_shape[1:3] == (64 // output_stride,) * 2


@pytest.mark.parametrize(
    ("dilation", "expected"),
    # torchvision's `_make_layer`: the first block has the dilation of the stage before.
    [("torchvision", [(1, 1), (2, 2)]), ("openmmlab", [(2, 2), (4, 4)])],
)
def test_a_dilation_may_be_said_where_the_file_tells_none(tmp_path, dilation, expected):
    # The second block of a stage shows what the first one's dilation is beside.
    spec = dataclasses.replace(few("resnet50"), depths=(1, 1, 2, 2))
    save_torch(ResNet(spec, input_shape=(32, 32, 3)), tmp_path / "ours.safetensors")
    spec = dataclasses.replace(spec, dilation=dilation)
    save_file(load_file(tmp_path / "ours.safetensors"), tmp_path / "x.safetensors")
    # By an option, or by the spec.
    for said in ({"dilation": dilation}, {"model": spec, "output_stride": 8}):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras", **said)
        model = keras.saving.load_model(tmp_path / "x.keras")
        dilated = [model.get_layer(f"conv{n}_block1_2_conv").dilation_rate for n in (4, 5)]
        assert dilated == expected


def test_a_leftover_mean_is_a_hint(tmp_path):
    arrays = {"state_dict": {**small_state(), "mean": np.zeros((3, 1, 1), np.float32)}}
    write_zip(tmp_path / "x.pth", arrays)
    report = load_weights(small(), tmp_path / "x.pth")
    assert "mean 125.307 122.961 113.858 (--mean; the file has 'mean')" in report.assumed
