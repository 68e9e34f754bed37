"""Segmentation: keras-cv's DeepLabV3+ finds the pixels of digits; the mean IoU says how well."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from resnet_keras.recipe.columns import column
from resnet_keras.vision.recipe import Backbone, Optimization, Run, SceneRecipe
from resnet_keras.vision.task import Figure, Task

if TYPE_CHECKING:
    import keras

    from resnet_keras.vision.scenes import Scene

# The background, and ten digits.
CLASSES = 11

# A colour for each class in figures; the background has none.
_COLOURS = np.array(
    [(0, 0, 0), (230, 60, 60), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48),
     (145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)],
    np.uint8,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter:
    """The segmenter on the backbone."""

    dilations: tuple[int, ...] = column(
        "Dilations of the parallel convolutions on the last stage.", (1, 2, 3), above=0
    )
    head_filters: int = column("Filters of the convolution before the last one.", 128, above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationRecipe(SceneRecipe, Segmenter):
    """Everything that decides how a segmenter is trained."""

    GROUPS: ClassVar[tuple[type, ...]] = (Segmenter, Backbone, Optimization, Run)
    TASK: ClassVar[str] = "segmentation"
    MEASURE: ClassVar[str] = "mIoU"


class Segmentation(Task[SegmentationRecipe]):
    """Find the class of every pixel of a scene."""

    TITLE = "Digits segmented in scenes"
    PACKAGES = ("keras_cv",)
    MEASURES: ClassVar[dict[str, str]] = {
        "mean_iou": f"{SegmentationRecipe.MEASURE} of the background and ten digits",
        "pixel_accuracy": "share of pixels that are right",
    }

    def build(self, *, training: bool, weights: str | None = None) -> "keras.Model":
        """Build keras-cv's DeepLabV3+; see `Task.build`.

        keras-cv scales the last stage up eightfold, then everything fourfold: that is right for an
        output stride of 32. With 16, eightfold is the stem's stride of 2, from which the finer
        features are taken, and the head scales up by 2.

        Returns:
            Pixels to logits `(batch, size, size, 11)`.
        """
        import keras
        import keras_cv

        from resnet_keras.vision.backbones import backbone

        recipe, layers = self.recipe, keras.layers
        pyramid = backbone(
            recipe,
            {"P2": "C1", "P5": "C5"},
            training=training,
            weights=weights,
            output_stride=16,
        )
        head = keras.Sequential(
            [
                layers.Conv2D(recipe.head_filters, 3, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
                layers.ReLU(),
                layers.Conv2D(CLASSES, 1, dtype="float32"),
                layers.UpSampling2D(2, interpolation="bilinear", dtype="float32"),
            ],
            name="segmentation_head",
        )
        return keras_cv.models.DeepLabV3Plus(
            backbone=pyramid,
            num_classes=CLASSES,
            spatial_pyramid_pooling=keras_cv.layers.SpatialPyramidPooling(
                dilation_rates=list(recipe.dilations), num_channels=128
            ),
            segmentation_head=head,
        )

    def compile(self, model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> None:
        """Compile with the cross-entropy of every pixel; see `Task.compile`."""
        import keras

        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            auto_scale_loss=False,
        )

    def example(self, scene: "Scene") -> tuple[np.ndarray, np.ndarray]:
        """Make of a scene its image and the class of each of its pixels."""
        return scene.image, scene.mask

    def test(
        self, model: "keras.Model", scenes: "Sequence[Scene]"
    ) -> tuple[dict[str, float], list[Figure]]:
        """Measure the mean IoU; see `Task.test`."""
        masks = segment(model, np.stack([scene.image for scene in scenes]))
        counts = confusion(np.stack([scene.mask for scene in scenes]), masks, CLASSES)
        figures = [_drawn(scene, mask) for scene, mask in zip(scenes, masks, strict=True)]
        accuracy = float(np.trace(counts) / counts.sum())
        return {"mean_iou": mean_iou(counts), "pixel_accuracy": accuracy}, figures


def segment(model: "keras.Model", images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
    """Find the class of each pixel.

    Args:
        model: what `Segmentation.build` gives, or such a file.
        images: uint8 `(n, size, size, 3)`.
        batch_size: images at a time.

    Returns:
        uint8 `(n, size, size)`: 0 is the background, 1 + d the digit d.
    """
    parts = [
        np.asarray(model.predict_on_batch(images[i : i + batch_size])).argmax(-1).astype(np.uint8)
        for i in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pixels by their class, `(classes, classes)`: true ones in rows, predicted in columns.

    Args:
        truth: class of each pixel, of any shape.
        predicted: likewise.
        classes: how many there are.
    """
    pairs = truth.astype(np.int64).ravel() * classes + predicted.ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(counts: np.ndarray) -> float:
    """Average the intersection over union of the classes that occur (Everingham et al. 2010).

    Args:
        counts: of `confusion`, over all images together.
    """
    both = np.diag(counts)
    either = counts.sum(0) + counts.sum(1) - both
    return float((both[either > 0] / either[either > 0]).mean())


def _drawn(scene: "Scene", mask: np.ndarray) -> Figure:
    """Lay the predicted classes over a scene."""
    inked = mask > 0
    image = scene.image // 2
    image[inked] = image[inked] // 3 + 2 * (_COLOURS[mask[inked]] // 3)
    found = ", ".join(str(n - 1) for n in np.flatnonzero(np.bincount(mask.ravel()) > 40) if n)
    true = ", ".join(map(str, sorted(scene.classes)))
    right = 100 * (mask == scene.mask).mean()
    return Figure(image, f"{found or 'nothing'}; true: {true}; {right:.1f} % of pixels")
