"""A detector on ResNet-18 that finds handwritten digits on noise: train, test, export.

    python recipes/detect_digits.py

COCO mAP 0.618 measured here: after the last epoch, with seed 0, on two CPU cores; the whole command
took 5 min 52 s. On one core, which adds in another order, it was 0.630. The number of epochs was
lowered from 8, and that of the crops from 5, for the time alone, after these had reached 0.668.

The recipe is ours. Needs `pip install 'resnet-keras[vision]'`: the detector is keras-cv's
RetinaNet, COCO's mAP is computed by pycocotools.

The scenes are made as they are needed. Test scenes have digits of other people than training
scenes. The backbone first learns to classify single digits; then its stem is frozen, and so are the
statistics of its batch norms.
"""

from resnet_keras.vision.detection import Detection, DetectionRecipe

RECIPE = DetectionRecipe(
    model="resnet18", crops=1600, crop_epochs=3, freeze=0, norm_eval=True,
    head_layers=1, box_weight=4.0,
    size=128,
    batch_size=8, learning_rate=5e-4, weight_decay=1e-4, warmup_steps=50,
    epochs=7, epoch_scenes=512,
)  # fmt: skip

if __name__ == "__main__":
    task = Detection(RECIPE.parse(__doc__))

    # Imported here, so that --help needs no TensorFlow.
    from resnet_keras.vision.training import train

    run = train(task)

    from resnet_keras.vision.exports import export_dense

    export_dense(task, run)
