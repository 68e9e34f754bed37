"""Images that come, go or change during training: nothing is trained on that nobody knows of."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from commands import Place
from PIL import Image
from runs import end, newest_step

from resnet_keras import SPECS, Recipe, Spec, train
from resnet_keras.errors import InputError

CLASSES, EACH = 2, 40


def images(folder):
    """A folder of small images, some for each class and split."""
    for split in ("train", "test"):
        for label in range(CLASSES):
            (folder / split / str(label)).mkdir(parents=True)
            for number in range(EACH):
                noise = np.random.default_rng((label, number)).integers(0, 99, (8, 8), np.uint8)
                path = folder / split / str(label) / f"{number:02}.png"
                Image.fromarray(noise + 100 * np.uint8(label)).save(path)
    return folder


@pytest.fixture
def on_images(tmp_path):
    """Gives the command that trains on these images in another run folder."""
    folder = images(tmp_path / "images")

    def train(name):
        command = Place(tmp_path / name).train
        return (
            f"{command} --dataset folder:{folder} --batch-size 8 --mean 127 127 127 --std 60 60 60"
        )

    return train, folder


def test_results_are_of_the_images_that_were_opened(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(SPECS, "tiny", Spec("basic", (1,), (4,), stem="cifar", shortcut="pad"))
    folder, run = images(tmp_path / "images"), tmp_path / "run"
    recipe = Recipe(
        model="tiny", dataset=f"folder:{folder}", train_size=8, eval_size=8, batch_size=20,
        learning_rate=0.01, schedule="constant", epochs=3, precision="float32", run_dir=run,
        logger="none",
    )  # fmt: skip
    victim = folder / "train" / "1" / "another.png"

    def add():
        while not (run / "log.csv").exists() or "loss" not in (run / "log.csv").read_text():
            time.sleep(0.001)
        Image.new("RGB", (8, 8)).save(victim)

    adding = threading.Thread(target=add)
    adding.start()
    train(recipe)
    adding.join()
    said = capfd.readouterr().err
    assert f"warning: folder:{folder} has changed since this training opened it" in said
    files = [path for path in folder.rglob("*.png") if path != victim]
    known = {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    assert json.loads((run / "results.json").read_text())["files"] == known
    with pytest.raises(InputError, match="is finished, and folder:.* has changed since"):
        train(recipe)
    # The results are written last: with them a run is finished, and left as it is.
    assert (run / "results.json").stat().st_mtime_ns > (run / "report.html").stat().st_mtime_ns
    victim.unlink()
    assert train(recipe) == run and "warning" not in capfd.readouterr().err


def refused_when_they_vanish(warm, on_images, tmp_path):
    """Train until the images vanish after some steps; the command, and the newest step."""
    train, folder = on_images
    command = train("broken") + " --epochs 400"
    process = warm.start(command)
    run = tmp_path / "broken" / "run"
    process.wait_for(lambda: newest_step(run) >= 6)
    folder.rename(tmp_path / "away")
    process.wait()
    line = process.refused()
    assert f"the image {folder}/" in line and "can no longer be read" in line
    assert newest_step(run) >= 6
    return command, newest_step(run)


@pytest.mark.slow
def test_images_that_vanish_within_an_epoch(warm, on_images, tmp_path):
    refused_when_they_vanish(warm, on_images, tmp_path)


@pytest.mark.slow
def test_images_that_come_back_and_one_that_changes(warm, on_images, tmp_path):
    command, stopped = refused_when_they_vanish(warm, on_images, tmp_path)
    _, folder = on_images
    # Without them it does not start; with them it resumes.
    warm.run(command).refused()
    (tmp_path / "away").rename(folder)
    process = warm.start(command)
    process.wait_for(lambda: newest_step(tmp_path / "broken" / "run") > stopped)
    victim = sorted((folder / "train").rglob("*.png"))[7]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-9])
    process.wait()
    assert f"the image {victim} has changed since it was checked" in process.refused()


@pytest.mark.slow
def test_a_run_is_resumed_on_its_own_images_alone(warm, on_images, tmp_path):
    train, folder = on_images
    flags = " --epochs 4"
    unbroken, command = warm.run(train("unbroken") + flags), train("broken") + flags
    assert unbroken.code == 0, unbroken.output
    run = tmp_path / "broken" / "run"
    process = warm.start(command)
    process.wait_for(lambda: newest_step(run) >= 6)
    process.send(signal.SIGKILL)
    process.wait()
    assert not (run / "results.json").exists()
    victim = folder / "train" / "0" / "07.png"
    bytes_, other = victim.read_bytes(), victim.with_name("999.png")

    def refused():
        line = warm.run(command).refused()
        count = 2 * EACH
        assert f"was trained with images {count} of 2 classes" in line and "restore them" in line

    Image.new("L", (8, 8)).save(other)  # added
    refused()
    other.unlink()
    victim.rename(other)  # renamed: the order of the images is another one
    refused()
    other.unlink()  # removed
    refused()
    victim.write_bytes(bytes_[:-30])  # broken
    assert "0/07.png (truncated)" in warm.run(command).refused()
    line = warm.run(f"{command} --skip-bad").refused()
    assert "belongs to another recipe: skip_bad is False there" in line
    victim.write_bytes(bytes_)
    # A new name in the same place of the order, and a new time, change nothing.
    victim.rename(victim.with_name("07a.png"))
    os.utime(victim.with_name("07a.png"), (0, 0))
    process = warm.run(command)
    assert process.code == 0 and "resuming at step" in process.output, process.output
    assert end(run) == end(tmp_path / "unbroken" / "run")


def corrupt(path):
    """Change one bit of an image in a file of records."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


@pytest.mark.slow
def test_a_prepared_file_that_is_damaged(warm, tmp_path, unbroken):
    place = Place(tmp_path)
    assert warm.run(place.prepare).code == 0
    (victim,) = (place.data / "digits" / "1.0.0").glob("*train*")
    whole = victim.read_bytes()
    corrupt(victim)
    line = warm.run(place.train).refused()
    assert str(victim) in line and "damaged" in line
    victim.write_bytes(whole[: len(whole) // 2])
    line = warm.run(place.train).refused()
    assert str(victim) in line and "damaged" in line
    victim.write_bytes(b"")
    line = warm.run(place.train).refused()
    assert "digits/1.0.0 is damaged" in line and "expected to contain 1437 elements" in line
    victim.unlink()
    assert str(victim) in warm.run(place.train).refused()
    assert not (place.run / "model.keras").exists()
    victim.write_bytes(whole)
    process = warm.run(place.train)
    assert process.code == 0 and end(place.run) == end(unbroken.run), process.output
