"""Published weights: the table, and downloads from a server on loopback."""

import csv
import hashlib
import http.server
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resnet_keras import SPECS, ResNet, convert, load_weights, pretrained, published
from resnet_keras.errors import InputError
from resnet_keras.published import download, find
from resnet_keras.weights import save_torch

ROWS = pretrained()


def test_every_row_is_of_a_network_and_has_a_name_of_its_own():
    assert len(ROWS) == 151 and len({row.name for row in ROWS}) == 151
    providers = Counter(row.name.split("/")[0] for row in ROWS)
    # mmpretrain's metafile has 22; torchvision V1 of five networks and V2 of three;
    # keras.applications three networks with and without top; KerasHub 4 plain presets and 8 vd.
    assert providers == {
        "openmmlab": 22, "torchvision": 8, "timm": 103, "keras": 6, "keras_hub": 12,
    }  # fmt: skip
    for row in ROWS:
        assert row.model in SPECS and published.is_name(row.name) and find(row.name) is row
        assert row.url.startswith(("https://", "hf://"))
        assert row.sha256 is None or re.fullmatch("[0-9a-f]{8}", row.sha256)
        assert row.md5 is None or re.fullmatch("[0-9a-f]{32}", row.md5)
        # What is published without a hash is on the hub, which has its own.
        assert row.sha256 or row.md5 or row.url.startswith("hf://")
        if row.sha256:  # the authors put it into the file's name
            assert row.sha256 in row.url


@pytest.mark.parametrize(
    "name, model, sha256, top1, top5, size, resize, interpolation, antialias, mean",
    [
        # The table of OpenMMLab's README, and its configurations.
        ("openmmlab/resnet50_8xb32_in1k", "resnet50", "ea4938fc", 76.55, 93.06, 224, 256,
         "bilinear", False, 123.675),
        ("openmmlab/resnetv1d152_8xb32_in1k", "resnetv1d152", "278cf22a", 79.41, 94.7, 224, 256,
         "bilinear", False, 123.675),
        ("openmmlab/resnet50_8xb256-rsb-a1-600e_in1k", "resnet50", "20e21305", 80.12, 94.78, 224,
         236, "bicubic", True, 123.675),
        ("openmmlab/resnet18_8xb16_cifar10", "resnet18_cifar", "bd6371c8", 94.82, None, 32, None,
         "bilinear", False, 125.307),
        # torchvision's ResNet50_Weights.
        ("torchvision/resnet50.IMAGENET1K_V1", "resnet50", "0676ba61", 76.13, 92.862, 224, 256,
         "bilinear", True, 123.675),
        ("torchvision/resnet50.IMAGENET1K_V2", "resnet50", "11ad3fa6", 80.858, 95.434, 224, 232,
         "bilinear", True, 123.675),
        # timm's results-imagenet.csv; floor(224 / 0.95) and floor(288 / 1.0).
        ("timm/resnet50.a1_in1k", "resnet50", "14fe96d1", 80.382, 94.598, 224, 235, "bicubic",
         True, 123.675),
        ("timm/resnet50.a1_in1k@288", "resnet50", "14fe96d1", 81.24, 95.112, 288, 288, "bicubic",
         True, 123.675),
        ("timm/resnet18d.ra4_e3600_r224_in1k", "resnetv1d18", None, 74.356, 91.826, 224, 248,
         "bicubic", True, 127.5),
    ],
)  # fmt: skip
def test_a_row_is_what_its_authors_published(
    name, model, sha256, top1, top5, size, resize, interpolation, antialias, mean
):
    row = find(name)
    assert (row.model, row.sha256, row.top1, row.top5) == (model, sha256, top1, top5)
    found = row.preprocessing
    assert found.size == (size, size) and found.resize == resize and found.mean[0] == mean
    assert (found.interpolation, found.antialias) == (interpolation, antialias)


# The tables of MMClassification's ResNet page, whose column Download has these files.
TABLES = Path(__file__).parent / "golden" / "mmclassification_tables.tsv"


@pytest.mark.parametrize(
    "published_row",
    list(csv.DictReader(TABLES.read_text().splitlines(), delimiter="\t")),
    ids=lambda row: row["url"].rpartition("/")[2],
)
def test_the_tables_download_column_works(published_row):
    (row,) = (row for row in ROWS if row.url == published_row["url"])
    assert row.top1 == float(published_row["top1"])
    assert row.top5 in (None, float(published_row["top5"]))
    assert published_row["url"].endswith(f"-{row.sha256}.pth")
    name = published_row["model"].lower().replace("-", "")
    assert name.startswith(row.model.removesuffix("_cifar"))
    assert (row.classes == 1000) != row.model.endswith("_cifar")


