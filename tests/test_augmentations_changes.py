"""Changes of pixels, against Pillow; random draws and mixing, against their definitions."""

import math
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from pixels import DULL, LUCK, PHOTOS, SMALL, assert_levels, many, seed
from scipy import stats

from resnet_keras import augmentations
from resnet_keras.augmentations import pillow
from resnet_keras.data import evaluation_image
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation

pytestmark = pytest.mark.usefixtures("cpu")

FILL = (124, 116, 104)


# Pillow's operations


def enhance(kind, factor):
    return lambda image: kind(image).enhance(factor)


def transform(*matrix):
    return lambda image: image.transform(
        image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=FILL
    )


def solarize_add(amount):
    """Do what timm's does; Pillow has none."""
    table = [min(255, level + amount) if level < 128 else level for level in range(256)]
    return lambda image: image.point(table * 3)


def pillow_operations(level, sign, size, increasing=True):
    """List timm's 15 operations at `level`, 0-10, from Pillow."""
    height, width = size
    level = level / 10
    bits, threshold, factor = int(level * 4), int(level * 256), 0.1 + 1.8 * level
    if increasing:
        bits, threshold, factor = 4 - bits, 256 - threshold, max(0.1, 1 + sign * 0.9 * level)
    move = sign * 0.45 * level
    return [
        ImageOps.autocontrast,
        ImageOps.equalize,
        ImageOps.invert,
        lambda image: image.rotate(sign * 30 * level, Image.BILINEAR, fillcolor=FILL),
        # Pillow 13 refuses 0 bits, where timm's images are black.
        lambda image: ImageOps.posterize(image, bits) if bits else image.point([0] * 768),
        lambda image: ImageOps.solarize(image, threshold),
        solarize_add(int(110 * level)),
        enhance(ImageEnhance.Color, factor),
        enhance(ImageEnhance.Contrast, factor),
        enhance(ImageEnhance.Brightness, factor),
        enhance(ImageEnhance.Sharpness, factor),
        transform(1, sign * 0.3 * level, 0, 0, 1, 0),
        transform(1, 0, 0, sign * 0.3 * level, 1, 0),
        transform(1, 0, move * width, 0, 1, 0),
        transform(1, 0, 0, 0, 1, move * height),
    ]


DARK = np.where(SMALL > 60, 0, SMALL)  # most pixels in one level
FLAT = np.full_like(SMALL, 9)
# 256 pixels, of which one alone is the brightest: below it are 255, just enough for equalisation.
FEW = np.random.default_rng(0).integers(1, 200, (16, 16, 3), dtype=np.uint8)
FEW[3, 5], FEW[7, 2] = 255, 0


@pytest.mark.parametrize("photo", [*PHOTOS, SMALL, DULL, DARK, FLAT, FEW])
def test_operations_are_pillows(photo):
    image, theirs = tf.constant(photo), Image.fromarray(photo)
    assert_levels(pillow.autocontrast(image), ImageOps.autocontrast(theirs), 0)
    assert_levels(pillow.equalize(image), ImageOps.equalize(theirs), 0)
    assert_levels(pillow.invert(image), ImageOps.invert(theirs), 0)
    for bits in (1, 3, 8):
        assert_levels(pillow.posterize(image, bits), ImageOps.posterize(theirs, bits), 0)
    assert not pillow.posterize(image, 0).numpy().any()
    for threshold in (0, 77, 128, 256):
        assert_levels(pillow.solarize(image, threshold), ImageOps.solarize(theirs, threshold), 0)
    for amount in (0, 77, 110):
        assert_levels(pillow.solarize_add(image, amount), solarize_add(amount)(theirs), 0)
    for factor in (0.0, 0.1, 0.37, 1.0, 1.63, 1.9):
        for ours, kind in (
            (pillow.color, ImageEnhance.Color),
            (pillow.contrast, ImageEnhance.Contrast),
            (pillow.brightness, ImageEnhance.Brightness),
            (pillow.sharpness, ImageEnhance.Sharpness),
        ):
            assert_levels(ours(image, factor), kind(theirs).enhance(factor), 0)


