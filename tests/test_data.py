"""Batches are a pure function of the step; every image comes once in each epoch."""

import dataclasses
import os
import struct
import time

import numpy as np
import pytest
import tensorflow as tf
from batches import batches_of, numbered
from PIL import Image

from resnet_keras import data
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation


def in_files(split, folder, files):
    """The same images as PNG in TFRecord files."""
    images, labels = split.arrays
    pieces = []
    folder.mkdir(exist_ok=True)
    for part in range(files):
        path = str(folder / f"part-{part}.tfrecord")
        numbers = range(part, split.examples, files)
        with tf.io.TFRecordWriter(path) as writer:
            for i in numbers:
                image = tf.io.serialize_tensor(
                    tf.stack([tf.io.encode_png(images[i]), tf.constant(str(labels[i]))])
                )
                writer.write(image.numpy())
        pieces.append((path, 0, len(numbers)))

    def parse(record):
        fields = tf.ensure_shape(tf.io.parse_tensor(record, tf.string), (2,))
        return fields[0], tf.strings.to_number(fields[1], tf.int64)

    return data.RecordSplit(labels=split.labels, channels=1, pieces=pieces, parse=parse)


def in_image_files(split, folder):
    """The same images as PNG files, in a folder for each class."""
    for image, label in zip(*split.arrays, strict=True):
        for part in ("train", "test"):
            path = folder / part / f"{label:03}" / "x.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.repeat(image, 3, 2)).save(path)
    return data.open_folder(folder, "train")


@pytest.fixture(params=["arrays", "records", "files"])
def split(request, tmp_path):
    base = numbered(23)
    if request.param == "arrays":
        return base
    return (
        in_files(base, tmp_path, 4)
        if request.param == "records"
        else in_image_files(base, tmp_path)
    )


def labels_of(split, steps, **options):
    batches = batches_of(split, **options).take(steps)
    return [labels.tolist() for _, labels in batches.as_numpy_iterator()]


def test_a_split_knows_its_size_and_its_files(split, tmp_path):
    assert split.examples == 23 and len(split.labels) == 23
    kinds = {
        data.ArraySplit: ((), None),
        data.RecordSplit: (tuple(f"{tmp_path}/part-{i}.tfrecord" for i in range(4)), None),
        data.FileSplit: ((), tuple(f"{tmp_path}/train/{i:03}/x.png" for i in range(23))),
    }
    assert (split.record_files, split.paths) == kinds[type(split)]


def test_an_epoch_shows_every_image_and_is_filled_from_the_next(split):
    first, second = (sum(labels_of(split, 6)[i : i + 3], []) for i in (0, 3))
    assert len(first) == 24 and sorted(first[:23]) == sorted(second[:23]) == list(range(23))
    assert first[23] == second[0]  # the next order's first image
    assert first != second


def test_batches_are_a_function_of_the_step(split):
    whole = labels_of(split, 9)
    for start in (1, 3, 4, 8):
        assert labels_of(split, 9 - start, start=start) == whole[start:]
    assert labels_of(split, 3, seed=2) != whole[:3]


def test_the_seed_of_the_process_changes_nothing(split):
    found = []
    for number in (0, 7):
        tf.random.set_seed(number)  # as `train` does
        found.append(labels_of(split, 4))
    assert found[0] == found[1]
    assert labels_of(split, 4, seed=2) != found[0]


def test_identity_depends_on_every_pixel_every_label_and_the_order(data_dir):
    split = data.Source("digits", "test", data_dir=data_dir).open()
    images, labels = split.arrays
    pixel = images.copy()
    pixel[-1, 0, 0, 0] ^= 1
    label = (labels + (np.arange(len(labels)) == 3)) % len(split.labels)
    others = [(pixel, labels), (images, label), (images[::-1], labels), (images, labels)]
    found = [dataclasses.replace(split, arrays=arrays).identity for arrays in others]
    assert len(set(found)) == 4 and found[-1] == split.identity


