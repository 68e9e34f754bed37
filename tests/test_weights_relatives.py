"""Relatives of ResNet, and files of other programs, are refused by what they are."""

import bz2
import gzip
import io
import lzma
import pickle
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
from checkpoints import few, prefixed, small_state
from pth_writer import Call, Global, Raw, State, torch_python, write_zip
from safetensors.numpy import load_file, save, save_file

from resnet_keras import ResNet
from resnet_keras.weights import convert, save_torch
from resnet_keras.weights.formats import read


def zeros(*shape):
    return np.zeros(shape, np.float32)


def with_tensor(name, shape=(16,)):
    return small_state() | {name: zeros(*shape)}


def without(state, ending):
    return {key: array for key, array in state.items() if not key.endswith(ending)}


PREACTIVATION = {k: a for k, a in small_state().items() if not k.startswith("bn1.")}
RELATIVES = {
    "SE-ResNet": with_tensor("layer1.0.se.fc1.weight", (4, 16, 1, 1)),
    "SE-ResNet (sq": with_tensor("layer1.0.se_module.fc1.weight"),
    "ECA-ResNet": with_tensor("layer1.0.se.conv.weight", (1, 1, 3)),
    "Res2Net": with_tensor("layer1.0.convs.0.weight"),
    "ResNeSt": with_tensor("layer1.0.conv2.conv.weight"),
    "CBAM": with_tensor("layer1.0.ca.fc1.weight"),
    "SKNet (selective": with_tensor("layer1.0.conv2.paths.0.conv.weight"),
    "CLIP": prefixed("visual.", small_state()),
    "deformable": with_tensor("layer1.0.conv2_offset.weight"),
    "IBN": with_tensor("layer1.0.bn1.IN.weight"),
    "GroupNorm": without(small_state(), ("running_mean", "running_var")),
    "pre-activation": PREACTIVATION,
    "ResNet v2": {"stages.0.blocks.0.conv1.weight": zeros(1)},
}