@pytest.mark.parametrize("photo", [*PHOTOS, SMALL])
def test_moves_are_pillows(photo):
    image, theirs = tf.constant(photo), Image.fromarray(photo)
    for degrees in (-30.0, -7.3, 0.0, 21.0):
        turned = theirs.rotate(degrees, Image.BILINEAR, fillcolor=FILL)
        assert_levels(pillow.rotate(image, degrees, FILL), turned, 1)
    for amount in (-0.3, 0.0, 0.07, 0.21):
        for matrix in (
            (1, amount, 0, 0, 1, 0),
            (1, 0, 0, amount, 1, 0),
            (1, 0, amount * 100, 0, 1, 0),
            (1, 0, 0, 0, 1, amount * 100),
        ):
            assert_levels(pillow.affine(image, matrix, FILL), transform(*matrix)(theirs), 1)
    # With torchvision's 0.264, pixels come from the very edge: float64 knows from which side.
    for amount in (-0.9, 0.0, float(np.float32(0.264)), 3.7):
        sheared = transform(1, amount, 0, 0, 1, 0)(theirs)
        assert_levels(pillow.shear(image, amount, FILL), sheared, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_images_of_few_pixels_are_moved_as_pillow_does(size):
    pixels = np.random.default_rng(0).integers(1, 256, (*size, 3), dtype=np.uint8)
    theirs, image = Image.fromarray(pixels), tf.constant(pixels)
    for amount in (-1.2, 0.0, 0.4, 9.0):
        sheared = transform(1, amount, 0, 0, 1, 0)(theirs)
        assert_levels(pillow.shear(image, amount, FILL), sheared, 1)
    for right, down in ((0, 0), (1, -1), (-2, 3), (9, 0), (0, -9)):
        moved = transform(1, 0, -right, 0, 1, -down)(theirs)
        assert_levels(pillow.translate(image, right, down, FILL), moved, 0)


# Random changes


@pytest.mark.parametrize(("magnitude", "increasing"), [(7, True), (10, True), (3, False)])
def test_rand_augment_is_timms(magnitude, increasing):
    """Each result is one of Pillow's; all are drawn, as often as they should be."""
    options = {"magnitude": magnitude, "magnitude_std": 0.0, "increasing": increasing}
    results = many(lambda s: augmentations.rand_augment(SMALL, s, num_ops=1, **options), 1500)
    same = (results == SMALL).all((1, 2, 3))
    assert stats.binomtest(int(same.sum()), 1500).pvalue > LUCK
    candidates = [
        [
            op(Image.fromarray(SMALL))
            for op in pillow_operations(magnitude, sign, (48, 64), increasing)
        ]
        for sign in (-1, 1)
    ]
    candidates = np.int32(candidates)
    counts = np.zeros((2, 15))  # sign, operation
    for result in results[~same]:
        matches = np.abs(candidates - result).max((2, 3, 4)) <= 1
        assert matches.any()
        counts += matches / matches.sum()
    assert stats.chisquare(counts.sum(0)).pvalue > LUCK
    left, right = counts[:, [3, 11, 12, 13, 14]].sum(1)  # rotate, shear, translate
    assert stats.binomtest(int(left), int(left + right)).pvalue > LUCK


def test_rand_augment_draws_the_level_from_a_normal():
    """On one flat grey only brightness gives a value between 56 and 120: 200 (1 - 0.09 level)."""
    flat = tf.fill([4, 4, 3], tf.constant(200, tf.uint8))
    options = {"num_ops": 1, "fill": (200, 200, 200)}
    values = many(lambda s: augmentations.rand_augment(flat, s, **options)[0, 0, 0], 6000)
    values = values[(values > 56) & (values < 120)]
    levels = (1 - (values + 0.5) / 200) / 0.09
    assert 60 < len(levels) < 140  # 6000 / 2 / 15 / 2
    assert stats.kstest(levels, stats.norm(7, 0.5).cdf).pvalue > LUCK


def test_levels_of_rand_augment_are_cut_to_their_scale():
    """Of one flat grey, 100: only solarize_add gives more than 190, 100 + 110 at level 10."""
    flat = tf.fill([4, 4, 3], tf.constant(100, tf.uint8))
    options = {"num_ops": 1, "fill": (100, 100, 100), "magnitude_std": 5.0}
    draw = partial(augmentations.rand_augment, flat, **options)
    values = many(lambda s: draw(s, magnitude=10.0)[0, 0, 0], 1000)
    assert values.max() == 210 and (values == 210).sum() > 5  # of 1000 / 2 / 15 / 2
    # Below 0, levels are 0: but for inversion and the last bits, nothing is left of any change.
    values = many(lambda s: draw(s, magnitude=-40.0)[0, 0, 0], 200)
    assert set(values) == {100, 155, 96}


def test_rand_augment_does_two_operations():
    results = many(lambda s: augmentations.rand_augment(SMALL, s), 400)
    same = (results == SMALL).all((1, 2, 3)).sum()
    assert stats.binomtest(int(same), 400, 1 / 4).pvalue > LUCK


def test_color_jitter_is_torchvisions():
    grey = tf.fill([1, 1, 3], tf.constant(100, tf.uint8))
    values = many(lambda s: augmentations.color_jitter(grey, s, brightness=0.4)[0, 0, 0], 2000)
    assert stats.kstest(values + 0.5, stats.uniform(60, 80).cdf).pvalue > LUCK
    red = tf.constant([[[255, 0, 0]]], tf.uint8)
    green, blue = many(lambda s: augmentations.color_jitter(red, s, hue=0.1)[0, 0, 1:], 2000).T
    turns = (green.astype(float) - blue) / 255 / 6
    assert stats.kstest(turns, stats.uniform(-0.1, 0.2).cdf).pvalue > LUCK
    halves = tf.constant([[[50] * 3, [150] * 3]], tf.uint8)  # the mean, 100, stays
    dark, bright = many(
        lambda s: augmentations.color_jitter(halves, s, contrast=0.4)[0, :, 0], 2000
    ).T
    assert np.abs(dark.astype(int) + bright - 200).max() <= 2
    assert stats.kstest(bright - 99.5, stats.uniform(30, 40).cdf).pvalue > LUCK
    everything = dict.fromkeys(("brightness", "contrast", "saturation"), 3.0)
    assert_levels(augmentations.color_jitter(SMALL, seed(0)), SMALL, 0)
    results = many(lambda s: augmentations.color_jitter(SMALL, s, hue=0.5, **everything), 50)
    assert len({result.tobytes() for result in results}) == 50


def reference_box(rng, size, area, aspect):
    """Draw Random Erasing's box by torchvision's loop; the aspect is height / width."""
    for _ in range(10):
        target = rng.uniform(*area) * size * size
        ratio = math.exp(rng.uniform(*map(math.log, aspect)))
        h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if h < size and w < size:
            return h, w
    return 0, 0


@pytest.mark.parametrize(
    ("options", "area", "aspect"),
    [({}, (0.02, 1 / 3), (0.3, 1 / 0.3)),
     ({"max_area": 0.2, "max_aspect": 1.1}, (0.02, 0.2), (0.3, 1.1))],
)  # fmt: skip
def test_random_erasing_is_the_definition(options, area, aspect):
    image = tf.zeros([64, 64, 3], tf.uint8)
    options = {"probability": 1.0, "value": (7, 8, 9), **options}
    draw = partial(augmentations.random_erasing, image, **options)
    results = many(lambda s: draw(seed=s), 4000)
    erased = results[..., 0] > 0
    assert (results == erased[..., np.newaxis] * np.uint8([7, 8, 9])).all()
    heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
    assert (erased.sum((1, 2)) == heights * widths).all()  # a box, without holes
    assert max(heights.max(), widths.max()) <= 63  # smaller than the image, both ways
    rng = np.random.default_rng(0)
    loop = np.transpose([reference_box(rng, 64, area, aspect) for _ in range(4000)])
    assert stats.ks_2samp(heights, loop[0]).pvalue > LUCK
    assert stats.ks_2samp(widths, loop[1]).pvalue > LUCK
    tops = erased.any(2).argmax(1)
    assert stats.kstest((tops + 0.5) / (65 - heights), "uniform").pvalue > LUCK


def test_random_erasing_erases_a_quarter_with_noise():
    image = tf.fill([32, 32, 3], tf.constant(77, tf.uint8))
    results = many(lambda s: augmentations.random_erasing(image, s), 2000)
    changed = results != 77
    erased = int(changed.any((1, 2, 3)).sum())
    assert stats.binomtest(erased, 2000, 0.25).pvalue > LUCK
    counts = np.bincount(results[changed], minlength=256)
    assert stats.chisquare(np.delete(counts, 77)).pvalue > LUCK


NORMALISATION = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_erasing_with_the_mean_is_torchvisions():
    """Its box is of at most 0.33 of the area and 3.3 times as high as wide; the pixels are 0."""
    image = tf.constant(np.full((64, 64, 3), 7, np.uint8))
    columns = Augmentation(train_size=64, erasing=0.1, erasing_fill="mean")

    def draw(key):
        shape = partial(tf.constant, [64, 64, 3])
        return augmentations.augment(shape, lambda: image, key, columns, NORMALISATION)

    results = many(draw, 4000)
    erased = (results != 7).any(-1)
    assert (results[erased] == (124, 116, 104)).all()  # less than half a level from 0
    erased = erased[erased.any((1, 2))]
    assert stats.binomtest(len(erased), 4000, 0.1).pvalue > LUCK
    rng = np.random.default_rng(0)
    loop = [reference_box(rng, 64, (0.02, 0.33), (0.3, 3.3)) for _ in range(4000)]
    for ours, theirs in zip((erased.any(2), erased.any(1)), np.transpose(loop), strict=True):
        assert stats.ks_2samp(ours.sum(1), theirs).pvalue > LUCK


def test_erasing_with_normal_noise_is_timms():
    """Their mode "pixel": normal(0, 1) of the normalised pixels; here bytes, cut to 0..255."""
    image = tf.constant(np.full((32, 32, 3), 7, np.uint8))
    columns = Augmentation(train_size=32, erasing=1.0, erasing_fill="normal")

    def draw(key):
        shape = partial(tf.constant, [32, 32, 3])
        return augmentations.augment(shape, lambda: image, key, columns, NORMALISATION)

    results = many(draw, 200)
    pixels = results[(results != 7).any(-1)].astype(float)
    for channel, mean, std in zip(pixels.T, *NORMALISATION, strict=True):
        edges = [-0.5, 0.5, 59.5, 99.5, 119.5, 149.5, 199.5, 254.5, 255.5]
        cuts = stats.norm(mean, std).cdf([-np.inf, *edges[1:-1], np.inf])
        found = np.histogram(channel, edges)[0]
        assert stats.chisquare(found, len(channel) * np.diff(cuts)).pvalue > LUCK
    assert abs(np.corrcoef(pixels.T)[0, 1]) < 0.03  # each channel has noise of its own


@pytest.mark.parametrize("fill", ["normal", "mean"])
def test_a_fill_of_the_networks_pixels_needs_its_normalisation(fill):
    with pytest.raises(ValueError, match=f"normalisation. Received: erasing_fill='{fill}'"):
        augmented(SMALL, seed(0), erasing=1.0, erasing_fill=fill)


# Mixing

CLASSES = 8


def batch(size, number):
    """Make one-coloured images, each of its own class and level."""
    levels = 30 * tf.range(number, dtype=tf.int32)
    images = tf.zeros([1, *size, 1], tf.uint8) + tf.cast(levels, tf.uint8)[:, None, None, None]
    return images, tf.range(number)


@pytest.mark.parametrize(("size", "number"), [((16, 16), 8), ((13, 21), 5)])
def test_cutmix_labels_are_the_shares_of_the_pixels(size, number):
    images, labels = batch(size, number)
    mixed, weights = many(
        lambda s: augmentations.cutmix(images, labels, s, alpha=1.0, classes=CLASSES), 1000
    )
    assert mixed.dtype == np.uint8 and weights.dtype == np.float32
    shares = np.stack([(mixed == 30 * label).sum((2, 3, 4)) for label in range(CLASSES)], -1)
    np.testing.assert_array_equal(weights, (shares / (size[0] * size[1])).astype(np.float32))
    partners = 1 - np.eye(CLASSES)[:number] - np.eye(CLASSES)[number - 1 :: -1]
    assert not weights[:, partners > 0].any()  # i meets n - 1 - i, nobody else


def test_cutmix_boxes_are_the_papers():
    images, labels = batch((40, 60), 2)
    mixed, _ = many(lambda s: augmentations.cutmix(images, labels, s, alpha=1.0, classes=2), 4000)
    pasted = mixed[:, 0, :, :, 0] > 0
    rng = np.random.default_rng(0)
    edge, centre = np.sqrt(1 - rng.beta(1, 1, 4000)), rng.integers(0, [[40], [60]], (2, 4000))
    for axis, length in enumerate((40, 60)):
        half = (length * edge).astype(int) // 2
        theirs = np.minimum(centre[axis] + half, length) - np.maximum(centre[axis] - half, 0)
        ours = pasted.any(2 - axis).sum(1)
        assert stats.ks_2samp(ours, theirs).pvalue > LUCK


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0])
def test_mixup_labels_are_the_weights_of_the_pixels(alpha):
    images, labels = batch((4, 6), 8)
    mixed, weights = many(
        lambda s: augmentations.mixup(images, labels, s, alpha=alpha, classes=CLASSES), 1000
    )
    assert mixed.dtype == np.uint8 and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    expected = weights.astype(float) @ (30 * np.arange(CLASSES))
    assert np.abs(mixed - expected[..., None, None, None]).max() <= 0.5 + 1e-4
    # In bins: float32 rounds much of Beta(0.1, 0.1) to 1.
    edges = np.array([-1, 0.001, 0.05, 0.3, 0.7, 0.95, 0.999, 2])
    expected = 1000 * np.diff(stats.beta(alpha, alpha).cdf(edges))
    assert stats.chisquare(np.histogram(weights[:, 0, 0], edges)[0], expected).pvalue > LUCK


