"""A folder of images: every format is read correctly, and every bad file is named."""

import io
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from bombs import SIGNATURE, bomb, chunk, header
from PIL import Image, ImageOps, features

from resnet_keras import data
from resnet_keras.data import listing
from resnet_keras.errors import InputError
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.recipe.columns import Augmentation

RNG = np.random.default_rng(0)
# Blocks, which JPEG hardly changes; all corners differ.
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


DEEP_GREY = Image.fromarray(RNG.integers(0, 65536, (9, 7)).astype(">u2"))


def deep_png(pixels):
    return tf.io.encode_png(pixels.astype(np.uint16)).numpy()


def deep_png_of_wrong_checksum():
    """Encode a PNG that Pillow reads, because it does not look at the checksum of the pixels."""
    whole = bytearray(deep_png(PIXELS.astype(int) * 257))
    whole[-13] ^= 1  # the last byte before IEND, which takes 12
    Image.open(io.BytesIO(whole)).load()
    return bytes(whole)


def palette_with_alpha():
    image = IMAGE.quantize(16)
    image.info["transparency"] = bytes(range(16))
    return image


KINDS = {
    "jpeg": encode(IMAGE, "JPEG", quality=95),
    "progressive": encode(IMAGE, "JPEG", quality=95, progressive=True),
    "no subsampling": encode(IMAGE, "JPEG", quality=95, subsampling=0),
    "grey jpeg": encode(IMAGE.convert("L"), "JPEG"),
    "cmyk jpeg": encode(IMAGE.convert("CMYK"), "JPEG"),
    "png": encode(IMAGE, "PNG"),
    "grey png": encode(IMAGE.convert("L"), "PNG"),
    "black and white png": encode(IMAGE.convert("1"), "PNG"),
    "palette png": encode(IMAGE.quantize(16), "PNG"),
    "palette png with alpha": encode(palette_with_alpha(), "PNG"),
    "rgba png": encode(Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])), "PNG"),
    "grey png with alpha": encode(IMAGE.convert("LA"), "PNG"),
    "bmp": encode(IMAGE, "BMP"),
    "palette bmp": encode(IMAGE.quantize(16), "BMP"),
    "gif": encode(IMAGE, "GIF"),
    "animated gif": encode(IMAGE, "GIF", save_all=True, append_images=[ImageOps.invert(IMAGE)]),
    "webp": encode(IMAGE, "WEBP"),
    "webp with alpha": encode(IMAGE.convert("RGBA"), "WEBP", lossless=True),
    "tiff": encode(IMAGE, "TIFF"),
    "packed tiff": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "grey tiff": encode(IMAGE.convert("L"), "TIFF"),
    "cmyk tiff": encode(IMAGE.convert("CMYK"), "TIFF"),
    "two pages": encode(IMAGE, "TIFF", save_all=True, append_images=[ImageOps.invert(IMAGE)]),
    "jpeg 2000": encode(IMAGE, "JPEG2000"),
    "two images": encode(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)]),
}  # fmt: skip


def tree(root, **folders):
    """Write images: `tree(root, **{"train/cat": {"a.jpg": bytes}})`."""
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True)
        for name, content in files.items():
            (root / folder / name).write_bytes(content)
    return f"folder:{root}"


@pytest.fixture
def jpegs():
    """Fifty different small JPEG files."""
    return {f"{i:02}.jpg": encode(IMAGE.rotate(3 * i), "JPEG") for i in range(50)}


