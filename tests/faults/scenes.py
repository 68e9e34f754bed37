"""The recipes for scenes as a user writes them, `scenes.py TASK`, with networks that are small."""

import sys

from resnet_keras import SPECS, Spec

COLUMNS = {
    "model": "small", "size": 64, "batch_size": 4, "epochs": 2, "epoch_scenes": 12,
    "warmup_steps": 2, "test_scenes": 3, "crops": 0, "crop_epochs": 1, "precision": "float32",
    "deterministic": True, "backup_every": "1",
}  # fmt: skip
STEPS = 6

# What is exported of each.
EXPORTS = {
    "detect": ("model.tflite", "model.onnx"), "segment": ("model.tflite",),
    "keypoints": ("model.tflite",),
}  # fmt: skip


def made(name):
    """A task by its name, with a recipe that the flags of the command line have changed."""
    if name == "detect":
        from resnet_keras.vision.detection import Detection as Task
        from resnet_keras.vision.detection import DetectionRecipe

        recipe = DetectionRecipe(head_layers=1, **COLUMNS | {"crops": 60})
    elif name == "segment":
        from resnet_keras.vision.segmentation import Segmentation as Task
        from resnet_keras.vision.segmentation import SegmentationRecipe

        recipe = SegmentationRecipe(head_filters=8, **COLUMNS)
    else:
        from resnet_keras.vision.top_down import KeypointRecipe
        from resnet_keras.vision.top_down import TopDown as Task

        recipe = KeypointRecipe(head_filters=(16, 16, 16), **COLUMNS)
    return Task(recipe.parse(__doc__))


def exported(task, run, files):
    """Export as the recipes in recipes/ do."""
    from resnet_keras.exporting import is_finished
    from resnet_keras.vision.exports import export_dense
    from resnet_keras.vision.top_down import TopDown, export_heatmaps
    from resnet_keras.vision.training import show_exports

    if not isinstance(task, TopDown):
        export_dense(task, run, files, bound=1e-3)
        return
    if not is_finished(run / "model.tflite"):
        export_heatmaps(task, run, quantize="int8", bound=10)
    show_exports(task, run)


if __name__ == "__main__":
    from resnet_keras.vision.training import train

    SPECS["small"] = Spec("basic", (1, 1, 1, 1), (8, 16, 32, 64))
    name = sys.argv.pop(1)
    task = made(name)
    exported(task, train(task), EXPORTS[name])
