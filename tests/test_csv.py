"""CSV files as data sets: how they are read, what is refused, what is trained on them."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from resnet_keras import data
from resnet_keras.data import Source
from resnet_keras.errors import InputError


@pytest.fixture
def images(tmp_path):
    """Six images, 0.png to 5.png, in a folder `images`; each has pixels of its own."""
    (tmp_path / "images").mkdir()
    for i in range(6):
        pixels = np.full((8, 8, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def opened(root, text, split="train", **options):
    """A split of the CSV file with this text, in the folder above the images."""
    content = text if isinstance(text, bytes) else text.encode()
    (root / "list.csv").write_bytes(content)
    return Source(f"csv:{root / 'list.csv'}", split, **options).open()


def names(split):
    return [path.rpartition("/")[2] for path in split.paths]


SINGLE = "image,label,split\nimages/0.png,cat,train\nimages/1.png,dog,train\nimages/2.png,cat,val\n"


def test_each_row_is_an_image_with_its_class_and_its_split(images):
    split = opened(images, SINGLE)
    assert split.labels == ("cat", "dog") and names(split) == ["0.png", "1.png"]
    assert not split.multi_label and split.numbers.tolist() == [0, 1]
    assert split.counts.tolist() == [1, 1]
    assert (
        names(opened(images, SINGLE, "val")) == ["2.png"] == names(opened(images, SINGLE, "test"))
    )
    assert names(opened(images, SINGLE, "all")) == ["0.png", "1.png", "2.png"]
    pixels = [int(image[0, 0, 0]) for image, _ in batches(split)]
    assert pixels == [0, 40]


def batches(split):
    from resnet_keras.preprocessing import Preprocessing

    for found, labels in data.evaluation_batches(split, Preprocessing((8, 8)), batch_size=1):
        yield found[0].numpy(), labels[0].numpy()


MULTI = """image,labels,split
images/0.png,dog|cat,train
images/1.png,,train
images/2.png, cat | bird |cat,train
images/3.png,bird,test
"""


def test_several_labels_are_a_row_of_zeros_and_ones(images):
    split = opened(images, MULTI)
    assert split.multi_label and split.labels == ("bird", "cat", "dog")
    assert split.numbers.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert split.counts.tolist() == [1, 2, 1]
    rows = [label for _, label in batches(split)]
    assert all(row.dtype == np.float32 for row in rows)
    assert np.array_equal(rows, split.numbers)
    wider = split.relabelled(("ant", "bird", "cat", "dog"))
    assert wider.numbers.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert split.sample(1, seed=0).numbers.shape == (1, 3)


@pytest.mark.parametrize(
    "change",
    [lambda text: "\ufeff" + text,                              # Excel's mark
     lambda text: text.replace(",", ";"),
     lambda text: text.replace(",", "\t"),
     lambda text: text.replace("\n", "\r\n"),
     lambda text: "\n" + text.replace("\n", "\n\n,,\n"),        # empty lines
     lambda text: text.replace("train\n", "train,,\n"),          # empty cells behind the last
     lambda text: text.replace("cat", '"cat"'),
     lambda text: text.replace("image,", "image,note,").replace("png,", 'png,"a, b",')],
    ids=["mark", "semicolons", "tabs", "windows", "empty lines", "empty cells", "quotes",
         "another column"],
)  # fmt: skip
def test_ways_of_writing_the_same(images, change):
    same, split = opened(images, SINGLE), opened(images, change(SINGLE))
    assert split.identity == same.identity and split.paths == same.paths


@pytest.mark.parametrize(
    ("column", "cell", "warned"),
    [("labels", "cat;dog", True), ("labels", '"cat, dog"', True), ("labels", "['cat']", True),
     ("label", "cat|dog", True), ("labels", "cat|dog", False), ("label", "cat;dog", False)],
)  # fmt: skip
def test_labels_with_another_separator_are_warned_of(images, capfd, column, cell, warned):
    text = f"image,{column}\n" + "".join(f"images/{i}.png,{cell}\n" for i in range(6))
    opened(images, text, "all")
    err = capfd.readouterr().err
    assert (f"in `{column}`, {cell.strip(chr(34))!r} is the name of one class" in err) == warned
    opened(images, text, "all")
    assert "the name of one class" not in capfd.readouterr().err


def test_absolute_paths_are_taken_as_they_are_and_doubled_rows_count_once(images):
    text = SINGLE.replace("images/1.png", str(images / "images" / "1.png"))
    split = opened(images, text + f"{images}/images/../images/1.png,dog,train\n")
    assert names(split) == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("path,label\nimages/0.png,cat\n", "line 1, must name the columns, `image` among them"),
     ("image,class\nimages/0.png,cat\n", "line 1, must name one of the columns `label` and"),
     ("image,label,labels\na,b,c\n", "line 1, must name one of the columns `label` and"),
     ("image,label,label\na,b,c\n", "line 1, must name each column once"),
     ("image,label,Split\na,b,c\n", "line 1, must have its columns in lower case: split"),
     ("Image,label\na,b\n", "line 1, must have its columns in lower case: image"),
     ("image,label\nimages/0.png,cat\n,dog\n", "line 3, must have an image. Received: '', 'dog'"),
     ("image,label\n\nimages/0.png, \n", "line 3, must have a label. Received: 'images/0.png', ''"),
     ("image,label\na\0,b\n", "line 2, must have an image"),
     ("image,label\nimages/0.png,cat,dog\n", "line 2, must have 2 cells"),
     ("image,label\nimages/0.png\n", "line 2, must have 2 cells"),
     ('image,label\nimages/0.png,"cat\n', "line 2, cannot be read: unexpected end of data"),
     (SINGLE + "images/3.png,cat,dev\n", "line 5, must have a split, one of train, val"),
     (SINGLE + "images/3.png,cat,\n", "line 5, must have a split, one of train, val"),
     (SINGLE + "images/0.png,cat,val\n", "line 5, gives the image of line 2 another split"),
     (SINGLE + "images/0.png,dog,train\n", "line 5, gives the image of line 2 another label"),
     ("image,label\n", "lists no images"),
     ("", "must begin with the names of its columns"),
     ("image,labels\nimages/0.png,|\n", "has no labels"),
     ("image,label\nimages/0.png,cat\nimages/1.png,Cat\n", "has the classes Cat and cat"),
     ("image,label\nimages/0.png,é\n".encode("latin-1"), "line 2, is not UTF-8"),
     ("image,label\nimages/0.png,cat\n".encode("utf-16"), "line 1, is not UTF-8")],
)  # fmt: skip
def test_what_cannot_be_used_is_named_by_its_line(images, text, message):
    with pytest.raises(InputError) as refused:
        opened(images, text)
    assert str(refused.value).startswith(str(images / "list.csv")) and message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_csv_file_that_is_not_there(images):
    with pytest.raises(InputError, match=r"no CSV file .*no such file.*Received: /nowhere/x.csv"):
        Source("csv:/nowhere/x.csv").open()
    with pytest.raises(InputError, match="is a directory"):
        Source(f"csv:{images}").open()


def test_bad_images_are_named_and_may_be_left_out(images, capfd):
    (images / "images" / "1.png").write_bytes(b"no image")
    text = SINGLE + "images/9.png,dog,train\nimages/2.png/x.png,cat,val\n"
    with pytest.raises(InputError, match="3 of 5 files") as refused:
        opened(images, text)
    said = str(refused.value)
    assert "images/1.png (" in said and "images/9.png (no such file)" in said
    assert "images/2.png/x.png (not a directory)" in said
    assert names(opened(images, text, skip_bad=True)) == ["0.png"]
    assert "3 of 5 files left out" in capfd.readouterr().err


def test_classes_without_images_in_a_split_are_named(images, capfd):
    opened(images, MULTI)
    assert "no test images of cat, dog" in capfd.readouterr().err


def scattered(root, count, labels):
    """As many images as asked for, each of random pixels, and the text of a list of them."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / f"{i:03}.png")
        rows.append(f"{i:03}.png,{labels(i, rng)}\n")
    return rows


