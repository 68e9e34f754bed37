"""Tasks on scenes: their recipes, their run folders, and what they are measured by."""

import dataclasses
import json
import os
import re
import shutil
import signal

import keras
import numpy as np
import pytest
from PIL import Image
from runs import end, log

from resnet_keras.errors import InputError
from resnet_keras.vision.backbones import crop, crop_margins, crop_seconds, write_crops
from resnet_keras.vision.detection import DetectionRecipe, Found, coco_map
from resnet_keras.vision.recipe import SceneRecipe
from resnet_keras.vision.scenes import Scene, digit_scene
from resnet_keras.vision.segmentation import SegmentationRecipe, confusion, mean_iou
from resnet_keras.vision.task import Figure, Task
from resnet_keras.vision.training import show_exports, train

# Recipes.

ROW = DetectionRecipe(learning_rate=0.1, warmup_steps=4, epochs=2, epoch_scenes=50, batch_size=8)


def test_the_learning_rate_rises_then_falls_along_half_a_cosine():
    assert (ROW.steps_per_epoch, ROW.total_steps) == (7, 14)
    rates = [ROW.learning_rate_at(step) for step in range(14)]
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert rates[9] == pytest.approx(0.05)  # half of the ten steps of the fall
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[13] < 0.01


@pytest.mark.parametrize(
    "change",
    [{"freeze": 5}, {"size": 100}, {"size": 32}, {"warmup_steps": 15}, {"backup_every": "often"},
     {"epochs": 0}, {"nms_iou": 1.0}, {"model": "resnet5"}, {"seed": -1}, {"batch_size": 1.5},
     {"crop_margins": (2.0, 1.0)}, {"crop_margins": (2.0,)}, {"crop_margins": (0.5, 1.0)}],
)  # fmt: skip
def test_impossible_recipes_are_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(
        InputError, match=f"`{name}` must .*Received: {name}={re.escape(repr(value))}"
    ):
        dataclasses.replace(ROW, **change)


def test_a_run_belongs_to_one_recipe_of_one_task():
    same = dataclasses.replace(ROW, run_dir="elsewhere", verbose=False, backup_every="5")
    assert same.conflict(ROW.to_json()) is None
    assert dataclasses.replace(ROW, seed=1).conflict(ROW.to_json()) == "seed"
    assert dataclasses.replace(ROW, epochs=3).conflict(ROW.to_json()) == "epochs"
    assert SegmentationRecipe().conflict(DetectionRecipe().to_json()) == "task"
    assert DetectionRecipe().conflict({"model": "resnet18", "dataset": "digits"}) == "task"


@pytest.mark.parametrize(
    "name",
    [
        "detect_digits",
        pytest.param("segment_digits", marks=pytest.mark.slow),
        pytest.param("keypoints_digits", marks=pytest.mark.slow),
    ],
)
def test_a_recipe_has_a_command_line(run_python, name, tmp_path):
    done = run_python(f"recipes/{name}.py", "--help", COLUMNS="100")
    assert done.returncode == 0 and f"python recipes/{name}.py" in done.stdout, done.stderr
    for flag in ("--seed", "--epochs", "--run-dir", "--freeze", "--dry-run"):
        assert flag in done.stdout
    done = run_python(f"recipes/{name}.py", "--dry-run", "--epochs", "3", "--seed", "7")
    printed = json.loads(done.stdout)
    per_epoch = {"keypoints_digits": 32, "segment_digits": 128}.get(name, 64)
    assert (printed["steps_per_epoch"], printed["total_steps"]) == (per_epoch, 3 * per_epoch)
    assert printed["seed"] == 7 and printed["run_dir"] == f"runs/{name}"


# The harness, on a network of one layer that finds ink.


class InkRecipe(SceneRecipe):
    TASK = "ink"


class Ink(Task[InkRecipe]):
    TITLE = "Ink"
    MEASURES = {"right": "share of pixels that are right"}
    at = None  # the number of examples after which a signal comes
    made = 0

    def build(self, *, training, weights=None):
        images = keras.Input((64, 64, 3))
        x = keras.layers.Rescaling(1 / 255)(images)
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
        x = keras.layers.BatchNormalization(momentum=0.5)(x)
        x = keras.layers.Dropout(0.1)(x)
        return keras.Model(images, keras.layers.Conv2D(1, 1, dtype="float32")(x))

    def compile(self, model, optimizer):
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(optimizer, loss, auto_scale_loss=False)

    def example(self, scene):
        type(self).made += 1
        if self.made == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        return scene.image, (scene.mask > 0)[..., None].astype(np.float32)

    def test(self, model, scenes):
        images = np.stack([scene.image for scene in scenes])
        found = np.asarray(model.predict_on_batch(images))[..., 0] > 0
        right = (found == np.stack([scene.mask > 0 for scene in scenes])).mean()
        return {"right": float(right)}, [Figure(images[0], "<b>the first</b>")]


