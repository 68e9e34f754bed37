"""The comparison of four ways to train: its images, its recipes, its table."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from resnet_keras import data

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import trial


def test_a_part_of_the_images_is_that_part(data_dir, tmp_path):
    listed = trial.write_images(tmp_path, 20, validation=5, dataset="digits", data_dir=data_dir)

    def arrays(dataset, split, order):
        images, labels = data.Source(dataset, split, data_dir=data_dir).open().arrays
        return images[order], labels[order]

    parts = {"train": ("train", slice(20)), "val": ("train", slice(-5, None))}
    for name, (split, part) in {**parts, "test": ("test", slice(None))}.items():
        written = data.Source(f"csv:{listed}", name, channels=1).open()
        images, labels = arrays("digits", split, part)
        names = [Path(path).stem for path in written.paths]
        places = [int(stem.removeprefix(f"{name}-")) for stem in names]
        assert sorted(places) == list(range(len(images)))
        assert np.array_equal(written.numbers, labels[places])
        for path, place in zip(written.paths, places, strict=True):
            assert np.array_equal(data.read_image(path, 1), images[place])
    listed.write_text("kept")
    assert trial.write_images(tmp_path, 30, dataset="digits", data_dir=data_dir) == listed
    assert listed.read_text() == "kept"


def test_each_way_differs_from_the_short_recipe_in_one_thing():
    ways = trial.ways(trial.RECIPE, "teacher.keras")
    short, *others = (dataclasses.asdict(recipe) for recipe in ways.values())
    assert short == dataclasses.asdict(trial.RECIPE)
    differ = [{k: v for k, v in other.items() if v != short[k]} for other in others]
    assert differ == [
        {"policy": "trivial_augment_wide"}, {"ema": 0.999}, {"teacher": "teacher.keras"}
    ]  # fmt: skip


def test_a_row_has_mean_and_standard_deviation():
    assert trial.row("a", [0.5]) == "| a | 50.00 | 50.00 |"
    # Deviations of -.01, 0 and .01: their squares add up to .0002, of two degrees of freedom.
    expected = "| a | 50.00 +- 1.00 | 49.00, 50.00, 51.00 |"
    assert trial.row("a", [0.49, 0.5, 0.51]) == expected
