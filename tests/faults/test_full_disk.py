"""A disk that is full or cannot be written: one line, code 2, nothing lost; then it resumes."""

import shutil

import pytest
from commands import EXPORTS, Place
from files import read_only, small_disk
from runs import end, newest_step
from whole import tree, weights

FULL = "No space left on device"
READ_ONLY = "Read-only file system"
MOST = 4_000_000


@pytest.fixture
def small(tmp_path):
    """A place whose run folder is a small file system of its own, that can be filled."""
    place = Place(tmp_path)
    with small_disk(place.run, MOST) as there:
        if not there:
            pytest.skip("a tmpfs cannot be mounted here: it takes root and CAP_SYS_ADMIN")
        yield place


def fill(folder, free):
    """Leave `free` bytes, in pages of 4 KiB."""
    (folder / "ballast").unlink(missing_ok=True)
    with open(folder / "ballast", "wb") as ballast:
        ballast.write(bytes(shutil.disk_usage(folder).free - free))


def refused(process, reason):
    """The one line of a command that the machine has refused."""
    line = process.refused()
    assert process.output.splitlines()[-1] == line
    assert reason in line and "run the same command again" in line
    return line


def same_end(place, whole):
    assert end(place.run) == whole.end
    assert weights(place.run / "model.keras") == whole.weights
    assert {name for name in place.files() if name != "ballast"} == whole.files


@pytest.mark.slow
def test_a_training_waits_for_room(warm, small, whole):
    warm.run(small.prepare)
    # For two backups and the next one's part; not for the model.
    fill(small.run, free=260_000)
    refused(warm.run(small.train), FULL)
    whole.check(small)
    assert newest_step(small.run) > 0
    (small.run / "ballast").unlink()
    process = warm.run(small.train)
    assert process.code == 0, process.output
    same_end(small, whole)


@pytest.mark.slow
def test_a_training_waits_for_room_wherever_it_stands(warm, small, whole):
    warm.run(small.prepare)
    steps = []
    for free in range(0, 600_000, 40_000):
        fill(small.run, free)
        process = warm.run(small.train)
        if process.code == 0:
            break
        refused(process, FULL)
        whole.check(small)
        steps.append(newest_step(small.run))
    assert steps == sorted(steps) and steps[0] == 0 and len(set(steps)) > 2
    (small.run / "ballast").unlink()
    assert warm.run(small.train).code == 0
    same_end(small, whole)


def copied(place, unbroken):
    """A whole run in another place."""
    shutil.copytree(unbroken.run, place.run, dirs_exist_ok=True)
    shutil.copytree(unbroken.data, place.data, dirs_exist_ok=True)
    return place


def verbs(place):
    return {"report": place.report} | place.exports


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report", *EXPORTS])
def test_what_a_verb_writes_waits_for_room(warm, small, unbroken, name):
    command = verbs(copied(small, unbroken))[name]
    if name != "report":
        # A page with its runtime does not fit here at all.
        fill(small.run, free=0)
        refused(warm.run(command), FULL)
        (small.run / "ballast").unlink()
        if name == "web":
            refused(warm.run(command), FULL)
            return
        assert warm.run(command).code == 0
    before, files = tree(small.run), small.files()
    fill(small.run, free=8192)
    refused(warm.run(command), FULL)
    (small.run / "ballast").unlink()
    after = tree(small.run)
    # The report of an export is written before; it tells times.
    assert {n for n in before if before[n] != after.get(n)} <= {f"{name}.report.json"}
    assert before.keys() == after.keys()
    process = warm.run(command)
    assert process.code == 0, process.output
    assert small.files() == files


@pytest.mark.slow
def test_a_preparation_waits_for_room(warm, tmp_path, unbroken):
    place = Place(tmp_path)
    with small_disk(place.data, 100_000) as there:
        if not there:
            pytest.skip("a tmpfs cannot be mounted here")
        line = refused(warm.run(place.prepare), FULL)
        assert str(place.data) in line
        assert not (place.data / "digits" / "1.0.0").exists()
    with small_disk(place.data, MOST):
        assert warm.run(place.prepare).code == 0
        assert tree(place.data / "digits" / "1.0.0") == tree(unbroken.data / "digits" / "1.0.0")


@pytest.mark.slow
def test_a_file_that_grows_too_large(warm, tmp_path, whole):
    """The same without a file system of its own: where nothing can be mounted, too."""
    place = Place(tmp_path)
    assert warm.run(place.prepare).code == 0
    line = refused(warm.run(place.train, largest_file=120_000), "File too large")
    assert str(place.run / "model.keras") in line  # its backups are smaller
    whole.check(place)
    assert warm.run(place.train).code == 0
    same_end(place, whole)


@pytest.mark.parametrize(
    "what",
    ["report", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train", *EXPORTS))],
)
def test_a_run_folder_that_cannot_be_written(warm, tmp_path, unbroken, what):
    place = copied(Place(tmp_path), unbroken)
    command = (verbs(place) | {"train": place.train})[what]
    if what == "train":
        (place.run / "results.json").unlink()  # else there is nothing left to do
    before = tree(place.run)
    with read_only(place.run) as there:
        if not there:
            pytest.skip("a folder cannot be mounted read-only here")
        assert str(place.run) in refused(warm.run(command), READ_ONLY)
    assert tree(place.run) == before
    process = warm.run(command)
    assert process.code == 0, process.output


@pytest.mark.slow
def test_what_needs_no_writing_works_on_a_read_only_folder(warm, tmp_path, unbroken):
    place = copied(Place(tmp_path), unbroken)
    with read_only(place.folder) as there:
        if not there:
            pytest.skip("a folder cannot be mounted read-only here")
        process = warm.run(place.train)
        assert process.code == 0 and "is finished" in process.output, process.output
        model = place.run / "model.keras"
        process = warm.run(f"python -m resnet_keras evaluate {model} --data-dir {place.data}")
        assert process.code == 0, process.output
        other = place.train.replace(str(place.run), str(tmp_path / "other"))
        assert str(tmp_path / "other") in refused(warm.run(other), READ_ONLY)
        empty = place.prepare.replace(str(place.data), str(place.folder / "empty"))
        assert str(place.folder / "empty") in refused(warm.run(empty), READ_ONLY)