def test_a_batch_may_be_larger_than_the_data_set(split):
    (batch,) = labels_of(split, 1, batch_size=60)
    assert sorted(batch[:46]) == sorted([*range(23)] * 2)


def test_augmentation_is_a_function_of_the_step_too():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
    split = data.ArraySplit(labels=("a",), channels=3, arrays=(images, np.zeros(20, np.int64)))
    options = {"size": 8, "batch_size": 5, "seed": 3, "padding": 2, "flip": True, "min_area": 0.3}

    def pixels(start, steps):
        batches = batches_of(split, start=start, **options).take(steps)
        return np.stack([images for images, _ in batches.as_numpy_iterator()])

    whole = pixels(0, 8)
    assert whole.dtype == np.uint8 and np.array_equal(pixels(3, 5), whole[3:])
    first, second = (np.sort(x.reshape(-1)) for x in (whole[:4], whole[4:]))
    assert not np.array_equal(first, second)  # new crops each epoch


def test_repeats_are_neighbours_and_an_epoch_stays_as_long(split):
    labels = labels_of(split, 6, repeats=3)
    for epoch in (labels[:3], labels[3:]):
        (distinct, count) = np.unique(sum(epoch, []), return_counts=True)
        assert len(distinct) == 8 and count.tolist() == [3] * 8  # ceil(23 / 8) batches of 8
        flat = sum(epoch, [])
        assert flat[0::3] == flat[1::3] == flat[2::3]
    assert set(sum(labels[:3], [])) != set(sum(labels[3:], []))
    for start in (1, 3, 5):
        assert labels_of(split, 6 - start, start=start, repeats=3) == labels[start:]
    # A shorter epoch shows the beginning of the same order.
    assert sum(labels[:3], [])[::3] == sum(labels_of(split, 1), [])