def test_imagenet_is_one_row_of_each_model_that_has_any():
    for model in SPECS:
        kinds = [row for row in pretrained(model) if row.classes == 1000 and row.sha256]
        if not kinds:
            with pytest.raises(InputError, match="no published ImageNet weights"):
                find("imagenet", model)
            continue
        row = find("imagenet", model)
        assert row.model == model and row.top1 is not None and row.commercial
    assert find("imagenet", "resnet50").name == "openmmlab/resnet50_8xb32_in1k"
    assert find("imagenet", "resnetv1d34").name == "timm/resnet34d.ra2_in1k"


def test_names_that_are_wrong_are_refused_in_one_line():
    with pytest.raises(InputError, match="similar: torchvision/resnet50.IMAGENET1K_V1"):
        find("torchvision/resnet50.IMAGENET_V1")
    with pytest.raises(InputError, match="is of resnet50. Received: a network resnet101"):
        find("timm/resnet50.a1_in1k", "resnet101")
    with pytest.raises(InputError, match="without the name of a model"):
        find("imagenet")
    with pytest.raises(InputError, match="`model` must be one of resnet18"):
        pretrained("resnet51")
    with pytest.raises(ValueError, match="is of resnet101"):
        ResNet("resnet18", weights="torchvision/resnet101.IMAGENET1K_V2")


def test_the_command_lists_them_all(run_python):
    done = run_python("-m", "resnet_keras", "zoo", "resnet50", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [row.name for row in pretrained("resnet50")]
    wanted = {"name", "model", "url", "sha256", "licence", "top1", "top5", "preprocessing"}
    assert wanted <= set(rows[0]) and rows[0]["preprocessing"]["size"] == [224, 224]


# --- downloads --------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and does to some what servers do."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        path = Path(self.directory) / self.path.lstrip("/")
        if server.page:
            return self.answer(200, b"<!doctype html><title>Log in</title>", server.page)
        if not path.exists():
            return self.answer(404, b"no such file", "text/plain")
        body = path.read_bytes()
        start = 0
        if server.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.answer(416, b"", "text/plain")
        cut, server.cut = server.cut, None
        self.answer(206 if start else 200, body[start:], "application/octet-stream", cut)

    def answer(self, code, body, kind, cut=None):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A mirror on loopback, and an empty cache."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    found = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Handler(*arguments, directory=folder)
    )
    found.folder, found.asked, found.page, found.cut, found.ranges = folder, [], None, None, True
    monkeypatch.setenv("RESNET_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESNET_KERAS_MIRROR", f"http://127.0.0.1:{found.server_port}/")
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


BODY = np.random.default_rng(0).bytes(2**20)
ROW = replace(
    find("torchvision/resnet50.IMAGENET1K_V1"), sha256=hashlib.sha256(BODY).hexdigest()[:8]
)
NAME = "resnet50-0676ba61.pth"


def test_a_file_is_downloaded_once_and_used_without_the_server(server, tmp_path):
    (server.folder / NAME).write_bytes(BODY)
    path = download.fetch(ROW)
    assert path == tmp_path / "cache" / NAME and path.read_bytes() == BODY
    assert download.fetch(ROW) == path and server.asked == [(f"/{NAME}", None)]
    assert not list(path.parent.glob("*.part"))


def test_a_flipped_byte_is_refused_and_nothing_is_left(server, tmp_path):
    (server.folder / NAME).write_bytes(b"\x00" + BODY[1:])
    with pytest.raises(InputError) as error:
        download.fetch(ROW)
    path = tmp_path / "cache" / NAME
    assert "gives another file" in str(error.value) and f"put the file at {path}" in str(
        error.value
    )
    assert f"not {ROW.sha256}..." in str(error.value)
    assert not path.exists() and not list(path.parent.glob("*.part"))
    path.write_bytes(b"\x00" + BODY[1:])  # by hand
    with pytest.raises(InputError, match="is not the published file.*delete it"):
        download.fetch(ROW)
    assert path.exists()


def test_an_md5_is_verified_too(server):
    row = replace(ROW, sha256=None, md5=hashlib.md5(BODY).hexdigest())
    (server.folder / NAME).write_bytes(BODY)
    assert download.fetch(row).read_bytes() == BODY
    with pytest.raises(InputError, match="md5 .* not 0000"):
        download.fetch(replace(row, md5="0" * 32))


