"""Windows, resizing and flips, against their definitions; that all depend on the seed alone.

`python tests/test_augmentations.py` writes golden/resize_cv2.npz anew;
it needs opencv-python-headless.
"""

import math
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pixels import DULL, LUCK, PHOTOS, SMALL, assert_levels, many, seed
from scipy import stats

from resnet_keras import augmentations
from resnet_keras.augmentations import geometry

pytestmark = pytest.mark.usefixtures("cpu")

GOLDEN = Path(__file__).parent / "golden" / "resize_cv2.npz"


# Seeds


def test_every_number_of_the_example_seed_counts():
    grid = [(run, epoch, index) for run in range(8) for epoch in range(8) for index in range(8)]
    draws = [
        tf.random.stateless_uniform([], augmentations.example_seed(*numbers)).numpy()
        for numbers in grid
    ]
    assert len(set(draws)) == len(grid)
    assert stats.kstest(draws, "uniform").pvalue > LUCK


def test_functions_given_one_seed_draw_unrelated_numbers():
    rows, columns, _ = np.indices((16, 16, 3), np.uint8)
    shifts = many(lambda s: augmentations.pad_and_crop(rows, s)[8, 8, 0], 2000)
    flips = many(lambda s: augmentations.flip(columns, s)[0, 0, 0] > 0, 2000)
    assert abs(np.corrcoef(shifts, flips)[0, 1]) < 0.07  # three sigma


# Windows


def reference_window(rng, height, width, area, aspect):
    """Draw RandomResizedCrop's window by its published loop."""
    for _ in range(10):
        target = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    raise AssertionError("never happens with these images")