def test_mixing_takes_soft_labels_and_chooses_fairly():
    images, labels = batch((8, 8), 4)
    soft = 0.9 * tf.one_hot(labels, CLASSES) + 0.1 / CLASSES
    for mix in augmentations.mixup, augmentations.cutmix:
        _, hard_weights = mix(images, labels, seed(3), alpha=1.0, classes=CLASSES)
        _, weights = mix(images, soft, seed(3), alpha=1.0, classes=CLASSES)
        np.testing.assert_allclose(weights, 0.9 * hard_weights + 0.1 / CLASSES, atol=1e-6)

    def draw(s):
        arguments = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "classes": CLASSES}
        both = augmentations.mixup_or_cutmix(images, labels, s, switch_probability=0.3, **arguments)
        cut = augmentations.cutmix(images, labels, s, alpha=1.0, classes=CLASSES)
        blended = augmentations.mixup(images, labels, s, alpha=0.2, classes=CLASSES)
        return [
            tf.reduce_all(both[0] == one[0]) & tf.reduce_all(both[1] == one[1])
            for one in (cut, blended)
        ] + [
            tf.reduce_any(
                augmentations.mixup_or_cutmix(images, labels, s, **arguments)[0] != cut[0]
            )
        ]

    is_cut, is_blended, blended_by_default = many(draw, 500)
    assert (is_cut | is_blended).all()
    assert stats.binomtest(int((~is_blended).sum()), 500, 0.3).pvalue > LUCK
    assert stats.binomtest(int(blended_by_default.sum()), 500, 0.5).pvalue > LUCK


