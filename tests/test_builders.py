"""Data sets of TFDS are found, built or downloaded, or refused in one line."""

import http.server
import io
import tarfile
import tempfile
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from resnet_keras import data
from resnet_keras.data import builders, building
from resnet_keras.errors import InputError


def cifar10(folder):
    """The binary version's archive with few images."""
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    words = "airplane automobile bird cat deer dog frog horse ship truck".split()
    members = {"cifar-10-batches-bin/batches.meta.txt": "\n".join(words).encode()}
    for name in names:
        records = np.concatenate(
            [np.arange(10, dtype=np.uint8)[:, None], rng.integers(0, 256, (10, 3072), np.uint8)], 1
        )
        members[f"cifar-10-batches-bin/{name}"] = records.tobytes()
    path = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_another_file_than_the_published_one_is_named(tmp_path):
    path = cifar10(tmp_path)
    with pytest.raises(InputError, match=rf"{path} is not the published file"):
        data.prepare("cifar10", manual_dir=tmp_path, data_dir=tmp_path / "data")


def test_a_registered_archive_is_built(tmp_path, monkeypatch):
    path = cifar10(tmp_path)
    builder = tfds.builder("cifar10", data_dir=tmp_path / "data")
    ((url, _),) = builder.url_infos.items()
    monkeypatch.setitem(builder.url_infos, url, checksums.compute_url_info(path))
    building.build_from(builder, tmp_path)
    train = data.Source("cifar10", "train", data_dir=tmp_path / "data").open()
    assert train.arrays[0].shape == (50, 32, 32, 3)
    assert np.bincount(train.arrays[1]).tolist() == [5] * 10
    assert data.prepare("cifar10", data_dir=tmp_path / "data")["splits"] == {
        "train": 50,
        "test": 10,
    }


class Downloads(http.server.BaseHTTPRequestHandler):
    """A server that has no such file, or breaks off within one."""

    def do_GET(self):
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"a part")

    def log_message(self, *_):
        """Nothing."""


@pytest.mark.parametrize("path, reason", [("gone", "HTTP code: 404"), ("cut", "IncompleteRead")])
def test_a_download_that_fails_is_one_line(tmp_path, path, reason):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Downloads)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{path}"
    with tfds.core.registered.skip_registration():

        class FromServer(data.Digits):
            def _split_generators(self, dl_manager):
                dl_manager.download(url)

    builder = FromServer(data_dir=tmp_path)
    try:
        with pytest.raises(InputError, match=f"download failed .*{reason}") as caught:
            building.build(builder)
    finally:
        server.shutdown()
        server.server_close()
    line = str(caught.value)
    assert "\n" not in line and "Try again later" in line and str(tmp_path / "downloads") in line


def test_a_builder_that_tfds_itself_cannot_make_is_one_line(tmp_path):
    """TFDS 4.9.10 is packed without the names of its classes."""
    with pytest.raises(InputError, match="cannot open i_naturalist2021"):
        builders.find_builder("i_naturalist2021", tmp_path)


def test_archives_of_other_configurations_are_not_demanded(tmp_path):
    builder = builders.find_builder("imagenette/160px-v2", tmp_path)
    assert list(building._files(builder)) == ["imagenette2-160.tgz"]
    assert len(builder.url_infos) > 1
    # What the user has to download is all named.
    manual = builders.find_builder("imagenet2012", tmp_path)
    assert len(building._files(manual)) == len(manual.url_infos)


def test_digits_are_prepared_without_files(tmp_path):
    for prepared in ("now", "before"):
        assert data.prepare("digits", data_dir=tmp_path) == {
            "dataset": "digits",
            "folder": str(tmp_path / "digits" / "1.0.0"),
            "splits": {"train": 1437, "test": 360},
            "prepared": prepared,
        }
    # What TFDS gives who asks it for pairs.
    pairs = tfds.load("digits", data_dir=tmp_path, split="test", as_supervised=True)
    assert pairs.element_spec[0].shape.as_list() == [8, 8, 1]
    assert pairs.element_spec[1].shape.as_list() == []


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_looking_for_a_data_set_leaves_no_temporary_files(name, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    builders.find_builder(name, tmp_path / "data")
    assert tempfile.tempdir == str(folder) and not list(folder.iterdir())


# What these builders of TFDS open; the corrupted one changes the validation images.
@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("imagenet2012", True),
        ("imagenet2012_subset", True),
        ("imagenet2012_corrupted/fog_5", False),
    ],
)
def test_the_archives_of_each_imagenet_are_demanded(name, train, tmp_path):
    with pytest.raises(InputError, match="lacks .*ILSVRC2012_img_val.tar") as caught:
        data.prepare(name, manual_dir=tmp_path, data_dir=tmp_path / "data")
    assert ("ILSVRC2012_img_train.tar" in str(caught.value)) == train


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_a", "imagenet_r"])
def test_robustness_sets_have_imagenets_classes(name, tmp_path):
    builder = builders.find_builder(name, tmp_path)
    assert builders.image_and_label(builder) == ("image", "label")
    imagenet = builders.find_builder("imagenet2012", tmp_path)
    assert builder.info.features["label"].names == imagenet.info.features["label"].names


def test_a_version_may_be_named(tmp_path):
    builder = builders.find_builder("fashion_mnist:3.0.1", tmp_path)
    assert builder.info.full_name == "fashion_mnist/3.0.1"
    with pytest.raises(InputError, match="version 1.2.3, only: 3.0.1. Received: "):
        builders.find_builder("fashion_mnist:1.2.3", tmp_path)


def test_several_correct_classes_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"several labels per image \(real_label\)"):
        data.Source("imagenet2012_real", "test", data_dir=tmp_path).open()


def test_the_corrupted_imagenet_wants_a_corruption(tmp_path):
    with pytest.raises(InputError, match="has 95 variants: name one of them"):
        data.Source("imagenet2012_corrupted", "test", data_dir=tmp_path).open()
    one = builders.find_builder("imagenet2012_corrupted/fog_5", tmp_path)
    assert builders.image_and_label(one) == ("image", "label")


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "imagenet2012_corrupted/fog_5"])
def test_the_folder_of_all_data_sets_is_the_one_that_was_given(name, tmp_path):
    builder = builders.find_builder(name, tmp_path)
    assert building.root_folder(builder) == tmp_path
    assert building.manual_folder(builder) == tmp_path / "downloads" / "manual"
