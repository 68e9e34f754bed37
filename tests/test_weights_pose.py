"""MMPose's top-down networks: the same heatmaps and key points as PyTorch has of their files."""

import json
import subprocess

import keras
import numpy as np
import pytest
from checkpoints import SMALL, prefixed, relative, small_state, without_head
from pth_writer import torch_python, write_zip
from safetensors.numpy import save_file

from resnet_keras import ResNet, convert, load_weights
from resnet_keras.errors import InputError
from resnet_keras.model_files import open_model_file, read_metadata
from resnet_keras.models import add_heatmap_head
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.vision.keypoints import decode
from resnet_keras.weights.names.config_text import told_by_config

COCO = (
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
    "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
    "right_ankle"
).split()

# mmengine's `cfg` of a network for 128 x 96 pixels, shortened.
NEW = """
codec = dict(heatmap_size=(24, 32), input_size=(96, 128), sigma=2, type='MSRAHeatmap')
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet50', type='Pretrained'),
        type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb=True, mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375], type='PoseDataPreprocessor'),
    head=dict(
        decoder=dict(heatmap_size=(24, 32), input_size=(96, 128), sigma=2, type='MSRAHeatmap'),
        in_channels=512, loss=dict(type='KeypointMSELoss', use_target_weight=True),
        out_channels=17, type='HeatmapHead'),
    test_cfg=dict(flip_mode='heatmap', flip_test=True, shift_heatmap=True),
    type='TopdownPoseEstimator')
"""
# mmcv's `config` of MMPose 0.x, shortened; with other statistics.
OLD = """
dataset_info = dict(
    dataset_name='coco',
    keypoint_info=dict({
        0: dict(name='nose', id=0, color=[51, 153, 255], type='upper', swap=''),
        1: dict(name='left_eye', id=1, color=[51, 153, 255], type='upper', swap='right_eye'),
        2: dict(name='right_eye', id=2, color=[51, 153, 255], type='upper', swap='left_eye')
    }),
    skeleton_info=dict({0: dict(link=('left_eye', 'nose'), id=0, color=[0, 255, 0])}))
model = dict(
    type='TopDown',
    backbone=dict(type='ResNet', depth=18),
    keypoint_head=dict(
        type='TopdownHeatmapSimpleHead', in_channels=512, out_channels=3,
        loss_keypoint=dict(type='JointsMSELoss', use_target_weight=True)),
    test_cfg=dict(flip_test=True, post_process='default', shift_heatmap=True, modulate_kernel=11))
data_cfg = dict(image_size=[96, 128], heatmap_size=[24, 32], num_output_channels=3)
val_pipeline = [
    dict(type='TopDownAffine'), dict(type='ToTensor'),
    dict(type='NormalizeTensor', mean=[0.5, 0.4, 0.3], std=[0.2, 0.25, 0.3])
]
"""