def test_without_splits_the_bytes_of_an_image_choose_its_split(tmp_path):
    rows = scattered(tmp_path, 100, lambda i, _: "ab"[i % 2])
    whole = "image,label\n" + "".join(rows)
    train, test = (opened(tmp_path, whole, split) for split in ("train", "test"))
    assert set(names(train)).isdisjoint(names(test)) and 10 <= test.examples <= 30
    assert Source(f"csv:{tmp_path / 'list.csv'}").made == set()
    # As many more images as there are do not move one.
    fewer = opened(tmp_path, "image,label\n" + "".join(rows[:50]), "test")
    assert set(names(fewer)) <= set(names(test))
    # An empty column, and a column that says `train` alone, are no splits.
    for word in ("", "train"):
        text = "image,label,split\n" + "".join(row.replace("\n", f",{word}\n") for row in rows)
        assert opened(tmp_path, text, "test").paths == test.paths
    held = opened(tmp_path, whole, "val", holdout=10)
    assert held.examples == 10 and set(names(held)) <= set(names(train))
    assert held.counts.tolist() == [5, 5]


def test_sets_of_labels_of_which_each_has_few_images_are_split_too(tmp_path):
    """Of 2^9 sets 200 images have few each: each set alone would have no test image."""

    def labels(_, rng):
        return "|".join(name for name in "abcdefghi" if rng.random() < 0.5)

    text = "image,labels\n" + "".join(scattered(tmp_path, 200, labels))
    train, test = (opened(tmp_path, text, split) for split in ("train", "test"))
    assert train.examples + test.examples == 200
    assert 25 <= test.examples <= 55  # 40 with a standard deviation of 5.7
    assert (test.counts > 0).all()
    assert opened(tmp_path, text, "val", holdout=0.25).examples == round(0.25 * train.examples)


