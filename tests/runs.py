"""What a run folder holds: for tests that break runs off and compare the ends."""

import csv

from resnet_keras import backup


def log(folder):
    """The log without its time column."""
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def end(folder):
    """What a run ended with: every variable, and the log without its time column."""
    saved = backup.load(folder / "backup")
    return saved.step, {name: array.tobytes() for name, array in saved.arrays.items()}, log(folder)


def newest_step(folder):
    """Of the newest backup, by its name; 0 where there is none."""
    names = (path.stem for path in (folder / "backup").glob("*.safetensors"))
    return max((int(name) for name in names if name.isdigit()), default=0)
