"""Data is a pure function of the step: each picture once, in the published order of things."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from resnet_keras import augment, data
from resnet_keras.data.pictures import decode, shape_of
from resnet_keras.terminal import InputError


def numbered(examples, size=4):
    """Pictures that carry their number in every pixel and as their label."""
    images = np.arange(examples, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (examples, size, size, 1)).copy()
    names = tuple(map(str, range(examples)))
    return data.Pictures(examples, names, 1, arrays=(images, np.arange(examples)))


def in_files(pictures, folder, files):
    """The same pictures as PNG in TFRecord files."""
    images, labels = pictures.arrays
    pieces = []
    for part in range(files):
        path = str(folder / f"part-{part}.tfrecord")
        numbers = range(part, pictures.examples, files)
        with tf.io.TFRecordWriter(path) as writer:
            for i in numbers:
                picture = tf.io.serialize_tensor(
                    tf.stack([tf.io.encode_png(images[i]), tf.constant(str(labels[i]))])
                )
                writer.write(picture.numpy())
        pieces.append((path, 0, len(numbers)))

    def parse(record):
        fields = tf.ensure_shape(tf.io.parse_tensor(record, tf.string), (2,))
        return fields[0], tf.strings.to_number(fields[1], tf.int64)

    return data.Pictures(pictures.examples, pictures.labels, 1, records=(pieces, parse))


@pytest.fixture(params=["arrays", "records"])
def pictures(request, tmp_path):
    base = numbered(23)
    return base if request.param == "arrays" else in_files(base, tmp_path, 4)


def labels_of(pictures, steps, **options):
    options = {"size": 4, "batch_size": 8, "seed": 1, **options}
    batches = data.training_batches(pictures, **options).take(steps)
    return [labels.tolist() for _, labels in batches.as_numpy_iterator()]


def test_an_epoch_shows_every_picture_and_is_filled_from_the_next(pictures):
    first, second = (sum(labels_of(pictures, 6)[i : i + 3], []) for i in (0, 3))
    assert len(first) == 24 and sorted(first[:23]) == sorted(second[:23]) == list(range(23))
    assert first[23] == second[0]  # the next order's first picture
    assert first != second


def test_batches_are_a_function_of_the_step(pictures):
    whole = labels_of(pictures, 9)
    for start in (1, 3, 4, 8):
        assert labels_of(pictures, 9 - start, start=start) == whole[start:]
    assert labels_of(pictures, 3, seed=2) != whole[:3]


def test_the_seed_of_the_process_changes_nothing(pictures):
    found = []
    for number in (0, 7):
        tf.random.set_seed(number)  # as `train` does
        found.append(labels_of(pictures, 4))
    assert found[0] == found[1]
    assert labels_of(pictures, 4, seed=2) != found[0]


def test_pictures_are_told_apart_by_a_pixel_a_label_and_the_order(data_dir):
    pictures = data.open_split("digits", "test", data_dir=data_dir)
    images, labels = pictures.arrays
    pixel = images.copy()
    pixel[-1, 0, 0, 0] ^= 1
    label = (labels + (np.arange(len(labels)) == 3)) % len(pictures.labels)
    others = [(pixel, labels), (images, label), (images[::-1], labels), (images, labels)]
    found = [dataclasses.replace(pictures, arrays=arrays).identity for arrays in others]
    assert len(set(found)) == 4 and found[-1] == pictures.identity


def test_a_batch_may_be_larger_than_the_data_set(pictures):
    (batch,) = labels_of(pictures, 1, batch_size=60)
    assert sorted(batch[:46]) == sorted([*range(23)] * 2)


def test_augmentation_is_a_function_of_the_step_too():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
    pictures = data.Pictures(20, ("a",), 3, arrays=(images, np.zeros(20, np.int64)))
    options = {"size": 8, "batch_size": 5, "seed": 3, "padding": 2, "flip": True, "min_area": 0.3}

    def pixels(start, steps):
        batches = data.training_batches(pictures, start=start, **options).take(steps)
        return np.stack([images for images, _ in batches.as_numpy_iterator()])

    whole = pixels(0, 8)
    assert whole.dtype == np.uint8 and np.array_equal(pixels(3, 5), whole[3:])
    first, second = (np.sort(x.reshape(-1)) for x in (whole[:4], whole[4:]))
    assert not np.array_equal(first, second)  # new crops each epoch


def test_repeats_are_neighbours_and_an_epoch_stays_as_long(pictures):
    labels = labels_of(pictures, 6, repeats=3)
    for epoch in (labels[:3], labels[3:]):
        (distinct, count) = np.unique(sum(epoch, []), return_counts=True)
        assert len(distinct) == 8 and count.tolist() == [3] * 8  # ceil(23 / 8) batches of 8
        flat = sum(epoch, [])
        assert flat[0::3] == flat[1::3] == flat[2::3]
    assert set(sum(labels[:3], [])) != set(sum(labels[3:], []))
    for start in (1, 3, 5):
        assert labels_of(pictures, 6 - start, start=start, repeats=3) == labels[start:]
    # A shorter epoch shows the beginning of the same order.
    assert sum(labels[:3], [])[::3] == sum(labels_of(pictures, 1), [])


def colourful(examples=12, size=32, classes=4):
    images = np.random.default_rng(0).integers(0, 256, (examples, size, size, 3), dtype=np.uint8)
    names = tuple(map(str, range(classes)))
    return data.Pictures(examples, names, 3, arrays=(images, np.arange(examples) % classes))


def drawn(pictures, start=0, steps=1, **options):
    options = {"size": 32, "batch_size": 12, "seed": 3, **options}
    batches = data.training_batches(pictures, start=start, **options).take(steps)
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


def test_copies_of_a_picture_are_augmented_each_in_its_own_way():
    images, _ = drawn(colourful(), repeats=3, padding=4)
    assert len({image.tobytes() for image in images}) == 12


@pytest.mark.parametrize(
    "options",
    [{"rand_ops": 2, "rand_magnitude": 9.0}, {"color_jitter": 0.4}, {"erasing": 1.0},
     {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}],
)  # fmt: skip
def test_every_augmentation_changes_pixels_as_a_function_of_the_step(options):
    pictures = colourful()
    plain, _ = drawn(pictures, steps=4)
    images, labels = drawn(pictures, steps=4, **options)
    assert images.dtype == np.uint8 and not np.array_equal(images, plain)
    rest = drawn(pictures, start=2, steps=2, **options)
    assert np.array_equal(rest[0], images[24:]) and np.array_equal(rest[1], labels[24:])


def test_colour_comes_before_erasing_and_after_the_crop():
    """Each function of `augment` draws from its own stream, so the order can be told."""
    pictures = colourful()
    options = {"flip": True, "padding": 3, "rand_ops": 2, "color_jitter": 0.4}
    whole, labels = drawn(pictures, erasing=1.0, **options)
    before, _ = drawn(pictures, **options)
    geometry, order = drawn(pictures, flip=True, padding=3)
    assert np.array_equal(labels, order)
    strength = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
    for position in range(12):
        key = augment.example_seed(3, 0, position)
        expected = augment.rand_augment(tf.constant(geometry[position]), key, num_ops=2)
        expected = augment.color_jitter(expected, key, **strength)
        assert np.array_equal(before[position], expected)
        expected = augment.random_erasing(expected, key, probability=1.0)
        assert np.array_equal(whole[position], expected)


def test_mixing_makes_a_distribution_of_the_labels_and_follows_the_pixels():
    pictures = colourful()
    plain, labels = drawn(pictures, steps=30)
    images, mixed = drawn(pictures, steps=30, mixup=1.0, cutmix=1.0)
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
def test_grey_pictures_have_no_colour_to_change(option):
    (name,) = option
    with pytest.raises(InputError, match=rf"`{name}` needs pictures of 3 channels, these have 1"):
        data.training_batches(numbered(8), size=4, batch_size=4, seed=0, **option)


def test_grey_pictures_can_be_erased_and_mixed():
    batches = data.training_batches(
        numbered(8), size=4, batch_size=4, seed=0, erasing=1.0, mixup=0.2, cutmix=1.0
    )
    images, labels = next(iter(batches))
    assert images.shape == (4, 4, 4, 1) and labels.shape == (4, 8)


def test_evaluation_shows_every_picture_once_in_order(pictures):
    batches = data.evaluation_batches(pictures, size=4, batch_size=8)
    seen = [(images[:, 0, 0, 0], labels) for images, labels in batches.as_numpy_iterator()]
    assert [len(labels) for _, labels in seen] == [8, 8, 7]
    pixels, labels = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert np.array_equal(pixels, labels) and sorted(labels) == list(range(23))


def test_digits_are_scikit_learns_with_the_last_360_as_test(data_dir):
    source = load_digits()
    for split, numbers in (("train", range(1437)), ("test", range(1437, 1797))):
        pictures = data.open_split("digits", split, data_dir=data_dir)
        images, labels = pictures.arrays
        assert pictures.examples == len(numbers) and pictures.labels == tuple("0123456789")
        ours = sorted((x.tobytes(), y) for x, y in zip(images[..., 0], labels, strict=True))
        grey = np.round(source.images[numbers] * 255 / 16).astype(np.uint8)
        theirs = sorted((x.tobytes(), y) for x, y in zip(grey, source.target[numbers], strict=True))
        assert ours == theirs


def test_fashion_mnist_of_other_bytes_than_zalandos_is_refused(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = struct.pack(">IIII", 2051, 1, 28, 28) + bytes(784)
        labels = struct.pack(">II", 2049, 1) + bytes(1)
        (manual / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
        (manual / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(InputError, match="checksum"):
        data.open_split("fashion_mnist", "train", data_dir=tmp_path)


DEBIAN = "/usr/share/datasets/fashion-mnist"


@pytest.mark.skipif(not tf.io.gfile.exists(DEBIAN), reason="Debian's dataset-fashion-mnist")
def test_debians_fashion_mnist_satisfies_the_real_builder(data_dir):
    train = data.open_split("fashion_mnist", "train", data_dir=data_dir)
    images, labels = train.arrays
    assert images.shape == (60000, 28, 28, 1) and np.bincount(labels).tolist() == [6000] * 10
    # Published: mean .2860, standard deviation .3530 of the training pixels.
    assert images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert images.std() / 255 == pytest.approx(0.3530, abs=1e-4)
    assert train.labels[9] == "Ankle boot"
    assert data.open_split("fashion_mnist", "test", data_dir=data_dir).examples == 10000


def test_any_split_of_tfds(data_dir):
    half = data.open_split("digits", "train[:50%]", data_dir=data_dir)
    assert half.examples == 718
    with pytest.raises(InputError, match="train, test|test, train"):
        data.open_split("digits", "nosuch", data_dir=data_dir)


@pytest.mark.parametrize("split", ["train[5:2]", "train[3:3]"])
def test_a_slice_of_nothing_is_an_empty_split_not_a_damaged_one(data_dir, split):
    with pytest.raises(InputError, match="is empty") as caught:
        data.open_split("digits", split, data_dir=data_dir)
    assert split in str(caught.value) and "Delete" not in str(caught.value)


def prepared(folder, shape=(4, 4, 3), **labels):
    """A data set as TFDS leaves it on disk, a picture for each label of each split."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
    )
    splits = {
        split: tf.data.Dataset.from_tensor_slices(
            {"image": np.zeros((len(its), 4, 4, 3), np.uint8), "label": np.array(its, np.int64)}
        )
        for split, its in labels.items()
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mine", version="1.0.0", features=features, split_datasets=splits, data_dir=folder
    )


