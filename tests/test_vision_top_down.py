"""Key points of digits: their crops, and the recipe that finds them."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from runs import end

from resnet_keras.errors import InputError
from resnet_keras.model_files import read_metadata
from resnet_keras.vision.keypoints import encode
from resnet_keras.vision.scenes import Scene, digit_scene
from resnet_keras.vision.top_down import (
    POINTS,
    KeypointRecipe,
    TopDown,
    corners_and_centres,
    crops,
    crops_of,
    export_heatmaps,
)
from resnet_keras.vision.training import train

SMALL = KeypointRecipe(
    crops=0, freeze=-1, norm_eval=False, head_filters=(16, 16, 16), size=64, batch_size=4,
    epochs=2, epoch_scenes=8, learning_rate=1e-3, test_scenes=3, precision="float32",
    deterministic=True, backup_every="1",
)  # fmt: skip


def test_corners_and_centres_by_hand():
    assert corners_and_centres(np.array([(10, 20, 16, 44)])).tolist() == [
        [[10, 20, 1], [16, 20, 1], [10, 44, 1], [16, 44, 1], [13, 32, 1]]
    ]
    assert POINTS == ("upper left", "upper right", "lower left", "lower right", "centre")


def test_the_key_points_of_a_crop_lie_where_it_shows_them():
    """A white box on black: its ends in the crop are where the crop's key points say."""
    for n in range(20):
        box = np.array([20 + n, 30, 50 + n, 75 - n], np.float32)
        image = np.zeros((128, 128, 3), np.uint8)
        image[30 : 75 - n, 20 + n : 50 + n] = 255
        scene = Scene(image, box[None], np.array([0]), np.zeros((128, 128), np.uint8))
        (crop,) = crops(scene, 64)
        y, x = np.nonzero(crop.image[..., 0] > 127)
        # The box covers from half a pixel before its first to half a pixel behind its last one.
        seen = [(x.min() - 0.5, y.min() - 0.5), (x.max() + 0.5, y.max() + 0.5)]
        assert np.abs(crop.keypoints[[0, 3], :2] - seen).max() < 0.75
        np.testing.assert_allclose(
            crop.in_scene(crop.keypoints[:, :2]), corners_and_centres(box[None])[0, :, :2],
            atol=1e-4,
        )  # fmt: skip


def test_crops_hold_their_digit_somewhere():
    places = []
    for n in range(60):
        scene = digit_scene("train", n)
        found = crops(scene, 64)
        assert len(found) == len(scene.boxes)
        for crop in found:
            assert crop.image.shape == (64, 64, 3) and crop.image.dtype == np.uint8
            # Columns and rows 1 to 14 of 16, the nearest cells: those beyond are not moved.
            assert crop.keypoints[:, :2].min() >= 2 and crop.keypoints[:, :2].max() < 58
            places.append(crop.keypoints[4, :2])
    spread = np.ptp(places, axis=0)
    # Shifts of a tenth of the box to each side, of a crop of 1.5 to 1.875 boxes.
    assert np.all(spread > 6) and np.all(spread < 2 * 0.1 * 64 / 1.5)


def test_a_scene_always_gives_the_same_crops():
    one, other = (crops(digit_scene("train", 5), 64) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.keypoints, b.keypoints)
    image, keypoints = TopDown(SMALL).example(digit_scene("train", 5))
    np.testing.assert_array_equal(image, one[0].image)
    np.testing.assert_array_equal(keypoints, one[0].keypoints)
    split = crops_of("train", 6, 64)
    assert split.examples == sum(len(digit_scene("train", n).boxes) for n in range(6))
    np.testing.assert_array_equal(split.arrays[0][-1], crops(digit_scene("train", 5), 64)[-1].image)


class Perfect:
    """A network that knows the key points of some crops, moved by a number of pixels."""

    def __init__(self, scenes, moved=0.0):
        every = [crop for scene in scenes for crop in crops(scene, 64)]
        self.images = np.stack([crop.image for crop in every])
        self.points = np.stack([crop.keypoints for crop in every]) + [moved, 0, 0]

    def predict(self, images, **options):
        np.testing.assert_array_equal(images, self.images)
        return keras.ops.convert_to_numpy(encode(self.points, (64, 64), (64, 64), 1.0)[0])