INK = InkRecipe(
    crops=0, size=64, batch_size=4, epochs=3, epoch_scenes=40, learning_rate=0.05,
    weight_decay=1e-4, clip_norm=1.0, warmup_steps=3, test_scenes=20, precision="float32",
    deterministic=True, backup_every="1",
)  # fmt: skip


@pytest.fixture(scope="module")
def ink_run(tmp_path_factory):
    recipe = dataclasses.replace(INK, run_dir=tmp_path_factory.mktemp("runs") / "ink")
    return Ink(recipe), train(Ink(recipe))


def test_a_task_is_trained_and_reported(ink_run):
    task, run = ink_run
    assert json.loads((run / "recipe.json").read_text()) == task.recipe.to_json()
    rows = log(run)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[2]["loss"]) < float(rows[0]["loss"])
    assert float(rows[0]["learning_rate"]) == pytest.approx(task.recipe.learning_rate_at(9))
    results = json.loads((run / "results.json").read_text())
    assert results["right"] > 0.85 and results["scenes"] == 20
    assert results["precision"] == "float32" and "keras" in results["versions"]
    page = (run / "report.html").read_text()
    assert f"{results['right']:.3f}" in page and "&lt;b&gt;the first" in page
    assert page.count("data:image/png") == 1 and "epoch_scenes" in page
    # What was written is what was trained.
    model = keras.saving.load_model(run / "model.keras")
    kernel = end(run)[1]["model/00000/conv2d/kernel"]
    assert model.get_weights()[0].tobytes() == kernel


def test_the_report_shows_all_that_was_exported(ink_run, tmp_path):
    _, unbroken = ink_run
    run = shutil.copytree(unbroken, tmp_path / "run")
    task, page = Ink(dataclasses.replace(INK, run_dir=run)), run / "report.html"
    # The results are written last: with them a run is finished, and left as it is.
    assert (run / "results.json").stat().st_mtime_ns > page.stat().st_mtime_ns
    before = page.stat()
    show_exports(task, run)
    assert page.stat() == before
    # Killed before an export had its final report, or before the page had it.
    for kept, there in ((False, " (not kept)"), (True, "")):
        (run / "ink.tflite").write_bytes(b"")
        (run / "ink.tflite.report.json").write_text(json.dumps({"kept": kept}))
        show_exports(task, run)
        assert f"<td><code>ink.tflite</code>{there}</td>" in page.read_text()
    page.unlink()
    show_exports(task, run)
    assert "<td><code>ink.tflite</code></td>" in page.read_text()


def test_a_stopped_task_is_resumed_exactly(ink_run, tmp_path, capsys):
    task, unbroken = ink_run
    recipe = dataclasses.replace(task.recipe, run_dir=tmp_path / "run")
    for examples in (20, 70):  # within an epoch, each time
        Ink.made, Ink.at = 0, examples
        with pytest.raises(SystemExit) as stopped:
            train(Ink(recipe))
        assert stopped.value.code == 128 + signal.SIGTERM
    Ink.at = None
    assert train(Ink(recipe)) == tmp_path / "run"
    steps = re.findall(r"resuming at step (\d+)", capsys.readouterr().err)
    assert len(steps) == 2 and 0 < int(steps[0]) < int(steps[1]) < 30
    assert end(tmp_path / "run") == end(unbroken)


def test_a_finished_task_is_left_as_it_is(ink_run, capsys):
    task, run = ink_run
    before = (run / "model.keras").stat().st_mtime_ns
    assert train(task) == run and (run / "model.keras").stat().st_mtime_ns == before
    assert "is finished: share of pixels that are right 0." in capsys.readouterr().out


def test_a_folder_of_another_recipe_is_refused(ink_run, tmp_path):
    task, run = ink_run
    with pytest.raises(InputError, match="another recipe: seed is 0 there, 1 here"):
        train(Ink(dataclasses.replace(task.recipe, seed=1)))
    with pytest.raises(InputError, match="another recipe: task is 'ink' there, 'detection' here"):
        train(Ink(dataclasses.replace(ROW, run_dir=run)))


def test_a_missing_package_is_named(tmp_path):
    class Other(Ink):
        PACKAGES = ("no_such_package",)

    with pytest.raises(InputError, match=r"no_such_package: pip install .*\[vision\]'. Received"):
        train(Other(dataclasses.replace(INK, run_dir=tmp_path)))
    assert not list(tmp_path.iterdir())


# Measures.


