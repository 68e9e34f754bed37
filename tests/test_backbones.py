"""Detectors and segmenters of keras-cv and KerasHub on our backbones; saved ones load again."""

import csv
import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from checkpoints import few

from resnet_keras import ResNet, features, freeze

keras_cv = pytest.importorskip("keras_cv")
keras_hub = pytest.importorskip("keras_hub")

# keras-cv gives its networks images, where they were built with a dict of images.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
BOXES = np.array([[[4, 4, 40, 40], [20, 30, 60, 62]], [[8, 2, 30, 50], [-1] * 4]], np.float32)
CLASSES = np.array([[1, 2], [0, -1]], np.float32)

# Loads a model where only this package and NumPy are imported, and predicts.
RELOAD = """
import sys
import numpy as np
import resnet_keras
assert "keras" not in sys.modules
import keras
model = keras.saving.load_model(sys.argv[1], compile=False)
outputs = model(np.load(sys.argv[2]), training=False)
outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
np.savez(sys.argv[3], **{name: keras.ops.convert_to_numpy(x) for name, x in outputs.items()})
"""


def pyramid(name, levels=("C3", "C4", "C5"), size=64, **arguments):
    model = ResNet(name, include_top=False, input_shape=(size, size, 3), **arguments)
    freeze(model, 0, norm_eval=True)
    return features(model, levels, any_size=False)


def cv_detector(name):
    return keras_cv.models.RetinaNet(
        backbone=pyramid(name), num_classes=3, bounding_box_format="xyxy"
    )


def cv_segmenter(name):
    head = keras.Sequential(
        [keras.layers.Conv2D(4, 3, padding="same"), keras.layers.UpSampling2D(2)]
    )
    return keras_cv.models.DeepLabV3Plus(
        pyramid(name, {"P2": "C1", "P5": "C5"}, output_stride=16), num_classes=4,
        spatial_pyramid_pooling=keras_cv.layers.SpatialPyramidPooling([1, 2], num_channels=8),
        segmentation_head=head,
    )  # fmt: skip


def hub_detector(name):
    backbone = keras_hub.models.RetinaNetBackbone(
        pyramid(name), min_level=3, max_level=7, use_p5=False, image_shape=(64, 64, 3)
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone, num_classes=3, bounding_box_format="xyxy", pre_logits_num_conv_layers=1
    )


def hub_segmenter(name):
    backbone = keras_hub.models.DeepLabV3Backbone(
        pyramid(name, ("C2", "C5")), "P5", upsampling_size=8, dilation_rates=[1, 2],
        low_level_feature_key="P2", image_shape=(64, 64, 3),
    )  # fmt: skip
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=4)


MASKS = np.random.default_rng(1).integers(0, 4, (2, 64, 64))
OF_PIXELS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# How each is made, compiled, and what it learns.
KINDS = {
    "keras-cv RetinaNet": (
        cv_detector,
        {"classification_loss": "focal", "box_loss": "smoothl1", "optimizer": "sgd"},
        {"boxes": BOXES, "classes": CLASSES},
    ),
    "keras-cv DeepLabV3Plus": (cv_segmenter, {"optimizer": "sgd", "loss": OF_PIXELS}, MASKS),
    "KerasHub RetinaNet": (
        hub_detector, {"optimizer": "sgd"}, {"boxes": BOXES, "labels": CLASSES},
    ),
    "KerasHub DeepLabV3": (
        hub_segmenter,
        # By default KerasHub measures the accuracy of one-hot targets.
        {"optimizer": "sgd", "loss": OF_PIXELS, "metrics": ["sparse_categorical_accuracy"]},
        MASKS,
    ),
}  # fmt: skip
NAMES = ("resnet18", "resnet50", "resnetv1d50")


def values(outputs):
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    return {name: keras.ops.convert_to_numpy(x) for name, x in outputs.items()}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, name, marks=pytest.mark.slow)
        for kind in KINDS
        for name in ("few resnet18", *NAMES)
    ],
)
def test_forward_a_step_of_training_and_a_file(kind, name, tmp_path, run_python):
    make, compiled, targets = KINDS[kind]
    keras.utils.set_random_seed(0)
    model = make(few("resnet18") if name.startswith("few") else name)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.weights}
    model.compile(**compiled)
    history = model.fit(PIXELS, targets, batch_size=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    moved = {w.path for w in model.weights if not np.array_equal(before[w.path], w)}
    stem = {path for path in before if "conv1" in path}
    statistics = {path for path in before if "/moving_" in path and "conv" in path.split("/")[-2]}
    assert stem and statistics and not moved & (stem | statistics)  # frozen, and `norm_eval`
    assert any("conv5_block" in path for path in moved)

    model.save(tmp_path / "x.keras")
    np.save(tmp_path / "pixels.npy", PIXELS)
    done = run_python("-c", RELOAD, tmp_path / "x.keras", tmp_path / "pixels.npy",
                      tmp_path / "outputs.npz")  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = values(model(PIXELS, training=False))
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert set(outputs) == set(expected)
        for output, truth in expected.items():
            assert np.abs(outputs[output] - truth).max() <= 1e-6 * max(1, np.abs(truth).max())


@pytest.mark.slow  # a detector on one is loaded above
def test_a_pyramid_loads_where_the_package_alone_is_imported(tmp_path, run_python):
    model = pyramid(few("resnet18"))
    model.save(tmp_path / "x.keras")
    np.save(tmp_path / "pixels.npy", PIXELS)
    done = run_python("-c", RELOAD, tmp_path / "x.keras", tmp_path / "pixels.npy",
                      tmp_path / "outputs.npz")  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "outputs.npz") as outputs:
        for level, truth in values(model(PIXELS)).items():
            np.testing.assert_allclose(outputs[level], truth, atol=1e-6)
    # In the other order, and without the package.
    code = "import keras, resnet_keras, sys; keras.saving.load_model(sys.argv[1])"
    assert run_python("-c", code, tmp_path / "x.keras").returncode == 0
    code = code.replace(", resnet_keras", "")
    assert "FeaturePyramid" in run_python("-c", code, tmp_path / "x.keras").stderr