def names(images):
    return [path.decode().rsplit("/", 2)[1:] for path in images.files.paths]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_pillow_reads_it(kind, tmp_path):
    path = tmp_path / "x.jpg"  # whatever its suffix says
    path.write_bytes(KINDS[kind])
    truth = Image.open(io.BytesIO(KINDS[kind]))
    truth = (truth.convert("RGBA") if truth.mode == "P" else truth).convert("RGB")
    assert np.array_equal(data.read_image(path), truth)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation, tmp_path):
    path = tmp_path / "x"
    options = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(encode(IMAGE, kind, exif=with_orientation(orientation), **options))
    # EXIF 2.3, table 4: where the file's first row and first column belong.
    turned = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
        5: PIXELS.swapaxes(0, 1), 6: PIXELS[::-1].swapaxes(0, 1),
        7: PIXELS[::-1, ::-1].swapaxes(0, 1), 8: PIXELS[:, ::-1].swapaxes(0, 1),
    }[orientation]  # fmt: skip
    ours = data.read_image(path).numpy()
    assert ours.shape == turned.shape
    # A JPEG differs a little; any other orientation differs by dozens on average.
    assert np.abs(ours.astype(int) - turned).mean() < (4 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_become_eight(channels, tmp_path):
    deep = RNG.integers(0, 65536, (9, 7, channels))
    (tmp_path / "x.png").write_bytes(deep_png(deep))
    colours = deep[..., :1] if channels < 3 else deep[..., :3]
    expected = np.broadcast_to(np.rint(colours / 257), (9, 7, 3))
    assert np.array_equal(data.read_image(tmp_path / "x.png"), expected)


def test_a_tiff_of_sixteen_bits_becomes_one_of_eight(tmp_path):
    deep = RNG.integers(0, 65536, (9, 7))
    for order in ("<u2", ">u2"):
        (tmp_path / "x.tif").write_bytes(encode(Image.fromarray(deep.astype(order)), "TIFF"))
        expected = np.broadcast_to(np.rint(deep / 257)[..., None], (9, 7, 3))
        assert np.array_equal(data.read_image(tmp_path / "x.tif"), expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "TIFF of 32 bits"),
     (encode(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "TIFF of 32 bits"),
     (encode(IMAGE, "TIFF")[:200], "truncated"),
     (encode(DEEP_GREY, "TIFF")[:30], "truncated"),              # of a big-endian machine
     (encode(IMAGE, "JPEG2000")[:200], "damaged"),
     (encode(IMAGE, "JPEG2000", no_jp2=True)[:200], "damaged"),  # without the boxes of a JP2
     (b"\0\5\x16\7" + bytes(60), "macOS resource fork"),
     # ISO/IEC 23008-12 and AV1 Image File Format: brands of one image and of sequences.
     *((b"\0\0\0\x18ftyp" + brand + bytes(60),
        "HEIC, which this Pillow does not read: pip install pillow-heif")
       for brand in (b"heic", b"heix", b"mif1")),
     *((b"\0\0\0\x18ftyp" + brand + bytes(60), "AVIF, which this Pillow does not read")
       for brand in (b"avif", b"avis"))],
)  # fmt: skip
def test_what_is_no_readable_image_is_named_by_what_it_is(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=f"not a readable image: {reason}. Received"):
        data.read_image(tmp_path / "x")


@pytest.mark.parametrize("size", [(178_956_971, 1), (1, 178_956_971)])
def test_too_many_pixels_are_refused_whatever_pillow_is_told(tmp_path, monkeypatch, size):
    """By default it refuses more than 178,956,970, of which no memory is taken here."""
    (tmp_path / "x").write_bytes(SIGNATURE + header(*size) + chunk(b"IDAT", b""))
    for limit in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="image: more than 178 megapixels. Received"):
            data.read_image(tmp_path / "x")


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(2**29 + 1)  # a hole
    with pytest.raises(InputError, match="not a readable image: larger than 512 MiB. Received"):
        data.read_image(tmp_path / "x")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read_as_pillow_reads_it(tmp_path):
    (tmp_path / "x").write_bytes(encode(IMAGE, "AVIF"))
    assert np.array_equal(data.read_image(tmp_path / "x"), Image.open(tmp_path / "x"))


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


def test_only_plain_images_are_left_to_tensorflow(tmp_path):
    exotic = {"turned": encode(IMAGE, "JPEG", exif=with_orientation(3)), "webp": KINDS["webp"]}
    plain = {"jpeg": KINDS["jpeg"], "grey": KINDS["grey jpeg"], "png": KINDS["png"]}
    plain["upright"] = encode(IMAGE, "JPEG", exif=with_orientation(1))
    name = tree(tmp_path, **{"train/a": exotic, "train/b": plain, "test/a": plain})
    files = data.Source(name, "train").open().files
    assert files.plain.tolist() == [False] * 2 + [True] * 4


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


@pytest.mark.parametrize("holdout", [50, 0.001, 0.999])
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
     ({"val/a": IN_IT, "valid/a": IN_IT}, "must have one of val, valid"),
     ({"train/cat": IN_IT, "val/Cat": IN_IT}, "the classes Cat and cat, which differ in upper"),
     ({"a": {}}, "is empty")],
)  # fmt: skip
def test_a_wrong_layout_is_refused(tmp_path, folders, message):
    name = tree(tmp_path, **folders)
    with pytest.raises(InputError, match=message):
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