def test_crop_window_is_the_definition():
    draw = partial(augmentations.random_crop_window, 3000, 3000, min_area=0.08, max_area=0.25)
    top, left, height, width = (v.astype(float) for v in many(lambda s: draw(seed=s), 10_000))
    area = height * width / 3000**2
    assert stats.kstest(area, stats.uniform(0.08, 0.17).cdf).pvalue > LUCK
    spread = stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3))
    assert stats.kstest(np.log(width / height), spread.cdf).pvalue > LUCK
    assert stats.kstest(top / (3000 - height), "uniform").pvalue > LUCK
    assert stats.kstest(left / (3000 - width), "uniform").pvalue > LUCK
    assert abs(stats.pearsonr(top, left).statistic) < 0.03


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (32, 32)])
def test_crop_window_rejects_as_the_published_loop(size):
    draws = many(lambda s: augmentations.random_crop_window(*size, s, min_area=0.08), 10_000)
    rng = np.random.default_rng(0)
    loop = [reference_window(rng, *size, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(10_000)]
    for ours, theirs in zip(draws, np.transpose(loop), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > LUCK
    top, left, height, width = draws
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()
    assert min(top.min(), left.min()) == 0 and min(height.min(), width.min()) > 0


@pytest.mark.parametrize(
    ("size", "window"),
    [
        ((10, 1000), (0, 493, 10, 13)),  # 10 x 4/3 wide
        ((1000, 10), (493, 0, 13, 10)),  # 10 / (3/4) high
        ((100, 101), (0, 0, 100, 101)),  # aspect in range: the whole image
    ],
)
def test_crop_window_falls_back_to_the_centre(size, window):
    # A window of the whole area fits only if its aspect is drawn exactly.
    drawn = augmentations.random_crop_window(*size, seed(0), min_area=1.0)
    assert tuple(int(number) for number in drawn) == window


@pytest.mark.parametrize(
    ("size", "resize", "crop", "window"),
    [
        ((375, 500), 256, 224, (256, 341, 16, 58)),  # 58.5 goes to the even side
        ((500, 375), 256, 224, (341, 256, 58, 16)),
        ((427, 640), 256, 224, (256, 383, 16, 80)),  # so does 79.5
        ((224, 224), 236, 224, (236, 236, 6, 6)),
        ((300, 400), 200, 224, (200, 266, -12, 21)),
        ((300, 300), 221, 224, (221, 221, -1, -1)),  # of 3 rows of padding 1 is above
    ],
)
def test_center_crop_window(size, resize, crop, window):
    found = augmentations.center_crop_window(*size, resize=resize, crop=(crop, crop))
    assert tuple(int(number) for number in found) == window


@pytest.mark.parametrize(
    ("size", "resize", "crop", "window"),
    [
        ((375, 500), 256, (224, 192), (256, 341, 16, 74)),  # 74.5 goes to the even side
        ((500, 375), 256, (192, 224), (341, 256, 74, 16)),
        ((300, 400), 200, (224, 100), (200, 266, -12, 83)),
        # Without `resize` the image just covers the window: one edge fits, the other is cut.
        ((375, 500), None, (200, 300), (225, 300, 12, 0)),  # 12.5
        ((500, 375), None, (200, 100), (200, 150, 0, 25)),
        ((100, 100), None, (30, 40), (40, 40, 5, 0)),
        ((30, 40), None, (60, 80), (60, 80, 0, 0)),
    ],
)
def test_center_crop_window_of_a_height_and_a_width(size, resize, crop, window):
    found = augmentations.center_crop_window(*size, resize=resize, crop=crop)
    assert tuple(int(number) for number in found) == window


# Resizing


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("size", [(224, 224), (256, 383), (100, 50), (500, 700)])
def test_resize_is_pillows(photo, size):
    for name, method in ("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC):
        ours = augmentations.resize(photo, *size, interpolation=name, antialias=True).numpy()
        theirs = np.asarray(Image.fromarray(photo).resize(size[::-1], method))
        difference = np.abs(ours.astype(int) - theirs)
        # Pillow cuts to 0..255 between its two passes: where bicubic overshoots twice, it differs.
        assert difference.max() <= (1 if name == "bilinear" else 10)
        assert (difference > 1).mean() < 5e-4


@pytest.mark.parametrize("size", [(10, 15), (30, 25)])
def test_resize_is_opencvs(size):
    with np.load(GOLDEN) as golden:
        ours = augmentations.resize(golden["image"], *size, antialias=False)
        assert_levels(ours, golden["{}x{}".format(*size)], 1)


@pytest.mark.parametrize("antialias", [False, True])
def test_resize_and_center_crop_is_the_two_steps(antialias):
    photo = PHOTOS[0]
    options = {"interpolation": "bilinear", "antialias": antialias}
    resized = augmentations.resize(photo, 256, 383, **options).numpy()
    ours = augmentations.resize_and_center_crop(photo, resize=256, crop=(224, 224), **options)
    assert_levels(ours, resized[16 : 16 + 224, 80 : 80 + 224], 1)
    # Resized to 32 x 47, in a window of 55: 11 and 4 of padding before, 12 and 4 after.
    resized = augmentations.resize(photo, 32, 47, **options).numpy()
    padded = np.pad(resized, [(11, 12), (4, 4), (0, 0)])
    ours = augmentations.resize_and_center_crop(photo, resize=32, crop=(55, 55), **options)
    assert_levels(ours, padded, 1)
    assert not ours.numpy()[padded == 0].any()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("interpolation", "kernel"), [("bilinear", "triangle"), ("bicubic", "keyscubic")]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_axis_after_the_other_is_both_at_once(interpolation, kernel, antialias, channels):
    """Windows of resized images, within their edges and beyond, to the last bit."""
    rng = np.random.default_rng(channels)
    for _ in range(8):
        (height, width), resized = rng.integers(1, 90, (2, 2))
        size, offset = rng.integers(1, 60, 2), rng.integers(-20, 40, 2)
        image = rng.integers(0, 256, (height, width, channels), np.uint8)
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=image[np.newaxis],
            size=size.astype(np.int32),
            scale=(resized.astype(np.float32) / np.float32([height, width])),
            translation=-offset.astype(np.float32),
            kernel_type=kernel,
            antialias=antialias,
        )[0].numpy()
        found = geometry._sample(
            tf.constant(image), *map(tuple, map(np.ndarray.tolist, (resized, offset, size))),
            interpolation, antialias,
        )  # fmt: skip
        assert found.dtype == "uint8"
        assert np.array_equal(found, (pixels.clip(0, 255) + np.float32(0.5)).astype(np.uint8))


def test_resize_names_a_wrong_interpolation():
    with pytest.raises(ValueError, match="Received: 'lanczos'"):
        augmentations.resize(SMALL, 8, 8, interpolation="lanczos", antialias=True)


# Flip and shift


def test_flip_is_a_fair_coin():
    outcomes = many(lambda s: augmentations.flip(SMALL, s), 2000)
    flipped = (outcomes == SMALL[:, ::-1]).all((1, 2, 3))
    assert ((outcomes == SMALL).all((1, 2, 3)) ^ flipped).all()
    assert stats.binomtest(int(flipped.sum()), 2000).pvalue > LUCK


def test_pad_and_crop_takes_every_window_alike():
    image = np.arange(1, 1 + 8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    windows = [padded[y : y + 8, x : x + 8].tobytes() for y in range(9) for x in range(9)]
    drawn = [crop.tobytes() for crop in many(lambda s: augmentations.pad_and_crop(image, s), 8100)]
    counts = [drawn.count(window) for window in windows]
    assert sum(counts) == 8100
    assert stats.chisquare(counts).pvalue > LUCK


# The same everywhere


@pytest.fixture
def any_policy():
    """Puts Keras' policy back."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


IMAGE = tf.constant(SMALL)
BATCH = tf.constant(np.stack([SMALL, SMALL[::-1], SMALL[:, ::-1], DULL]))
MIX = {"classes": 8}
AUGMENTATIONS = {
    "window": lambda s: tf.stack(augmentations.random_crop_window(48, 64, s, min_area=0.08)),
    "flip": lambda s: augmentations.flip(IMAGE, s),
    "pad_and_crop": lambda s: augmentations.pad_and_crop(IMAGE, s),
    "rand_augment": lambda s: augmentations.rand_augment(IMAGE, s),
    "trivial_augment_wide": lambda s: augmentations.trivial_augment_wide(IMAGE, s),
    "auto_augment": lambda s: augmentations.auto_augment(IMAGE, s),
    "color_jitter": lambda s: augmentations.color_jitter(
        IMAGE, s, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    "random_affine": lambda s: augmentations.random_affine(
        IMAGE, s, degrees=15, scale=0.1, shear=0.1
    ),
    "random_erasing": lambda s: augmentations.random_erasing(IMAGE, s),
    "mixup": lambda s: augmentations.mixup(BATCH, tf.range(4), s, alpha=0.2, **MIX),
    "cutmix": lambda s: augmentations.cutmix(BATCH, tf.range(4), s, alpha=1.0, **MIX),
    "mixup_or_cutmix": lambda s: augmentations.mixup_or_cutmix(
        BATCH, tf.range(4), s, mixup_alpha=0.2, cutmix_alpha=1.0, **MIX
    ),
    "resize": lambda s: augmentations.resize(
        IMAGE[tf.cast(s[1], tf.int32) :], 30, 20, antialias=False
    ),
    "resize_and_center_crop": lambda s: augmentations.resize_and_center_crop(
        IMAGE[tf.cast(s[1], tf.int32) :],
        resize=24,
        crop=(20, 20),
        interpolation="bicubic",
        antialias=True,
    ),
}


# What takes long to trace; `auto_augment` has the operations of both others.
TRACED = ("rand_augment", "trivial_augment_wide")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in TRACED else n for n in AUGMENTATIONS],
)
def test_same_seed_same_pixels(name, any_policy):
    function = AUGMENTATIONS[name]

    def in_data(graph, threads):
        data = tf.data.Dataset.range(12).map(graph, threads)
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        for spec in tf.nest.flatten(data.element_spec):
            assert spec.shape.is_fully_defined()
        return next(iter(data.batch(12).with_options(options).as_numpy_iterator()))

    found = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        tf.random.set_seed(1)
        eager = [tf.nest.map_structure(np.asarray, function(seed(i))) for i in range(12)]
        found.append(tf.nest.map_structure(lambda *values: np.stack(values), *eager))
        tf.random.set_seed(2)
        graph = tf.function(lambda i: function(seed(i)))  # traced once for both data sets
        found += [in_data(graph, 1), in_data(graph, 4)]
    for other in found[1:]:
        tf.nest.map_structure(np.testing.assert_array_equal, other, found[0])
    images = tf.nest.flatten(found[0])[0]
    assert len({image.tobytes() for image in images}) > 1
    assert images.dtype == (np.int32 if name == "window" else np.uint8)


def write_golden():
    """Write what OpenCV makes of one image."""
    import cv2

    golden = {"image": SMALL[:24, :32]}
    for height, width in [(10, 15), (30, 25)]:
        resized = cv2.resize(SMALL[:24, :32], (width, height), interpolation=cv2.INTER_LINEAR)
        golden[f"{height}x{width}"] = resized
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    write_golden()