def test_a_connection_that_breaks_is_continued(server):
    (server.folder / NAME).write_bytes(BODY)
    server.cut = 400_000
    assert download.fetch(ROW).read_bytes() == BODY
    assert [asked for _, asked in server.asked] == [None, "bytes=400000-"]


def test_what_an_earlier_command_left_is_continued(server, tmp_path):
    (server.folder / NAME).write_bytes(BODY)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.part").write_bytes(BODY[:1000])
    assert download.fetch(ROW).read_bytes() == BODY
    assert server.asked == [(f"/{NAME}", "bytes=1000-")]


def test_what_was_left_whole_is_not_downloaded_again(server, tmp_path):
    (server.folder / NAME).write_bytes(BODY)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.part").write_bytes(BODY)  # killed before it had its name
    assert download.fetch(ROW).read_bytes() == BODY and server.asked == []
    # Without a published hash nobody knows whether it is whole.
    (tmp_path / "cache" / NAME).rename(tmp_path / "cache" / f"{NAME}.part")
    assert download.fetch(replace(ROW, sha256=None)).read_bytes() == BODY
    assert [asked for _, asked in server.asked] == [f"bytes={len(BODY)}-", None]


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * 2**21], ids=["shorter", "longer"])
def test_what_was_left_of_another_file_is_downloaded_anew(server, tmp_path, left):
    (server.folder / NAME).write_bytes(BODY)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.part").write_bytes(left)
    assert download.fetch(ROW).read_bytes() == BODY


def test_a_server_without_ranges_sends_all_of_it(server, tmp_path):
    server.ranges = False
    (server.folder / NAME).write_bytes(BODY)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.part").write_bytes(BODY[:1000])
    assert download.fetch(ROW).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_the_page_of_a_captive_portal_is_no_file(server, kind):
    server.page = kind
    with pytest.raises(InputError, match="gives a web page, not the file"):
        download.fetch(ROW)


def test_no_such_file_and_no_server_say_where_to_put_it(server, tmp_path, monkeypatch):
    line = f"put the file at {tmp_path}/cache/{NAME}"
    with pytest.raises(InputError, match=f"the server answers 404.*{line}"):
        download.fetch(ROW)
    monkeypatch.setenv("RESNET_KERAS_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"http://127.0.0.1:9/{NAME} cannot.*refused.*{line}"):
        download.fetch(ROW)


def test_a_disk_without_room_is_refused_before_it_is_full(server, tmp_path, monkeypatch):
    (server.folder / NAME).write_bytes(BODY)
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=2**19))
    with pytest.raises(InputError, match="needs 1.0 MiB, .* has 0.5 MiB free.*RESNET_KERAS_CACHE"):
        download.fetch(ROW)


