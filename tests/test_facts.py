"""What JSON files of repositories say about preprocessing."""

import pytest

from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights.names.facts import preprocessing_of, told_by_facts

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


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [({"do_normalize": False}, (0, 0, 0), (255, 255, 255)),  # of pixels by 255
     ({"do_rescale": False}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
     ({"do_rescale": False, "do_normalize": False}, (0, 0, 0), (1, 1, 1)),
     ({"rescale_factor": 1 / 127.5}, (61.8375, 58.14, 51.765), (29.1975, 28.56, 28.6875)),
     ({"rescale_factor": 0.00392156862745098}, MEAN, STD)],
)  # fmt: skip
def test_transformers_pixels(change, mean, std):
    found = preprocessing_of({"preprocessor_config.json": {**TRANSFORMERS, **change}}, "x")
    assert found.mean == pytest.approx(mean) and found.std == pytest.approx(std)


@pytest.mark.parametrize(
    ("change", "size", "resize"),
    [({"image_processor_type": "ViTImageProcessor", "size": {"height": 192, "width": 224}},
      (192, 224), None),
     ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256},
       "crop_size": {"height": 224, "width": 208}}, (224, 208), 256),
     ({"size": 256, "crop_size": 224}, (224, 224), 256),
     ({"size": 224, "crop_size": 224, "do_center_crop": False}, (224, 224), 256)],
)  # fmt: skip
def test_transformers_sizes(change, size, resize):
    found = preprocessing_of({"preprocessor_config.json": {**TRANSFORMERS, **change}}, "x")
    assert (found.size, found.resize) == (size, resize)
    with pytest.raises(InputError, match="do_resize=False"):
        preprocessing_of({"preprocessor_config.json": {**TRANSFORMERS, "do_resize": False}}, "x")


@pytest.mark.parametrize(
    ("change", "refused"),
    [({"model_args": {"global_pool": "max"}}, "global_pool='max'"),
     ({"global_pool": "avgmax"}, "global_pool='avgmax'"),
     ({"model_args": {"act_layer": "silu"}}, "act_layer='silu'"),
     ({"model_args": {"output_stride": 4}}, "output_stride=4"),
     ({"model_args": {"num_classes": 7, "drop_rate": 0.1, "global_pool": "avg"}}, None),
     ({"global_pool": "avg", "model_args": None}, None), ({"global_pool": ""}, None)],
)  # fmt: skip
def test_arguments_of_timms_networks(change, refused):
    """As `timm.models._hub.save_for_hf` writes them."""
    facts = {"config.json": {**TIMM, **change}}
    if refused is None:
        assert told_by_facts(facts, "x") == told_by_facts({"config.json": TIMM}, "x")
        return
    with pytest.raises(InputError, match=f"^x is of a network .* timm's with {refused}"):
        told_by_facts(facts, "x")


def test_timms_output_stride_is_torchvisions_dilation():
    for stride, dilation in ((8, "torchvision"), (16, "torchvision"), (32, None)):
        config = {**TIMM, "model_args": {"output_stride": stride}}
        told = told_by_facts({"config.json": config}, "x")
        assert (told.output_stride, told.dilation) == (dilation and stride, dilation)


def test_images_of_one_channel_have_no_numbers_for_three():
    config = {**TIMM["pretrained_cfg"], "input_size": [1, 224, 224]}
    told = told_by_facts({"config.json": {**TIMM, "pretrained_cfg": config}}, "x")
    assert told.preprocessing is None and told.mean is None and told.whole


@pytest.mark.parametrize(
    ("arch", "refused"),
    [("resnetaa50", True), ("resnetblur18", True), ("resnet50_gn", True), ("resnetrs50", True),
     ("resnet50", False), ("resnet50d", False), ("ResNet", False), ("mine", False)],
)  # fmt: skip
def test_the_network_that_a_training_script_names(arch, refused):
    if not refused:
        assert told_by_facts({"arch": arch}, "x") == told_by_facts({}, "x")
        return
    with pytest.raises(InputError, match=f"^x is of timm's {arch}.*Received: arch='{arch}'"):
        told_by_facts({"arch": arch}, "x")


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
    "change", [{"interpolation": "lanczos"}, {"input_size": [1, 224]}, {"crop_pct": 0},
               {"mean": None}, {"crop_mode": "border"}],
)  # fmt: skip
def test_what_is_not_known_is_refused(change):
    config = {**TIMM["pretrained_cfg"], **change}
    with pytest.raises(InputError, match="x describes a preprocessing|`interpolation` must be"):
        preprocessing_of({"config.json": {"pretrained_cfg": config}}, "x")


def test_what_a_file_leaves_out_is_the_default_of_its_library():
    """timm: a crop of 0.875 at the centre; transformers: likewise, bicubic; KerasHub: bilinear."""
    config = {k: v for k, v in TIMM["pretrained_cfg"].items() if not k.startswith("crop")}
    found = preprocessing_of({"config.json": {"pretrained_cfg": config}}, "x")
    assert found == Preprocessing((224, 224), 256, "bicubic", True, MEAN, STD)
    config = {k: v for k, v in TRANSFORMERS.items() if k not in ("crop_pct", "resample")}
    found = preprocessing_of({"preprocessor_config.json": config}, "x")
    assert found == Preprocessing((224, 224), 256, "bicubic", True, MEAN, STD)
    converter = {"image_size": [160, 192], "scale": 1 / 127.5, "offset": -1}
    facts = {"preprocessor.json": {"image_converter": {"config": converter}}}
    found = preprocessing_of(facts, "x")
    assert (found.size, found.interpolation, found.antialias) == ((160, 192), "bilinear", False)
    assert found.mean == found.std == pytest.approx((127.5,) * 3)
    converter |= {"interpolation": "bicubic", "antialias": True}
    found = preprocessing_of(facts, "x")
    assert (found.interpolation, found.antialias) == ("bicubic", True)


def test_heights_and_widths_keep_their_places():
    config = {**TIMM["pretrained_cfg"], "input_size": [3, 160, 240], "crop_pct": 0.8}
    found = preprocessing_of({"config.json": {"pretrained_cfg": config}}, "x")
    assert (found.size, found.resize) == ((160, 240), 200)  # of the short edge
    for edge, resize in ((383, 437), (384, 384)):  # int(383 / 0.875) = 437
        facts = {"preprocessor_config.json": {**TRANSFORMERS, "size": edge, "resample": 2}}
        found = preprocessing_of(facts, "x")
        assert (found.resize, found.interpolation) == (resize, "bilinear")


def test_labels_are_those_of_every_class_or_none():
    names = {"0": "tench", "1": "goldfish"}
    told = told_by_facts({"config.json": {"id2label": names, "model_type": "resnet"}}, "x")
    assert told.labels == ("tench", "goldfish") and told.whole and told.mean is None
    for odd in ({"0": "tench", "2": "shark"}, {"0": "tench", "1": 5}, ["tench"]):
        told = told_by_facts({"config.json": {"id2label": odd, "model_type": "vit"}}, "x")
        assert told.labels == () and not told.whole
    told = told_by_facts({"config.json": TIMM}, "x")
    assert told.whole and told.bgr is False and told.mean == MEAN and told.std == STD
    assert told_by_facts({}, "x").bgr is None
