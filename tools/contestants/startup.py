"""What a user waits for: the first step, the help, each backup."""

import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from contestants.workload import our_network

_IMPORTED = re.compile(r"import time: +(?P<microseconds>\d+) \| +\d+ \| +(?P<package>\w+)[\w.]*")


def first_step_ours() -> dict:
    """One step of our network, from a cold process."""
    import resnet_keras  # noqa: F401

    return _one_step(_build_ours)


def _build_ours(keras):
    return our_network("resnet50", 224, 1000)


def first_step_applications() -> dict:
    """One step of keras.applications' network, from a cold process."""

    def build(keras):
        model = keras.applications.ResNet50(weights=None, classifier_activation=None)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
        return model

    return _one_step(build)


def _one_step(build: Callable) -> dict:
    import keras
    import numpy as np
    import tensorflow as tf

    batch = np.zeros((8, 224, 224, 3), np.uint8), np.zeros(8, np.int64)
    build(keras).fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    return {}


def help_text() -> dict:
    """The command line's help, the best of five: files are in memory then."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        command = [sys.executable, "-m", "resnet_keras", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return {"seconds": min(times)}


def imports(folder: str, arguments: list[str]) -> dict:
    """Seconds that a command spends in the modules of each package while it imports them."""
    command = [sys.executable, "-X", "importtime", "-m", "resnet_keras", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return {"packages": by_package(done.stderr)}


def by_package(report: str) -> dict[str, float]:
    """Seconds of each package in what `-X importtime` writes, the most first.

    Of a module it tells the time without that of the modules that it imports itself.
    """
    seconds: Counter[str] = Counter()
    for line in report.splitlines():
        if match := _IMPORTED.fullmatch(line):
            seconds[match["package"]] += int(match["microseconds"]) / 1e6
    return dict(seconds.most_common())


def backup_save(folder: str) -> dict:
    """A backup of ResNet-50 and its momentum."""
    from resnet_keras.console import load_tensorflow

    load_tensorflow()
    import keras

    from resnet_keras import backup

    model = _build_ours(keras)
    model.optimizer.build(model.trainable_variables)
    times = []
    for step in range(1, 6):
        start = time.perf_counter()
        variables = [*model.variables, *model.optimizer.variables]
        arrays = {f"{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables)}
        backup.save(Path(folder) / "backup", backup.Saved(step, arrays, {}))
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {"seconds": seconds, "percent": 100 * seconds / 600}
