"""What JSON files of repositories say about preprocessing."""

import pytest

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights.names.facts import preprocessing_of

# huggingface.co/timm/resnet50.a1_in1k, config.json, shortened.
TIMM = {
    "architecture": "resnet50",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.95,
        "test_crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
}  # fmt: skip
# huggingface.co/microsoft/resnet-50, preprocessor_config.json, shortened.
TRANSFORMERS = {
    "crop_pct": 0.875, "do_normalize": True, "do_resize": True,
    "feature_extractor_type": "ConvNextFeatureExtractor", "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
}  # fmt: skip
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def test_timms_configuration():
    found = preprocessing_of({"config.json": TIMM}, "x")
    assert found == Preprocessing((224, 224), 235, "bicubic", True, MEAN, STD)  # floor(235.8)


def test_timms_halves():
    config = {**TIMM["pretrained_cfg"], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9}
    found = preprocessing_of({"config.json": {"pretrained_cfg": config}}, "x")
    assert found.mean == found.std == (127.5,) * 3 and found.resize == 248


@pytest.mark.parametrize("size", [224, {"shortest_edge": 224}, {"height": 224, "width": 224}])
def test_transformers_configuration(size):
    facts = {"preprocessor_config.json": {**TRANSFORMERS, "size": size}, "config.json": {}}
    assert preprocessing_of(facts, "x") == Preprocessing(
        (224, 224), 256, "bicubic", True, MEAN, STD
    )


def test_transformers_large_images_are_not_cropped():
    facts = {"preprocessor_config.json": {**TRANSFORMERS, "size": 384}}
    assert preprocessing_of(facts, "x").resize == 384


def test_keras_hubs_scale_and_offset():
    scale = [1 / s for s in STD]
    converter = {
        "image_size": [224, 224], "scale": scale,
        "offset": [-m * s for m, s in zip(MEAN, scale, strict=True)],
    }  # fmt: skip
    facts = {"preprocessor.json": {"config": {"image_converter": {"config": converter}}}}
    found = preprocessing_of(facts, "x")
    assert found.mean == pytest.approx(MEAN) and found.std == pytest.approx(STD)
    assert found.size == (224, 224) and found.resize is None


def test_nothing_said_is_nothing():
    assert preprocessing_of({}, "x") is None
    assert preprocessing_of({"config.json": {"architecture": "resnet50"}}, "x") is None
    assert preprocessing_of({"preprocessor.json": {"config": {}}}, "x") is None


@pytest.mark.parametrize(
    "change", [{"interpolation": "lanczos"}, {"input_size": [1, 224, 224]}, {"crop_pct": 0},
               {"mean": None}, {"crop_mode": "border"}],
)  # fmt: skip
def test_what_is_not_known_is_refused(change):
    config = {**TIMM["pretrained_cfg"], **change}
    with pytest.raises(InputError, match="x describes a preprocessing|`interpolation` must be"):
        preprocessing_of({"config.json": {"pretrained_cfg": config}}, "x")