@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_by_name(tmp_path, name):
    save_file(RELATIVES[name], tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"x.safetensors is [^.]*{name.split(' (')[0]}"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


@pytest.mark.parametrize(
    ("name", "conv2", "conv3"),
    [
        (r"ResNeXt or RegNet \(4 groups\).*3x3 convolution from 2 to 8 ch", (8, 2, 3, 3), None),
        ("wide ResNet.*16 channels before 32", (16, 16, 3, 3), (32, 16, 1, 1)),
    ],
)
def test_relatives_by_shape(tmp_path, name, conv2, conv3):
    save_torch(ResNet(few("resnet50")), tmp_path / "x.safetensors")
    state = load_file(tmp_path / "x.safetensors")
    state["layer1.0.conv2.weight"] = zeros(*conv2)
    if conv3:
        state["layer1.0.conv1.weight"] = zeros(16, 8, 1, 1)
        state["layer1.0.conv3.weight"] = zeros(*conv3)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"x.safetensors is a {name}"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


def zipped(**entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"))
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, w=np.zeros(3))
    return file.getvalue()


SAVED = save(small_state())
FILES = {
    "x.pth.gz": (gzip.compress(SAVED), "packed by gzip"),
    "x.pth": (bz2.compress(SAVED), "packed by bzip2"),
    "x.xz": (lzma.compress(SAVED), "packed by xz"),
    "x.zst": (b"\x28\xb5\x2f\xfd\x04", "packed by Zstandard"),  # RFC 8878, 3.1.1
    "x.7z": (b"7z\xbc\xaf\x27\x1c\0\4", "packed by 7-Zip"),  # 7zFormat.txt
    "x.gguf": (b"GGUF\3\0\0\0", "GGUF"),
    "x.tar": (tarred(), "tar archive"),
    "x.zip": (zipped(**{"a/x.pth": b"x", "a/readme.md": b""}), "zip archive around other files"),
    "x.npz": (npz(), ".npz file"),
    "x.npy": (b"\x93NUMPY\x01\0", "single NumPy array"),
    "a.onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x052.0.1", "ONNX"),
    "named otherwise": (b"\x08\x0a\x12\x07pytorch\x1a\x052.0.1", "ONNX"),
    "flax_model.msgpack": (b"\x82\xa6params\x81\xa5conv1", "MessagePack"),
    "large.msgpack": (b"\xde\x00\x20\xa6params\x81\xa5conv1", "MessagePack"),
    "largest.msgpack": (b"\xdf\0\0\0\x20\xa6params\x81\xa5conv1", "MessagePack"),
    "without a producer.onnx": (b"\x08\x03:", "ONNX"),
    "old": (b"\x08\x03:\xb2\x01", "ONNX"),  # a graph comes behind the version
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-7"', "TensorFlow"),
    "model.ckpt.index": (b"\0\0\0", "TensorFlow"),
    "model.ckpt.data-00000-of-00001": (b"\x12\x34\x56", "TensorFlow"),
    "x.tflite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "x.pdparams": (
        pickle.dumps({"conv1.weight": zeros(3), "StructuredToParameterName@@": {}}, 2),
        "Paddle",
    ),
    "model-00001-of-00002.safetensors": (SAVED, "one of 2 shards"),
    "pytorch_model-00001-of-00003.bin": (b"PK\3\4", "one of 3 shards"),
    "model.safetensors.index.json": (b'{"metadata": {}, "weight_map": {}}', "in shards"),
    "config.json": (b'{"architecture": "resnet50"}', "is JSON"),
    "x.pt2": (zipped(**{"a/archive_format": b"pt2", "a/data/w": b""}), r"torch\.export"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_programs(tmp_path, name):
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{message}[^\n]*Received: ") as error:
        read(tmp_path / name)
    assert not {"truncated", "damaged"} & set(str(error.value).replace(",", "").split())


STRANGE = r"""
import sys, torch
from torch import nn
folder = sys.argv[1]
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
torch.jit.save(torch.jit.script(net), folder + "/script.pth")
torch.save(net, folder + "/module.pth")
torch.save({"w": torch.eye(3).to_sparse()}, folder + "/sparse.pth")
w = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)
torch.save({"w": w}, folder + "/quantized.pth")
"""


def test_files_of_pytorch_that_are_no_state_dicts(tmp_path):
    command = [torch_python(), "-W", "ignore", "-c", STRANGE, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    for name, message in {
        "script": r"TorchScript archive.*torch.jit.load\(FILE\).state_dict\(\)",
        "module": "whole module pickled.*nothing in it was run",
        "sparse": "sparse tensors.*nothing in it was run",
        "quantized": "quantized network.*nothing in it was run",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.pth (is a|has|is of a) {message}"):
            read(tmp_path / f"{name}.pth")


def test_more_harmless_objects(tmp_path, write):
    """Paths, members of enumerations, slices, types, and OmegaConf's containers."""
    new = b"comegaconf.dictconfig\nDictConfig\n)\x81"
    mode = Global("torchvision.transforms.functional", "InterpolationMode")
    kept = {
        "path": Call(Global("pathlib", "PosixPath"), ("/", "data")),
        "path of 3.13": Call(Global("pathlib._local", "PosixPath"), ("/", "data")),
        "mode": Call(mode, ("bilinear",)),
        "mode of 3.11": Call(Global("builtins", "getattr"), (mode, "BILINEAR")),
        "slice": Call(Global("builtins", "slice"), (0, 3, None)),
        "type": Global("torch", "bool"),
        "config": State(
            Raw(new), {"_metadata": Global("omegaconf.base", "ContainerMetadata"),
                       "_content": {"any": Global("typing", "Any")}}
        ),
    }  # fmt: skip
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(tmp_path / "x.pth", {"hyper_parameters": kept, "state_dict": {"w": weight}})
    np.testing.assert_array_equal(read(tmp_path / "x.pth").arrays["w"], weight)


def test_classes_as_keys(tmp_path):
    """Old Lightning's callbacks."""
    key = Raw(b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n")
    callbacks = Raw(b"}" + key.opcodes + b"}s")
    write_zip(tmp_path / "x.pth", {"callbacks": callbacks, "state_dict": {"w": zeros(3)}})
    assert list(read(tmp_path / "x.pth").arrays) == ["w"]
