"""The networks are those of the published tables, by name, by count and by shape."""

import dataclasses
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from checkpoints import few

from resnet_keras import SPECS, ResNet, Spec, features, freeze
from resnet_keras.models import adapt_last_norm, build, count, normalisation_of

GOLDEN = Path(__file__).parent / "golden"
COUNTS = json.loads((GOLDEN / "counts.json").read_text())


@pytest.mark.parametrize("row", COUNTS, ids=lambda row: f"{row['model']}-{row['classes']}")
def test_counts_are_those_of_the_tables(row):
    published = {k: v for k, v in row.items() if k not in ("model", "classes")}
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        assert count(ResNet(row["model"], classes=row["classes"])) == published


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20_cifar", 0.27), ("resnet32_cifar", 0.46), ("resnet44_cifar", 0.66),
     ("resnet56_cifar", 0.85), ("resnet110_cifar", 1.7),
     pytest.param("resnet1202_cifar", 19.4, marks=pytest.mark.slow)],
)  # fmt: skip
def test_parameters_of_the_papers_cifar_networks(name, millions):
    # He et al. 2015, table 6, to the digits given there.
    digits = 2 if millions < 1 else 1
    with keras.StatelessScope(initialize_variables=False):  # shapes alone: 1202 layers are many
        params = count(ResNet(name))["params"]
    assert round(params / 1e6, digits) == millions


def test_layer_names_are_those_of_keras_applications():
    theirs = keras.applications.ResNet50(weights=None)
    shared = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense)

    def names(model):
        kept = (*shared, keras.layers.Activation, keras.layers.GlobalAveragePooling2D)
        return sorted(layer.name for layer in model.layers if isinstance(layer, kept))

    assert names(ResNet("resnet50")) == names(theirs)


@pytest.mark.parametrize("name", ["resnet18", "resnetv1d50", "resnet20_cifar"])
def test_layer_names_stay(name):
    frozen = json.loads((GOLDEN / "layer_names.json").read_text())[name]
    assert [layer.name for layer in ResNet(name).layers] == frozen


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="resnetv1d152.*Received: spec='resnet5'"):
        ResNet("resnet5")


@pytest.mark.parametrize(
    "arguments",
    [{"classes": 0}, {"input_shape": (32, 32)}, {"drop_path": 1.0}, {"output_stride": 4},
     {"pooling": "sum"}, {"mean": (1.0,)}, {"std": (0.0, 1.0, 1.0)}, {"input_shape": (8, 8, 0)}],
)  # fmt: skip
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        ResNet("resnet18", **arguments)


@pytest.mark.parametrize(
    "fields", [{"block": "wide"}, {"stem": "none"}, {"depths": (2, 2)}, {"depths": (0,) * 4}]
)
def test_impossible_specs_are_refused(fields):
    with pytest.raises(ValueError, match="Received: "):
        Spec(**{"block": "basic", "depths": (2, 2, 2, 2), **fields})


def test_preprocessing_is_in_the_model():
    model = ResNet("resnet18_cifar", mean=(10, 20, 30), std=(2, 4, 8))
    pixels = np.full((1, 32, 32, 3), (14, 28, 14), "uint8")
    assert np.allclose(model.get_layer("normalise")(pixels), (2, 2, -2), atol=1e-5)
    assert np.allclose(normalisation_of(model), ((10, 20, 30), (2, 4, 8)))
    grey = ResNet("resnet18_cifar", input_shape=(32, 32, 1))
    mean, std = normalisation_of(grey)
    assert mean == pytest.approx([(125.307 + 122.961 + 113.8575) / 3]) and len(std) == 1


def test_pixels_are_normalised_by_the_published_statistics():
    """Those of OpenMMLab's `configs/_base_/datasets`, for ImageNet and for CIFAR-10."""
    imagenet = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    cifar = ([125.307, 122.961, 113.8575], [51.5865, 50.847, 51.255])
    for spec, statistics in (("resnet18", imagenet), ("resnet20_cifar", cifar)):
        found = normalisation_of(ResNet(few(spec)))
        assert np.allclose(found, statistics, rtol=1e-7)


def test_each_block_starts_as_the_identity():
    model = ResNet("resnet18")
    gammas = [layer for layer in model.layers if layer.name.endswith("_2_bn")]
    assert len(gammas) == 8 and not any(np.any(layer.gamma.numpy()) for layer in gammas)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv1d50", "resnet20_cifar"])