# What is imported right behind Keras needs the first of these.
FIRST = ("resnet_keras.internals.keras", "resnet_keras.models.stages", "resnet_keras.models",
         "resnet_keras.zoo", "keras")  # fmt: skip


@pytest.mark.parametrize(
    "first", [FIRST[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FIRST[1:])]
)
def test_any_module_may_be_the_first_to_import_keras(first, run_python):
    code = (
        f"import resnet_keras, {first}, keras, sys; from resnet_keras.models import FeaturePyramid;"
        "name = 'resnet_keras>FeaturePyramid';"
        "assert keras.saving.get_registered_object(name) is FeaturePyramid;"
        "assert keras.__spec__.loader is keras.__loader__;"
        "assert 'registration' not in str(sys.meta_path + [keras.__loader__])"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_importing_keras_alone_is_no_concern_of_ours(run_python):
    code = (
        "import importlib.util, sys, resnet_keras; importlib.util.find_spec('keras');"
        "assert 'keras' not in sys.modules; import keras;"  # looked for before it was imported
        "assert keras.saving.get_registered_object('resnet_keras>FeaturePyramid')"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_levels_under_other_names():
    model = pyramid(few("resnet18"), {"P2": "C1", "P5": "C5"}, output_stride=16)
    assert model.pyramid_level_inputs == {"P2": "conv1_relu", "P5": "conv5_block1_out"}
    shapes = {level: tuple(x.shape) for level, x in model.pyramid_outputs.items()}
    # Eight times the resolution of P5.
    assert shapes == {"P2": (None, 32, 32, 8), "P5": (None, 4, 4, 64)}
    with pytest.raises(ValueError, match=r"C1, C2, C3, C4, C5. Received: levels=\{'P2': 'C7'\}"):
        features(ResNet(few("resnet18")), {"P2": "C7"})


@pytest.mark.parametrize(("stride", "sides"), [(32, (8, 4, 2)), (16, (8, 4, 4)), (8, (8, 8, 8))])
def test_a_pyramid_has_the_output_stride_of_its_model(stride, sides):
    model = pyramid(few("resnet50"), output_stride=stride)
    assert tuple(x.shape[1] for x in model(PIXELS).values()) == sides
    with_copy = keras.models.clone_model(model)
    assert type(with_copy) is type(model)
    assert with_copy.pyramid_level_inputs == model.pyramid_level_inputs
    with_copy.set_weights(model.get_weights())
    for level, truth in values(model(PIXELS)).items():
        np.testing.assert_array_equal(values(with_copy(PIXELS))[level], truth)


def test_a_loaded_pyramid_is_frozen_as_a_model_is(tmp_path):
    features(ResNet(few("resnet18"), include_top=False)).save(tmp_path / "x.keras")
    loaded = keras.saving.load_model(tmp_path / "x.keras")
    freeze(loaded, 1, norm_eval=True)
    trainable = {w.path for w in loaded.trainable_weights}
    assert not [path for path in trainable if path.startswith(("conv1", "conv2"))]
    assert {"conv3_block1_1_conv/kernel", "conv3_block1_1_bn/gamma"} <= trainable
    before = [keras.ops.convert_to_numpy(w) for w in loaded.non_trainable_weights]
    loaded(PIXELS, training=True)
    for old, weight in zip(before, loaded.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_kerashubs_own_tests_of_a_backbone(name):
    from keras_hub.src.tests.test_case import TestCase

    case = TestCase()
    case.setUp()
    arguments = {
        "image_encoder": pyramid(name), "min_level": 3, "max_level": 7, "use_p5": False,
        "image_shape": (64, 64, 3),
    }  # fmt: skip
    case.run_backbone_test(
        cls=keras_hub.models.RetinaNetBackbone, init_kwargs=arguments, input_data=PIXELS,
        expected_output_shape={f"P{n}": (2, max(1, 64 >> n), max(1, 64 >> n), 256)
                               for n in range(3, 8)},
        run_mixed_precision_check=False, run_quantization_check=False,
    )  # fmt: skip


# The recipes' networks.


def test_every_digit_has_its_anchors_and_boxes_come_back():
    """What the label encoder asks for, given as the answer, decodes to the boxes it began with."""
    from resnet_keras.vision.detection import Detection, DetectionRecipe, coco_map, detect
    from resnet_keras.vision.scenes import digit_scene

    task = Detection(DetectionRecipe(head_layers=1))
    model = task.build(training=False)
    scenes = [digit_scene("test", n) for n in range(20)]
    images, boxes = zip(*map(task.example, scenes), strict=True)
    images = np.stack(images)
    offsets, classes = model.label_encoder(
        images.astype("float32"), {k: np.stack([of[k] for of in boxes]) for k in boxes[0]}
    )
    scores = 20 * keras.ops.one_hot(keras.ops.cast(classes, "int32"), 10) - 10
    found = detect(Answering(model, {"box": offsets, "classification": scores}), images)
    for scene, one in zip(scenes, found, strict=True):
        assert len(one.boxes) == len(scene.boxes)
        order = [int(np.abs(one.boxes - box).sum(1).argmin()) for box in scene.boxes]
        np.testing.assert_allclose(one.boxes[order], scene.boxes, atol=1e-2)
        assert one.classes[order].tolist() == scene.classes.tolist()
    assert coco_map(scenes, found)["coco_map"] == pytest.approx(1.0)


class Answering:
    """A detector that gives what it is told to."""

    def __init__(self, model, answer):
        self.answer = answer
        self.decode_predictions = model.decode_predictions

    def __call__(self, images, training):
        return self.answer


TINY = {"crops": 0, "batch_size": 2, "epochs": 2, "epoch_scenes": 6, "test_scenes": 3,
        "precision": "float32", "deterministic": True, "warmup_steps": 1}  # fmt: skip


def tasks():
    from resnet_keras.vision.detection import Detection, DetectionRecipe
    from resnet_keras.vision.segmentation import Segmentation, SegmentationRecipe

    return {
        "detect": Detection(DetectionRecipe(head_layers=1, **TINY)),
        "segment": Segmentation(SegmentationRecipe(head_filters=8, **TINY)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detect", "segment"])
def test_a_recipe_trains_exports_and_loads_again(name, tmp_path, run_python):
    from resnet_keras.vision.exports import export_dense
    from resnet_keras.vision.training import test_scenes, train

    task = tasks()[name]
    recipe = dataclasses.replace(
        task.recipe, run_dir=tmp_path / "run", crops=60, crop_epochs=1, size=64
    )
    task = type(task)(recipe)
    run = train(task)
    results = json.loads((run / "results.json").read_text())
    assert all(0 <= results[measure] <= 1 for measure in task.MEASURES)
    assert (run / "crops" / "run" / "model.keras").exists()
    logs = (part / "log.csv" for part in (run, run / "crops" / "run"))
    rows = [row for path in logs for row in csv.DictReader(path.read_text().splitlines())]
    seconds = sum(float(row["seconds"]) for row in rows)
    assert results["train_seconds"] == pytest.approx(seconds, abs=0.15)
    for report in export_dense(task, run):
        assert report["max_difference"] < 1e-4 and report["examples"] == 3 and report["kept"]
    page = (run / "report.html").read_text()
    assert "model.tflite" in page and "model.onnx" in page and page.count("image/png") == 3

    images = np.stack([scene.image for scene in test_scenes(task)]).astype("float32")
    np.save(tmp_path / "pixels.npy", images)
    done = run_python("-c", RELOAD, run / "model.keras", tmp_path / "pixels.npy",
                      tmp_path / "outputs.npz")  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = keras.saving.load_model(run / "model.keras", compile=False)
    with np.load(tmp_path / "outputs.npz") as outputs:
        for output, truth in values(model(images)).items():
            np.testing.assert_allclose(outputs[output], truth, rtol=0, atol=1e-6)


WITH_TESTS = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])

KILLED = """
import dataclasses, os, runpy, signal, sys
from resnet_keras.training import watch
from resnet_keras.vision import training
task = runpy.run_path("tests/test_backbones.py")["tasks"]()[sys.argv[1]]
task = type(task)(dataclasses.replace(task.recipe, run_dir=sys.argv[2], backup_every="1"))
class Killing(watch.Backups):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self.position.step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
watch.Backups = Killing
training.train(task)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detect", "segment"])
def test_a_killed_recipe_ends_bit_for_bit_as_an_unbroken_one(name, tmp_path, run_python):
    from runs import end

    done = run_python("-c", KILLED, name, tmp_path / "whole", "-1", PYTHONPATH=WITH_TESTS)
    assert done.returncode == 0, done.stderr
    for step, code in (("2", -9), ("4", -9), ("-1", 0)):
        done = run_python("-c", KILLED, name, tmp_path / "cut", step, PYTHONPATH=WITH_TESTS)
        assert done.returncode == code, done.stderr
    assert "resuming at step 4" in done.stderr
    assert end(tmp_path / "cut") == end(tmp_path / "whole")
    measured = [
        json.loads((tmp_path / run / "results.json").read_text()) for run in ("cut", "whole")
    ]
    for measure in tasks()[name].MEASURES:
        assert measured[0][measure] == measured[1][measure]
