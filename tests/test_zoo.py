"""`ResNet` with weights: what is loaded, what stays, what is refused; and what it needs."""

import importlib.util

import keras
import numpy as np
import pytest
from checkpoints import SMALL, few, relative, small_state
from safetensors.numpy import save_file

from resnet_keras import ResNet, ResNetV1D, load_weights
from resnet_keras.errors import InputError
from resnet_keras.models import count


@pytest.fixture
def checkpoint(tmp_path):
    save_file(small_state(), tmp_path / "x.safetensors")
    return str(tmp_path / "x.safetensors")


def test_weights_are_loaded(checkpoint):
    model = ResNet(SMALL, weights=checkpoint)
    kernel = small_state()["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("conv1_conv").kernel, kernel)


def test_layers_before_the_images_stay_as_they_are(checkpoint):
    before = keras.layers.Conv2D(3, 1, name="before")
    x = before(keras.Input((32, 32, 4)))
    kernel = np.array(before.kernel)
    model = ResNet(SMALL, input_tensor=x, weights=checkpoint)
    np.testing.assert_array_equal(before.kernel, kernel)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 4)).astype("float32")
    alone = ResNet(SMALL, weights=checkpoint)
    assert relative(model(pixels), keras.ops.convert_to_numpy(alone(before(pixels)))) < 1e-6


def test_another_head_is_refused_and_the_way_is_named(checkpoint):
    with pytest.raises(InputError, match=r"load_weights\(\.\.\., skip_head=True\).*\(10, 32\)"):
        ResNet(SMALL, weights=checkpoint, classes=5)
    model = ResNet(SMALL, classes=5)
    assert load_weights(model, checkpoint, skip_head=True).new
    ResNet(SMALL, weights=checkpoint, include_top=False)


def test_weights_that_are_not_there():
    with pytest.raises(InputError, match="^nowhere.pth can't be read. Received: No such file"):
        ResNet(SMALL, weights="nowhere.pth")


def test_v1d_is_a_resnet_with_another_spec():
    assert count(ResNetV1D(50)) == count(ResNet("resnetv1d50"))
    model = ResNetV1D(few("resnetv1d50"), False, None, None, (64, 64, 3), "avg", name="mine")
    assert (model.name, model.output_shape) == ("mine", (None, 256))


# What a machine has that runs `pip install .` and nothing else lacks all of these.
BARE = """
import sys

EXTRAS = {"tensorflow", "tensorflow_datasets", "sklearn", "tyro", "PIL", "requests", "onnx",
          "ai_edge_litert", "onnxruntime", "tf2onnx", "huggingface_hub", "flatbuffers"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Missing())
import keras, numpy as np
from resnet_keras import ResNet, Spec, load_weights
with keras.StatelessScope(initialize_variables=False):  # shapes alone
    assert ResNet("resnet50").output_shape == (None, 1000)
model = ResNet(Spec("basic", (1, 1), (16, 32), stem="cifar"))
print(load_weights(model, sys.argv[1]))
np.save(sys.argv[2], model(np.load(sys.argv[3])))
assert keras.backend.backend() == "jax"
"""


@pytest.mark.slow
def test_keras_and_jax_alone_are_enough(tmp_path, checkpoint, run_python):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    np.save(tmp_path / "images.npy", pixels)
    done = run_python(
        "-c", BARE, checkpoint, tmp_path / "scores.npy", tmp_path / "images.npy",
        KERAS_BACKEND="jax", JAX_PLATFORMS="cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torchvision names, 32 tensors read" in done.stdout
    scores = keras.ops.convert_to_numpy(ResNet(SMALL, weights=checkpoint)(pixels))
    assert relative(np.load(tmp_path / "scores.npy"), scores) < 1e-5