def test_the_box_of_cutmix_does_not_depend_on_the_choice_of_cutmix():
    images, labels = batch((40, 60), 2)
    # So large an alpha that no mixture is one of the two images.
    chances = {"mixup_alpha": 50.0, "cutmix_alpha": 1.0, "classes": 2}

    def draw(s):
        mixed, _ = augmentations.mixup_or_cutmix(
            images, labels, s, switch_probability=0.3, **chances
        )
        alone, _ = augmentations.cutmix(images, labels, s, alpha=1.0, classes=2)
        return tf.reduce_all((mixed == 0) | (mixed == 30)), mixed[0, :, :, 0], alone[0, :, :, 0]

    is_cut, chosen, alone = many(draw, 6000)

    def extents(pasted):
        """First and last row and column of each box that has pixels."""
        pasted = pasted[pasted.any((1, 2))] > 0
        edges = [(a.argmax(1), a.shape[1] - a[:, ::-1].argmax(1)) for a in map(pasted.any, (2, 1))]
        return np.concatenate(edges)

    for ours, theirs in zip(extents(chosen[is_cut]), extents(alone), strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > LUCK


def test_mixing_names_a_wrong_alpha():
    images, labels = batch((8, 8), 4)
    for mix in augmentations.mixup, augmentations.cutmix:
        with pytest.raises(ValueError, match="Received: 0"):
            mix(images, labels, seed(0), alpha=0, classes=CLASSES)


# Moves


def test_random_affine_turns_scales_and_shears_about_the_centre():
    image = np.random.default_rng(0).integers(0, 255, (9, 9, 1), dtype=np.uint8)
    assert np.array_equal(augmentations.random_affine(image, seed(0)), image)
    # A rotation alone is Pillow's; its angle is within the range and moves with the seed.
    angles = []
    for i in range(20):
        turned = np.asarray(augmentations.random_affine(SMALL, seed(i), degrees=10)).astype(int)
        apart = {
            degrees: np.abs(turned - Image.fromarray(SMALL).rotate(degrees, Image.BILINEAR)).mean()
            for degrees in np.arange(-10, 10.01, 0.25)
        }
        angles.append(min(apart, key=apart.get))
        assert apart[angles[-1]] < 0.2 * apart[-10 if angles[-1] > 0 else 10]
    assert min(angles) < -5 and max(angles) > 5
    # A dot off the centre moves by its height times the shear, or by its distance times the scale.
    dot = np.zeros((21, 21, 1), np.uint8)
    dot[2, 10] = 255
    rows = [
        np.asarray(augmentations.random_affine(dot, seed(i), shear=0.2))[..., 0] for i in range(50)
    ]
    columns = [float((row.sum(0) * np.arange(21)).sum() / max(row.sum(), 1)) for row in rows]
    assert 10 - 8 * 0.2 - 0.1 <= min(columns) < 9.2 and 10.8 < max(columns) <= 10 + 8 * 0.2 + 0.1
    scaled = [
        np.asarray(augmentations.random_affine(dot, seed(i), scale=0.3))[..., 0] for i in range(50)
    ]
    heights = [float((x.sum(1) * np.arange(21)).sum() / max(x.sum(), 1)) for x in scaled if x.any()]
    assert min(heights) < 2 and 10 - 8 / 1.3 - 0.5 <= max(heights) <= 10 - 8 / 1.3 + 0.5


# What a recipe's columns ask for


def augmented(image, key, **columns):
    """`augment` of an image that lies in memory."""

    def pixels(window=None):
        if window is None:
            return tf.constant(image)
        top, left, height, width = window
        return tf.constant(image)[top : top + height, left : left + width]

    columns = Augmentation(**columns)
    return augmentations.augment(lambda: tf.constant(image.shape), pixels, key, columns)


def test_augment_makes_all_changes_in_their_order():
    """Windows first, then moves, then colours, and noise at the end."""
    columns = {
        "train_size": 40, "min_area": 0.3, "interpolation": "bicubic", "antialias": True,
        "rotate": 20.0, "scale": 0.1, "shear": 0.1, "padding": 3, "flip": True, "rand_ops": 3,
        "rand_magnitude": 5.0, "rand_std": 0.1, "color_jitter": 0.4, "erasing": 0.9,
    }  # fmt: skip
    for number in range(12):
        key = seed(number)
        top, left, height, width = augmentations.random_crop_window(48, 64, key, min_area=0.3)
        image = SMALL[top : top + height, left : left + width]
        image = augmentations.resize(image, 40, 40, interpolation="bicubic", antialias=True)
        image = augmentations.random_affine(image, key, degrees=20.0, scale=0.1, shear=0.1)
        image = augmentations.flip(augmentations.pad_and_crop(image, key, padding=3), key)
        image = augmentations.rand_augment(image, key, num_ops=3, magnitude=5.0, magnitude_std=0.1)
        image = augmentations.color_jitter(image, key, brightness=0.4, contrast=0.4, saturation=0.4)
        image = augmentations.random_erasing(image, key, probability=0.9)
        assert_levels(augmented(SMALL, key, **columns), image, 0)


def test_without_columns_an_image_is_only_resized():
    square = SMALL[:, :48]
    assert_levels(augmented(square, seed(0), train_size=48), square, 0)
    resized = augmentations.resize(SMALL, 24, 24, antialias=True)
    assert_levels(augmented(SMALL, seed(0), train_size=24, antialias=True), resized, 0)


def test_training_images_may_be_cropped_as_those_of_evaluation():
    shown = Preprocessing(24, 30, antialias=True)
    found = augmented(SMALL, seed(0), train_size=24, train_resize=30, antialias=True)
    assert_levels(found, evaluation_image(SMALL, shown), 0)
    flipped = augmented(SMALL, seed(2), train_size=24, train_resize=30, antialias=True, flip=True)
    assert_levels(flipped, augmentations.flip(evaluation_image(SMALL, shown), seed(2)), 0)


def test_colours_of_grey_images_are_refused_by_the_column():
    augmentations.require_channels(Augmentation(erasing=1.0, mixup=1.0, rotate=9.0), 1)
    augmentations.require_channels(Augmentation(rand_ops=2, color_jitter=0.4), 3)
    for columns, name in (({"rand_ops": 2}, "rand_ops"), ({"color_jitter": 0.4}, "color_jitter")):
        with pytest.raises(InputError, match=f"`{name}` needs images of 3 channels, these have 1"):
            augmentations.require_channels(Augmentation(**columns), 1)


@pytest.mark.parametrize(
    "columns", [{"mixup": 0.3}, {"cutmix": 0.7}, {"mixup": 0.3, "cutmix": 0.7}]
)
def test_mix_does_what_the_columns_say(columns):
    images, labels = batch((8, 8), 4)
    assert augmentations.mixes(Augmentation(**columns)) and not augmentations.mixes(Augmentation())
    for number in range(8):
        key = seed(number)
        if len(columns) == 2:
            expected = augmentations.mixup_or_cutmix(
                images, labels, key, mixup_alpha=0.3, cutmix_alpha=0.7, classes=CLASSES
            )
        elif "mixup" in columns:
            expected = augmentations.mixup(images, labels, key, alpha=0.3, classes=CLASSES)
        else:
            expected = augmentations.cutmix(images, labels, key, alpha=0.7, classes=CLASSES)
        found = augmentations.mix(images, labels, key, Augmentation(**columns), classes=CLASSES)
        for ours, theirs in zip(found, expected, strict=True):
            assert np.array_equal(ours, theirs)


def test_partners_mirror_each_other():
    """Row i of 8 is mixed with row 7 - i."""
    for rows, expected in (([2, 3, 4], [2, 3, 4, 5]), ([0], [0, 7]), ([1, 6], [1, 6])):
        found = augmentations.with_partners(np.array(rows), 8)
        assert found.tolist() == expected and (found + found[::-1] == 7).all()
