"""TrivialAugmentWide and AutoAugment, against torchvision and Pillow."""

import itertools
import json
import re
import subprocess
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from pixels import LUCK, PHOTOS, SMALL, assert_levels, many, seed
from pth_writer import torch_python
from scipy import stats

from resnet_keras import augmentations
from resnet_keras.augmentations import policies
from resnet_keras.errors import InputError
from resnet_keras.recipe.columns import POLICIES, Augmentation

pytestmark = pytest.mark.usefixtures("cpu")

TESTS = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden" / "torchvision_policies.json").read_text())

# On a photograph, fewer of the operations and strengths can be told apart.
NOISE = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)


def ours(name):
    """Our name of an operation of torchvision."""
    return {"AutoContrast": "autocontrast"}.get(
        name, re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()
    )


def pillow_operation(name, strength, image):
    """Do with Pillow what torchvision's `_apply_op` asks of it, nearest, filled with black."""
    moves = {
        "shear_x": (1, strength, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, strength, 1, 0),
        "translate_x": (1, 0, -int(strength), 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, -int(strength)),
    }
    kinds = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in moves:
        return image.transform(image.size, Image.AFFINE, moves[name], Image.NEAREST)
    if name in kinds:
        return kinds[name](image).enhance(1 + strength)
    return {
        "identity": image.copy,
        "rotate": partial(image.rotate, strength, Image.NEAREST),
        "posterize": partial(ImageOps.posterize, image, int(strength)),
        "solarize": partial(ImageOps.solarize, image, strength),
        "autocontrast": partial(ImageOps.autocontrast, image),
        "equalize": partial(ImageOps.equalize, image),
        "invert": partial(ImageOps.invert, image),
    }[name]()


def test_strengths_are_torchvisions():
    for theirs, space in (GOLDEN["wide"], policies._WIDE), (GOLDEN["learned"], policies._LEARNED):
        for name, (values, signed) in theirs.items():
            if "Translate" in name and space is policies._LEARNED:
                continue  # depends on the size; ImageNet's policy has none
            found = space[ours(name)]
            whole = np.trunc(values) if "Translate" in name else values
            assert np.array_equal(found.values, np.atleast_1d(whole)), name
            assert found.signed == signed
    assert sorted(map(ours, GOLDEN["wide"])) == sorted(policies._WIDE)


def test_pairs_of_auto_augment_are_torchvisions():
    pairs = [
        tuple((ours(name), likely, place or 0) for name, likely, place in pair)
        for pair in GOLDEN["pairs"]
    ]
    assert list(policies._IMAGENET) == pairs and len(pairs) == 25


SHOWN = {
    "oblong": PHOTOS[0][100:196, 200:344],
    "square": PHOTOS[1][100:164, 200:264],  # there Pillow turns by 90 degrees in another way
    "grey": PHOTOS[1][100:130, 200:280, :1],
}


@pytest.mark.parametrize(
    "shown",
    ["square", *(pytest.param(name, marks=pytest.mark.slow) for name in ("oblong", "grey"))],
)
def test_every_operation_at_every_strength_is_torchvisions(shown, tmp_path):
    """Only bilinear moves may differ, by one level."""
    path, image = tmp_path / "image.npz", SHOWN[shown]
    np.savez(path, image)
    command = [torch_python(), TESTS / "torchvision_policies.py", path]
    subprocess.run(command, check=True)
    theirs = np.load(f"{path}.changed.npz")
    moves = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
    count = 0
    for (name, row), mode in itertools.product(GOLDEN["wide"].items(), ("nearest", "bilinear")):
        values, signed = np.atleast_1d(row[0]), row[1]
        keys = [(place, sign) for place in range(len(values)) for sign in (1, -1)[: 1 + signed]]
        if mode == "nearest" and ours(name) not in moves:
            continue  # they do not interpolate

        def change(strength, name=name, mode=mode):
            (operation,) = policies._torchvision_operations(
                tf.constant(image), strength, [ours(name)], mode, 0
            )
            return operation()

        strengths = [sign * policies._WIDE[ours(name)].values[place] for place, sign in keys]
        found = tf.data.Dataset.from_tensor_slices(np.float64(strengths)).map(change)
        exact = mode == "nearest" or ours(name) not in moves
        for (place, sign), result in zip(keys, found.as_numpy_iterator(), strict=True):
            expected = theirs[f"{name} {place} {sign} {mode}"].reshape(image.shape)
            assert_levels(result, expected, 0 if exact else 1)
            count += 1
    assert count == (5 * 2 + 4) * 2 * 31 + 2 * 31 + 3


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_every_move_fills_with_what_it_is_told(name):
    plain = tf.fill([20, 28, 3], tf.constant(200, tf.uint8))
    strength = np.float64(15 if name in ("translate_x", "translate_y", "rotate") else 0.7)

    def moved(fill, mode):
        (operation,) = policies._torchvision_operations(plain, strength, [name], mode, fill)
        return operation().numpy()

    for mode in ("nearest", "bilinear"):
        new = (moved(0, mode) == 0).all(-1)
        assert 0.05 < new.mean() < 0.9
        assert np.array_equal(moved((255, 0, 9), mode), np.where(new[..., None], (255, 0, 9), 200))