@pytest.mark.parametrize(("batch_size", "repeats"), [(5, 3), (23, 4), (30, 2)])
def test_an_epoch_that_repeats_do_not_divide_ends_within_an_image(split, batch_size, repeats):
    steps = -(-23 // batch_size)
    shown = steps * batch_size  # 25, 23, 30: each leaves a rest
    labels = labels_of(split, 2 * steps, batch_size=batch_size, repeats=repeats)
    epochs = [sum(part, []) for part in (labels[:steps], labels[steps:])]
    for epoch in epochs:
        distinct = epoch[::repeats]
        assert len(distinct) == -(-shown // repeats) == len(set(distinct))
        assert epoch == np.repeat(distinct, repeats)[:shown].tolist()
    assert epochs[0] != epochs[1]
    plain = sum(labels_of(split, steps, batch_size=batch_size), [])
    assert plain[: len(epochs[0][::repeats])] == epochs[0][::repeats]  # the same order


def test_repeats_of_few_images_go_on_in_the_next_epochs_order(tmp_path):
    base = numbered(3)
    for few in (base, in_files(base, tmp_path, 2)):
        later = labels_of(few, 4, batch_size=3)
        # Four images, of two copies each: all three, then the first of the next order.
        orders = [np.repeat([*later[i], later[i + 1][0]], 2).tolist() for i in range(3)]
        for size in (8, 7):
            batches = labels_of(few, 3, batch_size=size, repeats=2)
            assert batches == [order[:size] for order in orders]


def test_records_of_one_file_have_a_new_order_in_every_epoch(tmp_path):
    whole = in_files(numbered(23), tmp_path, 1)
    labels = sum(labels_of(whole, 12), [])  # four epochs of three batches of 8
    orders = [tuple(labels[24 * epoch :][:23]) for epoch in range(4)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({*orders, tuple(range(23))}) == 5
    assert sum(labels_of(whole, 3, seed=2), [])[:23] != list(orders[0])


def test_evaluation_shows_every_image_once_in_order(split):
    batches = data.evaluation_batches(split, Preprocessing(4), batch_size=8)
    seen = [(images[:, 0, 0, 0], labels) for images, labels in batches.as_numpy_iterator()]
    assert [len(labels) for _, labels in seen] == [8, 8, 7]
    pixels, labels = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert np.array_equal(pixels, labels) and sorted(labels) == list(range(23))


def test_records_are_known_by_their_files_their_places_and_their_labels(tmp_path):
    split = in_files(numbered(23), tmp_path / "one", 4)
    same = in_files(numbered(23), tmp_path / "two", 4)  # in another folder
    assert split.identity == same.identity and split.identity.startswith("23 of 23 classes")
    (first, skip, take), *others = split.pieces
    for changed in ((first, skip + 1, take), (first, skip, take - 1), (first + "x", skip, take)):
        other = dataclasses.replace(split, pieces=[changed, *others])
        assert other.identity != split.identity
    labels = (*split.labels[:-1], "another")
    assert dataclasses.replace(split, labels=labels).identity != split.identity
    assert not split.multi_label and split.counts is None and split.paths is None


def test_by_default_an_image_has_three_channels_and_a_training_starts_at_its_first_step(tmp_path):
    tf.io.write_file(str(tmp_path / "x.png"), tf.io.encode_png(np.ones((2, 3, 1), np.uint8)))
    assert data.read_image(tmp_path / "x.png").shape == (2, 3, 3)
    assert data.read_image(tmp_path / "x.png", 1).shape == (2, 3, 1)
    split, columns = numbered(23), Augmentation(train_size=4)
    how = {"batch_size": 8, "seed": 1}
    first = next(data.training_batches(split, columns, **how).as_numpy_iterator())
    assert first[1].tolist() == labels_of(split, 1)[0]
    views = data.view_batches(split, columns, None, view=0, **how)
    assert next(views.as_numpy_iterator())[1].tolist() == list(range(8))


@pytest.mark.parametrize("options", [{}, {"mixup": 1.0}, {"cutmix": 1.0, "repeats": 2}])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2, 3, 4], [1, 7]])
def test_rows_are_those_of_the_whole_batches(split, rows, options):
    options = {"padding": 1, "start": 2, **options}
    whole = batches_of(split, **options).take(5)
    share = batches_of(split, rows=np.array(rows), **options).take(5)
    for some, every in zip(share.as_numpy_iterator(), whole.as_numpy_iterator(), strict=True):
        for part, all_ in zip(some, every, strict=True):
            assert np.array_equal(part, all_[rows])


def threads_of(batches):
    """How many threads live as long as an iterator; at first, pools that stay grow, too."""

    def started():
        before = len(os.listdir("/proc/self/task"))
        iterator = iter(batches)
        next(iterator)
        return len(os.listdir("/proc/self/task")) - before

    return min(started() for _ in range(4))


def test_no_tuning_thread_delays_the_end_of_an_iterator():
    """Its end waits for that thread, which sleeps for up to as long as the iterator has lived."""
    split, tuned = numbered(23), tf.data.Options()
    tuned.autotune.enabled = True
    for batches in (
        batches_of(split),
        data.evaluation_batches(split, Preprocessing(4), batch_size=5),
        data.evaluation_batches(split, Preprocessing(4), batch_size=5, share=(0, 2)),
    ):
        assert threads_of(batches.with_options(tuned)) > threads_of(batches)


