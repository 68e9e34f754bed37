"""Images that vanish or change during training: one line names the file; training resumes."""

import numpy as np
import pytest
from commands import Place
from PIL import Image
from runs import end, newest_step

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
