"""A folder of images: its classes, its splits, and every bad file by its name."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from bombs import bomb
from image_files import (
    IMAGE,
    KINDS,
    PIXELS,
    deep_png,
    deep_png_of_wrong_checksum,
    encode,
    tree,
    with_orientation,
)
from PIL import Image

from resnet_keras import data
from resnet_keras.data import listing
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation


@pytest.fixture
def jpegs():
    """Fifty different small JPEG files."""
    return {f"{i:02}.jpg": encode(IMAGE.rotate(3 * i), "JPEG") for i in range(50)}


def names(images):
    return [path.decode().rsplit("/", 2)[1:] for path in images.files.paths]


def test_all_kinds_in_one_training_batch(tmp_path):
    files = {"deep.jpg": deep_png(PIXELS.astype(int) * 257)} | {f"{k}.jpg": KINDS[k] for k in KINDS}
    files["turned.jpg"] = encode(IMAGE, "PNG", exif=with_orientation(6))
    name = tree(tmp_path, **{"train/a": files, "val/a": files})
    opened = data.Source(name, "train").open()
    assert opened.examples == len(files) and opened.channels == 3
    augmentation = Augmentation(train_size=24, min_area=0.9)
    batches = data.training_batches(opened, augmentation, batch_size=len(files), seed=0)
    assert next(iter(batches))[0].shape == (len(files), 24, 24, 3)
    # Whole images, in the order of their names.
    images, _ = next(
        iter(data.evaluation_batches(opened, Preprocessing(48), batch_size=len(files)))
    )
    for (_, file), image in zip(names(opened), images.numpy(), strict=True):
        truth = data.read_image(tmp_path / "train" / "a" / file).numpy()
        top, left = (edge // 2 - 24 for edge in truth.shape[:2])
        assert np.array_equal(image, truth[top : top + 48, left : left + 48]), file


def bad_files():
    return {
        "cut.jpg": (KINDS["jpeg"][:400], "truncated"),
        "cut.png": (KINDS["png"][:-40], "truncated"),
        "head.jpg": (KINDS["jpeg"][:10], "truncated"),
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>not found</html>", "not an image"),
        "notes.txt": (b"my notes", "not an image"),
        "._00.jpg": (b"\x00\x05\x16\x07" + bytes(100), "macOS resource fork"),
        "bomb.png": (bomb(20_000), "more than 178 megapixels"),
        "cut.gif": (KINDS["gif"][:-60], "truncated"),
        "cut.webp": (KINDS["webp"][:-20], "damaged"),
        "cut.bmp": (KINDS["bmp"][:-100], "truncated"),
        "scan.jpg": (encode(IMAGE, "PCX"), "not an image"),
        "deep.png": (deep_png_of_wrong_checksum(), "damaged"),
    }


def test_all_bad_files_are_named_at_once_with_the_reason(tmp_path, jpegs):
    bad = bad_files()
    name = tree(tmp_path, a=jpegs, b=jpegs | {file: content for file, (content, _) in bad.items()})
    (tmp_path / "b" / "link.jpg").symlink_to("nowhere")
    with pytest.raises(InputError) as error:
        data.Source(name, "train").open()
    line = str(error.value)
    assert line.startswith("14 of 114 files") and "--skip-bad" in line and "\n" not in line
    for file, (_, reason) in bad.items():
        assert f"b/{file} ({reason})" in line
    assert "b/link.jpg (broken link)" in line


def test_bad_files_can_be_skipped_and_are_counted(tmp_path, jpegs, capfd):
    bad = bad_files()
    name = tree(tmp_path, a=jpegs, b=jpegs | {file: content for file, (content, _) in bad.items()})
    opened = [data.Source(name, split, skip_bad=True).open() for split in ("train", "test")]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert "13 of 113 files left out: 5 truncated, 3 not an image" in line
    for split in opened:
        skipped = {path.rsplit("/", 1)[1]: reason for path, reason in split.skipped}
        assert skipped == {file: reason for file, (_, reason) in bad.items()}
    assert sum(split.examples for split in opened) == 100
    # As if the bad files had never been there.
    for file in bad:
        (tmp_path / "b" / file).unlink()
    clean = data.Source(name, "train").open()
    assert names(clean) == names(opened[0]) and clean.skipped == ()


def test_what_programs_leave_behind_is_ignored(tmp_path, jpegs):
    litter = dict.fromkeys((".DS_Store", "Thumbs.db", "desktop.ini", ".nomedia"), b"x")
    folders = {".git": litter, "__MACOSX": litter, "a/.thumbnails": jpegs, "a/__macosx": jpegs}
    name = tree(tmp_path, a=jpegs | litter, **folders)
    (tmp_path / "README.md").write_text("not in a class folder")
    images = data.Source(name, "train").open()
    assert (images.examples, images.labels, images.skipped) == (40, ("a",), ())


@pytest.mark.parametrize(
    "suffix",
    [".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".heic", ".jp2"],
)
def test_what_macos_leaves_beside_an_image_is_no_image_and_named(tmp_path, jpegs, suffix):
    names = [f"._00{suffix}", f"._00{suffix.upper()}"]
    name = tree(tmp_path, a=jpegs | dict.fromkeys(names, b""))
    with pytest.raises(InputError, match="2 of 52 files") as error:
        data.Source(name, "train").open()
    assert all(f"a/{name} (macOS resource fork)" in str(error.value) for name in names)


def test_training_images_alone_are_split_as_class_folders_alone(tmp_path, jpegs):
    one, other = tmp_path / "one", tmp_path / "other"
    tree(one, **{"train/a": jpegs, "train/b": jpegs})
    tree(other, a=jpegs, b=jpegs)
    assert sides(one) == sides(other) and set(sides(one).values()) == {"train", "test"}
    assert data.open_folder(one, "train").labels == ("a", "b")


def test_a_class_may_be_called_as_a_split_is(tmp_path, jpegs):
    name = tree(tmp_path, **{"dev/deep": jpegs, "train": jpegs, "ops": jpegs})
    assert data.Source(name, "all").open().labels == ("dev", "ops", "train")


def test_names_may_be_of_any_bytes(tmp_path, jpegs):
    opened = []
    for label in (b"\xff", b"\xfe"):
        root = tmp_path / str(len(opened))
        tree(root, **{"train/" + os.fsdecode(label): jpegs, "test/a": jpegs})
        opened.append(data.Source(f"folder:{root}", "train").open())
        assert [os.fsencode(path) for path in opened[-1].paths] == list(opened[-1].files.paths)
        batches = data.evaluation_batches(opened[-1], Preprocessing(8), batch_size=50)
        assert len(next(iter(batches))[1]) == 50
    assert opened[0].identity != opened[1].identity


def test_that_many_files_are_checked_is_said(tmp_path, capfd):
    for count, told in ((4999, 0), (5000, 1)):
        images = [listing.image_file("train", "a", tmp_path / str(i)) for i in range(count)]
        with pytest.raises(InputError, match="is empty"):
            listing.split_of(tmp_path, images, "train", labels=("a",), skip_bad=True)
        assert capfd.readouterr().err.count(f": checking {count:,} files") == told


def test_classes_are_those_of_all_splits_and_missing_ones_are_named(tmp_path, jpegs, capfd):
    name = tree(tmp_path, **{"train/dog": jpegs, "train/ant": jpegs, "train/gnu": {},
                             "val/dog": jpegs, "val/bee": jpegs})  # fmt: skip
    train, val = (data.Source(name, split).open() for split in ("train", "test"))
    assert train.labels == val.labels == ("ant", "bee", "dog", "gnu")
    assert np.bincount(train.files.labels).tolist() == [50, 0, 50]
    assert np.bincount(val.files.labels).tolist() == [0, 50, 50]
    said = capfd.readouterr().err.splitlines()
    assert said == [f"warning: {tmp_path}: no train images of bee, gnu",
                    f"warning: {tmp_path}: no val images of ant, gnu",
                    f"warning: {tmp_path}: images in more than one split: 50, with more than one "
                    "label: 50; `python -m resnet_keras prepare` names their files"]  # fmt: skip
    for word in ("val", "valid", "validation"):
        assert names(data.Source(name, word).open()) == names(val)
    assert data.Source(name, "all").open().examples == 200
    with pytest.raises(InputError, match="train, val, all. Received: split='dev'"):
        data.Source(name, "dev").open()


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_three_splits_are_three_splits(tmp_path, jpegs, word):
    images = list(jpegs.items())
    parts = {"train": images[:30], word: images[30:45], "test": images[45:]}
    name = tree(tmp_path, **{f"{split}/a": dict(part) for split, part in parts.items()})
    for split, part in parts.items():
        opened = data.Source(name, split).open()
        assert names(opened) == [["a", file] for file, _ in part]
    assert data.Source(name, "all").open().examples == 50
    assert data.Source(name).made == {"train", "val", "test"}


def sides(root, **options):
    """Which side each file is on."""
    return {
        label_and_file: split
        for split in ("train", "test")
        for label_and_file in map(tuple, names(data.open_folder(root, split, **options)))
    }


def test_a_folder_without_splits_is_split_by_each_files_own_hash(tmp_path):
    def written(count, start=0):
        return {f"{i:03}.png": encode(Image.new("L", (1 + i % 30, 1 + i // 30)), "PNG")
                for i in range(start, start + count)}  # fmt: skip

    one = tmp_path / "one"
    tree(one, a=written(200), b=written(20, 200), c={"x.jpg": KINDS["jpeg"]})
    before = sides(one)
    assert len(before) == 221 and before["c", "x.jpg"] == "train"
    a = [side for (label, _), side in before.items() if label == "a"]
    # A fifth: binomial, 5.7 images of 200 are one standard deviation.
    assert 40 - 17 < a.count("test") < 40 + 17
    assert sides(one, seed=1) != before
    # Neither other images nor other names nor another time change the side of an image.
    for name, content in written(300, 300).items():
        (one / "a" / name).write_bytes(content)
    (one / "b" / "200.png").rename(one / "b" / "renamed.png")
    after = sides(one)
    renamed = before.pop(("b", "200.png"))
    assert after["b", "renamed.png"] == renamed
    assert {file: after[file] for file in before} == before
    # Copies stay together, whatever class they are in.
    copies = {}
    for (label, file), side in list(after.items())[::7]:
        copy = ("b" if label == "a" else "a", f"copy of {label} {file}")
        shutil.copy(one / label / file, one.joinpath(*copy))
        copies[copy] = side
    found = sides(one)
    assert {copy: found[copy] for copy in copies} == copies


def test_a_class_of_a_few_images_has_one_in_each_split(tmp_path):
    for number in range(40):
        images = {f"{i}.png": encode(Image.new("L", (number + 1, i + 1)), "PNG") for i in range(2)}
        tree(tmp_path, **{f"{number:02}": images})
    found = sides(tmp_path)
    for number in range(40):
        assert {found[f"{number:02}", f"{i}.png"] for i in range(2)} == {"train", "test"}


@pytest.mark.parametrize(
    ("holdout", "counts"), [(0.2, (8, 2)), (10, (8, 2)), (3, (2, 1)), (1, (1, 0)), (49, (39, 10))]
)
def test_validation_images_are_taken_of_each_class_in_proportion(tmp_path, holdout, counts):
    images = [encode(Image.new("L", (9, i + 1)), "PNG") for i in range(60)]
    parts = {"train/a": images[:40], "train/b": images[40:50], "test/a": images[50:]}
    for folder, contents in parts.items():
        tree(tmp_path, **{folder: {f"{i:02}.png": image for i, image in enumerate(contents)}})
    source = f"folder:{tmp_path}"
    train, val, test = (
        data.Source(source, split, holdout=holdout).open() for split in ("train", "val", "test")
    )
    assert np.bincount(val.files.labels, minlength=2).tolist() == list(counts)
    assert train.examples + val.examples == 50 and test.examples == 10
    assert not {*train.paths} & {*val.paths}
    again = data.Source(source, "val", holdout=holdout).open()
    assert again.paths == val.paths


@pytest.mark.parametrize("holdout", [50, 0.001, 0.999, 1.5])
def test_validation_images_must_leave_some_and_be_some(tmp_path, jpegs, holdout):
    name = tree(tmp_path, **{"train/a": jpegs, "test/a": jpegs})
    with pytest.raises(InputError, match="`holdout` must leave images .* of 50. Received"):
        data.Source(name, "val", holdout=holdout).open()


def test_who_has_validation_images_holds_out_none(tmp_path, jpegs):
    name = tree(tmp_path, **{"train/a": jpegs, "val/a": jpegs})
    with pytest.raises(InputError, match="validation images of its own: `holdout` must be 0"):
        data.Source(name, "train", holdout=0.1).open()


@pytest.mark.parametrize(
    ("folders", "split", "division"),
    [(["a"], "test", {}), (["a"], "fold 1/5", {}), (["train/a", "test/a"], "val", {"holdout": 9})],
)  # fmt: skip
def test_the_seed_draws_every_kind_of_split(tmp_path, jpegs, folders, split, division):
    tree(tmp_path, **dict.fromkeys(folders, jpegs))

    def drawn(seed):
        return names(data.open_folder(tmp_path, split, seed=seed, **division))

    assert drawn(0) == drawn(0) and len({str(drawn(seed)) for seed in range(4)}) == 4


def test_folders_in_a_class_are_of_the_class(tmp_path, jpegs):
    files = list(jpegs.items())
    name = tree(tmp_path, **{"a": dict(files[:10]), "a/deep/er": dict(files[10:40]), "b": jpegs})
    opened = data.Source(name, "all").open()
    assert opened.labels == ("a", "b") and np.bincount(opened.files.labels).tolist() == [40, 50]


def test_of_two_images_each_split_gets_one(tmp_path, jpegs):
    name = tree(tmp_path, a={"x": KINDS["png"], "y": KINDS["png"]})
    assert (
        data.Source(name, "train").open().examples == data.Source(name, "test").open().examples == 1
    )


def test_nothing_is_written_into_the_folder(tmp_path, jpegs):
    name = tree(tmp_path, a=jpegs)
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    data.Source(name, "train").open()
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before


IN_IT = {"x.png": KINDS["png"]}


@pytest.mark.parametrize(
    ("folders", "message"),
    [({}, "no class folders"),
     ({"train/a": {}}, "is empty"),
     ({"val/a": IN_IT, "val/b": IN_IT}, "has the splits val, all. Received: split='train'"),
     ({"all/a": IN_IT, "all/b": IN_IT}, "the only folder in .* is all: give folder:.*/all"),
     ({"all/train/a": IN_IT, "all/train/b": IN_IT}, "is all: give folder:.*/all"),
     ({"Train/a": IN_IT, "Val/a": IN_IT}, "called train, val and test: rename Train, Val"),
     ({"training/a": IN_IT, "validation/a": IN_IT}, "called train, val and test: rename training"),
     ({"train/a": IN_IT, "Test/a": IN_IT}, "called train, val and test: rename Test"),
     ({"train/a": IN_IT, "eval/a": IN_IT}, "called train, val and test: rename eval"),
     ({"train/a": IN_IT, "holdout/a": IN_IT}, "called train, val and test: rename holdout"),
     ({"train/a": IN_IT, "evaluation/a": IN_IT}, "rename evaluation"),
     ({"seg_train/a": IN_IT, "seg_test/a": IN_IT}, "rename seg_test, seg_train"),
     ({"train_images/a": IN_IT, "val_images/a": IN_IT}, "rename train_images, val_images"),
     ({"val/a": IN_IT, "valid/a": IN_IT}, "must have one of val, valid"),
     ({"train/cat": IN_IT, "val/Cat": IN_IT}, "the classes Cat and cat, which differ in upper"),
     ({"train/caf\u00e9": IN_IT, "val/cafe\u0301": IN_IT},
      r"classes 'cafe\\u0301' and 'caf\\xe9', which differ in spaces or the coding of accents"),
     ({"train/cat": IN_IT, "val/cat ": IN_IT}, "classes 'cat' and 'cat ', which differ in spaces"),
     ({"a": {}}, "is empty")],
)  # fmt: skip
def test_a_wrong_layout_is_refused(tmp_path, folders, message):
    name = tree(tmp_path, **folders)
    with pytest.raises(InputError, match=message):
        data.Source(name, "train").open()


def test_names_that_only_sound_alike_are_different_classes(tmp_path, jpegs):
    """And two kinds of trains, with their parts, are no splits."""
    name = tree(tmp_path, **{"Stra\u00dfe": jpegs, "Strasse": jpegs, "steam_train/front": jpegs})
    tree(tmp_path, **{"express_train/front": jpegs})
    labels = data.Source(name, "train").open().labels
    assert labels == ("Strasse", "Stra\u00dfe", "express_train", "steam_train")


def test_what_is_of_no_class_is_named_once(tmp_path, jpegs, capfd):
    name = tree(tmp_path, **{"train/a": jpegs, "test/a": jpegs, "bird/b": IN_IT, "notes": {}})
    tree(tmp_path, **{"val": IN_IT})  # without classes
    for folder in (tmp_path, tmp_path / "train"):
        (folder / "loose.JPG").write_bytes(KINDS["jpeg"])
    (tmp_path / "notes" / "a.txt").write_text("no image")
    for split in ("train", "test"):
        assert data.Source(name, split).open().labels == ("a",)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "not read" in line]
    assert line == (
        f"warning: {tmp_path}: not read, because of no class of a split: bird, val, 2 files such "
        "as loose.JPG"
    )


def test_what_is_all_read_is_not_warned_of(tmp_path, jpegs, capfd):
    name = tree(tmp_path, a=jpegs, b=jpegs)
    (tmp_path / "labels.csv").write_text("not an image")
    data.Source(name, "train").open()
    assert "not read" not in capfd.readouterr().err


def test_linked_folders_are_of_the_class_and_loops_end(tmp_path, jpegs):
    name = tree(tmp_path / "images", a=jpegs, b=jpegs)
    tree(tmp_path, elsewhere={"linked.png": KINDS["png"]})
    (tmp_path / "images" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a" / "loop").symlink_to(tmp_path / "images" / "a")
    split = data.Source(name, "all").open()
    paths = [path for path in split.paths if path.endswith("linked.png")]
    assert split.examples == 2 * len(jpegs) + 1 and paths[0].endswith("images/a/more/linked.png")


def test_runs_among_the_images_are_no_classes(tmp_path, jpegs):
    name = tree(tmp_path, a=jpegs, b=jpegs, **{"runs/one": IN_IT, "runs/two": IN_IT, "run": IN_IT})
    for run in ("runs/one", "runs/two", "run"):
        (tmp_path / run / "recipe.json").write_text("{}")
    assert data.Source(name, "train").open().labels == ("a", "b")
    tree(tmp_path, **{"runs/three": IN_IT})  # something else
    assert data.Source(name, "train", skip_bad=True).open().labels == ("a", "b", "runs")


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path, jpegs):
    name = tree(tmp_path, a=jpegs, b=jpegs)
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with pytest.raises(InputError, match=r"a/pipe\.jpg \(not a file\)"):
        data.Source(name, "train").open()


def test_preparing_a_folder_is_checking_it(tmp_path, jpegs, capfd):
    name = tree(tmp_path, a=jpegs, b=jpegs)
    report = data.prepare(name)
    counts = report.pop("splits")
    assert sum(counts.values()) == 100 and counts["train"] > 60
    copies = report.pop("copies")
    pairs = [[f"{tmp_path}/{label}/{file}" for label in "ab"] for file in jpegs]
    assert sorted(copies.pop("under_two_labels")) == pairs and copies == {"across_splits": []}
    said = capfd.readouterr().err.splitlines()
    assert f"the same image has two labels: {', '.join(pairs[7])}" in said
    assert report == {"dataset": name, "folder": str(tmp_path), "prepared": "before"}
    (tmp_path / "b" / "empty.jpg").touch()
    with pytest.raises(InputError, match=r"1 of 101 files .*: b/empty.jpg \(empty\)"):
        data.prepare(name)


def test_preparing_names_images_that_are_tested_and_trained_on(tmp_path, jpegs, capfd):
    name = tree(tmp_path, **{"train/a": jpegs, "test/a": dict(list(jpegs.items())[:1])})
    twice = [f"{tmp_path}/{split}/a/00.jpg" for split in ("train", "test")]
    assert data.prepare(name)["copies"] == {"across_splits": [twice], "under_two_labels": []}
    said = capfd.readouterr().err.splitlines()
    assert f"the same image is in two splits: {', '.join(twice)}" in said


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder. Received: .*nosuch"):
        data.Source(f"folder:{tmp_path / 'nosuch'}", "train").open()


def test_training_on_a_folder_is_a_function_of_the_step(tmp_path, jpegs):
    name = tree(tmp_path, **{"train/a": jpegs, "train/b": jpegs, "test/b": jpegs})
    opened = data.Source(name, "train").open()
    augmentation = Augmentation(train_size=16, min_area=0.3, flip=True)

    def draw(start, steps):
        batches = data.training_batches(opened, augmentation, batch_size=24, seed=5, start=start)
        batches = batches.take(steps)
        return [(images.tobytes(), labels.tolist()) for images, labels in as_numpy(batches)]

    whole = draw(0, 7)
    assert draw(3, 4) == whole[3:]
    labels = sum((labels for _, labels in whole[:5]), [])[:100]
    assert np.bincount(labels).tolist() == [50, 50]


def as_numpy(batches):
    return batches.as_numpy_iterator()


@pytest.mark.parametrize("harm", ["gone", "cut", "another"])
def test_a_file_that_changes_after_the_check_is_named(tmp_path, jpegs, harm):
    name = tree(tmp_path, **{"train/a": jpegs, "test/a": jpegs})
    images = data.Source(name, "train").open()
    victim = tmp_path / "train" / "a" / "17.jpg"
    if harm == "gone":
        victim.unlink()
    elif harm == "cut":
        victim.write_bytes(jpegs["17.jpg"][:-100])
    else:
        shutil.copy(tmp_path / "train" / "a" / "18.jpg", victim)
    for batches in (
        data.training_batches(images, Augmentation(train_size=8), batch_size=25, seed=0).take(2),
        data.evaluation_batches(images, Preprocessing(8), batch_size=25),
    ):
        with pytest.raises(InputError, match=rf"the image {victim} "), data.reading(images):
            list(batches)


def test_a_file_that_changes_is_named_when_fit_fails(tmp_path, jpegs):
    import keras

    name = tree(tmp_path, **{"train/a": jpegs, "test/a": jpegs})
    images = data.Source(name, "train").open()
    batches = data.training_batches(images, Augmentation(train_size=8), batch_size=25, seed=0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile(loss="sparse_categorical_crossentropy")
    (tmp_path / "train" / "a" / "17.jpg").unlink()
    with (
        pytest.raises(InputError, match="train/a/17.jpg can no longer be read"),
        data.reading(images),
    ):
        model.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0)


def test_errors_that_are_not_about_a_file_stay_as_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError), data.reading():
        tf.reshape([1, 2, 3], (2, 2))
