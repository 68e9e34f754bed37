"""A frozen network computes its features once; the last layer trains on them as on images."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from runs import end, log, newest_step

from resnet_keras import Recipe, backup, data, train
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation
from resnet_keras.training import features, prepared
from resnet_keras.training.building import compiled
from resnet_keras.training.dry_run import resolved
from resnet_keras.training.replicas import Replicas
from resnet_keras.training.watch import EpochRow, Position

FROZEN = {
    "model": "resnet20_cifar", "dataset": "digits", "train_size": 8, "eval_size": 8,
    "mean": (127.5,), "std": (127.5,), "batch_size": 128, "learning_rate": 0.1, "epochs": 2,
    "schedule": "cosine", "skip_head": True, "freeze": 3, "precision": "float32", "logger": "none",
    "deterministic": True,
}  # fmt: skip

CODE = (
    "import json, sys; from resnet_keras import Recipe, train;"
    "train(Recipe(**json.loads(sys.argv[1])))"
)


@pytest.fixture
def recipe(digits_run, data_dir, tmp_path):
    """The digits' network, frozen, with a new last layer; run in the folder `name`."""

    def make(name="run", **columns):
        files = {"weights": str(digits_run / "model.keras"), "data_dir": data_dir}
        return Recipe(**FROZEN | files | {"run_dir": tmp_path / name} | columns)

    return make


def arrays(path):
    """The weights of a model file by layer."""
    model = keras.saving.load_model(path, compile=False)
    return {layer.name: layer.get_weights() for layer in model.layers}


def difference(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))


def test_without_augmentation_it_is_the_plain_run(recipe, digits_run, capfd):
    once, plain = train(recipe("once")), train(recipe("plain", views=0))
    said = capfd.readouterr().err
    assert said.count("computing the features of 1,797 images") == 1
    ours, theirs = arrays(once / "model.keras"), arrays(plain / "model.keras")
    start = arrays(digits_run / "model.keras")
    head = ours.pop("predictions")
    assert difference(head, theirs.pop("predictions")) < 1e-5
    assert difference(head, start.pop("predictions")) > 0.1  # it has trained
    for name, weights in ours.items():
        for a, b, c in zip(weights, theirs[name], start[name], strict=True):
            assert np.array_equal(a, b) and np.array_equal(a, c)
    for mine, other in zip(log(once), log(plain), strict=True):
        assert mine.keys() == other.keys()
        assert all(abs(float(mine[k]) - float(other[k])) < 1e-5 for k in mine)
    results = [json.loads((run / "results.json").read_text()) for run in (once, plain)]
    assert results[0]["top1"] == results[1]["top1"] > 0.5
    assert not (once / "features").exists()


@pytest.fixture
def opened(recipe, tmp_path):
    """A training and its network, before features are computed."""
    with ExitStack() as stack:

        def make(name="run", **columns):
            ours = recipe(name, **columns)
            job = prepared(ours, tmp_path / name, Replicas(nullcontext), "float32", stack)
            model, _ = compiled(ours, job.train, "float32", 1, True, True)
            return job, model.network

        yield make


def rows(split, view=0):
    return np.concatenate(split.views[view])


def test_features_are_what_keras_computes(opened):
    job, network = opened()
    found = features.on_features(job, network)
    pooled = keras.Model(network.input, network.get_layer("avg_pool").output)
    for split, images in ((found.train, job.train), (found.validation, job.validation)):
        expected = pooled.predict(images.arrays[0].astype(np.float32), verbose=0)
        # Batch norm is folded: other roundings, relative to the largest number.
        assert np.abs(rows(split) - expected).max() < 1e-5 * expected.max()
        assert np.array_equal(split.classes, images.arrays[1])
        assert split.identity == images.identity and split.examples == len(expected)
    assert found.total_steps == job.total_steps