# In memory, and as records.
@pytest.mark.parametrize("shape", [(4, 4, 3), (None, None, 3)])
def test_a_test_without_labels_is_the_validation_and_refused_by_its_name(tmp_path, shape):
    """TFDS' imagenet2012, places365_small, i_naturalist2018 and others have tests of -1."""
    prepared(tmp_path, shape, train=[0, 1, 2], validation=[2, 1], test=[-1, -1, -1, -1])
    test = data.open_split("mine", "test", data_dir=tmp_path)
    assert test.examples == 2
    (_, labels), = data.evaluation_batches(test, size=4, batch_size=4)  # fmt: skip
    assert sorted(labels.numpy()) == [1, 2]
    with pytest.raises(InputError, match="have no labels") as caught:
        data.open_split("mine", "test[:2]", data_dir=tmp_path)
    assert "validation" in str(caught.value)


def test_a_test_with_labels_is_the_test(tmp_path):
    prepared(tmp_path, (None, None, 3), train=[0], validation=[1], test=[2, 2])
    assert data.open_split("mine", "test", data_dir=tmp_path).examples == 2


def test_a_data_set_of_train_alone_says_what_to_do_about_its_test(tmp_path):
    prepared(tmp_path, train=[0, 1, 2, 0, 1])
    with pytest.raises(InputError, match="Received: split='test'") as caught:
        data.open_split("mine", "test", data_dir=tmp_path)
    assert "train[80%:]" in str(caught.value) and "--holdout 1000" in str(caught.value)
    assert data.open_split("mine", "train[80%:]", data_dir=tmp_path).examples == 1