@pytest.mark.parametrize("of", [2, 3])
def test_shares_of_an_evaluation_are_whole_batches_that_show_each_image_once(split, of):
    shares = [
        list(
            data.evaluation_batches(
                split, Preprocessing(4), batch_size=5, share=(number, of)
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
    """TensorFlow names a place, which several files may have, but no file."""
    split = in_files(numbered(23), tmp_path, 4)
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
        batches_of(split, seed=0).take(4),
        data.evaluation_batches(split, Preprocessing(4), batch_size=8),
    ):
        with pytest.raises(InputError, match=rf"{victim} ") as caught:
            with data.reading(split):
                list(batches)
        assert ("is damaged" in str(caught.value)) == (harm != "gone")
        assert (f"the file {victim} can no longer be read" in str(caught.value)) == (harm == "gone")


@pytest.mark.parametrize("examples", [1, 3, 4, 10, 22, 23, 200])
def test_a_sample_has_the_images_that_it_counts(split, examples):
    """Of files of 6, 6, 6 and 5 records, too."""
    some = split.sample(examples, seed=0)
    batches = data.evaluation_batches(some, Preprocessing(4), batch_size=8)
    labels = np.concatenate([labels for _, labels in batches.as_numpy_iterator()])
    assert some.examples == len(labels) == len(set(labels)) == min(examples, 23)
    drawn, again = ([split.sample(examples, seed=k).identity for k in range(8)] for _ in "ab")
    assert drawn == again and drawn[0] == some.identity
    if examples == 3:
        assert len(set(drawn)) > 1


def test_what_short_files_lack_of_a_sample_comes_from_the_others():
    pieces = [("long", 0, 90), ("short", 5, 2), ("middle", 0, 20), ("last", 0, 90)]
    split = data.RecordSplit(labels=("a", "b"), channels=3, pieces=pieces, parse=None)
    some = split.sample(101, seed=0)
    takes = {file: take for file, _, take in some.pieces}
    assert takes["short"] == 2 and takes["middle"] == 20
    assert sorted((takes["long"], takes["last"])) == [39, 40] and some.examples == 101


# Operations of a data set that work in parallel, and `map`s that do not: what is made of an image,
# and of a batch, is made on all cores; `parse` of records and the weight of a share are cheap.
CORES = {
    "training": (lambda split: batches_of(split), 1, 0),
    "mixed": (lambda split: batches_of(split, mixup=1.0, rows=[0, 1]), 3, 0),
    "evaluation": (
        lambda split: data.evaluation_batches(split, Preprocessing(4), batch_size=8), 1, 0,
    ),
    "share": (
        lambda split: data.evaluation_batches(
            split, Preprocessing(4), batch_size=8, share=(0, 2)
        ), 1, 1,
    ),
    "view": (
        lambda split: data.view_batches(
            split, Augmentation(train_size=4), None, view=0, seed=0, batch_size=8
        ), 2, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CORES)
def test_all_cores_make_the_next_batches_in_order(split, kind):
    make, parallel, plain = CORES[kind]
    batches = make(split)
    graph = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(batches))
    graph = tf.compat.v1.GraphDef.FromString(graph.numpy())
    nodes = [node for node in graph.node if "Dataset" in node.op]
    in_parallel = [node for node in nodes if node.op.startswith("Parallel")]
    once = isinstance(split, data.RecordSplit) and kind not in ("training", "mixed")
    assert len(in_parallel) == parallel + once  # files of records are read in parallel
    assert [node.op for node in nodes].count("MapDataset") == plain + once
    assert {node.attr["deterministic"].s for node in in_parallel} == {b"true"}
    assert [node.op for node in nodes if node.op != "OptionsDataset"][-1] == "PrefetchDataset"
    options = batches.options()
    assert options.deterministic and not options.autotune.enabled
    # The strategy of several devices is given each device's own images.
    off = tf.data.experimental.AutoShardPolicy.OFF
    assert options.experimental_distribute.auto_shard_policy == off


@pytest.mark.parametrize("kind", CORES)
def test_shapes_of_batches_are_known_before_they_are_made(split, kind):
    images, labels, *_ = CORES[kind][0](split).element_spec
    channels = 3 if isinstance(split, data.FileSplit) else 1
    # The last batch of what ends may be smaller.
    count = {"training": 8, "mixed": 2, "share": 8}.get(kind)
    assert (images.shape.as_list(), images.dtype) == ([count, 4, 4, channels], tf.uint8)
    assert labels.shape.as_list() == ([2, 23] if kind == "mixed" else [count])


def test_balanced_sampling_shows_each_class_alike_and_each_image_before_any_again():
    labels = np.repeat([0, 1, 3], [60, 6, 24])  # class 2 has no images
    images = np.arange(90, dtype=np.uint8)[:, None, None, None]
    split = data.ArraySplit(labels=tuple("abcd"), channels=1, arrays=(images, labels))
    augmentation = Augmentation(train_size=1, sampling="balanced")

    def epochs(start, steps, seed=0):
        batches = data.training_batches(split, augmentation, batch_size=30, seed=seed, start=start)
        return [(part[0][:, 0, 0, 0], part[1]) for part in batches.take(steps).as_numpy_iterator()]

    drawn = epochs(0, 6)
    for epoch in (drawn[:3], drawn[3:]):
        numbers = np.concatenate([images for images, _ in epoch])
        classes = np.concatenate([labels for _, labels in epoch])
        assert np.array_equal(labels[numbers], classes)
        assert np.bincount(classes).tolist() == [30, 30, 0, 30]
        times = np.bincount(numbers, minlength=90)
        assert set(times[:60]) == {0, 1} and set(times[60:66]) == {5} and set(times[66:]) == {1, 2}
    first, second = (np.concatenate([i for i, _ in part]) for part in (drawn[:3], drawn[3:]))
    assert not np.array_equal(first, second)
    assert set(first[first < 60]) != set(second[second < 60])  # another part of the large class
    for step, (images_, labels_) in enumerate(epochs(2, 4), start=2):
        assert np.array_equal(images_, drawn[step][0]) and np.array_equal(labels_, drawn[step][1])
    assert not np.array_equal(epochs(0, 1, seed=1)[0][0], drawn[0][0])


def test_balanced_epochs_are_filled_from_the_next_and_each_class_is_drawn_by_itself():
    labels = np.repeat([0, 1, 2], [20, 20, 50])
    images = np.arange(90, dtype=np.uint8)[:, None, None, None]
    split = data.ArraySplit(labels=tuple("abc"), channels=1, arrays=(images, labels))
    batches = batches_of(split, size=1, batch_size=40, sampling="balanced").take(6)
    shown = np.concatenate([images[:, 0, 0, 0] for images, _ in batches.as_numpy_iterator()])
    assert np.array_equal(shown[90:120], shown[120:150])
    # Thirty of each class: ten of the twenty a second time.
    first, second = (np.bincount(shown[k:][:90], minlength=90) for k in (0, 120))
    twice = [np.flatnonzero(times[k : k + 20] == 2) for times in (first, second) for k in (0, 20)]
    assert [len(part) for part in twice] == [10] * 4
    assert len({tuple(part) for part in twice}) == 4


def test_records_have_no_classes_to_balance(tmp_path):
    records = in_files(numbered(23), tmp_path, 4)
    with pytest.raises(InputError, match="for data sets that are kept as records"):
        batches_of(records, sampling="balanced")


def test_batches_count_how_long_they_let_their_reader_wait():
    def slow(number):
        return tf.numpy_function(lambda n: time.sleep(0.05) or n, [number], tf.int64)

    waiting, options = data.Waiting(), tf.data.Options()
    options.autotune.enabled = False  # as our batches: it would call `slow` from several threads
    batches = tf.data.Dataset.range(8).map(slow).map(lambda n: (n, 2 * n)).with_options(options)
    found = list(waiting.measured(batches).as_numpy_iterator())
    assert found == [(n, 2 * n) for n in range(8)]
    assert 0.4 <= waiting.seconds < 0.8  # 8 times 50 ms
    quick = waiting.seconds
    for _ in waiting.measured(batches.prefetch(8)):
        time.sleep(0.1)  # each is there when it is asked for, but the first
    assert 0.05 <= waiting.seconds - quick < 0.2