PEER = r"""
import json, sys, numpy as np, torch, torchvision
from torch import nn
folder, size, blocks, filters, cases = sys.argv[1], *map(json.loads, sys.argv[2:])
height, width = size
torch.manual_seed(0)
pixels = torch.randint(0, 256, (3, 3, height, width)).float()
truth = {"pixels": pixels.permute(0, 2, 3, 1)}

def network(points):
    kind = torchvision.models.resnet.Bottleneck if sum(blocks) > 8 else None
    backbone = torchvision.models.ResNet(kind or torchvision.models.resnet.BasicBlock, blocks)
    before, layers = backbone.fc.in_features, []
    for number in filters:
        layers += [nn.ConvTranspose2d(before, number, 4, 2, 1, 0, bias=False),
                   nn.BatchNorm2d(number), nn.ReLU()]
        before = number
    head = nn.Module()
    head.deconv_layers, head.final_layer = nn.Sequential(*layers), nn.Conv2d(before, points, 1)
    for module in (backbone, head):
        for key, value in module.state_dict().items():
            if key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1)
            elif key.endswith("running_var") or value.ndim == 1:
                value.uniform_(0.5, 1.0)
        module.eval()
    return backbone, head

def heatmaps(backbone, head, images):
    x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = stage(x)
    return x, head.final_layer(head.deconv_layers(x))

def key_points(maps):
    # MMPose's MSRAHeatmap, key point by key point.
    found = []
    for one in maps.reshape(-1, *maps.shape[2:]).numpy():
        y, x = divmod(int(one.argmax()), one.shape[1])
        point = [x, y]
        if one.max() <= 0:
            point = [-1, -1]
        else:
            if 1 < x < one.shape[1] - 1 and y > 0:
                point[0] += 0.25 * np.sign(one[y, x + 1] - one[y, x - 1])
            if 1 < y < one.shape[0] - 1 and x > 0:
                point[1] += 0.25 * np.sign(one[y + 1, x] - one[y - 1, x])
        found.append([point[0] * width / one.shape[1], point[1] * height / one.shape[0], one.max()])
    return torch.tensor(found).reshape(*maps.shape[:2], 3)

with torch.no_grad():
    for name, (head_name, points, mean, std, meta) in cases.items():
        backbone, head = network(points)
        mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))
        truth[f"{name}_map"], maps = heatmaps(backbone, head, (pixels - mean) / std)
        truth[f"{name}_map"] = truth[f"{name}_map"].permute(0, 2, 3, 1)
        truth[f"{name}_heatmaps"] = maps.permute(0, 2, 3, 1)
        truth[f"{name}_points"] = key_points(maps)
        state = {f"backbone.{k}": v for k, v in backbone.state_dict().items() if k[:2] != "fc"}
        state |= {f"{head_name}.{k}": v for k, v in head.state_dict().items()}
        if isinstance(meta, dict) and "names" in meta:
            names = dict(enumerate(meta.pop("names")))
            meta["dataset_meta"] = {
                "dataset_name": "coco", "keypoint_id2name": names,
                "keypoint_name2id": {v: k for k, v in names.items()},
                "sigmas": np.full(len(names), 0.05, np.float32), "num_keypoints": len(names),
                "flip_indices": list(names), "keypoint_colors": np.zeros((len(names), 3), np.uint8),
            }
        root = state if meta is None else {"meta": meta, "state_dict": state}
        torch.save(root, f"{folder}/{name}.pth")
np.savez(f"{folder}/truth.npz", **{k: v.numpy() for k, v in truth.items()})
"""

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CASES = {
    "new": ("head", 17, MEAN, STD, {"cfg": NEW, "names": COCO, "epoch": 210}),
    "old": ("keypoint_head", 3, (127.5, 102.0, 76.5), (51.0, 63.75, 76.5), {"config": OLD}),
    "bare": ("head", 4, MEAN, STD, None),
}