def test_unknown_data_set_names_near_ones(data_dir):
    with pytest.raises(InputError, match="cifar10"):
        data.open_split("cifar_10", "train", data_dir=data_dir)


def test_a_near_data_set_is_named_once(data_dir):
    """TFDS knows our digits, too."""
    with pytest.raises(InputError, match="near it: digits,") as caught:
        data.open_split("digitts", "train", data_dir=data_dir)
    assert str(caught.value).count("digits,") == 1


def test_a_data_set_without_pictures_is_refused(data_dir):
    with pytest.raises(InputError, match="no labelled pictures"):
        data.open_split("iris", "train", data_dir=data_dir)


def test_imagenet_tells_which_archives_to_put_where(tmp_path):
    with pytest.raises(InputError, match=r"ILSVRC2012_img_train.tar \(147,897,477,120 bytes\)"):
        data.open_split("imagenet2012", "train", data_dir=tmp_path)


def test_pictures_are_read_and_bad_ones_named(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    tf.io.write_file(str(tmp_path / "x.png"), tf.io.encode_png(image))
    assert np.array_equal(data.read_picture(tmp_path / "x.png"), image)
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            data.read_picture(tmp_path / name)


def test_the_window_alone_is_decoded_as_the_whole_picture_is():
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    smooth = tf.cast(tf.image.resize(image[:8, :8], (64, 96)), tf.uint8)
    jpeg = tf.io.encode_jpeg(smooth)
    window = decode(jpeg, 3, (16, 32, 24, 40))
    whole = decode(jpeg, 3)[16:40, 32:72]
    # Chroma is upsampled from the window alone at its edges.
    assert np.abs(whole[2:-2, 2:-2].numpy().astype(int) - window[2:-2, 2:-2]).max() <= 1


def test_the_shape_of_a_picture_is_read_from_its_bytes():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    for encoded in (tf.io.encode_jpeg(image), tf.io.encode_png(image), tf.constant(image)):
        assert shape_of(encoded).numpy().tolist() == [5, 7, 3]


def test_tfds_writes_where_it_is_told(data_dir):
    data.open_split("digits", "test", data_dir=data_dir)
    assert (data_dir / "digits" / "1.0.0" / "dataset_info.json").exists()


@pytest.mark.parametrize("options", [{}, {"mixup": 1.0}, {"cutmix": 1.0, "repeats": 2}])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 3, 4], [1, 7]])
def test_rows_are_those_of_the_whole_batches(pictures, rows, options):
    options = {"size": 4, "batch_size": 8, "seed": 1, "padding": 1, "start": 2, **options}
    whole = data.training_batches(pictures, **options).take(5)
    share = data.training_batches(pictures, rows=np.array(rows), **options).take(5)
    for some, every in zip(share.as_numpy_iterator(), whole.as_numpy_iterator(), strict=True):
        for part, all_ in zip(some, every, strict=True):
            assert np.array_equal(part, all_[rows])


