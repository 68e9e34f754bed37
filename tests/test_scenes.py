"""Scenes: what is said to be in them is in them, and they depend on their number alone."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from resnet_keras.vision.recipe import Deformation
from resnet_keras.vision.scenes import (
    LARGEST,
    MOST,
    SMALLEST,
    _deformed,
    digit_scene,
    scene_batches,
)

DEFORMATION = Deformation(rotate=30, scale=0.3, shear=0.3)
SCENES = {split: [digit_scene(split, n, seed=3) for n in range(12)] for split in ("train", "test")}
SCENES["deformed"] = [digit_scene("train", n, seed=3, deformation=DEFORMATION) for n in range(12)]


@pytest.mark.parametrize("seed", range(4))
def test_digits_are_deformed_by_up_to_what_was_asked_for(seed):
    ink = np.zeros((40, 40))
    ink[10:30, 16:24] = 1

    def deformed(**most):
        moved = _deformed(ink, Deformation(**most), np.random.default_rng(seed))
        ys, xs = np.nonzero(moved > 0.5)
        return moved, ys, xs

    angle, wide, high, lean = np.random.default_rng(seed).uniform(-1, 1, 4)
    turned = Image.fromarray(ink.astype(np.float32)).rotate(50 * angle, Image.Resampling.BILINEAR)
    np.testing.assert_allclose(deformed(rotate=50)[0], turned, atol=1e-5)

    _, ys, xs = deformed(scale=0.4)
    assert abs(np.ptp(xs) + 1 - 8 / (1 + 0.4 * wide)) <= 1.01
    assert abs(np.ptp(ys) + 1 - 20 / (1 + 0.4 * high)) <= 1.01

    _, ys, xs = deformed(shear=0.5)  # a row further down begins further to the left
    assert np.ptp(ys) + 1 == 20
    moved = xs[ys == 28].min() - xs[ys == 11].min()
    assert abs(moved + 0.5 * lean * 17) <= 1.01


@pytest.mark.parametrize("split", SCENES)
def test_boxes_are_those_of_the_ink_and_do_not_overlap(split):
    for scene in SCENES[split]:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.boxes) == len(scene.classes) <= MOST
        painted = np.zeros((128, 128), int)
        for k, (x1, y1, x2, y2) in enumerate(scene.boxes.astype(int)):
            ys, xs = np.nonzero(scene.instances == k + 1)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)
            assert scene.centres[k].tolist() == [(x1 + x2) / 2, (y1 + y2) / 2]
            painted[y1:y2, x1:x2] += 1
        assert painted.max() == 1 and not scene.instances[painted == 0].any()
    assert {len(scene.boxes) for scene in SCENES[split]} > {1, 2}


def test_a_mask_has_the_class_of_each_pixel():
    for scene in SCENES["test"]:
        for k, digit in enumerate(scene.classes):
            assert set(scene.mask[scene.instances == k + 1]) == {digit + 1}
        assert not scene.mask[scene.instances == 0].any() and scene.mask.dtype == np.uint8


def test_ink_is_lighter_than_the_ground():
    for scene in SCENES["train"]:
        grey = scene.image.mean(axis=-1)
        assert grey[scene.instances > 0].mean() > grey[scene.instances == 0].mean() + 40


@pytest.mark.parametrize(("split", "first", "last"), [("train", 0, 1437), ("test", 1437, 1797)])
def test_digits_are_of_the_people_of_the_split(split, first, last):
    """Each digit is searched among all of scikit-learn's, enlarged by Pillow."""
    digits = load_digits()
    (scene,) = [digit_scene(split, 7, seed=3)]
    for k, digit in enumerate(scene.classes):
        x1, y1, x2, y2 = scene.boxes[k].astype(int)
        ink = scene.instances[y1:y2, x1:x2] == k + 1
        found = []
        for n in np.flatnonzero(digits.target == digit):
            for edge in range(SMALLEST, LARGEST + 1):
                grey = Image.fromarray(digits.images[n].astype(np.float32))
                large = np.asarray(grey.resize((edge, edge), Image.Resampling.BILINEAR))
                mask = large >= 0.5 * large.max()
                ys, xs = np.nonzero(mask)
                tight = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
                if tight.shape == ink.shape:
                    found.append(((tight != ink).mean(), n))
        error, n = min(found)
        assert error < 0.01 and first <= n < last


def test_a_scene_depends_on_its_number_alone():
    assert not np.array_equal(SCENES["deformed"][5].image, SCENES["train"][5].image)
    again = digit_scene("train", 5, seed=3)
    assert np.array_equal(again.image, SCENES["train"][5].image)
    assert np.array_equal(again.boxes, SCENES["train"][5].boxes)
    others = [digit_scene("test", 5, seed=3), digit_scene("train", 6, seed=3)]
    others += [digit_scene("train", 5, seed=4)]
    assert not any(np.array_equal(other.image, again.image) for other in others)


def test_batches_are_a_function_of_the_step():
    def example(scene):
        return scene.image, {"mask": scene.mask, "digits": np.int64(len(scene.classes))}

    batches = scene_batches("train", example, batch_size=3, seed=3)
    first, second = batches.take(2).as_numpy_iterator()
    for batch, start in ((first, 0), (second, 3)):
        image, of = batch
        for i in range(3):
            scene = SCENES["train"][start + i]
            assert np.array_equal(image[i], scene.image)
            assert np.array_equal(of["mask"][i], scene.mask)
            assert of["digits"][i] == len(scene.classes)
    later = scene_batches("train", example, batch_size=3, seed=3, start=1)
    (resumed,) = later.take(1).as_numpy_iterator()
    assert np.array_equal(resumed[0], second[0])
    assert later.element_spec[0].shape == (3, 128, 128, 3)
