"""Export the dense part of a task's network, what it computes before anything is decoded."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from resnet_keras.console import say
from resnet_keras.data import ArraySplit
from resnet_keras.exporting import export, is_finished
from resnet_keras.model_files import Metadata
from resnet_keras.model_files.keras import save_plain
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.vision.task import Task
from resnet_keras.vision.training import show_exports, test_scenes

# Of the files that are written: TFLite's and ONNX's.
FILES = ("model.tflite", "model.onnx")


def dense(model: keras.Model) -> keras.Model:
    """Join the outputs of a network, in the order of their names, along the last axis.

    Args:
        model: from images to one output, or to a dict of some that differ in the last axis alone.

    Returns:
        A model with the same layers and one output.
    """
    outputs = model.output
    if isinstance(outputs, dict):
        parts = [outputs[name] for name in sorted(outputs)]
        outputs = keras.layers.Concatenate(name="dense")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(model.inputs[0], outputs, name=model.name)


def export_dense(
    task: Task, folder: Path, files: tuple[str, ...] = FILES, **options: Any
) -> list[dict[str, Any]]:
    """Export what the network of a finished run computes, with a proof on the test scenes.

    `dense.keras` is the network with its outputs joined (see `dense`); each file is compared with
    it by `export`. An export that is finished is left as it is.

    Args:
        task: whose run it is.
        folder: of the run.
        files: to write, by the suffixes that `export` knows.
        **options: of `export`.

    Returns:
        The reports of the files that were written.

    Raises:
        BoundMissed: a file computes something else; it is not kept.
    """
    missing = [name for name in files if not is_finished(folder / name)]
    if not missing:
        show_exports(task, folder)  # it may have been interrupted before that
        return []
    path, recipe = folder / "dense.keras", task.recipe
    loaded = keras.saving.load_model(folder / "model.keras", compile=False)
    save_plain(dense(loaded), path)
    Metadata(Preprocessing((recipe.size, recipe.size)), features=True).write(path)
    images = np.stack([scene.image for scene in test_scenes(task)])
    labels = np.zeros(len(images), np.int64)  # features have none
    split = ArraySplit(labels=("scene",), channels=3, arrays=(images, labels))
    reports = []
    for name in missing:
        report = export(path, folder / name, split=split, examples=len(images), **options)
        reports.append(report)
        say(
            f"{folder / name}: {report['bytes']:,} bytes; on {report['examples']} test scenes its "
            f"outputs differ from Keras by at most {report['max_difference']:.1e} of the largest"
        )
    show_exports(task, folder)
    return reports
