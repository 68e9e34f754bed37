"""Data sets by name: digits, Fashion-MNIST, what TFDS prepared; others are refused."""

import gzip
import http.server
import struct
import threading
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from resnet_keras import data
from resnet_keras.data import building, tfds_splits
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing

DEBIAN = "/usr/share/datasets/fashion-mnist"


def prepared(folder, shape=(4, 4, 3), **labels):
    """Write a data set as TFDS does, with an image for each label of each split."""
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


def test_digits_are_scikit_learns_with_the_last_360_as_test(data_dir):
    source = load_digits()
    for split, numbers in (("train", range(1437)), ("test", range(1437, 1797))):
        opened = data.Source("digits", split, data_dir=data_dir).open()
        images, labels = opened.arrays
        assert opened.examples == len(numbers) and opened.labels == tuple("0123456789")
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
        data.Source("fashion_mnist", "train", data_dir=tmp_path).open()


@pytest.mark.slow
@pytest.mark.skipif(not tf.io.gfile.exists(DEBIAN), reason="Debian's dataset-fashion-mnist")
def test_debians_fashion_mnist_satisfies_the_real_builder(data_dir):
    train = data.Source("fashion_mnist", "train", data_dir=data_dir).open()
    images, labels = train.arrays
    assert images.shape == (60000, 28, 28, 1) and np.bincount(labels).tolist() == [6000] * 10
    # Published: mean .2860, standard deviation .3530 of the training pixels.
    assert images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)
    assert images.std() / 255 == pytest.approx(0.3530, abs=1e-4)
    assert train.labels[9] == "Ankle boot"
    assert data.Source("fashion_mnist", "test", data_dir=data_dir).open().examples == 10000


def test_a_part_of_a_split(data_dir):
    half = data.Source("digits", "train[:50%]", data_dir=data_dir).open()
    assert half.examples == 718
    with pytest.raises(InputError, match="train, test|test, train"):
        data.Source("digits", "nosuch", data_dir=data_dir).open()


@pytest.mark.parametrize("split", ["train[5:2]", "train[3:3]"])
def test_a_slice_of_nothing_is_an_empty_split_not_a_damaged_one(data_dir, split):
    with pytest.raises(InputError, match="is empty") as caught:
        data.Source("digits", split, data_dir=data_dir).open()
    assert split in str(caught.value) and "Delete" not in str(caught.value)


# In memory, and as records.
@pytest.mark.parametrize("shape", [(4, 4, 3), (None, None, 3)])
def test_a_test_without_labels_is_the_validation_and_refused_by_its_name(tmp_path, shape):
    """imagenet2012, places365_small, i_naturalist2018 and others of TFDS have test labels of -1."""
    prepared(tmp_path, shape, train=[0, 1, 2], validation=[2, 1], test=[-1, -1, -1, -1])
    test = data.Source("mine", "test", data_dir=tmp_path).open()
    assert test.examples == 2
    (_, labels), = data.evaluation_batches(test, Preprocessing(4), batch_size=4)  # fmt: skip
    assert sorted(labels.numpy()) == [1, 2]
    with pytest.raises(InputError, match="have no labels") as caught:
        data.Source("mine", "test[:2]", data_dir=tmp_path).open()
    assert "validation" in str(caught.value)


def test_a_test_with_labels_is_the_test(tmp_path):
    prepared(tmp_path, (None, None, 3), train=[0], validation=[1], test=[2, 2])
    assert data.Source("mine", "test", data_dir=tmp_path).open().examples == 2


def test_without_a_test_split_an_error_says_what_to_do(tmp_path):
    prepared(tmp_path, train=[0, 1, 2, 0, 1])
    with pytest.raises(InputError, match="Received: split='test'") as caught:
        data.Source("mine", "test", data_dir=tmp_path).open()
    assert "train[80%:]" in str(caught.value) and "--holdout 1000" in str(caught.value)
    assert data.Source("mine", "train[80%:]", data_dir=tmp_path).open().examples == 1


def test_images_are_in_memory_as_long_as_they_fit(tmp_path, monkeypatch):
    prepared(tmp_path, train=[0, 1, 2])
    for limit, kind in ((3 * 4 * 4 * 3, data.ArraySplit), (3 * 4 * 4 * 3 - 1, data.RecordSplit)):
        monkeypatch.setattr(tfds_splits, "IN_MEMORY_BYTES", limit)
        split = data.Source("mine", "train", data_dir=tmp_path).open()
        assert type(split) is kind and (split.examples, split.channels) == (3, 3)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r", "imagenet_v2"])
def test_accuracy_among_other_classes_than_the_published_ones_is_said(tmp_path, capfd, name):
    """ImageNet-A and ImageNet-R have 200 classes, ImageNetV2 has all."""
    builder = tfds.builder(name, data_dir=tmp_path)
    image = {"file_name": ["x"], "image": np.zeros((1, 4, 4, 3), np.uint8), "label": [5]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=str(builder.version),
        features=builder.info.features,
        split_datasets={"test": tf.data.Dataset.from_tensor_slices(image)},
        config=builder.builder_config and builder.builder_config.name,
        data_dir=tmp_path,
    )
    assert data.Source(name, "test", data_dir=tmp_path).open().examples == 1
    said = capfd.readouterr().err
    assert (f"{name} has images of 200 of the 1000 classes" in said) == (name != "imagenet_v2")


def test_a_source_is_by_default_the_test_split_in_the_folder_of_tfds():
    default = data.Source(
        "digits", "test", data_dir=None, skip_bad=False, holdout=0, fold=None, channels=3
    )
    assert data.Source("digits") == default