def test_every_channel_of_every_block_begins_to_learn(name):
    """A channel that is 0 on both ways into a ReLU has no gradient, and would never get one."""
    keras.utils.set_random_seed(0)
    model = ResNet(name, input_shape=(64, 64, 3), classes=10)
    last = "_2_bn" if SPECS[name].block == "basic" else "_3_bn"
    norms = [x for x in model.layers if "_block" in x.name and x.name.endswith(last)]
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3)).astype("uint8")
    with tf.GradientTape() as tape:
        answers = model(pixels, training=True)
        loss = keras.losses.SparseCategoricalCrossentropy()(np.arange(8), answers)
    gradients = tape.gradient(loss, [layer.gamma.value for layer in norms])
    assert len(norms) == sum(SPECS[name].depths)
    # The gradient, not a step: one below 1e-7 does not move a gamma of 1 in float32.
    for layer, gradient in zip(norms, gradients, strict=True):
        assert np.all(gradient.numpy() != 0), layer.name


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels():
    model = ResNet("resnet20_cifar")
    shortcut = keras.Model(
        model.get_layer("conv2_block3_out").output, model.get_layer("conv3_block1_0_pad").output
    )
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 16), "float32")
    y = np.asarray(shortcut(x))
    assert np.array_equal(y[..., :16], x[:, ::2, ::2]) and not y[..., 16:].any()


def test_equal_layers_start_with_different_weights():
    model = ResNet("resnet18")
    first, second = (model.get_layer(f"conv2_block{b}_1_conv").kernel for b in (1, 2))
    assert not np.array_equal(first, second)


def test_convolutions_start_as_kaiming_normal_over_the_fan_out():
    model = ResNet("resnet50")
    # Each has another fan-in: 1024, 49 * 3, 64.
    fans = {"conv5_block1_0_conv": 2048, "conv1_conv": 7 * 7 * 64, "conv2_block1_3_conv": 256}
    for layer, fan_out in fans.items():
        kernel = np.asarray(model.get_layer(layer).kernel)
        # Of n numbers the deviation is known to 1 / sqrt(2 n).
        within = 4 / np.sqrt(2 * kernel.size)
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_out), rel=within)
        assert np.abs(kernel).max() > 3 * kernel.std()  # a truncated normal ends at two


def test_the_head_starts_as_in_openmmlab():
    """Its `ClsHead` has `init_cfg=dict(type="Normal", layer="Linear", std=0.01)`: bias 0."""
    kernel, bias = ResNet("resnet18").get_layer("predictions").get_weights()
    assert kernel.shape == (512, 1000) and not bias.any()
    assert kernel.std() == pytest.approx(0.01, rel=4 / np.sqrt(2 * kernel.size))
    assert abs(kernel.mean()) < 4 * 0.01 / np.sqrt(kernel.size)
    assert np.abs(kernel).max() > 4 * 0.01  # a truncated normal ends at two


def test_stochastic_depth_grows_linearly_over_all_blocks():
    model = ResNet("resnet50", drop_path=0.15)
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert np.allclose(rates, np.linspace(0, 0.15, 16)[1:])


def test_stochastic_depth_drops_whole_images_and_keeps_their_mean():
    (layer,) = [
        x for x in ResNet(few("resnet18"), drop_path=0.75).layers if "4_block1_drop" in x.name
    ]
    branch = np.full((400, 2, 2, 3), 2.0, "float32")
    dropped = np.asarray(layer(branch, training=True))
    kept = dropped[:, 0, 0, 0] > 0
    assert np.allclose(dropped, kept[:, None, None, None] * 2 / (1 - layer.rate))
    assert layer.rate == pytest.approx(0.75 * 3 / 4)  # the fourth of five blocks
    assert abs(kept.mean() - (1 - layer.rate)) < 4 * np.sqrt(layer.rate * (1 - layer.rate) / 400)
    assert np.array_equal(layer(branch), branch)


def test_batch_norms_are_pytorchs():
    """Its momentum of 0.1 is 0.9 here; its epsilon is 1e-5."""
    with keras.StatelessScope(initialize_variables=False):  # shapes alone
        norms = [x for x in ResNet("resnetv1d18").layers if x.name.endswith("_bn")]
    assert len(norms) == 3 + 2 * 8 + 3  # stem, blocks, projections
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.9, 1e-5)}