def test_no_thread_that_tunes_makes_the_end_of_an_iterator_wait(pictures):
    for batches in (
        data.training_batches(pictures, size=4, batch_size=8, seed=1),
        data.evaluation_batches(pictures, size=4, batch_size=5),
        data.evaluation_batches(pictures, size=4, batch_size=5, share=(0, 2)),
    ):
        assert batches.options().autotune.enabled is False


@pytest.mark.parametrize("of", [2, 3])
def test_shares_of_an_evaluation_are_whole_batches_that_show_each_picture_once(pictures, of):
    shares = [
        list(
            data.evaluation_batches(
                pictures, size=4, batch_size=5, share=(number, of)
            ).as_numpy_iterator()
        )
        for number in range(of)
    ]
    assert {len(batches) for batches in shares} == {{2: 3, 3: 2}[of]}
    flat = [batch for batches in shares for batch in batches]
    assert {len(labels) for _, labels, _ in flat} == {5}
    labels, weights = (np.concatenate([batch[i] for batch in flat]) for i in (1, 2))
    assert sorted(labels[weights > 0]) == list(range(23))
    assert weights.mean() == pytest.approx(1) and len(set(weights[weights > 0])) == 1


@pytest.mark.parametrize("harm", ["bit", "length", "cut", "gone"])
def test_a_damaged_file_of_records_is_named(tmp_path, harm):
    """TensorFlow tells a place, which several files may have, and no file."""
    pictures = in_files(numbered(23), tmp_path, 4)
    victim = tmp_path / "part-2.tfrecord"
    contents = bytearray(victim.read_bytes())
    (length,) = struct.unpack_from("<Q", contents)
    second = length + 16
    if harm == "bit":
        contents[second + 20] ^= 1
    elif harm == "length":
        contents[second] ^= 1
    victim.write_bytes(contents[:-30] if harm == "cut" else contents)
    if harm == "gone":
        victim.unlink()
    for batches in (
        data.training_batches(pictures, size=4, batch_size=8, seed=0).take(4),
        data.evaluation_batches(pictures, size=4, batch_size=8),
    ):
        with pytest.raises(InputError, match=rf"{victim} ") as caught:
            with data.naming_files(pictures.record_files):
                list(batches)
        assert ("is damaged" in str(caught.value)) == (harm != "gone")


@pytest.mark.parametrize("examples", [1, 3, 4, 10, 22, 23, 200])
def test_a_sample_has_the_pictures_that_it_says(pictures, examples):
    """Of files of 6, 6, 6 and 5 records, too."""
    some = data.sample(pictures, examples, seed=0)
    batches = data.evaluation_batches(some, size=4, batch_size=8)
    labels = np.concatenate([labels for _, labels in batches.as_numpy_iterator()])
    assert some.examples == len(labels) == len(set(labels)) == min(examples, 23)


def test_what_short_files_lack_of_a_sample_comes_of_the_others():
    pieces = [("long", 0, 90), ("short", 5, 2), ("middle", 0, 20), ("last", 0, 90)]
    split = data.Pictures(202, ("a", "b"), 3, records=(pieces, None))
    some = data.sample(split, 101, seed=0)
    takes = {file: take for file, _, take in some.records[0]}
    assert takes["short"] == 2 and takes["middle"] == 20
    assert sorted((takes["long"], takes["last"])) == [39, 40] and some.examples == 101
