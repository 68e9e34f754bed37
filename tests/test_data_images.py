"""What is done to the pixels of a batch: decoding, crops, augmentation, mixing."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from batches import batches_of, numbered
from PIL import Image
from pixels import PHOTOS, assert_levels

from resnet_keras import augmentations, data
from resnet_keras.data.images import decode, prepared_or_black, shape_of
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation


def colourful(examples=12, size=32, classes=4):
    images = np.random.default_rng(0).integers(0, 256, (examples, size, size, 3), dtype=np.uint8)
    names = tuple(map(str, range(classes)))
    return data.ArraySplit(labels=names, channels=3, arrays=(images, np.arange(examples) % classes))


def drawn(split, steps=1, **options):
    options = {"size": 32, "batch_size": 12, "seed": 3, **options}
    batches = batches_of(split, **options).take(steps)
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


def test_copies_of_an_image_are_augmented_each_in_its_own_way():
    images, _ = drawn(colourful(), repeats=3, padding=4)
    assert len({image.tobytes() for image in images}) == 12


@pytest.mark.parametrize(
    "options",
    [{"rand_ops": 2, "rand_magnitude": 9.0}, {"color_jitter": 0.4}, {"erasing": 1.0},
     {"policy": "trivial_augment_wide"}, {"policy": "auto_augment"},
     {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}],
)  # fmt: skip
def test_every_augmentation_changes_pixels_as_a_function_of_the_step(options):
    split = colourful()
    plain, _ = drawn(split, steps=4)
    images, labels = drawn(split, steps=4, **options)
    assert images.dtype == np.uint8 and not np.array_equal(images, plain)
    rest = drawn(split, start=2, steps=2, **options)
    assert np.array_equal(rest[0], images[24:]) and np.array_equal(rest[1], labels[24:])


def test_colours_change_before_erasing_and_after_the_crop():
    """Each function draws from a stream of its own, so the order can be told."""
    split = colourful()
    options = {"flip": True, "padding": 3, "rand_ops": 2, "color_jitter": 0.4}
    whole, labels = drawn(split, erasing=1.0, **options)
    before, _ = drawn(split, **options)
    geometry, order = drawn(split, flip=True, padding=3)
    assert np.array_equal(labels, order)
    strength = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    for position in range(12):
        key = augmentations.example_seed(3, 0, position)
        expected = augmentations.rand_augment(tf.constant(geometry[position]), key, num_ops=2)
        expected = augmentations.color_jitter(expected, key, **strength)
        assert np.array_equal(before[position], expected)
        expected = augmentations.random_erasing(expected, key, probability=1.0)
        assert np.array_equal(whole[position], expected)


def test_mixing_makes_a_distribution_of_the_labels_and_follows_the_pixels():
    split = colourful()
    plain, labels = drawn(split, steps=30)
    images, mixed = drawn(split, steps=30, mixup=1.0, cutmix=1.0)
    assert mixed.dtype == np.float32 and mixed.shape == (360, 4)
    assert np.allclose(mixed.sum(1), 1, atol=1e-6)
    cut = 0
    for step in range(30):
        batch = slice(12 * step, 12 * step + 12)
        own, other = plain[batch], plain[batch][::-1]
        pasted = (images[batch] == own) | (images[batch] == other)
        cut += bool(pasted.all())
        share = (mixed[batch] * np.eye(4)[labels[batch]]).sum(1)
        different = labels[batch] != labels[batch][::-1]
        if pasted.all():  # equal pixels by chance: one in 256
            found = (images[batch] == own).all(-1).mean((1, 2))
        else:
            a, b = own.astype(float) - other, images[batch].astype(float) - other
            found = (a * b).sum((1, 2, 3)) / (a * a).sum((1, 2, 3))
        assert np.allclose(share[different], found[different], atol=0.01)
    assert 5 < cut < 25  # of 30, even chances


@pytest.mark.parametrize("option", [{"rand_ops": 2}, {"color_jitter": 0.4}])
def test_grey_images_have_no_colour_to_change(option):
    (name,) = option
    with pytest.raises(InputError, match=rf"`{name}` needs images of 3 channels, these have 1"):
        batches_of(numbered(8), **option)


def test_grey_images_can_be_changed_by_a_policy_erased_and_mixed():
    options = {"policy": "trivial_augment_wide", "erasing": 1.0, "mixup": 0.2, "cutmix": 1.0}
    batches = batches_of(numbered(8), batch_size=4, **options)
    images, labels = next(iter(batches))
    assert images.shape == (4, 4, 4, 1) and labels.shape == (4, 8)


def test_every_epoch_and_every_view_draws_its_own_numbers():
    images = np.full((8, 16, 16, 1), 100, np.uint8)
    split = data.ArraySplit(labels=("a",), channels=1, arrays=(images, np.zeros(8, np.int64)))
    columns = Augmentation(train_size=16, erasing=1.0)
    seen = [images for images, _ in batches_of(split, size=16, erasing=1.0).take(4)]
    for view in range(4):
        batches = data.view_batches(split, columns, None, view=view, seed=1, batch_size=8)
        seen += [images for images, _ in batches]
    assert len({image.numpy().tobytes() for images in seen for image in images}) == 64


# For each column of `Augmentation` a value, with what else must be set for it to matter.
COLUMNS = {
    "train_size": ({"train_size": 24}, {}),
    "train_resize": ({"train_resize": 40}, {}),
    "min_area": ({"min_area": 0.3}, {}),
    "padding": ({"padding": 4}, {}),
    "flip": ({"flip": True}, {}),
    "rotate": ({"rotate": 20.0}, {}),
    "scale": ({"scale": 0.3}, {}),
    "shear": ({"shear": 0.3}, {}),
    "color_jitter": ({"color_jitter": 0.4}, {}),
    "policy": ({"policy": "trivial_augment_wide"}, {}),
    "rand_ops": ({"rand_ops": 2}, {}),
    "rand_magnitude": ({"rand_magnitude": 2.0}, {"rand_ops": 1}),
    "rand_std": ({"rand_std": 3.0}, {"rand_ops": 1}),
    "erasing": ({"erasing": 1.0}, {}),
    "erasing_fill": ({"erasing_fill": "mean"}, {"erasing": 1.0}),
    "mixup": ({"mixup": 0.8}, {}),
    "cutmix": ({"cutmix": 1.0}, {}),
    "repeats": ({"repeats": 3}, {}),
    "sampling": ({"sampling": "balanced"}, {}),
    "interpolation": ({"interpolation": "bicubic"}, {"train_size": 24, "antialias": True}),
    "antialias": ({"antialias": True}, {"train_size": 24}),
}


# `views` is of features, which tests/test_features.py computes.
@pytest.mark.parametrize(
    "column", [field.name for field in dataclasses.fields(Augmentation) if field.name != "views"]
)
def test_every_column_of_a_recipe_changes_what_a_step_sees(column):
    value, others = COLUMNS[column]

    def first(**columns):
        augmentation = Augmentation(**{"train_size": 32, **columns})
        batches = data.training_batches(
            colourful(), augmentation, batch_size=12, seed=3, normalisation=([9] * 3, [4] * 3)
        )
        return next(batches.as_numpy_iterator())[0]

    assert not np.array_equal(first(**others), first(**others | value))


def test_images_are_read_and_bad_ones_named(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    tf.io.write_file(str(tmp_path / "x.png"), tf.io.encode_png(image))
    assert np.array_equal(data.read_image(tmp_path / "x.png"), image)
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            data.read_image(tmp_path / name)


def test_the_window_alone_is_decoded_as_the_whole_image_is():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    smooth = tf.cast(tf.image.resize(image[:8, :8], (64, 96)), tf.uint8)
    jpeg = tf.io.encode_jpeg(smooth)
    window = decode(jpeg, 3, (16, 32, 24, 40))
    whole = decode(jpeg, 3)[16:40, 32:72]
    # Chroma is upsampled from the window alone at its edges.
    assert np.abs(whole[2:-2, 2:-2].numpy().astype(int) - window[2:-2, 2:-2]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "animated GIF"])
def test_other_files_than_jpeg_are_decoded_as_by_pillow_whole_or_in_part(kind):
    image, file = Image.fromarray(PHOTOS[0][:24, :40]), io.BytesIO()
    others = {"save_all": True, "append_images": [image.rotate(90)]} if "anim" in kind else {}
    image.save(file, kind.split()[-1], **others)
    truth = np.asarray(Image.open(file).convert("RGB"))
    content = file.getvalue()
    assert np.array_equal(decode(content, 3), truth)
    assert np.array_equal(decode(content, 3, (5, 7, 11, 13)), truth[5:16, 7:20])
    assert shape_of(tf.constant(content)).numpy().tolist() == [24, 40, 3]


def test_the_shape_of_an_image_is_read_from_its_bytes():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    for encoded in (tf.io.encode_jpeg(image), tf.io.encode_png(image), tf.constant(image)):
        assert shape_of(encoded).numpy().tolist() == [5, 7, 3]


def test_files_of_a_batch_that_cannot_be_read_are_black():
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    good, bad = tf.io.encode_png(image).numpy(), b"no image"
    shown = Preprocessing((4, 6))
    for files, expected in (([good, bad, good], [1, 0, 1]), ([bad], [0]), ([], [])):
        found, readable = prepared_or_black(tf.constant(files, tf.string), shown, 3)
        assert readable.numpy().tolist() == [bool(number) for number in expected]
        assert found.dtype == tf.uint8 and found.shape[1:] == (4, 6, 3)
        for pixels, number in zip(found.numpy(), expected, strict=True):
            assert np.array_equal(pixels, number * image)


@pytest.mark.parametrize(
    ("preprocessing", "resized", "top", "left"),
    [
        # Of 427 x 640 the short edge becomes 256, the long one 256 * 640 // 427 = 383.
        (Preprocessing((224, 160), 256), (256, 383), 16, 112),  # 111.5 is rounded to even
        (Preprocessing((160, 320), 256), (256, 383), 48, 32),  # so is 31.5
        # Without `resize` the image just covers the window: 200 * 640 // 427 = 299.
        (Preprocessing((200, 100)), (200, 299), 0, 100),  # and 99.5
        (Preprocessing((100, 320)), (213, 320), 56, 0),  # 320 * 427 // 640 = 213; 56.5
    ],
)
def test_evaluation_crops_height_and_width_apart(preprocessing, resized, top, left):
    preprocessing = dataclasses.replace(preprocessing, antialias=True)
    height, width = preprocessing.size
    whole = Image.fromarray(PHOTOS[0]).resize(resized[::-1], Image.BILINEAR)
    theirs = np.asarray(whole)[top : top + height, left : left + width]
    ours = data.evaluation_image(PHOTOS[0], preprocessing)
    assert ours.shape == (height, width, 3)
    assert_levels(ours, theirs, 1)


def test_an_image_of_the_size_of_the_crop_is_resized_too():
    """torchvision's Resize(256), CenterCrop(224) of 224 x 224: the middle of 256 x 256."""
    square = PHOTOS[0][:224, :224]
    ours = data.evaluation_image(square, Preprocessing(224, 256, antialias=True))
    theirs = Image.fromarray(square).resize((256, 256), Image.BILINEAR)
    assert_levels(ours, np.asarray(theirs)[16:240, 16:240], 1)
    assert_levels(data.evaluation_image(square, Preprocessing(224)), square, 0)


def test_evaluation_batches_have_the_height_and_width_of_the_preprocessing():
    """Blocks of four pixels, so that halving them is exact."""
    small = np.random.default_rng(0).integers(0, 256, (3, 6, 10, 3), dtype=np.uint8)
    images = small.repeat(2, 1).repeat(2, 2)
    split = data.ArraySplit(labels=("a",), channels=3, arrays=(images, np.zeros(3, np.int64)))
    ((batch, _),) = data.evaluation_batches(  # fmt: skip
        split, Preprocessing((6, 4), 6), batch_size=3
    ).as_numpy_iterator()
    assert np.array_equal(batch, small[:, :, 3:7])
    ((batch, _),) = data.evaluation_batches(  # fmt: skip
        split, Preprocessing((12, 20)), batch_size=3
    ).as_numpy_iterator()
    assert np.array_equal(batch, images)
