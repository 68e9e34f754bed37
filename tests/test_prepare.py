"""Archives are checked before TFDS builds from them: ImageNet's real builder, on miniatures."""

import csv
import dataclasses
import io
import json
import os
import shutil
import tarfile
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from resnet_keras import ResNet, data
from resnet_keras.data import preparation
from resnet_keras.data.archives import IMAGENET, TRAIN, VALIDATION
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation

# The first, the 281st and the last class of ILSVRC 2012.
SYNSETS = ("n01440764", "n02119789", "n15075141")
PER_CLASS, VALIDATIONS = 3, 5


def jpeg(value):
    file = io.BytesIO()
    Image.new("RGB", (40, 32), (value, value, value)).save(file, "JPEG")
    return file.getvalue()


def tar(members):
    """Make a tar archive; a member that is None is a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def noise(value):
    """Make a JPEG of random pixels, whose seed is `value`."""
    pixels = np.random.default_rng(value).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def train_members(image=jpeg):
    return {
        f"{synset}.tar": tar(
            {f"{synset}_{i}.JPEG": image(60 * number + i) for i in range(1, PER_CLASS + 1)}
        )
        for number, synset in enumerate(SYNSETS)
    }


def validation_members():
    return {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(20 * i) for i in range(1, VALIDATIONS + 1)}


def write(folder, train, validation):
    """Write both archives; return what `prepare` is to expect of them."""
    folder.mkdir(exist_ok=True)
    (folder / TRAIN).write_bytes(train)
    (folder / VALIDATION).write_bytes(validation)
    return data.Expected(
        bytes={TRAIN: len(train), VALIDATION: len(validation)},
        classes=len(SYNSETS),
        train=PER_CLASS * len(SYNSETS),
        validation=VALIDATIONS,
    )


@pytest.fixture
def miniature(tmp_path):
    """Calls `prepare` on miniature archives, in the folders `manual` and `data`."""

    def prepare(*, train=None, validation=None, **options):
        folder = tmp_path / "manual"
        train = tar(train_members()) if train is None else train
        validation = tar(validation_members()) if validation is None else validation
        options = {"expected": write(folder, train, validation), **options}
        return data.prepare(
            "imagenet2012", manual_dir=folder, data_dir=tmp_path / "data", **options
        )

    return prepare


@pytest.mark.slow
def test_imagenet_from_archives_to_batches(miniature, tmp_path):
    report = miniature(verify=True)
    assert report["splits"] == {"train": 9, "validation": 5} and report["prepared"] == "now"
    train, test = (
        data.Source("imagenet2012", split, data_dir=tmp_path / "data").open()
        for split in ("train", "test")
    )
    assert (train.examples, test.examples, len(train.labels)) == (9, 5, 1000)
    augmentation = Augmentation(
        train_size=24, min_area=0.08, flip=True, rand_ops=2, mixup=0.1, cutmix=1.0
    )
    batches = data.training_batches(train, augmentation, batch_size=6, seed=0)
    for images, labels in batches.take(2).as_numpy_iterator():
        assert images.shape == (6, 24, 24, 3) and images.dtype == np.uint8
        assert labels.shape == (6, 1000) and np.allclose(labels.sum(1), 1)
    # Every image has one grey value, which depends on its class.
    seen = []
    augmentation = Augmentation(train_size=24, min_area=0.5)
    batches = data.training_batches(train, augmentation, batch_size=9, seed=0)
    for images, labels in batches.take(1):
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            assert train.labels[label] == SYNSETS[round(image.mean()) // 60]
            seen.append(label)
    assert np.unique(seen, return_counts=True)[1].tolist() == [3, 3, 3]

    images, labels = (
        np.concatenate(part)
        for part in zip(
            *data.evaluation_batches(test, Preprocessing(24, 28), batch_size=2).as_numpy_iterator(),
            strict=True,
        )
    )
    # The first five of ILSVRC2012_validation_ground_truth, as the synsets of Caffe's val.txt.
    truth = dict(zip((20, 40, 60, 80, 100), ("n01751748", "n09193705", "n02105855", "n04263257",
                                             "n03125729"), strict=True))  # fmt: skip
    assert {round(i.mean()): test.labels[y] for i, y in zip(images, labels, strict=True)} == truth


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision_v2", "nvidia", "lars", "gluoncv", "fixres"])
def test_every_kind_of_recipe_makes_steps_on_miniature_archives(
    miniature, tmp_path, run_python, name
):
    miniature()
    network = "resnetv1d50" if name == "gluoncv" else "resnet50"
    flags = (
        "--data-dir", tmp_path / "data", "--run-dir", tmp_path / "run", "--epochs", "1",
        "--warmup-epochs", "0", "--batch-size", "4", "--learning-rate", "0.01",
        "--train-size", "32", "--eval-resize", "36", "--eval-size", "32", "--logger", "none",
    )  # fmt: skip
    if name == "fixres":
        ResNet("resnet50").save(tmp_path / "start.keras")
        flags += ("--weights", tmp_path / "start.keras", "--train-resize", "36")
    done = run_python(f"recipes/imagenet_{network}_{name}.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "9 training images, 5 test images, 3 steps" in done.stderr
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["loss"]) < 20
    assert json.loads((tmp_path / "run" / "results.json").read_text())["examples"] == 5


# The recipe's network with one block a stage, in float64, on one device or on two.
REHEARSAL = """
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from runpy import run_path