def outcomes(image, choices):
    """Probability of each image that a policy makes: `choices` are chains with theirs."""
    found = Counter()
    for chain, probability in choices:
        if not probability:
            continue
        result = Image.fromarray(image.squeeze())
        for name, strength in chain:
            result = pillow_operation(name, strength, result)
        found[np.asarray(result).tobytes()] += probability
    return found


def assert_drawn(results, expected, count):
    """Only images that are expected are drawn, each as often as expected."""
    drawn = Counter(result.tobytes() for result in results)
    assert not drawn.keys() - expected.keys()
    assert sum(expected.values()) == pytest.approx(1)
    pairs = [(drawn[image], count * share) for image, share in expected.items()]
    rare = [pair for pair in pairs if pair[1] < 5]  # too few for a chi-square each
    pairs = [pair for pair in pairs if pair[1] >= 5] + [tuple(map(sum, zip(*rare, strict=True)))]
    observed, wanted = zip(*[pair for pair in pairs if pair], strict=True)
    assert stats.chisquare(observed, wanted).pvalue > LUCK


def wide_choices():
    """Each operation of TrivialAugmentWide at each strength with each sign."""
    for name, (values, signed) in GOLDEN["wide"].items():
        values = np.atleast_1d(values)
        signs = (1, -1) if signed else (1,)
        for value, sign in itertools.product(values, signs):
            yield [(ours(name), sign * float(value))], 1 / 14 / len(values) / len(signs)


def learned_choices():
    """Each pair of AutoAugment with each operation done or not, and either sign."""
    for pair in GOLDEN["pairs"]:
        each = []
        for name, likely, place in pair:
            values, signed = GOLDEN["learned"][name]
            value = float(values[place]) if place is not None else 0.0
            done = [((ours(name), sign * value), likely / 2) for sign in (1, -1 if signed else 1)]
            each.append([*done, (None, 1 - likely)])
        for (one, first), (other, second) in itertools.product(*each):
            yield [step for step in (one, other) if step], first * second / 25


@pytest.mark.parametrize("channels", [3, 1])
def test_trivial_augment_draws_all_alike(channels):
    """Operations, strengths and signs, on images on which nearly all of them differ."""
    image = NOISE[..., :channels]
    expected = outcomes(image, wide_choices())
    assert len(expected) == (544 if channels == 3 else 484)  # of 9 x 62 + 2 x 31 + 3
    wide = partial(augmentations.trivial_augment_wide, image, interpolation="nearest")
    assert_drawn(many(lambda s: wide(seed=s), 6000), expected, 6000)


@pytest.mark.parametrize("channels", [3, 1])
def test_auto_augment_draws_its_pairs(channels):
    image = NOISE[..., :channels]
    learned = partial(augmentations.auto_augment, image, interpolation="nearest")
    results = many(lambda s: learned(seed=s), 4000)
    assert_drawn(results, outcomes(image, learned_choices()), 4000)


@pytest.mark.parametrize("policy", [augmentations.trivial_augment_wide, augmentations.auto_augment])
def test_policies_move_bilinearly_onto_black_unless_told(policy):
    def drawn(count=40, **options):
        """Without a graph, whose making takes longer than these few images."""
        return np.stack([policy(SMALL, seed(number), **options) for number in range(count)])

    default = drawn()
    assert np.array_equal(drawn(interpolation="bilinear"), default)
    assert not np.array_equal(drawn(interpolation="nearest"), default)
    filled = drawn(fill=(255, 0, 9))
    new = (filled != default).any(-1)
    assert new.any()
    if policy is augmentations.trivial_augment_wide:  # nothing changes the fill afterwards
        assert not default[new].any() and (filled[new] == (255, 0, 9)).all()
    with pytest.raises(ValueError, match="interpolation must be one of .*Received: 'bicubic'"):
        drawn(interpolation="bicubic")


def test_the_column_has_the_policies_of_the_table():
    assert POLICIES.keys() == augmentations.POLICIES.keys()


@pytest.mark.parametrize("name", POLICIES)
def test_augment_does_the_policy_after_the_flip_and_before_erasing(name):
    columns = Augmentation(train_size=48, flip=True, policy=name, erasing=0.5)
    square = tf.constant(SMALL[:, :48])
    for number in range(12):
        key = seed(number)
        image = augmentations.POLICIES[name](augmentations.flip(square, key), key)
        image = augmentations.random_erasing(image, key, probability=0.5)
        found = augmentations.augment(lambda: tf.shape(square), lambda: square, key, columns)
        assert_levels(found, image, 0)


def test_images_of_four_channels_are_refused_by_the_column():
    augmentations.require_channels(Augmentation(policy="auto_augment"), 1)
    augmentations.require_channels(Augmentation(policy="auto_augment"), 3)
    with pytest.raises(InputError, match="`policy` needs images of 1 or 3 channels, these have 4"):
        augmentations.require_channels(Augmentation(policy="auto_augment"), 4)
