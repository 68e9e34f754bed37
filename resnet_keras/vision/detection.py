"""Detection: keras-cv's RetinaNet finds the digits of a scene; COCO's mAP says how well."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from resnet_keras.recipe.columns import column
from resnet_keras.vision.recipe import Backbone, Optimization, Run, SceneRecipe
from resnet_keras.vision.task import Figure, Task

if TYPE_CHECKING:
    import keras

    from resnet_keras.vision.scenes import Scene

CLASSES = 10

# Boxes are corners in pixels, as in `Scene`, by keras-cv's word for it.
_CORNERS = "xyxy"
# Anchors as large and as narrow as digits are: P3 has the small ones, P4 the large ones. Of P5 to
# P7, which keras-cv adds, no digit needs any.
_SIZES, _STRIDES = (18.0, 36.0, 72.0, 144.0, 288.0), (8, 16, 32, 64, 128)
_SCALES, _WIDTH_BY_HEIGHT = (1.0, 1.26, 1.59), (0.4, 0.6, 0.85)
# What every class' score begins with (Lin et al. 2017, "Focal Loss", section 4.1).
_PRIOR = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """The detector on the backbone."""

    head_layers: int = column("Convolutions of 256 in each head, before the last one.", 2, above=0)
    box_weight: float = column("Weight of the loss of boxes; that of classes is 1.", 4.0, above=0)
    nms_iou: float = column(
        "Drop a box that overlaps a more confident one by this IoU.", 0.5, above=0, below=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionRecipe(SceneRecipe, Detector):
    """Everything that decides how a detector is trained."""

    GROUPS: ClassVar[tuple[type, ...]] = (Detector, Backbone, Optimization, Run)
    TASK: ClassVar[str] = "detection"
    MEASURE: ClassVar[str] = "COCO mAP"


class Found(NamedTuple):
    """What a detector finds in an image, the most confident first.

    Attributes:
        boxes: float32 `(n, 4)`, corners x1, y1, x2, y2 in pixels.
        classes: int64 `(n,)`.
        scores: float32 `(n,)`, 0 to 1.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class Detection(Task[DetectionRecipe]):
    """Find the digits of a scene."""

    TITLE = "Digits detected in scenes"
    PACKAGES = ("keras_cv", "pycocotools")
    MEASURES: ClassVar[dict[str, str]] = {
        "coco_map": f"{DetectionRecipe.MEASURE} (IoU .50:.95)",
        "coco_map50": "mAP at IoU .50",
        "coco_map75": "mAP at IoU .75",
    }

    def build(self, *, training: bool, weights: str | None = None) -> "keras.Model":
        """Build keras-cv's RetinaNet on C3 to C5; see `Task.build`.

        Returns:
            Pixels to `{"box": (batch, anchors, 4), "classification": (batch, anchors, 10)}`: what
            is to be added to anchors, and logits. `detect` decodes them.
        """
        import keras
        import keras_cv

        from resnet_keras.vision.backbones import backbone

        levels = ("C3", "C4", "C5")
        pyramid = backbone(self.recipe, levels, training=training, weights=weights)
        # Not in half precision, which has no room for half a pixel.
        anchors = keras_cv.layers.AnchorGenerator(
            _CORNERS,
            sizes=_SIZES,
            scales=_SCALES,
            aspect_ratios=_WIDTH_BY_HEIGHT,
            strides=_STRIDES,
            dtype="float32",
        )
        count = len(_SCALES) * len(_WIDTH_BY_HEIGHT)
        prior = keras.initializers.Constant(-math.log((1 - _PRIOR) / _PRIOR))
        head, layers = keras_cv.models.retinanet.PredictionHead, self.recipe.head_layers
        return keras_cv.models.RetinaNet(
            backbone=pyramid,
            num_classes=CLASSES,
            bounding_box_format=_CORNERS,
            label_encoder=keras_cv.models.retinanet.LabelEncoder(
                _CORNERS, anchors, box_variance=[0.1, 0.1, 0.2, 0.2], dtype="float32"
            ),
            prediction_decoder=keras_cv.layers.NonMaxSuppression(
                _CORNERS,
                from_logits=True,
                iou_threshold=self.recipe.nms_iou,
                confidence_threshold=0.05,
                max_detections=100,
            ),
            classification_head=head(count * CLASSES, prior, num_conv_layers=layers),
            box_head=head(count * 4, keras.initializers.Zeros(), num_conv_layers=layers),
        )

    def compile(self, model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> None:
        """Compile with focal loss and smooth L1, as keras-cv has them; see `Task.compile`."""
        model.compile(
            classification_loss="focal",
            box_loss="smoothl1",
            loss_weights={"box": self.recipe.box_weight, "classification": 1.0},
            optimizer=optimizer,
            auto_scale_loss=False,
        )

    def example(self, scene: "Scene") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Make of a scene its image and its boxes, filled up with -1 as keras-cv has it."""
        from resnet_keras.vision.scenes import MOST

        missing = MOST - len(scene.boxes)
        boxes = np.pad(scene.boxes, ((0, missing), (0, 0)), constant_values=-1)
        classes = np.pad(scene.classes.astype(np.float32), (0, missing), constant_values=-1)
        return scene.image, {"boxes": boxes, "classes": classes}

    def test(
        self, model: "keras.Model", scenes: "Sequence[Scene]"
    ) -> tuple[dict[str, float], list[Figure]]:
        """Measure COCO's mAP; see `Task.test`."""
        found = detect(model, np.stack([scene.image for scene in scenes]))
        figures = [_drawn(scene, of) for scene, of in zip(scenes, found, strict=True)]
        return coco_map(scenes, found), figures


def detect(model: "keras.Model", images: np.ndarray, *, batch_size: int = 32) -> list[Found]:
    """Find the objects of images.

    Args:
        model: what `Detection.build` gives, or such a file.
        images: uint8 `(n, size, size, 3)`.
        batch_size: images at a time.
    """
    import tensorflow as tf

    # Not `predict_on_batch`: Keras 3.15 hands a tuple of images to keras-cv, which refuses it.
    spec = tf.TensorSpec((None, *images.shape[1:]), tf.float32)
    decoded = tf.function(
        lambda some: model.decode_predictions(model(some, training=False), some), [spec]
    )
    found = []
    for start in range(0, len(images), batch_size):
        answer = decoded(tf.cast(images[start : start + batch_size], tf.float32))
        parts = (answer[name].numpy() for name in ("boxes", "classes", "confidence"))
        for count, boxes, classes, scores in zip(
            answer["num_detections"].numpy(), *parts, strict=True
        ):
            kept = boxes[:count].astype(np.float32), classes[:count].astype(np.int64)
            found.append(Found(*kept, scores[:count].astype(np.float32)))
    return found


def coco_map(truth: "Sequence[Scene]", found: Sequence[Found]) -> dict[str, float]:
    """Compute COCO's mean average precision, with COCO's own code (pycocotools).

    Args:
        truth: what is in each image.
        found: what was found in it.

    Returns:
        `coco_map`: the mean over the thresholds of IoU .50, .55, ... .95 and the classes that
        occur; `coco_map50`, `coco_map75`: at one threshold.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {"image_id": i, "category_id": int(c), **_coco_box(box), "iscrowd": 0}
        for i, scene in enumerate(truth)
        for box, c in zip(scene.boxes, scene.classes, strict=True)
    ]
    numbered = [{"id": n, **annotation} for n, annotation in enumerate(annotations, start=1)]
    detections = [
        {"image_id": i, "category_id": int(c), **_coco_box(box), "score": float(score)}
        for i, of in enumerate(found)
        for box, c, score in zip(*of, strict=True)
    ]
    if not detections:  # which pycocotools cannot read
        return {"coco_map": 0.0, "coco_map50": 0.0, "coco_map75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": c} for c in range(CLASSES)],
            "annotations": numbered,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(
        zip(("coco_map", "coco_map50", "coco_map75"), map(float, evaluation.stats), strict=False)
    )


def _coco_box(box: np.ndarray) -> dict[str, Any]:
    """A box as COCO has it: x, y, width, height."""
    x1, y1, x2, y2 = (float(n) for n in box)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}


def _drawn(scene: "Scene", found: Found, least: float = 0.3) -> Figure:
    """Draw the boxes that were found with some confidence."""
    from PIL import Image, ImageDraw

    sure = found.scores >= least
    edge = 2 * len(scene.image)
    image = Image.fromarray(scene.image).resize((edge, edge), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for box, digit in zip(2 * found.boxes[sure], found.classes[sure], strict=True):
        draw.rectangle(box.tolist(), outline=(255, 220, 0), width=3)
        draw.text((box[0] + 4, box[1] + 2), str(digit), fill=(255, 220, 0), font_size=22)
    said = ", ".join(
        f"{digit} ({100 * score:.0f} %)"
        for digit, score in zip(found.classes[sure], found.scores[sure], strict=True)
    )
    true = ", ".join(map(str, sorted(scene.classes)))
    return Figure(np.asarray(image), f"{said or 'nothing'}; true: {true}")