def test_features_have_the_precision_of_the_training(opened):
    job, network = opened()
    images = job.train.arrays[0][:4].astype(np.float32)
    exact = features._forward(network)(images)
    weights = network.get_weights()
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        half, _ = compiled(job.recipe, job.train, "mixed_bfloat16", 1, True, True)
    finally:
        keras.config.set_dtype_policy(before)
    half.network.set_weights(weights)
    rounded = features._forward(half.network)(images)
    assert rounded.dtype == exact.dtype == np.float32
    # bfloat16 rounds by up to 1/256, float32 by less than a millionth.
    assert 1e-3 < np.abs(rounded - exact).max() / exact.max() < 0.05


def test_views_are_augmentations_that_never_change(opened, tmp_path):
    job, network = opened(views=3, padding=2)
    found = features.on_features(job, network).train
    views = [rows(found, view) for view in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        # One shift in 25 is the same by chance, and some digits have nothing at their edges.
        assert (views[one] != views[other]).any(1).mean() > 0.9
    # Of another folder, and of pieces that were lost: after a kill, those from some number on.
    other = dataclasses.replace(job, folder=tmp_path / "other")
    again = features.on_features(other, network).train
    for path in sorted((tmp_path / "run" / "features").glob("train-1-*"))[2:]:
        path.unlink()
    resumed = features.on_features(job, network).train
    for view, expected in enumerate(views):
        assert np.array_equal(rows(again, view), expected)
        assert np.array_equal(rows(resumed, view), expected)


def test_features_of_other_images_or_weights_are_not_used(opened, tmp_path):
    job, network = opened()
    before = rows(features.on_features(job, network).train).copy()
    names = {path.name for path in (tmp_path / "run" / "features").iterdir()}
    images, labels = job.train.arrays
    images = images.copy()
    images[1000] = 255 - images[1000]
    changed = dataclasses.replace(job.train, arrays=(images, labels))
    after = rows(features.on_features(dataclasses.replace(job, train=changed), network).train)
    assert np.flatnonzero((before != after).any(1)).tolist() == [1000]
    left = {path.name for path in (tmp_path / "run" / "features").iterdir()}
    assert {name for name in left & names} == {n for n in names if n.startswith("validation")}
    kernel = network.get_layer("conv4_block3_2_bn").gamma
    kernel.assign(2 * kernel)
    assert not np.allclose(rows(features.on_features(job, network).train), before)


@pytest.mark.parametrize(
    "change",
    [{"policy": "trivial_augment_wide"}, {"policy": "auto_augment"}, {"erasing_fill": "mean"}],
)
def test_views_of_other_augmentations_have_other_names(opened, change):
    job, network = opened(views=2, erasing=1.0)
    changed = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, **change))
    one, other = (features._checksum(each, network) for each in (job, changed))
    assert one == features._checksum(job, network) != other


def test_views_are_erased_with_the_mean_of_the_network(opened):
    job, network = opened(views=2, erasing=1.0, erasing_fill="mean")
    found = rows(features.on_features(job, network).train, 1)
    pooled = keras.Model(network.input, network.get_layer("avg_pool").output)
    for mean, same in ((127.5, True), (60.0, False)):
        batches = data.view_batches(
            job.train, job.recipe, None,
            view=1, seed=job.recipe.seed, batch_size=500, normalisation=((mean,), (127.5,)),
        )  # fmt: skip
        images = np.concatenate([images for images, _ in batches.as_numpy_iterator()])
        expected = pooled.predict(images.astype(np.float32), verbose=0)
        assert (np.abs(found - expected).max() < 1e-5 * expected.max()) == same


def test_a_forward_pass_is_not_made_again(opened, capfd):
    job, network = opened()

    def files():
        features.on_features(job, network)
        paths = (job.folder / "features").iterdir()
        return {path: path.stat().st_ino for path in paths}

    before = files()
    assert "computing the features" in capfd.readouterr().err
    assert files() == before
    assert "computing the features" not in capfd.readouterr().err


def numbered(examples, views, piece):
    """Features that say of which view and image they are, and the images that say it too."""
    table = np.array([[(v, n) for n in range(examples)] for v in range(views)], np.float32)
    labels = np.arange(examples) % 3
    images = np.arange(examples, dtype=np.uint8)[:, None, None, None]
    split = data.ArraySplit(labels=("a", "b", "c"), channels=1, arrays=(images, labels))
    pieces = [np.split(view, range(piece, examples, piece)) for view in table]
    return split, data.FeatureSplit(
        labels=split.labels, channels=1, images=split, views=pieces, classes=labels
    )


