"""A list of image files becomes a split, whatever has listed them."""

import numpy as np
import pytest
from PIL import Image

from resnet_keras.data.listing import copies, image_file, split_of
from resnet_keras.errors import InputError


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / "images" / f"{number}.png" for number in range(3)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    return paths


def test_listed_files_keep_their_order_and_their_numbers(tmp_path, paths):
    rows = zip(("train", "val", "val"), ("b", "b", "a"), reversed(paths), strict=True)
    images = [image_file(*row) for row in rows]
    split = split_of(tmp_path / "list.csv", images, "test", labels=("b", "a"))
    assert (split.labels, split.files.labels.tolist()) == (("b", "a"), [0, 1])
    assert split.paths == (str(paths[1]), str(paths[0])) and split.skipped == ()


def test_a_listed_file_that_is_not_there_is_named_as_seen_from_the_list(tmp_path, paths):
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "nosuch")
    names = ("0.png", "gone.png", "link.png")
    images = [image_file("train", "a", tmp_path / "images" / name) for name in names]
    root = tmp_path / "list.csv"
    with pytest.raises(InputError) as caught:
        split_of(root, images, "train", labels=("a",))
    bad = "images/gone.png (no such file), images/link.png (broken link)"
    assert f"2 of 3 files in {root} cannot be read: {bad}." in str(caught.value)
    split = split_of(root, images, "train", labels=("a",), skip_bad=True)
    assert split.paths == (str(paths[0]),)
    assert [reason for _, reason in split.skipped] == ["no such file", "broken link"]


def test_copies_are_counted_and_named(tmp_path, paths, capfd):
    """0 is in both splits, 1 has two labels, 2 is there twice in one class of one split."""
    for number in range(3):
        (tmp_path / "images" / f"copy{number}.png").write_bytes(paths[number].read_bytes())
    rows = [("train", "a", "0"), ("test", "a", "copy0"), ("train", "a", "1"),
            ("train", "b", "copy1"), ("test", "b", "2"), ("test", "b", "copy2")]  # fmt: skip
    images = [image_file(s, label, tmp_path / "images" / f"{n}.png") for s, label, n in rows]
    opened = {
        name: split_of(tmp_path / "list.csv", images, name, labels=("a", "b"))
        for name in ("train", "test")
    }
    found = {
        kind: [[path.rpartition("/")[2] for path in group] for group in groups]
        for kind, groups in copies(opened).items()
    }
    assert found == {
        "across_splits": [["0.png", "copy0.png"]],
        "under_two_labels": [["1.png", "copy1.png"]],
    }
    said = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert said == [
        f"warning: {tmp_path / 'list.csv'}: images in more than one split: 1, with more than one "
        "label: 1; `python -m resnet_keras prepare` names their files"
    ]


def test_a_listed_file_that_changes_is_read_again(tmp_path, paths):
    def identity():
        images = [image_file("train", "a", path) for path in paths]
        return split_of(tmp_path / "list.csv", images, "train", labels=("a",)).identity

    before = identity()
    assert identity() == before
    Image.fromarray(np.full((5, 5, 3), 9, np.uint8)).save(paths[0])
    assert identity() != before


def test_by_default_the_seed_is_0_nothing_is_held_out_and_no_bad_file_left_out(tmp_path):
    for number in range(20):
        pixels = np.full((4, 4, 3), number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    images = [image_file("", "a", tmp_path / f"{number:02}.png") for number in range(20)]

    def paths(name, **division):
        return split_of(tmp_path, images, name, labels=("a",), **division).paths

    assert paths("test") == paths("test", seed=0) != paths("test", seed=1)
    assert sorted(paths("train") + paths("test")) == [image.path for image in images]
    (tmp_path / "00.png").write_text("not an image")
    images[0] = image_file("", "a", tmp_path / "00.png")
    with pytest.raises(InputError, match="1 of 20 files in .* cannot be read"):
        paths("test")
