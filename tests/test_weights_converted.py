"""What `convert` writes: plain Keras, and the metadata beside it; any source's names."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from checkpoints import SMALL, few, prefixed, small_state, without_head
from pth_writer import write_zip
from safetensors.numpy import save_file

from resnet_keras import ResNet
from resnet_keras.model_files import Metadata, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights import convert, load_weights, names, save_torch
from resnet_keras.weights.names.torch_names import TorchNaming


def test_a_converted_file_is_plain_keras(tmp_path):
    """Float32 under any policy, uncompiled, softmax, reading pixels; no name of ours is needed."""
    write_zip(tmp_path / "x.pth", prefixed("module.", small_state()))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        report = convert(tmp_path / "x.pth", tmp_path / "new" / "x.keras", mean=(1, 2, 3))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert report.output == str(tmp_path / "new" / "x.keras")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["x.json", "x.keras"]
    model = keras.saving.load_model(tmp_path / "new" / "x.keras")
    assert not model.compiled and {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    assert model.get_layer("predictions").activation is keras.activations.softmax
    clone = ResNet(SMALL, mean=(1, 2, 3))
    load_weights(clone, tmp_path / "x.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    np.testing.assert_array_equal(model(pixels), clone(pixels))


@pytest.mark.parametrize(
    ("model", "size", "resize"),
    [("resnet18", (224, 224), 256), ("resnet18", (70, 56), 64),  # of the short edge, 8 / 7
     ("resnet18_cifar", (32, 32), None)],
)  # fmt: skip
def test_metadata_beside_a_converted_file(tmp_path, model, size, resize):
    network = ResNet(few(model), classes=3, input_shape=(*size, 3))
    save_torch(network, tmp_path / "x.safetensors")
    Metadata(Preprocessing(8), labels=("of", "an", "older one")).write(tmp_path / "x.keras")
    convert(tmp_path / "x.safetensors", str(tmp_path / "x.keras"))
    metadata = read_metadata(tmp_path / "x.keras")
    found = metadata.preprocessing
    assert (found.size, found.resize, found.antialias) == (size, resize, True)
    assert (found.interpolation, metadata.labels, metadata.dataset) == ("bilinear", (), None)
    convert(tmp_path / "x.keras", tmp_path / "back.safetensors")
    assert not (tmp_path / "back.json").exists()


def test_openmmlab_resized_without_antialiasing(tmp_path):
    backbone = prefixed("backbone.", without_head(small_state()))
    save_file(backbone, tmp_path / "x.safetensors")
    convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert read_metadata(tmp_path / "x.keras").preprocessing.antialias is False


def test_a_file_that_is_no_metadata_is_not_replaced(tmp_path):
    (tmp_path / "x.json").write_text('{"mine": 1}')
    # Before anything is read: the checkpoint is not even there.
    with pytest.raises(ValueError, match="x.json exists, is not the metadata"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@dataclass(frozen=True)
class Shouting(TorchNaming):
    """A source of our own: torchvision's names in capitals."""

    title = "shouting"
    signature = "LAYER1.0.CONV1.WEIGHT"

    @classmethod
    def recognise(cls, contents):
        return cls("FC") if cls.signature in contents.arrays else None

    def name(self, layer, variable):
        return super().name(layer, variable).upper()


def test_another_naming_is_one_class_and_one_line(tmp_path, monkeypatch):
    state = {key.upper(): array for key, array in small_state().items()}
    save_file(state, tmp_path / "x.safetensors")
    known = "none of its tensors is conv1_conv/bias or .* or .*layer1.0.conv1.weight or .*weight"
    with pytest.raises(ValueError, match=f"has no ResNet's names: {known}. Received: '[A-Z]"):
        load_weights(ResNet(SMALL), tmp_path / "x.safetensors")
    monkeypatch.setattr(names, "NAMINGS", (*names.NAMINGS, Shouting))
    report = convert(tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert (report.naming, len(report.matched)) == ("shouting", len(state))


def test_every_naming_says_what_it_is():
    titles = [naming.title for naming in names.NAMINGS]
    assert titles == [
        *("keras.applications", "keras.applications until 2019", "KerasHub", "resnet_keras"),
        *("transformers", "detectron2", "Caffe2"),
        *("MMPose", "MMSegmentation", "OpenMMLab", "pytorch-cifar", "timm", "torchvision"),
        "torch.nn.Sequential",
    ]