def test_a_set_of_labels_of_five_images_has_one_in_each_split(tmp_path):
    sets = ["|".join(name for i, name in enumerate("abcde") if k >> i & 1) for k in range(32)]
    text = "image,labels\n" + "".join(scattered(tmp_path, 160, lambda i, _: sets[i % 32]))
    for name in ("train", "test"):
        split = opened(tmp_path, text, name)
        assert len({tuple(row) for row in split.numbers.tolist()}) == 32


def test_a_file_that_is_listed_but_not_there_has_no_bytes(images):
    text = "image,label\nimages/0.png,a\nimages/9.png,b\n"
    (images / "list.csv").write_text(text)
    found = Source(f"csv:{images / 'list.csv'}").files()
    assert found["files"] == 2 and found["bytes"] == (images / "images" / "0.png").stat().st_size


def test_a_path_may_begin_with_the_home_folder(images, monkeypatch):
    expected = opened(images, SINGLE).paths
    folders = images / "folders" / "a"
    folders.mkdir(parents=True)
    for i in range(5):
        (images / "images" / f"{i}.png").rename(folders / f"{i}.png")
    (images / "list.csv").write_text(SINGLE.replace("images/", "folders/a/"))
    monkeypatch.setenv("HOME", str(images))
    listed, folder = Source("csv:~/list.csv", "train"), Source("folder:~/folders", "all")
    assert listed.open().paths == tuple(p.replace("images/", "folders/a/") for p in expected)
    assert listed.files()["files"] == 3 and "sha256" in listed.files()
    assert folder.open().examples == 5 == folder.files()["files"]
    assert data.prepare("folder:~/folders")["splits"].keys() == {"train", "test"}


def test_labels_are_part_of_what_a_split_is(images):
    before = opened(images, MULTI)
    assert opened(images, MULTI).identity == before.identity
    assert opened(images, MULTI.replace("dog|cat", "dog")).identity != before.identity
    source = Source(f"csv:{images / 'list.csv'}")
    files = source.files()
    list_ = (images / "list.csv").read_bytes()
    assert files == {
        "files": 4,
        "bytes": sum((images / "images" / f"{i}.png").stat().st_size for i in range(4)),
        "sha256": hashlib.sha256(list_).hexdigest(),
    }
    (images / "list.csv").write_text(MULTI.replace("dog|cat", "cat|dog"))  # of the same length
    assert source.files() != files


def test_preparing_a_csv_file_is_checking_it(images):
    opened(images, SINGLE)
    found = data.prepare(f"csv:{images / 'list.csv'}")
    assert found["splits"] == {"val": 1, "train": 2} and json.dumps(found)


def test_balanced_sampling_of_several_labels_is_refused(images):
    from resnet_keras import Recipe

    recipe = Recipe(model="resnet20_cifar", dataset="csv:x", train_size=8, sampling="balanced")
    with pytest.raises(InputError, match="`sampling` must be all where images have several"):
        data.training_batches(opened(images, MULTI), recipe, batch_size=2, seed=0)