@pytest.mark.parametrize("shape", [(4, 4, 3), (None, None, 3)])
def test_a_split_knows_its_source(tmp_path, shape):
    prepared(tmp_path, shape, train=[0, 1, 2, 0])
    source = data.Source("mine", "train[1:]", data_dir=tmp_path)
    split = source.open()
    assert split.source == source and (split.examples, split.channels) == (3, 3)
    assert split.sample(2, seed=0).source == source
    assert (split.skipped, split.name) == ((), "")  # which images of one's own have


def test_images_of_an_unknown_kind_are_refused_with_those_that_are_known(tmp_path):
    with pytest.raises(InputError, match="give `folder:PATH`.* Received: dataset='fodler:x'"):
        data.Source("fodler:x", "train").open()


def test_an_unknown_data_set_is_refused_with_similar_names(data_dir):
    with pytest.raises(InputError, match="cifar10"):
        data.Source("cifar_10", "train", data_dir=data_dir).open()


def test_a_similar_name_is_listed_once(data_dir):
    """TFDS knows our digits, too."""
    with pytest.raises(InputError, match="similar names: digits,") as caught:
        data.Source("digitts", "train", data_dir=data_dir).open()
    assert str(caught.value).count("digits,") == 1


def test_a_data_set_without_images_is_refused(data_dir):
    with pytest.raises(InputError, match="no images with labels"):
        data.Source("iris", "train", data_dir=data_dir).open()


def test_without_imagenets_archives_an_error_names_them(tmp_path):
    with pytest.raises(InputError, match=r"ILSVRC2012_img_train.tar \(147,897,477,120 bytes\)"):
        data.Source("imagenet2012", "train", data_dir=tmp_path).open()


def test_tfds_writes_where_it_is_told(data_dir):
    data.Source("digits", "test", data_dir=data_dir).open()
    assert (data_dir / "digits" / "1.0.0" / "dataset_info.json").exists()


def test_a_data_set_that_another_process_builds_meanwhile_is_opened(tmp_path, monkeypatch):
    real = tfds.core.DatasetBuilder.download_and_prepare

    def slower(builder, **arguments):
        real(tfds.builder("digits", data_dir=tmp_path), **arguments)  # the other process
        raise FileExistsError(f"Cannot rename. Destination {builder.data_dir} already exists.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", slower)
    assert data.Source("digits", "test", data_dir=tmp_path).open().examples == 360


def test_a_build_that_fails_because_a_file_is_in_the_way_keeps_its_error(tmp_path, monkeypatch):
    def fails(builder, **arguments):
        raise FileExistsError("in the way")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fails)
    with pytest.raises(FileExistsError, match="in the way"):
        data.Source("digits", "test", data_dir=tmp_path).open()


@pytest.fixture
def new_opener():
    """Lets urllib read the variables of proxies again, which it otherwise does once."""
    urllib.request.install_opener(None)
    yield
    urllib.request.install_opener(None)


def test_files_that_cannot_be_had_are_named_with_what_to_do(tmp_path, monkeypatch, new_opener):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    folder = tmp_path / "downloads" / "manual"
    with pytest.raises(InputError) as caught:
        data.Source("cifar10", "train", data_dir=tmp_path).open()
    assert str(caught.value) == (
        f"cifar10 is not prepared in {tmp_path}, and its files are not here and cannot be "
        f"downloaded. Put cifar-10-binary.tar.gz (170,052,171 bytes) into {folder}, then run: "
        f"python -m resnet_keras prepare cifar10 --manual-dir {folder} --data-dir {tmp_path}"
    )


def test_a_server_is_asked_for_one_byte_and_not_waited_for(monkeypatch, new_opener):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Range"])
            if self.path == "/slow":
                time.sleep(1)
            self.send_response(404 if self.path == "/gone" else 206)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert building._reachable(f"{url}/there") and not building._reachable(f"{url}/gone")
        start = time.monotonic()
        assert not building._reachable(f"{url}/slow", seconds=0.2)
        assert time.monotonic() - start < 0.8
        server.shutdown()
    assert not building._reachable(url)
    assert asked == ["bytes=0-0"] * 3


@pytest.mark.skipif(not tf.io.gfile.exists(DEBIAN), reason="Debian's dataset-fashion-mnist")
def test_debians_files_become_zalandos_and_replace_nothing(tmp_path):
    files = building._files(tfds.builder("fashion_mnist", data_dir=tmp_path))
    mine = "t10k-labels-idx1-ubyte.gz"
    (tmp_path / mine).write_bytes(b"mine")
    building._restore_debian_fashion_mnist(tmp_path)
    assert (tmp_path / mine).read_bytes() == b"mine"
    building._check_files(tmp_path, {name: pair for name, pair in files.items() if name != mine})
    assert len(files) == 4 == len(list(tmp_path.iterdir()))
    with pytest.raises(InputError, match="t10k-labels.* is not the published file.*: 4 bytes"):
        building._check_files(tmp_path, files)


def test_a_data_set_that_lacks_an_image_is_damaged(tmp_path):
    prepared(tmp_path, train=[0, 1, 2])
    (path,) = (tmp_path / "mine" / "1.0.0").glob("*.tfrecord*")
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records[:2]:
            writer.write(record)
    with pytest.raises(InputError) as caught:
        data.Source("mine", "train", data_dir=tmp_path).open()
    line = str(caught.value)
    assert line.startswith(f"{path.parent} is damaged: ") and "[Op" not in line and "}}" not in line
    assert line.endswith(". Delete it, then prepare mine again.") and ".. " not in line