def test_all_digits_of_all_scenes_are_measured():
    scenes = [digit_scene("test", n) for n in range(5)]
    results, figures = TopDown(SMALL).test(Perfect(scenes), scenes)
    assert results["pck"] == 1 and results["oks"] > 0.9
    assert results["digits"] == sum(len(scene.boxes) for scene in scenes)
    assert [results[f"pck {name}"] for name in POINTS] == [1] * 5
    assert len(figures) == 5 and figures[0].image.shape == (128, 128, 3)
    # A pixel of a crop is 1.5 to 1.875 / 64 of the box: 2 are near enough, 9 are 21 % or more.
    assert TopDown(SMALL).test(Perfect(scenes, 2), scenes)[0]["pck"] == 1
    results, _ = TopDown(SMALL).test(Perfect(scenes, -9), scenes)
    assert results["pck"] == 0 and results["oks"] < 0.1


def test_the_size_of_crops_suits_the_network():
    with pytest.raises(InputError, match="`crop_size` must be a multiple of 32.*crop_size=80"):
        KeypointRecipe(crop_size=80)


def test_the_network():
    task = TopDown(dataclasses.replace(SMALL, size=128, freeze=1))
    for training in (True, False):
        model = task.build(training=training)
        assert model.input_shape == (None, 64, 64, 3) and model.output_shape == (None, 16, 16, 5)
        assert not model.get_layer("conv2_block2_2_conv").trainable
        assert model.get_layer("deconv1_bn").trainable


def recipe(run_dir, *flags, **options):
    command = [sys.executable, "recipes/keypoints_digits.py", "--run-dir", str(run_dir), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000, **options)
    assert done.returncode == 0, done.stderr
    return json.loads((run_dir / "results.json").read_text()), done


@pytest.mark.slow
def test_a_run_that_was_killed_is_resumed_exactly(tmp_path, monkeypatch):
    runs = []
    for name in ("unbroken", "killed"):
        task = TopDown(dataclasses.replace(SMALL, run_dir=tmp_path / name))
        if name == "killed":
            lines = (
                "import dataclasses, os, signal, test_vision_top_down as t\n"
                "class Killed(t.TopDown):\n"
                "    made = 0\n"
                "    def example(self, scene):\n"
                "        type(self).made += 1\n"
                "        if self.made == 14:\n"  # two of compiling, twelve of three steps
                "            os.kill(os.getpid(), signal.SIGKILL)\n"
                "        return super().example(scene)\n"
                f"t.train(Killed(dataclasses.replace(t.SMALL, run_dir={str(tmp_path / name)!r})))\n"
            )
            environment = {"PYTHONPATH": "tests:."}
            done = subprocess.run(
                [sys.executable, "-c", lines], env={**os.environ, **environment},
                capture_output=True, text=True, timeout=600,
            )  # fmt: skip
            assert done.returncode == -9, done.stderr
        runs.append(train(task))
    assert end(runs[0]) == end(runs[1])


RELOADED = """
import sys, keras, numpy as np
model = keras.saving.load_model(sys.argv[1], compile=False)
assert not any(name.startswith("resnet_keras") for name in sys.modules)
images = np.load(sys.argv[2])["images"]
np.savez(sys.argv[3], heatmaps=model.predict(images, verbose=0))
"""


@pytest.mark.slow
def test_the_recipe(tmp_path):
    """Seed 0, the last epoch, 200 unseen scenes; its int8 file; reloaded in another process."""
    run = tmp_path / "run"
    results, done = recipe(run)
    assert results["scenes"] == 200 and results["pck"] >= 0.95
    page = (run / "report.html").read_text()
    assert f"{results['pck']:.3f}" in page and page.count("data:image/png") >= 24
    assert read_metadata(run / "model.tflite").labels == POINTS
    images = crops_of("test", 20, 64).arrays[0]
    np.savez(tmp_path / "images.npz", images=images)
    paths = [run / "model.keras", tmp_path / "images.npz", tmp_path / "heatmaps.npz"]
    subprocess.run([sys.executable, "-c", RELOADED, *map(str, paths)], check=True, cwd=tmp_path)
    model = keras.saving.load_model(run / "model.keras", compile=False)
    here = model.predict(images, verbose=0)
    there = np.load(tmp_path / "heatmaps.npz")["heatmaps"]
    np.testing.assert_allclose(there, here, atol=1e-6)
    task = TopDown(KeypointRecipe(run_dir=run))
    report = export_heatmaps(task, run, "again.tflite", quantize="int8")
    assert report["keypoints_within_half_a_cell"] == 1
    for name in ("model.onnx", "float.tflite"):
        report = export_heatmaps(task, run, name)
        assert report["max_difference"] < 1e-5