def peer_files(folder, size, blocks, filters, cases):
    """Files that PyTorch wrote, and what it computes of them."""
    values = (json.dumps(value) for value in (size, blocks, filters, cases))
    command = [torch_python(), "-c", PEER, str(folder), *values]
    subprocess.run(command, check=True, capture_output=True)
    return dict(np.load(folder / "truth.npz"))


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A folder with small files of each kind, and what PyTorch computes of them."""
    folder = tmp_path_factory.mktemp("pose")
    return folder, peer_files(folder, (128, 96), (1, 1, 1, 1), (24, 16, 12), CASES)


def of_size(model, pixels):
    images = keras.Input((*pixels.shape[1:3], 3), name="images")
    return keras.models.clone_model(model, images, clone_function=lambda layer: layer)


def require_equal(truth, name, path):
    """Heatmaps below 1e-5 of the largest, key points and their scores."""
    model = keras.saving.load_model(path, compile=False)
    heatmaps = of_size(model, truth["pixels"])(truth["pixels"])
    assert relative(heatmaps, truth[f"{name}_heatmaps"]) < 1e-5
    found, scores = decode(keras.ops.convert_to_numpy(heatmaps), truth["pixels"].shape[1:3])
    np.testing.assert_array_equal(found, truth[f"{name}_points"][..., :2])
    np.testing.assert_allclose(scores, truth[f"{name}_points"][..., 2], rtol=1e-4)
    return model


@pytest.mark.parametrize(
    "name", ["new", *(pytest.param(name, marks=pytest.mark.slow) for name in ("old", "bare"))]
)
def test_heatmaps_and_key_points_are_pytorchs(peer, tmp_path, name):
    folder, truth = peer
    report = convert(folder / f"{name}.pth", tmp_path / "x.keras")
    model = require_equal(truth, name, tmp_path / "x.keras")
    assert report.naming == "MMPose" and not report.skipped and not report.new
    assert f"{CASES[name][0]}.final_layer.bias" in report.matched
    found = read_metadata(tmp_path / "x.keras")
    assert found.features and found.heatmaps and found.output == "heatmaps"
    size = (256, 192) if name == "bare" else (128, 96)
    assert found.preprocessing == Preprocessing(size) and model.input_shape[1:3] == size
    assert found.labels == {"new": tuple(COCO), "old": tuple(COCO[:3]), "bare": ()}[name]
    opened = open_model_file(tmp_path / "x.keras")
    assert opened.metadata == found and opened.classes is None
    if name == "bare":
        assert "images of 256 x 192 pixels" in report.assumed and "RGB (--bgr)" in report.assumed
    else:
        assert report.assumed == ()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_published_sizes(tmp_path, depth):
    """td-hm_res{50,101,152}_8xb64-210e_coco-256x192."""
    blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[depth]
    cfg = NEW.replace("depth=18", f"depth={depth}").replace("(96, 128)", "(192, 256)")
    cases = {"x": ("head", 17, MEAN, STD, {"cfg": cfg, "names": COCO})}
    truth = peer_files(tmp_path, (256, 192), blocks, (256, 256, 256), cases)
    report = convert(tmp_path / "x.pth", tmp_path / "x.keras")
    model = require_equal(truth, "x", tmp_path / "x.keras")
    assert (model.name, report.assumed) == (f"resnet{depth}", ())
    assert model.output_shape == (None, 64, 48, 17)


@pytest.mark.slow
def test_the_backbone_alone(peer, tmp_path):
    folder, truth = peer
    report = convert(folder / "new.pth", tmp_path / "x.keras", backbone_only=True)
    model = keras.saving.load_model(tmp_path / "x.keras", compile=False)
    assert relative(model(truth["pixels"]), truth["new_map"]) < 1e-5
    assert {key.split(".")[0] for key in report.skipped} == {"head"} and len(report.skipped) == 17
    found = read_metadata(tmp_path / "x.keras")
    assert not found.heatmaps and not found.labels
    # Of a file of ours, too.
    convert(folder / "new.pth", tmp_path / "pose.keras")
    report = convert(tmp_path / "pose.keras", tmp_path / "y.keras", backbone_only=True)
    model = keras.saving.load_model(tmp_path / "y.keras", compile=False)
    assert relative(model(truth["pixels"]), truth["new_map"]) < 1e-5
    assert "heatmaps/kernel" in report.skipped
    found = read_metadata(tmp_path / "y.keras")
    assert not found.heatmaps and not found.labels


def state(head="head", points=2, filters=(4, 3)):
    """A small network by MMPose's names."""
    rng = np.random.default_rng(0)
    arrays, before = prefixed("backbone.", without_head(small_state())), 32
    for number, width in enumerate(filters):
        arrays[f"{head}.deconv_layers.{3 * number}.weight"] = rng.normal(size=(before, width, 4, 4))
        for part in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{head}.deconv_layers.{3 * number + 1}.{part}"] = rng.uniform(1, 2, width)
        before = width
    arrays[f"{head}.final_layer.weight"] = rng.normal(size=(points, before, 1, 1))
    arrays[f"{head}.final_layer.bias"] = rng.normal(size=points)
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def test_a_backbone_of_a_model_file_draws_no_heatmaps(tmp_path):
    save_file(state(), tmp_path / "x.safetensors")
    for source, out, backbone_only in (
        ("x.safetensors", "pose.keras", False),
        ("pose.keras", "copy.keras", False),
        ("copy.keras", "backbone.keras", True),
    ):
        convert(tmp_path / source, tmp_path / out, backbone_only=backbone_only)
        found = read_metadata(tmp_path / out)
        assert found.features and found.heatmaps is not backbone_only


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    "key",
    ["head.conv_layers.0.weight", "head.deconv_layers.6.weight2", "neck.conv.weight",
     "head.vis_head.fc.weight", "auxiliary_head.conv.weight"],
)  # fmt: skip
def test_nothing_that_may_change_the_heatmaps_is_dropped(tmp_path, key):
    save_file(state() | {key: zeros(3, 3, 1, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=f"has '{key}', which resnet has no place for.*--backbone"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    with pytest.raises(InputError, match=f"has '{key}', which"):
        load_weights(pose(), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.keras").exists()
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras", backbone_only=True)
    assert key in report.skipped and "head.final_layer.bias" in report.skipped


def test_what_changes_nothing_is_named(tmp_path):
    more = {"data_preprocessor.mean": zeros(3, 1, 1), "head.loss_module.weight": zeros(2),
            "head.deconv_layers.1.num_batches_tracked": np.array(7)}  # fmt: skip
    save_file(state() | more, tmp_path / "x.safetensors")
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert set(report.skipped) == {"data_preprocessor.mean", "head.loss_module.weight"}


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [("head.deconv_layers.0.weight", (32, 4, 3, 3), r"of shape \(32, 4, 4, 4\).*\(32, 4, 3, 3\)"),
     ("head.final_layer.weight", (2, 3, 3, 3), r"of shape \(2, 3, 1, 1\)"),
     ("head.deconv_layers.0.weight", (32,), "uses a ResNet's names for other tensors"),
     ("head.deconv_layers.4.running_var", (), "must be floating-point, of shape")],
)  # fmt: skip
def test_heads_of_other_kernels_are_refused(tmp_path, key, shape, words):
    save_file(state() | {key: zeros(*shape)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=words):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert not (tmp_path / "x.keras").exists()


def test_a_missing_tensor_is_named(tmp_path):
    arrays = state()
    del arrays["head.deconv_layers.4.running_var"]
    save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no 'head.deconv_layers.4.running_var' for deconv2_bn/"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


def test_the_number_of_key_points(tmp_path):
    save_file(state(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="has a head of 2 key points. Received: classes=17"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras", classes=17)
    convert(tmp_path / "x.safetensors", tmp_path / "x.keras", classes=2)
    with pytest.raises(InputError, match="a ResNet has no such weights.*deconv1_conv"):
        convert(tmp_path / "x.keras", tmp_path / "y.safetensors")


def pose(points=2):
    model = ResNet(SMALL, include_top=False)
    return add_heatmap_head(model, points, filters=(4, 3), name="pose")


def values(model, *layers):
    return {
        f"{layer.name}/{v.name}": np.array(v) for layer in model.layers if layer.name in layers
        for v in layer.weights
    }  # fmt: skip


def test_load_into_a_network_of_ones_own(tmp_path):
    """From MMPose's file, and from our own of it, with and without the configuration of layers."""
    save_file(state(), tmp_path / "x.safetensors")
    model = pose()
    report = load_weights(model, tmp_path / "x.safetensors")
    truth = state()["head.deconv_layers.3.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("deconv2_conv").kernel, truth)
    assert not report.new and not report.skipped
    model.save(tmp_path / "x.keras")
    model.save_weights(tmp_path / "x.weights.h5")
    for name in ("x.keras", "x.weights.h5"):
        other = pose()
        load_weights(other, tmp_path / name)
        for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)
    with pytest.raises(InputError, match=r"of shape \(3, 3, 1, 1\), for heatmaps/.*skip_head"):
        load_weights(pose(3), tmp_path / "x.safetensors")


def test_a_backbone_below_a_new_head(tmp_path):
    """Weights of a classifier, or of other key points."""
    save_file(small_state(), tmp_path / "x.safetensors")
    model = pose()
    before = values(model, "deconv1_conv", "heatmaps")
    with pytest.raises(InputError, match="no head that draws heatmaps for deconv1.*skip_head=True"):
        load_weights(model, tmp_path / "x.safetensors")
    report = load_weights(model, tmp_path / "x.safetensors", skip_head=True)
    assert set(report.skipped) == {"fc.weight", "fc.bias"} and len(report.new) == 12
    for name, value in values(model, "deconv1_conv", "heatmaps").items():
        np.testing.assert_array_equal(value, before[name])
    truth = small_state()["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("conv1_conv").kernel, truth)
    save_file(state(points=5), tmp_path / "y.safetensors")
    report = load_weights(pose(2), tmp_path / "y.safetensors", skip_head=True)
    assert "head.final_layer.weight" in report.skipped
    with pytest.raises(InputError, match="no 'head.fc.weight' for predictions/kernel"):
        load_weights(ResNet(SMALL), tmp_path / "y.safetensors")
    load_weights(ResNet(SMALL, include_top=False), tmp_path / "y.safetensors")


def test_a_keras_network_with_more_behind_the_heatmaps_is_refused(tmp_path):
    model = pose()
    sharper = keras.Model(model.input, keras.layers.Softmax(name="sharper")(model.output))
    sharper.save(tmp_path / "x.keras")
    with pytest.raises(InputError):
        convert(tmp_path / "x.keras", tmp_path / "y.keras")
    with pytest.raises(InputError, match="no head that draws heatmaps"):
        load_weights(pose(), tmp_path / "x.keras")


def test_there_and_back_keeps_names_and_size(tmp_path):
    save_file(state(), tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    path = tmp_path / "x.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": ["left", "right"]}))
    report = convert(tmp_path / "x.keras", tmp_path / "y.keras")
    assert report.assumed == () and read_metadata(tmp_path / "y.keras").labels == ("left", "right")
    one, two = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in "xy")
    assert one.input_shape == two.input_shape == (None, 256, 192, 3)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# What is said of a network in its configuration.


def test_a_configuration_of_today():
    told = told_by_config({"cfg": NEW, "dataset_meta": {"keypoint_id2name": {0: "a", 1: "b"}}}, "x")
    assert told.input_shape == (128, 96, None) and told.keypoints == ("a", "b")
    assert (told.mean, told.bgr, told.output_stride, told.assumed) == (MEAN, False, 32, ())


def test_a_configuration_of_before():
    told = told_by_config({"config": OLD}, "x")
    assert told.input_shape == (128, 96, None) and told.keypoints == tuple(COCO[:3])
    assert (told.mean, told.std, told.bgr) == ((127.5, 102, 76.5), (51, 63.75, 76.5), False)
    assert told.assumed == ()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [(NEW.replace("MSRAHeatmap", "UDPHeatmap"), ["UDPHeatmap"]),
     (NEW.replace("sigma=2", "sigma=2, unbiased=True"), ["DARK"]),
     (OLD.replace("'default'", "'unbiased'"), ["DARK"]),
     (OLD.replace("'default'", "'default', use_udp=True"), ["UDP"])],
)  # fmt: skip
def test_other_ways_from_heatmaps_to_key_points_are_named(text, kinds):
    told = told_by_config({"cfg": text}, "x")
    assert told.assumed == tuple(f"key points by quarter offsets, not by {k}" for k in kinds)


@pytest.mark.parametrize(
    "text",
    [NEW.replace("input_size=(96, 128)", "input_size=(96, 128, 3)"),
     NEW.replace("input_size=(96, 128)", "input_size=(0, 128)"),
     NEW + "\nother = dict(heatmap_size=(48, 64), input_size=(192, 256))",
     NEW.replace("heatmap_size", "size")],
)  # fmt: skip
def test_sizes_that_are_open(text):
    assert told_by_config({"cfg": text}, "x").input_shape is None


@pytest.mark.parametrize(
    "meta",
    [{"config": OLD.replace("id=1", "id=4")},
     {"config": OLD + "\nother = dict(name='ear', id=0, swap='')"},
     {"cfg": NEW, "dataset_meta": {"keypoint_id2name": {1: "nose"}}},
     {"cfg": NEW, "dataset_meta": {"keypoint_id2name": {0: 5}}},
     {"cfg": NEW, "dataset_meta": {"keypoint_id2name": ["nose"]}}],
)  # fmt: skip
def test_names_that_are_open(meta):
    assert told_by_config(meta, "x").keypoints == ()


def test_names_of_another_number_are_no_labels(tmp_path):
    meta = {"cfg": NEW, "dataset_meta": {"keypoint_id2name": dict(enumerate(COCO))}}
    cfg = NEW.replace("depth=18", "depth=18, num_stages=2").replace("(192, 256)", "(96, 128)")
    write_zip(tmp_path / "x.pth", {"meta": {**meta, "cfg": cfg}, "state_dict": state()})
    convert(tmp_path / "x.pth", tmp_path / "x.keras")
    assert read_metadata(tmp_path / "x.keras").labels == ()


# The backbones of detectors.

MASK_RCNN = {
    "neck.lateral_convs.0.conv.weight": zeros(8, 16, 1, 1),
    "rpn_head.rpn_conv.weight": zeros(8, 8, 3, 3), "rpn_head.rpn_cls.bias": zeros(3),
    "roi_head.bbox_head.fc_cls.weight": zeros(81, 8),
    "roi_head.mask_head.conv_logits.weight": zeros(80, 8, 1, 1),
}  # fmt: skip
RETINANET = {
    "neck.fpn_convs.0.conv.bias": zeros(8), "bbox_head.cls_convs.0.conv.weight": zeros(8, 8, 3, 3),
    "bbox_head.retina_cls.weight": zeros(720, 8, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize("rest", [MASK_RCNN, RETINANET])
@pytest.mark.parametrize("backbone_only", [True, False])
def test_backbones_of_detectors(tmp_path, rest, backbone_only):
    arrays = prefixed("backbone.", without_head(small_state()))
    write_zip(tmp_path / "x.pth", {"meta": {}, "state_dict": arrays | rest})
    report = convert(tmp_path / "x.pth", tmp_path / "x.keras", backbone_only=backbone_only)
    assert set(report.skipped) == set(rest) and set(report.matched) == set(arrays)
    model = keras.saving.load_model(tmp_path / "x.keras")
    assert model.output_shape[-1] == 32 and report.naming == "OpenMMLab"
