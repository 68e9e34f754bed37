"""Checkpoints written by timm, transformers, torchvision and KerasHub themselves.

They are installed into an environment of their own, which takes minutes;
`RESNET_KERAS_PEERS` names the Python of one that is there.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from checkpoints import relative
from test_published import serve, server  # noqa: F401

from resnet_keras import ResNet, convert
from resnet_keras.model_files import read_metadata

pytestmark = pytest.mark.slow

PEER = Path(__file__).with_name("peers.py")

# Without dependencies where these would bring a second TensorFlow or a PyTorch for GPUs.
TOOLS = (
    ["torch==2.13.0"],
    ["--no-deps", "torchvision==0.28.0", "timm==1.0.31", "keras-hub==0.32.0"],
    ["transformers==5.24", "pyyaml", "pillow", f"keras=={keras.__version__}", "kagglehub"],
)


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """A folder of files that the peers wrote, and what they compute."""
    python = os.environ.get("RESNET_KERAS_PEERS")
    folder = tmp_path_factory.mktemp("peers")
    if python is None:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = str(folder / "venv/bin/python")
        for tools in TOOLS:
            command = [python, "-m", "pip", "install", "-q", *tools]
            subprocess.run(command, check=True, timeout=1200)
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": ""}
    subprocess.run([python, PEER, folder], check=True, env=environment, timeout=1200)
    return folder, dict(np.load(folder / "truth.npz"))


def logits(path, pixels):
    """What a converted model computes of images of any size, before its softmax."""
    model = keras.saving.load_model(path, compile=False)
    if model.layers[-1].name == "predictions":
        model.layers[-1].activation = None
    images = keras.Input((*pixels.shape[1:3], 3), name="images")
    model = keras.models.clone_model(model, images, clone_function=lambda layer: layer)
    return model(pixels)


PUBLISHED = {
    "timm/resnet18.a1_in1k": "timm_resnet18",
    "timm/resnet50.a1_in1k": "timm_resnet50",
    "timm/resnet18d.ra2_in1k": "timm_resnet18d",
    "timm/resnet50d.ra2_in1k": "timm_resnet50d",
    "timm/resnet50c.gluon_in1k": "timm_resnet50c",
    "torchvision/resnet34.IMAGENET1K_V1": "torchvision_resnet34",
    "torchvision/resnet50.IMAGENET1K_V2": "torchvision_resnet50",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names_of_their_own_files(peers, server, monkeypatch, tmp_path, name):  # noqa: F811
    """Downloaded from loopback, verified, converted; and a flipped byte is refused."""
    folder, truth = peers
    serve(server, monkeypatch, name, folder / f"{PUBLISHED[name]}.pth")
    report = convert(name, tmp_path / "x.keras")
    assert report.assumed == ()
    assert relative(logits(tmp_path / "x.keras", truth["pixels"]), truth[PUBLISHED[name]]) < 1e-5
    (file,) = server.folder.iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for path in (tmp_path / "cache").rglob("*.*"):
        path.unlink()
    with pytest.raises(ValueError, match="sha256"):
        convert(name, tmp_path / "y.keras")
    assert not (tmp_path / "y.keras").exists()


@pytest.mark.parametrize(
    ("file", "stride"),
    [("resnet50", 8), ("resnet50d", 8), ("resnet50d", 16), ("resnet18", 8), ("resnet18d", 16)],
)
def test_timms_dilated_networks(peers, tmp_path, file, stride):
    folder, truth = peers
    name = f"timm_{file}_{stride}"
    options = {"dilation": "torchvision", "output_stride": stride}
    convert(folder / f"{name}.pth", tmp_path / "x.keras", **options)
    assert relative(logits(tmp_path / "x.keras", truth["pixels"]), truth[name]) < 1e-5


def test_an_anti_aliased_network_is_assumed_not_to_be_one(peers, tmp_path):
    folder, truth = peers
    report = convert(folder / "timm_resnetaa50.pth", tmp_path / "x.keras")
    assert any("no anti-aliasing" in line for line in report.assumed)
    assert relative(logits(tmp_path / "x.keras", truth["pixels"]), truth["timm_resnetaa50"]) > 1e-3


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "caffe"])
@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_repositories_of_transformers(peers, tmp_path, kind, weights):
    folder, truth = peers
    report = convert(folder / f"transformers_{kind}" / weights, tmp_path / "x.keras")
    assert report.naming == "transformers" and report.assumed == ()
    assert (
        relative(logits(tmp_path / "x.keras", truth["pixels"]), truth[f"transformers_{kind}"])
        < 1e-5
    )
    found = read_metadata(tmp_path / "x.keras")
    assert found.preprocessing.resize == 256 and found.preprocessing.interpolation == "bicubic"
    assert found.labels[2] == "LABEL_2"


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "vd"])
def test_presets_of_keras_hub(peers, tmp_path, kind):
    folder, truth = peers
    report = convert(folder / f"keras_hub_{kind}", tmp_path / "x.keras")
    assert report.naming == "KerasHub"
    assert report.assumed == ("softmax behind the last layer, which has none in the file",)
    assert (
        relative(logits(tmp_path / "x.keras", truth["pixels"]), truth[f"keras_hub_{kind}"]) < 1e-5
    )


def test_resnet_takes_a_repository(peers):
    folder, _ = peers
    spec = "resnet50"
    model = ResNet(spec, weights=folder / "transformers_bottleneck", classes=5)
    assert model.output_shape == (None, 5)