@pytest.mark.parametrize("sampling", ["all", "balanced"])
def test_features_come_in_the_order_of_the_images(sampling):
    images, split = numbered(examples=23, views=2, piece=5)
    columns = Augmentation(train_size=1, sampling=sampling)
    how = {"batch_size": 8, "seed": 5, "start": 1}
    pairs = zip(
        data.training_batches(images, columns, **how).take(9).as_numpy_iterator(),
        data.training_batches(split, columns, **how).take(9).as_numpy_iterator(),
        strict=True,
    )
    for step, ((pixels, labels), (found, ours)) in enumerate(pairs, start=1):
        numbers = pixels.reshape(-1)
        assert np.array_equal(found[:, 1], numbers) and np.array_equal(ours, labels)
        assert np.array_equal(found[:, 0], (step // 3 + numbers) % 2)  # 3 steps an epoch
    # Validation: each image once, the first view.
    batches = list(data.evaluation_batches(split, None, batch_size=10).as_numpy_iterator())
    assert np.array_equal(np.concatenate([found for found, _ in batches])[:, 1], np.arange(23))
    assert not np.concatenate([found for found, _ in batches])[:, 0].any()
    assert batches[0][0].dtype == np.float32
    for spec in (
        data.training_batches(split, columns, **how).element_spec,
        data.evaluation_batches(split, None, batch_size=8).element_spec,
    ):
        assert spec[0].shape.as_list() in ([8, 2], [None, 2])
    few = split.sample(7, seed=1)
    assert np.array_equal(few.views[1][0][:, 1], images.sample(7, seed=1).arrays[0].reshape(-1))
    assert few.counts.sum() == 7


def test_records_are_viewed_from_any_image_on(tmp_path):
    def encode(number):
        image = tf.io.encode_png(np.full((2, 2, 1), number, np.uint8)).numpy()
        return bytes([number]) + image

    with tf.io.TFRecordWriter(str(tmp_path / "some")) as writer:
        for number in range(20):
            writer.write(encode(number))

    def parse(record):
        number = tf.io.decode_raw(tf.strings.substr(record, 0, 1), tf.uint8)[0]
        return tf.strings.substr(record, 1, -1), tf.cast(number, tf.int64)

    split = data.RecordSplit(
        labels=tuple("abcdefghijklmnopqrst"), channels=1, parse=parse,
        pieces=[(str(tmp_path / "some"), 0, 20)],
    )  # fmt: skip
    columns = Augmentation(train_size=2, erasing=1.0)
    found = {}
    for start in (0, 8):
        how = {"view": 1, "seed": 0, "batch_size": 8, "start": start}
        batches = data.view_batches(split, columns, None, **how).as_numpy_iterator()
        images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert labels.tolist() == list(range(start, 20))
        found[start] = images
    assert np.array_equal(found[0][8:], found[8])


@pytest.mark.slow
def test_then_the_whole_network_starts_where_the_last_layer_ended(recipe):
    """Without a learning rate it stays there."""
    alone = train(recipe("alone"))
    still = train(recipe("still", then_epochs=1, then_learning_rate=1e-30, norm_eval=True))
    first, last = arrays(alone / "model.keras"), arrays(still / "model.keras")
    for name in first:
        assert all(np.array_equal(a, b) for a, b in zip(first[name], last[name], strict=True))
    assert end(still)[1] == end(alone)[1]  # the backup of the first training
    assert [row["epoch"] for row in log(still)] == ["1", "2", "3"]
    assert log(still)[:2] == log(alone)
    moved = backup.load(still / "backup" / "then").arrays
    assert any("conv1_conv" in name for name in moved if name.startswith("optimizer/"))


@pytest.mark.slow
def test_then_the_whole_network_is_trained(recipe):
    moved = train(recipe("moved", then_epochs=1))
    assert 0 < float(log(moved)[2]["learning_rate"]) < 0.01
    expected, network = end(moved), arrays(moved / "model.keras")
    first = backup.load(moved / "backup").arrays
    kernel = next(a for n, a in first.items() if n.startswith("model/") and "conv1_conv" in n)
    assert difference([kernel], network["conv1_conv"][:1]) > 0
    results = json.loads((moved / "results.json").read_text())
    assert abs(results["top1"] - float(log(moved)[2]["val_accuracy"])) < 1e-6

    # Killed between the two: the first is done, the second has no backup.
    second = backup.load(moved / "backup" / "then")
    shutil.rmtree(moved / "backup" / "then")
    (moved / "results.json").unlink()
    assert train(recipe("moved", then_epochs=1)) == moved and end(moved) == expected
    again = backup.load(moved / "backup" / "then")
    assert again.step == second.step == 12
    assert all(np.array_equal(again.arrays[k], v) for k, v in second.arrays.items())
    assert difference(arrays(moved / "model.keras")["conv1_conv"], network["conv1_conv"]) == 0


def test_the_second_curve_is_the_first_one_scaled(recipe):
    base = {"epochs": 30, "learning_rate": 0.2, "min_learning_rate": 0.02, "warmup_epochs": 3}
    then = recipe(**base, then_epochs=10).then(1000)
    assert (then.freeze, then.epochs, then.then_epochs) == (-1, 10, 0)
    found = (then.learning_rate, then.min_learning_rate, then.warmup_epochs)
    assert found == pytest.approx((0.02, 0.002, 1))
    step = {"epochs": 30, "schedule": "step", "milestones": (10, 20), "then_learning_rate": 0.5}
    then = recipe(**step, then_epochs=6).then(1000)
    assert (then.learning_rate, then.milestones) == (0.5, (2, 4))
    # 1,000 images are 8 steps of 128.
    steps = {"steps": 80, "schedule": "step", "milestones": (20, 60), "warmup_steps": 10}
    then = recipe(**steps, then_epochs=5).then(1000)
    assert (then.steps, then.milestones, then.warmup_steps) == (40, (10, 30), 5)


def test_a_dry_run_shows_both_trainings(recipe):
    # 1,437 images of the digits are 12 steps of 128; a tenth of the learning rate follows.
    columns = {"epochs": 3, "learning_rate": 0.2, "schedule": "constant"}
    found = resolved(recipe(**columns, then_epochs=2))
    assert (found["steps_per_epoch"], found["total_steps"]) == (12, 36)
    then = found["then"]
    assert (then["steps_per_epoch"], then["total_steps"]) == (12, 24)
    assert then["learning_rates"] == pytest.approx({0: 0.02, 23: 0.02})
    assert "then" not in resolved(recipe(**columns))


def test_computing_features_is_time_of_the_first_epoch(opened):
    job, network = opened()
    spent = features.on_features(job, network).spent
    assert 0 < spent < 600 and job.spent == 0
    position = Position(1, 1, 1, 2, [])
    row = EpochRow(position, lambda step: 0.1, spent=1000.0)
    for epoch in range(2):
        row.on_epoch_begin(epoch)
        row.on_epoch_end(epoch, {})
    first, second = (row["seconds"] for row in position.rows)
    assert 1000 <= first < 1100 and second < 100


def test_progress_is_told_every_twenty_seconds_and_at_the_end(tmp_path, monkeypatch, capfd):
    images = np.zeros((1500, 4, 4, 1), np.uint8), np.zeros(1500, np.int64)
    split = data.ArraySplit(labels=("a",), channels=1, arrays=images)
    view = features._View(split, 0, Preprocessing(4), ([0.0], [1.0]), tmp_path, "train")
    recipe = Recipe(model="resnet20_cifar", dataset="digits", train_size=4, eval_size=4)
    clock = itertools.count(100, 10.5)  # seconds at the start, and behind each of 6 pieces
    monkeypatch.setattr(features.time, "perf_counter", lambda: next(clock))
    features._compute([view], recipe, lambda pixels: pixels[:, 0, :, 0].astype(np.float32))
    assert capfd.readouterr().err.splitlines() == [
        "computing the features of 1,500 images, 1 of each training image",
        "features of 512 of 1,500 images, 24.4 images/s, 41 s left",
        "features of 1,024 of 1,500 images, 24.4 images/s, 20 s left",
        "features of 1,500 of 1,500 images, 23.8 images/s",
    ]
    sizes = [len(np.load(path)) for path in view.paths()]
    assert sizes == [256] * 5 + [220]


def test_what_needs_all_stages_frozen_is_refused_without(recipe):
    for columns in ({"views": 4, "flip": True}, {"views": 0}, {"then_epochs": 1}):
        (name, value), *_ = columns.items()
        with pytest.raises(InputError, match=f"`{name}` needs .* --freeze 3 .*{name}={value}"):
            recipe(freeze=2, **columns)
    with pytest.raises(InputError, match="`then_learning_rate` needs `then_epochs`"):
        recipe(then_learning_rate=0.1)
    with pytest.raises(InputError, match="`views` above 1 needs augmentation: min_area, "):
        recipe(views=2)


@pytest.mark.parametrize(
    ("columns", "replicas", "yes", "said"),
    [({}, 1, True, ""), ({"views": 0, "flip": True}, 1, False, ""),
     ({"freeze": 2}, 1, False, ""), ({"views": 2, "flip": True}, 1, True, ""),
     ({"flip": True, "rand_ops": 1}, 1, True, "once, without --flip, --rand-ops: --views N"),
     ({"mixup": 0.2}, 1, False, "anew in each epoch: --mixup and --cutmix need images"),
     ({"cutmix": 1.0, "repeats": 2}, 1, False, "need images, --repeats needs images"),
     ({"drop_path": 0.1}, 1, False, "--drop-path changes them"),
     ({}, 2, False, "there are 2 replicas")],
)  # fmt: skip
def test_it_says_what_it_leaves_out(recipe, capfd, columns, replicas, yes, said):
    assert features.used(recipe(**columns), replicas) is yes
    line = capfd.readouterr().err
    assert said in line and line.count("\n") == bool(said)


def started(recipe, **environment):
    fields = json.dumps(recipe.to_json())
    return subprocess.Popen(
        [sys.executable, "-c", CODE, fields], env={**os.environ, **environment},
        cwd=Path(__file__).parents[1], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def killed(process, when):
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline and not when():
        time.sleep(0.001)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


@pytest.mark.slow
def test_kills_change_nothing(recipe, data_dir, tmp_path):
    data.Source("digits", "train", data_dir=data_dir).open()
    columns = {"views": 2, "padding": 1, "then_epochs": 1, "epochs": 20}
    expected = train(recipe("unbroken", **columns))
    ours = recipe("broken", **columns, backup_every="1")
    run = tmp_path / "broken"

    def pieces():
        return len(list((run / "features").glob("*.npy")))

    killed(started(ours), lambda: pieces() >= 3)
    assert pieces() < 14 and not newest_step(run)  # 6 of each view, 2 for validation
    killed(started(ours), lambda: newest_step(run) > 30)
    assert newest_step(run) < 240
    killed(started(ours), lambda: list((run / "backup" / "then").glob("*.safetensors")))
    process = started(ours)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert end(run) == end(expected)
    saved = [backup.load(one / "backup" / "then") for one in (run, expected)]
    assert saved[0].step == saved[1].step == 12
    for name, array in saved[0].arrays.items():
        assert np.array_equal(array, saved[1].arrays[name]), name


@pytest.mark.slow
def test_on_jax_it_is_the_plain_run(recipe, data_dir, tmp_path):
    data.Source("digits", "train", data_dir=data_dir).open()
    heads = []
    for name, columns in (("once", {}), ("plain", {"views": 0})):
        ours = recipe(name, ema=0.9, **columns)
        process = started(ours, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert ("computing the features" in output) == (name == "once")
        heads.append(arrays(tmp_path / name / "model.keras")["predictions"])
    assert difference(*heads) < 1e-5