@pytest.mark.parametrize(
    ("policy", "body", "ends"),
    [("float32", "float32", "float32"), ("mixed_float16", "float16", "float32"),
     ("bfloat16", "bfloat16", "float32"), ("float16", "float16", "float32"),
     ("float64", "float64", "float64")],
)  # fmt: skip
def test_pixels_and_the_head_have_at_least_32_bits(policy, body, ends):
    keras.config.set_dtype_policy(policy)
    try:
        model = ResNet(few("resnet18"), input_shape=(32, 32, 3))
        pooled = ResNet(few("resnet18"), input_shape=(32, 32, 3), include_top=False, pooling="max")
    finally:
        keras.config.set_dtype_policy("float32")
    types = {layer.name: layer.compute_dtype for layer in [*model.layers, *pooled.layers]}
    for name in ("normalise", "avg_pool", "predictions", "max_pool"):
        assert types.pop(name) == ends
    assert set(types.values()) - {types["images"]} <= {body} and types["conv1_conv"] == body
    assert model.output.dtype == ends


def test_a_deep_network_may_be_walked_by_recursion():
    """About eight frames a block, beside the thousand that Python allows all others."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(600)
    try:
        with keras.StatelessScope(initialize_variables=False):  # shapes alone
            ResNet("resnet110_cifar")
        assert sys.getrecursionlimit() >= 1000 + 8 * 54
        sys.setrecursionlimit(9999)
        ResNet(few("resnet18"))
        assert sys.getrecursionlimit() == 9999  # never lower
    finally:
        sys.setrecursionlimit(before)


def test_the_pool_of_a_shortcut_that_lost_its_stride_is_timms():
    """`AvgPool2dSame` of 2 x 2 and stride 1: zeros behind the last row and column count."""
    spec = dataclasses.replace(few("resnetv1d50"), dilation="torchvision")
    model = ResNet(spec, output_stride=8, input_shape=(64, 64, 3))
    pad, pool = (model.get_layer(f"conv4_block1_0_{part}") for part in ("pad", "pool"))
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 2)).astype("float32")
    wide = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
    expected = (wide[:, 1:, 1:] + wide[:, :-1, 1:] + wide[:, 1:, :-1] + wide[:, :-1, :-1]) / 4
    assert np.allclose(pool(pad(x)), expected, atol=1e-6)
    # With its stride it pools without zeros, and the last row and column alone.
    pool = model.get_layer("conv3_block1_0_pool")
    found = np.asarray(pool(x[:, :, :3]))
    assert found.shape == (1, 3, 2, 2)
    assert np.allclose(found[:, 2, 1], x[:, 4, 2]) and np.allclose(
        found[:, 0, 0], x[:, :2, :2].mean((1, 2))
    )


@pytest.mark.parametrize(("stride", "side"), [(32, 2), (16, 4), (8, 8)])
def test_output_stride_trades_strides_for_dilation(stride, side):
    model = ResNet("resnet50", output_stride=stride, include_top=False, input_shape=(64, 64, 3))
    assert model.output_shape == (None, side, side, 2048)
    dilations = {
        stage: {
            layer.dilation_rate[0]
            for layer in model.layers
            if layer.name.startswith(f"conv{stage}_") and layer.name.endswith("_2_conv")
        }
        for stage in (4, 5)
    }
    # OpenMMLab's (strides, dilations): 16 is (1, 2, 2, 1), (1, 1, 1, 2).
    expected = {32: ({1}, {1}), 16: ({1}, {2}), 8: ({2}, {4})}[stride]
    assert (dilations[4], dilations[5]) == expected


@pytest.mark.parametrize(
    ("dilation", "expected"),
    # OpenMMLab's BasicBlock gives `dilation` to conv1 alone; timm's has `first_dilation` in conv1,
    # that of the stage before in a stage's first block, and `dilation` in conv2.
    [("openmmlab", {4: [(2, 1), (2, 1)], 5: [(4, 1), (4, 1)]}),
     ("torchvision", {4: [(1, 2), (2, 2)], 5: [(2, 4), (4, 4)]})],
)  # fmt: skip
def test_which_convolutions_of_a_basic_block_dilate(dilation, expected):
    spec = dataclasses.replace(SPECS["resnet18"], dilation=dilation)
    model = ResNet(spec, output_stride=8, include_top=False, input_shape=(64, 64, 3))
    found = {
        stage: [
            tuple(
                model.get_layer(f"conv{stage}_block{block}_{number}_conv").dilation_rate[0]
                for number in (1, 2)
            )
            for block in (1, 2)
        ]
        for stage in (4, 5)
    }
    assert found == expected


def test_caffe_style_strides_in_the_first_convolution():
    spec = dataclasses.replace(SPECS["resnet50"], stride_in_1x1=True)
    model = ResNet(spec)
    assert model.get_layer("conv3_block1_1_conv").strides == (2, 2)
    assert model.get_layer("conv3_block1_2_conv").strides == (1, 1)


def test_features_of_any_size_share_weights():
    model = ResNet("resnet18")
    pyramid = features(model, ("C1", "C2", "C3", "C4", "C5"))
    outputs = pyramid(np.zeros((1, 97, 161, 3), "float32"))
    shapes = {level: tuple(x.shape) for level, x in outputs.items()}
    assert shapes == {
        "C1": (1, 49, 81, 64), "C2": (1, 25, 41, 64), "C3": (1, 13, 21, 128),
        "C4": (1, 7, 11, 256), "C5": (1, 4, 6, 512),
    }  # fmt: skip
    assert pyramid.get_layer("conv1_conv") is model.get_layer("conv1_conv")
    with pytest.raises(ValueError, match="C6"):
        features(model, ("C6",))
    with pytest.raises(ValueError, match=r"Received: levels=\(\)"):
        features(model, ())


# Channels of P2..P5 (He et al. 2015, table 1) where blocks have the widths 8, 16, 32, 64.
PYRAMIDS = {"resnet18": (8, 16, 32, 64), "resnetv1d50": (32, 64, 128, 256)}


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_pyramids_have_strides_and_channels_of_their_levels(name, size):
    pyramid = features(ResNet(few(name), include_top=False, input_shape=(64, 64, 3)))
    assert {level: x.shape for level, x in pyramid.pyramid_outputs.items()} == {
        f"P{n}": (None, None, None, width)
        for n, width in zip(range(2, 6), PYRAMIDS[name], strict=True)
    }
    # As KerasHub builds on an image encoder.
    encoder = keras.Model(pyramid.inputs, pyramid.pyramid_outputs)
    outputs = encoder([np.zeros((2, *size, 3), "float32")])
    assert {level: tuple(x.shape) for level, x in outputs.items()} == {
        f"P{n}": (2, size[0] // 2**n, size[1] // 2**n, width)
        for n, width in zip(range(2, 6), PYRAMIDS[name], strict=True)
    }


def test_a_pyramid_has_the_classifiers_maps():
    model = ResNet(few("resnet50"), input_shape=(64, 96, 3))
    pyramid = features(model, ("C3", "C5"))
    assert list(pyramid.pyramid_outputs) == ["P3", "P5"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype("float32")
    outputs = pyramid(pixels)
    for level, layer in (("C3", "conv3_block1_out"), ("C5", "conv5_block1_out")):
        inside = keras.Model(model.input, model.get_layer(layer).output)
        np.testing.assert_allclose(outputs[level], inside(pixels), rtol=1e-5, atol=1e-6)
        assert pyramid.pyramid_level_inputs[level.replace("C", "P")] == layer


def test_keras_cv_finds_the_levels_by_their_layers():
    pyramid = features(ResNet(few("resnet18"), input_shape=(None, None, 3)))
    levels = pyramid.pyramid_level_inputs
    assert levels == {
        "P2": "conv2_block2_out", "P3": "conv3_block1_out", "P4": "conv4_block1_out",
        "P5": "conv5_block1_out",
    }  # fmt: skip
    # As keras_cv.utils.train.get_feature_extractor does.
    outputs = {level: pyramid.get_layer(name).output for level, name in levels.items()}
    extractor = keras.Model(pyramid.inputs, outputs)
    assert extractor([np.zeros((1, 64, 64, 3), "float32")])["P5"].shape == (1, 2, 2, 64)


@pytest.mark.parametrize("size", [64, None])
def test_a_pyramid_is_saved_and_loaded(tmp_path, size):
    pyramid = features(ResNet(few("resnet18"), input_shape=(size, size, 4)), ("C2", "C4"))
    pyramid.save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 64, 4)).astype("float32")
    for level, truth in pyramid(pixels).items():
        np.testing.assert_array_equal(loaded(pixels)[level], truth)
    assert list(loaded.pyramid_outputs) == ["P2", "P4"]
    assert loaded.pyramid_level_inputs == pyramid.pyramid_level_inputs


def test_a_pyramid_keeps_the_type_of_the_images():
    images = keras.Input((64, 64, 3), dtype="uint8", name="mine")
    pyramid = features(ResNet(few("resnet18"), input_tensor=images))
    assert (pyramid.input.dtype, pyramid.input.name) == ("uint8", "mine")


def test_a_pyramid_of_two_inputs_is_refused():
    both = keras.layers.Add()([keras.Input((64, 64, 3)), keras.Input((64, 64, 3))])
    with pytest.raises(ValueError, match="one input. Received: 2 inputs"):
        features(ResNet(few("resnet18"), input_tensor=both))


def test_a_pyramid_of_the_cifar_networks():
    pyramid = features(ResNet("resnet20_cifar"), ("C2", "C3", "C4"))
    shapes = [x.shape for x in pyramid(np.zeros((1, 32, 24, 3), "float32")).values()]
    assert shapes == [(1, 32, 24, 16), (1, 16, 12, 32), (1, 8, 6, 64)]


@pytest.mark.parametrize(
    ("name", "trainable"),
    [("resnet18", (11176512, 11166976, 11019008, 10493440, 8393728, 0)),
     ("resnet50", (23508032, 23498496, 23282688, 22063104, 14964736, 0))],
)  # fmt: skip
def test_freeze_leaves_what_openmmlab_leaves(name, trainable):
    model = ResNet(name, include_top=False)
    for stages, expected in zip(range(-1, 5), trainable, strict=True):
        freeze(model, stages)
        assert count(model)["params"] == expected
        norms = [layer for layer in model.layers if layer.name.endswith("_bn")]
        assert all(n.trainable == (int(n.name[4]) > stages + 1) for n in norms)
    with pytest.raises(ValueError, match="-1 to 4"):
        freeze(model, 5)


def test_the_builder_alone_has_the_defaults_of_the_public_function():
    ours, theirs = (make(few("resnet18"), input_shape=(64, 64, 3)) for make in (build, ResNet))
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        config = one.get_config()
        assert type(one) is type(other) and config.pop("name") == other.name
        config = {name: value for name, value in config.items() if "initializer" not in name}
        assert config == {name: other.get_config()[name] for name in config}


@pytest.mark.parametrize("norm_eval", [False, True])
def test_frozen_statistics_do_not_move(norm_eval):
    model = ResNet("resnet18_cifar", input_shape=(16, 16, 3))
    freeze(model, 1, norm_eval=norm_eval)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3)).astype("uint8")
    model.train_on_batch(pixels, np.arange(4))
    moved = {path for path, w in before.items() if not np.array_equal(w, _weight(model, path))}
    statistics = {path for path in before if "/moving_" in path}
    frozen = {path for path in before if path.startswith(("conv1_", "conv2_"))}
    assert not moved & frozen
    assert moved & statistics == (set() if norm_eval else statistics - frozen)
    assert "conv3_block1_2_bn/gamma" in moved  # what lies before it waits for it to leave 0


def test_the_last_norm_follows_the_images_without_being_trained():
    model = ResNet("resnet20_cifar", input_shape=(16, 16, 3))
    freeze(model, 3)
    adapt_last_norm(model)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3)).astype("uint8")
    entering = keras.Model(model.input, model.get_layer("conv4_block3_2_bn").input)
    batch = keras.ops.convert_to_numpy(entering(pixels, training=True))
    model.train_on_batch(pixels, np.arange(4))
    moved = {path for path, w in before.items() if not np.array_equal(w, _weight(model, path))}
    statistics = {f"conv4_block3_2_bn/moving_{name}" for name in ("mean", "variance")}
    assert moved == statistics | {"predictions/kernel", "predictions/bias"}
    found = _weight(model, "conv4_block3_2_bn/moving_mean")
    assert np.abs(found - 0.1 * batch.mean((0, 1, 2))).max() < 1e-6  # momentum .9, from 0


def _weight(model, path):
    (found,) = [w for w in model.weights if w.path == path]
    return keras.ops.convert_to_numpy(found)
