"""What is not a network's checkpoint is refused in one line, and changes nothing."""

import functools
from dataclasses import replace

import keras
import numpy as np
import pytest
from checkpoints import SMALL, few, kernels, prefixed, small, small_state, without_head
from parity import state
from pth_writer import write_zip
from safetensors.numpy import load_file, save_file

from resnet_keras import ResNet
from resnet_keras.errors import InputError
from resnet_keras.weights import convert, load_weights, save_torch


def changed(**changes) -> dict:
    """The small network's state with keys set, or removed by None; `__` is a dot."""
    arrays = small_state() | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in arrays.items() if value is not None}


ZEROS = functools.partial(np.zeros, dtype=np.float32)
POOLED = {"downsample.1": "downsample.2", "downsample.0": "downsample.1"}  # as ResNet-D has them
UNFIT = {
    "missing": (changed(layer2__0__bn2__bias=None), "has no 'layer2.0.bn2.bias'"),
    "unexpected": (
        changed(layer2__1__conv1__weight=ZEROS((32, 32, 3, 3))),
        "has 'layer2.1.conv1.weight'",
    ),
    "shape": (
        changed(bn1__weight=ZEROS(17)),
        r"'bn1.weight' must be .* \(16,\).*Received: float32 of shape \(17,\)",
    ),
    "transposed": (
        changed(fc__weight=ZEROS((32, 10))),
        r"'fc.weight' must be .* \(10, 32\).*shape \(32, 10\)",
    ),
    "one channel": (
        changed(conv1__weight=ZEROS((16, 1, 3, 3))),
        r"'conv1.weight' must be .*\(16, 3, 3, 3\).*\(16, 1, 3, 3\)",
    ),
    "classes": (changed(fc__weight=ZEROS((5, 32))), r"'fc.weight' .*skip_head=True.*\(5, 32\)"),
    "no head": (without_head(small_state()), "has no 'fc.weight' .*skip_head=True"),
    "integers": (
        changed(bn1__bias=np.zeros(16, np.int8)),
        "'bn1.bias' must be floating-point.*Received: int8",
    ),
    "last of all": (changed(fc__bias=ZEROS(11)), r"'fc.bias' .*\(11,\)"),
    "pooled shortcut": (
        {
            functools.reduce(lambda k, old: k.replace(old, POOLED[old]), POOLED, key): array
            for key, array in small_state().items()
        },
        "avg_down=True, see 'layer2.0.downsample.1.weight'",
    ),
    "another network": (
        {"features.0.weight": ZEROS((64, 3, 3, 3))},
        "Received: 'features.0.weight'",
    ),
    "two networks": (
        prefixed("first.", small_state()) | prefixed("second.", small_state()),
        "several networks: choose one by `prefix`. Received: first, second",
    ),
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, unfit):
    arrays, message = UNFIT[unfit]
    save_file(arrays, tmp_path / "x.safetensors")
    model = small()
    before = kernels(model)
    with pytest.raises(ValueError, match=rf"^\S+x\.safetensors.*{message}") as error:
        load_weights(model, tmp_path / "x.safetensors")
    assert "Received: " in str(error.value) and "\n" not in str(error.value)
    for path, values in kernels(model).items():
        np.testing.assert_array_equal(values, before[path])


@pytest.mark.parametrize("headless", [False, True])
def test_a_deeper_network_is_refused_whoever_wants_the_head(headless, tmp_path):
    """One more block, whose every name is a network's, and whose shapes fit each other."""
    deeper = small_state() | {
        key.replace("layer1.0", "layer1.1"): array
        for key, array in small_state().items()
        if key.startswith("layer1.0")
    }
    save_file(deeper, tmp_path / "x.safetensors")
    model = ResNet(SMALL, include_top=False) if headless else small()
    before = kernels(model)
    with pytest.raises(InputError, match=r"has 'layer1\.1\.\S+', which \S+ has no place for"):
        load_weights(model, tmp_path / "x.safetensors", skip_head=not headless)
    for path, values in kernels(model).items():
        np.testing.assert_array_equal(values, before[path])


def test_another_published_network(tmp_path):
    write_zip(tmp_path / "x.pth", {"state_dict": state("resnet18_in1k")})
    with pytest.raises(ValueError, match=r"backbone.layer1.0.conv1.weight.*\(64, 64, 1, 1\)"):
        load_weights(ResNet("resnet50"), tmp_path / "x.pth")
    save_torch(ResNet(few("resnetv1d50")), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="avg_down=True.*Received: avg_down=False"):
        load_weights(ResNet(few("resnetv1c50")), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="has no 'conv1.weight'"):
        load_weights(ResNet(few("resnet50")), tmp_path / "x.safetensors")