def test_of_two_processes_one_downloads(server, tmp_path):
    (server.folder / NAME).write_bytes(BODY)
    script = (
        "from dataclasses import replace; from resnet_keras.published import download, find;"
        f"row = replace(find({ROW.name!r}), sha256={ROW.sha256!r}); print(download.fetch(row))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert {process.communicate()[0].decode() for process in both} == {f"{tmp_path}/cache/{NAME}\n"}
    assert len(server.asked) == 1


# --- weights ----------------------------------------------------------------------------------


def serve(server, monkeypatch, name, file):
    """Put a file onto the mirror under the real name of published weights, whose hash it gets."""
    row = find(name)
    target = server.folder / row.url.rpartition("/")[2]
    target.write_bytes(Path(file).read_bytes())
    digits = hashlib.sha256(target.read_bytes()).hexdigest()[:8]
    table = {**published._table(), name: replace(row, sha256=digits, md5=None)}
    monkeypatch.setattr(published, "_table", lambda: table)


@pytest.fixture
def network():
    import keras

    keras.utils.set_random_seed(3)
    model = ResNet("resnet18_cifar", classes=10)
    for variable in model.variables:
        if variable.path.endswith(("moving_mean", "moving_variance", "gamma", "beta")):
            variable.assign(np.random.default_rng(1).uniform(0.5, 1.5, variable.shape))
    return model


CIFAR = "openmmlab/resnet18_8xb16_cifar10"
PIXELS = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def test_weights_by_name_are_those_of_the_file(server, monkeypatch, tmp_path, network):
    save_torch(network, tmp_path / "x.safetensors")
    serve(server, monkeypatch, CIFAR, tmp_path / "x.safetensors")
    wanted = network(PIXELS, training=False)
    loaded = ResNet("resnet18_cifar", weights=CIFAR)
    assert np.abs(loaded(PIXELS, training=False) - wanted).max() < 1e-6
    other = ResNet("resnet18_cifar")
    assert load_weights(other, CIFAR).source == CIFAR
    assert np.abs(other(PIXELS, training=False) - wanted).max() < 1e-6
    assert len(server.asked) == 1
    report = convert(CIFAR, tmp_path / "out.keras")
    assert report.model == "resnet18_cifar"
    metadata = json.loads((tmp_path / "out.json").read_text())
    assert metadata["size"] == [32, 32] and metadata["resize"] is None
    assert metadata["dataset"] == "cifar10"


def test_mean_and_deviation_follow_the_weights(server, monkeypatch, tmp_path):
    name = "timm/resnet18.a1_in1k"
    half = (127.5,) * 3
    save_torch(ResNet("resnet18"), tmp_path / "x.safetensors")
    serve(server, monkeypatch, name, tmp_path / "x.safetensors")
    table = published._table()
    row = table[name]
    table[name] = replace(row, preprocessing=replace(row.preprocessing, mean=half, std=half))
    model = ResNet("resnet18", weights=name)
    assert np.allclose(model.get_layer("normalise").scale, [1 / 127.5] * 3)
    with pytest.raises(InputError, match="wants other preprocessing: .*mean=.127.5"):
        load_weights(ResNet("resnet18"), name)


def test_evaluate_and_predict_take_names(server, monkeypatch, tmp_path, network):
    from PIL import Image

    from resnet_keras import evaluate, predict

    save_torch(network, tmp_path / "x.safetensors")
    serve(server, monkeypatch, CIFAR, tmp_path / "x.safetensors")
    for number in range(10):
        for part in ("train", "test"):
            folder = tmp_path / "images" / part / str(number)
            folder.mkdir(parents=True)
            Image.fromarray(PIXELS[number % 2].astype("uint8")).save(folder / "1.png")
    found = evaluate(CIFAR, dataset=f"folder:{tmp_path / 'images'}")
    assert found["published_top1"] == pytest.approx(0.9482) and found["published_top5"] is None
    assert found["examples"] == 10
    answer = predict(CIFAR, [tmp_path / "images/test/0/1.png"], top=1)
    scores = np.asarray(network(PIXELS[:1], training=False))[0]
    assert answer[0]["predictions"][0]["score"] == pytest.approx(scores.max(), abs=1e-4)
    assert len(server.asked) == 1


@pytest.mark.slow
def test_finetuning_starts_from_imagenet_with_an_empty_cache(server, monkeypatch, tmp_path):
    """The recipe on a folder of images, with `--weights imagenet` from a mirror."""
    import keras
    from PIL import Image

    original = ResNet("resnet50")
    save_torch(original, tmp_path / "x.safetensors")
    serve(server, monkeypatch, "openmmlab/resnet50_8xb32_in1k", tmp_path / "x.safetensors")
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        folder = tmp_path / "images" / label
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    flags = (
        "--dataset", f"folder:{tmp_path / 'images'}", "--weights", "imagenet", "--epochs", "1",
        "--milestones", "1", "--learning-rate", "1e-9", "--train-size", "64", "--eval-size", "64",
        "--eval-resize", "72", "--weight-decay", "0", "--run-dir", str(tmp_path / "run"),
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["finetune_resnet50.py", *flags])
    runpy.run_path("recipes/finetune_resnet50.py", run_name="__main__")
    assert len(server.asked) == 1
    trained = keras.saving.load_model(tmp_path / "run" / "model.keras", compile=False)
    for name in ("conv1_conv", "conv5_block3_2_conv"):  # at this rate they hardly move
        kernels = (np.array(model.get_layer(name).kernel) for model in (trained, original))
        np.testing.assert_allclose(next(kernels), next(kernels), atol=1e-6)
    assert trained.output_shape == (None, 2)


def test_weights_that_are_not_for_commercial_use_say_so(server, monkeypatch, tmp_path, capsys):
    name = "timm/resnet18.fb_ssl_yfcc100m_ft_in1k"
    save_torch(ResNet("resnet18"), tmp_path / "x.safetensors")
    serve(server, monkeypatch, name, tmp_path / "x.safetensors")
    load_weights(ResNet("resnet18"), name)
    assert "CC-BY-NC-4.0: not for commercial use" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_row_and_no_other():
    path = Path(published.__file__).with_name("table.tsv")
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file, delimiter="\t"))
    assert all(len(line) == len(lines[0]) == 15 for line in lines) and len(lines) == 152
    assert os.path.getsize(path) < 2**16
