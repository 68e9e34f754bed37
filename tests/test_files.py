"""What is written is whole or not there; what a killed process left goes; one writer at a time."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_keras.errors import InputError
from resnet_keras.files import local_path, read_object, whole, write_text

# Writes half of something, says so, and waits for its end.
HALF = """
import sys, time
from resnet_keras.files import whole
with whole(sys.argv[1]) as part:
    if sys.argv[2] == "folder":
        part.mkdir()
        part = part / "file"
    part.write_text("half")
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def half():
    """Start a process that stands in the middle of writing."""
    processes = []

    def start(path, kind, seconds=60):
        process = subprocess.Popen(
            [sys.executable, "-c", HALF, str(path), kind, str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


def test_a_file_and_a_folder_are_replaced(tmp_path):
    for text in ("first", "second"):
        write_text(tmp_path / "deep" / "file", text)
        with whole(tmp_path / "folder") as part:
            part.mkdir()
            (part / text).write_text(text)
            part.with_name("beside").write_text("scratch")
    assert (tmp_path / "deep" / "file").read_text() == "second"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    assert sorted(os.listdir(tmp_path)) == ["deep", "folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_error_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / kind
    old = path if kind == "file" else path / "inside"
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")
    with pytest.raises(ZeroDivisionError), whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == [kind] and old.read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_writer_at_a_time_and_none_after_a_kill(tmp_path, half, kind):
    path = tmp_path / "it"
    process = half(path, kind)
    with pytest.raises(InputError, match=f"another process is writing {path}"):
        write_text(path, "whole")
    assert not path.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir(tmp_path) == [".it.part"]
    write_text(path, "whole")
    assert os.listdir(tmp_path) == ["it"] and path.read_text() == "whole"


def test_a_writer_waits_for_one_that_soon_ends(tmp_path, half):
    half(tmp_path / "it", "file", seconds=0.3)
    write_text(tmp_path / "it", "whole")
    assert os.listdir(tmp_path) == ["it"] and (tmp_path / "it").read_text() == "whole"


def test_a_folder_that_was_just_being_replaced_comes_back(tmp_path):
    """A kill between the two renames: the old one lies in the part."""
    (tmp_path / ".it.part" / "old").mkdir(parents=True)
    (tmp_path / ".it.part" / "old" / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "it"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["it"] and (tmp_path / "it" / "file").read_text() == "old"


def test_what_the_machine_refuses_names_the_file(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path}/full.* cannot be written: No space left"):
        with whole(tmp_path / "full") as part:
            part.symlink_to("/dev/full")
            part.write_text("too much")
    with pytest.raises(FileNotFoundError), whole(tmp_path / "other"):
        open(tmp_path / "nothing")
    # What was read meanwhile is named by its own error.
    with pytest.raises(PermissionError), whole(tmp_path / "third"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/read")
    assert not os.listdir(tmp_path)


def test_a_bug_in_a_writer_stays_one(tmp_path):
    with pytest.raises(KeyError), whole(tmp_path / "x"):
        raise KeyError("No space left on device")
    with pytest.raises(KeyError), whole(tmp_path / "x"):
        try:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except PermissionError:
            raise KeyError("name")  # noqa: B904
    assert not os.listdir(tmp_path)


def test_an_object_is_read_or_its_file_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [1]}')
    assert read_object(path) == {"a": [1]}
    for text, words in (("[1]", "must hold an object"), ("{", "damaged"), ("[" * 9**5, "damaged")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"x.json is damaged.*{words}|x.json is {words}"):
            read_object(path)
    path.unlink()
    with pytest.raises(InputError, match="x.json cannot be read: No such file"):
        read_object(path)


def test_a_file_never_replaces_a_folder(tmp_path):
    (tmp_path / "x.npz").mkdir()
    (tmp_path / "x.npz" / "kept").write_text("kept")
    with pytest.raises(InputError, match=f"has the name of the file.*Received: {tmp_path}/x.npz"):
        write_text(tmp_path / "x.npz", "new")
    assert os.listdir(tmp_path) == ["x.npz"]
    assert (tmp_path / "x.npz" / "kept").read_text() == "kept"


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "folder").mkdir()
    write_text(tmp_path / "file", "old")
    for kind in ("file", "folder"):
        (tmp_path / f"to-{kind}").symlink_to(kind)
    write_text(tmp_path / "to-file", "new")
    with whole(tmp_path / "to-folder") as part:
        part.mkdir()
        (part / "inside").write_text("inside")
    assert (tmp_path / "to-file").is_symlink() and (tmp_path / "to-folder").is_symlink()
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path / "folder") == ["inside"]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "to-file", "to-folder"]


def test_a_link_that_a_killed_process_left_is_taken_away(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".it.part").mkdir()
    (tmp_path / "it").write_text("old")
    (tmp_path / ".it.part" / "old").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "it", "new")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "it"]


def test_a_word_before_a_path_names_images_of_this_machine(tmp_path):
    assert local_path(f"folder:{tmp_path}") == tmp_path
    assert local_path("folder:my images/birds") == Path("my images/birds")
    assert local_path("csv:/home/me/labels.csv") == Path("/home/me/labels.csv")
    assert local_path("folder:") == Path(".") and local_path("folder:./3.0.1") == Path("3.0.1")
    assert local_path(f"folder:{tmp_path}/3.0.1") == tmp_path / "3.0.1"
    assert local_path("folder:3.0.1/birds") == Path("3.0.1/birds")
    assert local_path(None) is local_path("digits") is local_path("my_folder:x") is None


@pytest.mark.parametrize(
    "name",
    ["mnist", "mnist:3.0.1", "mnist:3.*.*", "cifar10/plain:1.2.3", "mnist:3.0.1/language=en",
     "imagenet2012_corrupted/fog_5:3.1.0"],
)  # fmt: skip
def test_names_of_tfds_with_versions_are_not_paths(name):
    assert local_path(name) is None