def test_caffe_style_is_not_taken_for_the_other(tmp_path):
    spec = few("resnet50")
    caffe = replace(spec, stride_in_1x1=True)
    ResNet(caffe).save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match="stride_in_1x1=True.*Received: stride_in_1x1=False"):
        load_weights(ResNet(spec), tmp_path / "x.keras")
    convert(tmp_path / "x.keras", tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="stride_in_1x1=True.*Received: stride_in_1x1=False"):
        load_weights(ResNet(spec), tmp_path / "x.safetensors")
    # Without our metadata, names and shapes do not tell.
    save_file(load_file(tmp_path / "x.safetensors"), tmp_path / "x.safetensors")
    for flag, strides in ((True, (2, 2)), (False, (1, 1))):
        convert(tmp_path / "x.safetensors", tmp_path / "y.keras", stride_in_1x1=flag)
        model = keras.saving.load_model(tmp_path / "y.keras")
        assert model.get_layer("conv3_block1_1_conv").strides == strides


def test_what_convert_refuses(tmp_path):
    save_file(small_state(), tmp_path / "x.safetensors")
    (tmp_path / "out.keras").write_text("precious")
    for arguments, message in (
        ({"model": "resnet19"}, "`model` must be one of resnet18"),
        ({"model": "resnet20_cifar"}, "has no 'layer1.1.conv1.weight'"),
        ({"classes": 5}, "a head of 10 classes. Received: classes=5"),
        ({"std": (1, 1, 0)}, "`std` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / "x.safetensors", tmp_path / "out.keras", **arguments)
    assert (tmp_path / "out.keras").read_text() == "precious"
    with pytest.raises(ValueError, match="must be .keras for a checkpoint"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"a \.safetensors file. Received: .*x\.pth"):
        save_torch(small(), tmp_path / "x.pth")
    ResNet(few("resnetv1c50")).save_weights(tmp_path / "deep.weights.h5")
    with pytest.raises(ValueError, match="may be a ResNet-C or a ResNet-D"):
        convert(tmp_path / "deep.weights.h5", tmp_path / "out.keras")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "deep.weights.h5",
        "out.keras",
        "x.safetensors",
    ]


@pytest.mark.parametrize(
    "arrays",
    [{"conv1_conv/kernel/more": (3,)}, {"conv1_conv/kernel": (7,)},
     {"conv1_bn/moving_mean": (5,)}],
    ids=str,
)  # fmt: skip
def test_keras_names_of_something_else_are_refused(tmp_path, arrays):
    arrays = {"conv1_conv/bias": (4,)} | arrays
    save_file(
        {name: np.zeros(shape, np.float32) for name, shape in arrays.items()},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(InputError, match="uses a ResNet's names for other|is not a ResNet"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras")


@pytest.mark.parametrize(
    ("change", "arguments"),
    [
        ({"conv1__weight": ZEROS(16)}, {"model": few("resnet18_cifar")}),
        ({"fc__weight": ZEROS(())}, {"classes": 10}),
        ({"layer2__0__conv1__weight": ZEROS((0, 16, 3, 3))}, {}),
    ],
    ids=["a flat stem", "a head of nothing", "no width"],
)
def test_torch_names_of_something_else_are_refused(tmp_path, change, arguments):
    save_file(changed(**change), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="x.safetensors uses a ResNet's names for other tensors"):
        convert(tmp_path / "x.safetensors", tmp_path / "x.keras", **arguments)
    assert not (tmp_path / "x.keras").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("layer2.0.conv1.weight", np.nan), ("fc.bias", np.inf), ("bn1.running_var", -1e-3)],
)
def test_what_a_training_that_diverged_left_is_refused(tmp_path, key, value):
    arrays = {name: np.array(array) for name, array in small_state().items()}
    arrays[key].flat[-1] = value
    save_file(arrays, tmp_path / "x.safetensors")
    model = small()
    before = kernels(model)
    with pytest.raises(
        InputError, match=f"'{key}' has values that are NaN.*Received: .* and 0 more"
    ):
        load_weights(model, tmp_path / "x.safetensors")
    after = kernels(model)
    assert all(np.array_equal(before[path], after[path]) for path in before)
