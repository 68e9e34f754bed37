"""A disk that is full or cannot be written: one line, code 2, nothing lost; then it resumes."""

import os
import shutil
import subprocess
import sys

import pytest
from commands import EXPORTS, Place
from files import read_only, small_disk
from mirror import BODY, DOWNLOAD, NAME, mirror
from PIL import Image
from runs import end, newest_step, refused_in_one_line
from whole import tree, weights

from resnet_keras import ResNet

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


# What writes into a folder of its own choice, by the file.
OTHERS = {
    "scores.npz": "evaluate {model} --data-dir {data} --save {out}",
    "predictions.csv": "predict {model} {images} --out {out}",
    "weights.safetensors": "convert {known} {out}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_written_elsewhere_waits_for_room(warm, tmp_path, unbroken, name):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(100):
        Image.new("L", (8, 8)).save(images / f"{number}.png")
    with small_disk(tmp_path / "out", MOST) as there:
        if not there:
            pytest.skip("a tmpfs cannot be mounted here")
        out, known = tmp_path / "out" / name, tmp_path / "resnet20.keras"
        if name == "weights.safetensors":  # of a network that has a name
            ResNet("resnet20_cifar").save(known)
        command = "python -m resnet_keras " + OTHERS[name].format(
            model=unbroken.run / "model.keras",
            data=unbroken.data,
            images=images,
            out=out,
            known=known,
        )
        fill(out.parent, free=4096)
        assert str(out) in refused(warm.run(command), FULL)
        assert [path.name for path in out.parent.iterdir()] == ["ballast"]
        (out.parent / "ballast").unlink()
        process = warm.run(command)
        assert process.code == 0 and out.exists(), process.output


def test_a_download_waits_for_room(tmp_path):
    """Of a server that does not say how large the file is; else it is refused before."""
    with (
        small_disk(tmp_path / "cache", MOST) as there,
        mirror(tells_length=False) as (
            server,
            environment,
        ),
    ):
        if not there:
            pytest.skip("a tmpfs cannot be mounted here")
        cache, part = tmp_path / "cache", tmp_path / "cache" / f"{NAME}.part"

        def run():
            return subprocess.run(
                [sys.executable, "-c", DOWNLOAD], capture_output=True, text=True,
                env={**os.environ, **environment, "RESNET_KERAS_CACHE": str(cache)},
            )  # fmt: skip

        fill(cache, free=len(BODY) // 2)
        line = refused_in_one_line(run(), after_others=True)
        assert f"{cache / NAME} cannot be written: {FULL}. Nothing is lost." in line
        assert BODY.startswith(part.read_bytes()) and part.stat().st_size > len(BODY) // 3
        (cache / "ballast").unlink()
        there = part.stat().st_size
        done = run()
        assert done.returncode == 0 and (cache / NAME).read_bytes() == BODY, done.stderr
        assert server.sent == [len(BODY), len(BODY) - there]


@pytest.mark.slow
def test_features_wait_for_room(warm, small, unbroken, whole):
    shutil.copytree(unbroken.data, small.data, dirs_exist_ok=True)
    command = (
        f"{small.train} --skip-head --freeze 3 --views 2 --mixup 0 --drop-path 0 "
        f"--weights {unbroken.run / 'model.keras'}"
    )
    fill(small.run, free=100_000)
    line = refused(warm.run(command), FULL)
    assert str(small.run / "features") in line
    found = {path: path.read_bytes() for path in (small.run / "features").glob("*.npy")}
    assert found
    (small.run / "ballast").unlink()
    process = warm.start(command)
    process.wait_for(lambda: "computing the features of" in process.output)
    assert all(path.read_bytes() == contents for path, contents in found.items())
    # Those that were written before are not computed again.
    left = 2 * 1437 + 360 - 256 * len(found)
    assert f"computing the features of {left:,} images" in process.output
    assert process.wait() == 0, process.output


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