def scene(*boxes, classes, size=128):
    blank = np.zeros((size, size), np.uint8)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Scene(np.zeros((size, size, 3), np.uint8), boxes, np.array(classes, np.int64), blank)


def found(*boxes, classes, scores):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Found(boxes, np.array(classes, np.int64), np.array(scores, np.float32))


@pytest.fixture
def pycocotools():
    """COCO's own code, where the extra `vision` is installed."""
    return pytest.importorskip("pycocotools")


TRUTH = [scene((0, 0, 100, 100), classes=[3]), scene((10, 20, 110, 120), classes=[5])]


def test_exact_boxes_have_a_map_of_1(pycocotools):
    exact = [found(s.boxes, classes=s.classes, scores=[0.9]) for s in TRUTH]
    whole = pytest.approx(1.0)
    assert coco_map(TRUTH, exact) == {n: whole for n in ("coco_map", "coco_map50", "coco_map75")}


def test_shifted_boxes_count_up_to_their_iou(pycocotools):
    # 77 of 123 columns are shared: an IoU of .626, which three of the ten thresholds allow.
    shifted = [found(s.boxes + (23, 0, 23, 0), classes=s.classes, scores=[0.9]) for s in TRUTH]
    measured = coco_map(TRUTH, shifted)
    assert measured["coco_map"] == pytest.approx(0.3)
    assert measured["coco_map50"] == pytest.approx(1.0) and measured["coco_map75"] == 0.0


def test_a_class_that_is_wrong_halves_the_map(pycocotools):
    wrong = [found(s.boxes, classes=[3], scores=[0.9]) for s in TRUTH]
    # Of the two 3s that were found with equal scores, one is right; no 5 was found.
    assert coco_map(TRUTH, wrong)["coco_map"] == pytest.approx(0.5)
    assert coco_map(TRUTH, [found(classes=[], scores=[])] * 2)["coco_map"] == 0.0


def test_mean_iou_by_hand():
    truth = np.array([[0, 0, 1], [1, 1, 2]])
    predicted = np.array([[0, 1, 1], [1, 0, 2]])
    counts = confusion(truth, predicted, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    # 1 of 3, 2 of 4, 1 of 1; the fourth class is nowhere.
    assert mean_iou(counts) == pytest.approx((1 / 3 + 2 / 4 + 1) / 3)


def test_a_crop_is_a_square_around_its_box():
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:40, 30:40] = 255
    # 1.3 x 20 = 26: a pixel is a pixel.
    cut = crop(image, np.array([30, 20, 40, 40], np.float32), 26, 1.3)
    assert np.array_equal(np.argwhere(cut[..., 0] == 255).min(0), (3, 8))
    assert np.array_equal(np.argwhere(cut[..., 0] == 255).max(0), (22, 17))
    corner = crop(
        np.full((64, 64, 3), 200, np.uint8), np.array([0, 0, 20, 20], np.float32), 26, 1.3
    )
    assert not corner[:3].any() and not corner[:, :3].any() and (corner[3:, 3:] == 200).all()


def test_crops_are_of_the_training_scenes_with_margins_of_the_range(tmp_path):
    recipe = DetectionRecipe(crops=200, crop_margins=(1, 4), size=64, rotate=10, seed=3)
    margins = crop_margins(recipe)
    assert margins.min() >= 1 and margins.max() <= 4
    # A third of them in each third of log 4, within three standard deviations.
    counts = np.histogram(np.log(margins), 3, (0, np.log(4)))[0]
    assert abs(counts - 200 / 3).max() < 3 * np.sqrt(200 * 2 / 9)
    write_crops(recipe, tmp_path)
    written = {int(path.stem): path for path in tmp_path.glob("*/*/*.png")}
    assert sorted(written) == list(range(200))
    assert {n for n, path in written.items() if "test" in path.parts} == set(range(20))
    deformed = [digit_scene("train", n, seed=3, size=64, deformation=recipe.deformation)
                for n in range(10)]  # fmt: skip
    whole = [(s.image, *digit) for s in deformed for digit in zip(s.boxes, s.classes, strict=True)]
    for n, (image, box, digit) in enumerate(whole):
        assert written[n].parent.name == str(digit)
        cut = np.asarray(Image.open(written[n]))
        assert np.array_equal(cut, crop(image, box, 48, margins[n]))


def test_the_training_of_crops_counts(tmp_path):
    assert crop_seconds(tmp_path) == 0
    results = tmp_path / "crops" / "run" / "results.json"
    results.parent.mkdir(parents=True)
    results.write_text(json.dumps({"train_seconds": 61.5}))
    assert crop_seconds(tmp_path) == 61.5
    results.write_text("{}")
    with pytest.raises(
        InputError, match=r"results\.json is damaged: train_seconds must be a number"
    ):
        crop_seconds(tmp_path)