import numpy as np

from resnet_keras import SPECS
from resnet_keras.training import prepared, trained
from resnet_keras.training.replicas import choose_replicas

name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
recipe = run_path(f"recipes/{name}.py")["RECIPE"]
SPECS[recipe.model] = replace(SPECS[recipe.model], depths=(1, 1, 1, 1), widths=(8, 8, 16, 16))
recipe = replace(
    recipe, epochs=3, warmup_epochs=1, batch_size=4, learning_rate=recipe.learning_rate / 100,
    train_size=32, eval_resize=36, eval_size=32, data_dir=folder.parent / "data", run_dir=folder,
    logger="none", replicas=count, sync_batch_norm=True, ema_every=2 if recipe.ema else 1,
    ema=0.5 if recipe.ema else 0.0,
)
replicas = choose_replicas(recipe)
import keras

keras.config.set_floatx("float64")
with ExitStack() as stack:
    model, fitted = trained(prepared(recipe, folder, replicas, "float64", stack), stack)
np.savez(folder / "end.npz", *model.get_weights(), loss=fitted.rows[-1]["loss"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision_v2", "nvidia", "lars", "gluoncv"])
def test_two_replicas_make_the_steps_of_one_device_in_every_kind_of_recipe(
    miniature, tmp_path, run_python, name
):
    # Where all pixels are alike, batch norm divides by nearly nothing, and enlarges rounding.
    miniature(train=tar(train_members(noise)))
    network = "resnetv1d50" if name == "gluoncv" else "resnet50"
    ends = []
    for count in (1, 2):
        folder = tmp_path / f"replicas-{count}"
        done = run_python(
            "-c", REHEARSAL, f"imagenet_{network}_{name}", folder, count, TF_ENABLE_ONEDNN_OPTS="0"
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(folder / "end.npz") as arrays:
            ends.append(dict(arrays))
    one, two = ends
    assert one.keys() == two.keys() and len(one) > 80
    assert all(array.dtype == np.float64 for array in one.values())
    assert max(np.abs(one[key] - two[key]).max() for key in one) < 1e-12
    assert np.abs(one["arr_1"] - 1).max() > 1e-6  # the first gamma, which began at 1


@pytest.mark.slow
def test_a_recipe_trains_on_miniature_archives(miniature, tmp_path, run_python):
    miniature()
    flags = (
        "--data-dir", tmp_path / "data", "--run-dir", tmp_path / "run", "--steps", "2",
        "--batch-size", "4", "--train-size", "32", "--eval-resize", "36", "--eval-size", "32",
    )  # fmt: skip
    done = run_python("recipes/imagenet_resnet18.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "9 training images, 5 test images, 2 steps" in done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["examples"] == 5
    model = tmp_path / "run" / "model.keras"
    done = run_python(
        "-m", "resnet_keras", "evaluate", model, "--data-dir", tmp_path / "data",
        "--split", "train", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["examples"] == 9, done.stderr


def test_a_second_preparation_only_counts(miniature, tmp_path):
    miniature()
    assert miniature()["prepared"] == "before"
    expected = write(tmp_path / "manual", tar(train_members()), tar(validation_members()))
    more = dataclasses.replace(expected, train=10)
    with pytest.raises(InputError, match=r"9 train images, imagenet2012 10. Delete .*5\.1\.0"):
        miniature(expected=more)


def test_miniatures_are_not_the_published_archives(miniature):
    with pytest.raises(InputError, match=r"img_train.tar has .* published one 147,897,477,120"):
        miniature(expected=IMAGENET)


def test_what_the_published_archives_hold_is_what_tfds_has_registered():
    infos = tfds.builder("imagenet2012").url_infos
    assert {url.rsplit("/")[-1]: int(info.size) for url, info in infos.items()} == IMAGENET.bytes


def test_imagenet_has_as_many_images_as_its_paper_says():
    """Russakovsky et al. 2014 (arXiv:1409.0575), table 2."""
    assert (IMAGENET.classes, IMAGENET.train, IMAGENET.validation) == (1000, 1_281_167, 50_000)


def without(members, *names):
    return {name: content for name, content in members.items() if name not in names}


TRAIN_MEMBERS, VALIDATION_MEMBERS = train_members(), validation_members()
LAST = f"ILSVRC2012_val_{VALIDATIONS:08}.JPEG"


@pytest.mark.parametrize(
    ("archives", "message"),
    [
        ({"validation": tar({"val/": None} | VALIDATION_MEMBERS)},
         "img_val.tar holds 'val', which is not a file and would shift every label"),
        ({"validation": tar({f"val/{n}": c for n, c in VALIDATION_MEMBERS.items()})},
         "img_val.tar holds 'val/ILSVRC2012_val_00000001.JPEG'"),
        ({"validation": tar(without(VALIDATION_MEMBERS, LAST))},
         f"img_val.tar lacks 1 of 5 images, the first is {LAST}"),
        ({"validation": tar(VALIDATION_MEMBERS | {"ILSVRC2012_val_00000006.JPEG": b"x"})},
         "img_val.tar holds 'ILSVRC2012_val_00000006.JPEG'"),
        ({"train": tar(without(TRAIN_MEMBERS, "n15075141.tar"))},
         "img_train.tar holds the archives of 2 classes, the last is n02119789.tar"),
        ({"train": tar(TRAIN_MEMBERS | {"n00000001.tar": b""})},
         "img_train.tar holds 'n00000001.tar', which is not the archive of a class"),
        ({"train": tar({"train/": None} | TRAIN_MEMBERS)}, "img_train.tar holds 'train'"),
        ({"train": b"no archive" * 100}, "img_train.tar is not a complete tar archive"),
    ],
)  # fmt: skip
def test_archives_that_would_give_a_wrong_data_set(miniature, tmp_path, archives, message):
    with pytest.raises(InputError, match=message):
        miniature(**archives)
    assert not (tmp_path / "data").exists()


def boundary(archive, member):
    """Where a member starts."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getmembers()[member].offset


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_an_archive_cut_off(miniature, kind):
    whole = tar({"train": TRAIN_MEMBERS, "validation": VALIDATION_MEMBERS}[kind])
    name = {"train": "img_train.tar", "validation": "img_val.tar"}[kind]
    with pytest.raises(InputError, match=f"{name} is cut off after "):
        miniature(**{kind: whole[: boundary(whole, 2)]})
    with pytest.raises(InputError, match=f"{name} is not a complete tar archive"):
        miniature(**{kind: whole[: boundary(whole, 2) - 600]})
    # All members, but not the blocks of zeros after them.
    with tarfile.open(fileobj=io.BytesIO(whole)) as opened:
        opened.getmembers()
        end = opened.offset
    with pytest.raises(InputError, match=f"{name} is cut off after "):
        miniature(**{kind: whole[:end]})


@pytest.mark.parametrize("missing", [TRAIN, VALIDATION])
def test_a_missing_archive_is_named(miniature, tmp_path, missing):
    expected = write(tmp_path / "manual", b"", b"")
    (tmp_path / "manual" / missing).unlink()
    with pytest.raises(InputError, match=f"lacks {missing} "):
        data.prepare(
            "imagenet2012",
            manual_dir=tmp_path / "manual",
            data_dir=tmp_path / "data",
            expected=expected,
        )


def test_damaged_images_are_named_with_their_archives(miniature, tmp_path):
    train = dict(TRAIN_MEMBERS)
    train["n02119789.tar"] = tar({"n02119789_1.JPEG": jpeg(9)[:300], "n02119789_2.JPEG": jpeg(9),
                                  "n02119789_3.JPEG": b""})  # fmt: skip
    validation = VALIDATION_MEMBERS | {LAST: b"no image"}
    archives = {"train": tar(train), "validation": tar(validation)}
    with pytest.raises(InputError) as error:
        miniature(verify=True, **archives)
    inner = f"{TRAIN}/n02119789.tar/n02119789"
    for bad in (f"{inner}_1.JPEG (truncated)", f"{inner}_3.JPEG (empty)",
                f"{VALIDATION}/{LAST} (not an image)"):  # fmt: skip
        assert bad in str(error.value)
    assert str(error.value).startswith("3 images") and not (tmp_path / "data").exists()


def test_a_class_archive_that_lacks_images(miniature):
    train = dict(TRAIN_MEMBERS)
    train["n15075141.tar"] = tar({"n15075141_1.JPEG": jpeg(120)})
    with pytest.raises(InputError, match="img_train.tar holds 7 images, the published one 9"):
        miniature(train=tar(train), verify=True)
    # Without --verify it is noticed after TFDS has built it.
    with pytest.raises(InputError, match="7 train images, imagenet2012 9. Delete"):
        miniature(train=tar(train))


def test_half_an_imagenet_is_refused(tmp_path):
    write(tmp_path, tar(TRAIN_MEMBERS), tar(VALIDATION_MEMBERS))
    (tmp_path / "half").mkdir()
    shutil.copy(tmp_path / VALIDATION, tmp_path / "half")
    builder = tfds.builder("imagenet2012", data_dir=tmp_path / "data")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "half")
    )
    for split in ("train", "test"):
        with pytest.raises(InputError, match="was built without train. Delete .*5.1.0"):
            data.Source("imagenet2012", split, data_dir=tmp_path / "data").open()


def test_missing_records_are_named(miniature, tmp_path):
    folder = miniature()["folder"]
    victim = next(p for p in (tmp_path / "data").rglob("*train.tfrecord*"))
    victim.unlink()
    with pytest.raises(InputError, match=rf"1 of 2 files .*{victim.name}. Delete {folder}"):
        data.Source("imagenet2012", "test", data_dir=tmp_path / "data").open()


def test_leftovers_of_an_interrupted_preparation_are_named(miniature, tmp_path, capfd):
    parent = tmp_path / "data" / "imagenet2012"
    rest, mine = parent / "incomplete.A1B2C3_5.1.0", parent / "incomplete work of mine"
    for folder in (rest, mine):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
    assert miniature()["splits"]["train"] == 9
    said = capfd.readouterr().err
    assert f"{rest} is left over from an interrupted `prepare`" in said and str(mine) not in said
    assert (rest / "half").exists() and (mine / "half").exists()


def test_a_folder_where_the_data_set_would_go(miniature, tmp_path):
    (tmp_path / "data" / "imagenet2012" / "5.1.0").mkdir(parents=True)
    with pytest.raises(InputError, match="5.1.0 exists, but holds no prepared data set. Delete"):
        miniature()


def test_too_little_space_is_noticed_beforehand(tmp_path):
    expected = write(tmp_path, tar(TRAIN_MEMBERS), tar(VALIDATION_MEMBERS))
    builder = tfds.builder("imagenet2012", data_dir=tmp_path / "data")
    # Sparse: what the file system says is its size.
    with open(tmp_path / VALIDATION, "r+b") as file:
        size = shutil.disk_usage(tmp_path).free + 2**30
        file.truncate(size)
    large = dataclasses.replace(expected, bytes=expected.bytes | {VALIDATION: size})
    with pytest.raises(InputError, match="bytes free, imagenet2012 takes about"):
        preparation._check_imagenet(builder, tmp_path, large, verify=False)


def test_the_space_is_for_all_archives_together(tmp_path):
    expected = write(tmp_path, tar(TRAIN_MEMBERS), tar(VALIDATION_MEMBERS))
    builder = tfds.builder("imagenet2012", data_dir=tmp_path / "data")
    size = int(0.6 * shutil.disk_usage(tmp_path).free)  # either would fit
    for name in expected.bytes:
        with open(tmp_path / name, "r+b") as file:
            file.truncate(size)
    both = dataclasses.replace(expected, bytes=dict.fromkeys(expected.bytes, size))
    needed = f"takes about {2 * size:,}"
    with pytest.raises(InputError, match=f"bytes free, imagenet2012 {needed}. Free some space"):
        preparation._check_imagenet(builder, tmp_path, both, verify=False)


def sparse(name, size):
    """Make a member without contents that claims a size, as GNU tar writes files with holes."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def not_plain(name, kind):
    """Make a member that is a folder, or a link to a file outside the archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "no_file",
    [
        partial(sparse, size=2**32),
        partial(not_plain, kind=tarfile.SYMTYPE),
        partial(not_plain, kind=tarfile.LNKTYPE),
        partial(not_plain, kind=tarfile.DIRTYPE),
    ],
    ids=["holes", "symbolic link", "hard link", "folder"],
)
def test_members_that_are_not_files(miniature, tmp_path, no_file):
    """Folders, links and holes where images should be; nothing of an archive is unpacked."""
    validation = no_file(LAST) + tar(without(VALIDATION_MEMBERS, LAST))
    with pytest.raises(InputError, match=f"img_val.tar holds '{LAST}', which is not a file"):
        miniature(validation=validation)
    train = no_file("n15075141.tar") + tar(without(TRAIN_MEMBERS, "n15075141.tar"))
    with pytest.raises(InputError, match="'n15075141.tar', which is not the archive of a class"):
        miniature(train=train)
    mark = f"MARK{os.getpid()}"  # short: a name in a tar has 100 bytes
    for name in ("n15075141_1.JPEG", f"../../{mark}", f"{tmp_path}/{mark}"):
        inner = no_file(name) + bytes(1024)
        with pytest.raises(InputError, match=r"n15075141\.tar/\S+ is not a plain file"):
            miniature(train=tar(TRAIN_MEMBERS | {"n15075141.tar": inner}), verify=True)
    assert not list(tmp_path.parent.rglob(f"*{mark}*"))
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink()]


def test_a_damaged_class_archive_without_verifying(miniature, tmp_path):
    with pytest.raises(
        InputError, match="an archive there is damaged .* `prepare --verify` names it"
    ):
        miniature(train=tar(TRAIN_MEMBERS | {"n15075141.tar": b"no archive" * 100}))
    assert not list((tmp_path / "data").rglob("*.tfrecord*"))
