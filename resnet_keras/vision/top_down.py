"""Key points of digits, top-down: a network draws heatmaps of a crop around one digit."""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from resnet_keras.console import say
from resnet_keras.recipe.checks import refuse
from resnet_keras.recipe.columns import column
from resnet_keras.vision.recipe import Backbone, Optimization, Run, SceneRecipe
from resnet_keras.vision.task import Figure, Task

if TYPE_CHECKING:
    import keras

    from resnet_keras.data import ArraySplit
    from resnet_keras.vision.scenes import Scene

# The key points of a digit: the corners of its ink's box, and the centre of the box.
POINTS = ("upper left", "upper right", "lower left", "lower right", "centre")
# For OKS, whose standard deviations are those of people who mark points: that of COCO's eyes, the
# strictest.
SIGMAS = (0.025,) * len(POINTS)

# A crop is wider than the box of its digit by this factor, as in MMPose, times what is drawn from
# the first range; its centre is moved by a share of the box's edge from the second. So the place of
# a crop does not tell where the digit ends, as that of a detector's box does not. The first range
# keeps points out of the outermost cells of the heatmaps, where `decode` moves none.
_PADDING, _SCALES, _SHIFTS = 1.25, (1.2, 1.5), (-0.1, 0.1)

_COLOURS = ((230, 60, 60), (255, 225, 25), (60, 180, 75), (70, 240, 240), (240, 50, 230))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heatmaps:
    """The head that draws heatmaps, and its crops."""

    crop_size: int = column("Height and width of a crop of one digit.", 64, at_least=64)
    head_filters: tuple[int, ...] = column(
        "Filters of each deconvolution.", (256, 256, 256), above=0
    )
    sigma: float = column(
        "Standard deviation of the Gaussians in the heatmaps, in cells.", 2.0, above=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeypointRecipe(SceneRecipe, Heatmaps):
    """Everything that decides how a network for key points is trained."""

    GROUPS: ClassVar[tuple[type, ...]] = (Heatmaps, Backbone, Optimization, Run)
    TASK: ClassVar[str] = "key points"
    MEASURE: ClassVar[str] = "PCK@0.1"

    def __post_init__(self):
        """Check types, ranges and combinations."""
        super().__post_init__()
        if self.crop_size % 32:
            rule = "must be a multiple of 32, the stride of the last stage"
            refuse("crop_size", rule, self.crop_size)


class Crop(NamedTuple):
    """One digit, cut out of a scene.

    Attributes:
        image: uint8 `(crop_size, crop_size, 3)`.
        keypoints: float32 `(5, 3)`: x and y in pixels of the crop, with 0 in the middle of the
            first one, and 1: all are visible.
        corner: float64 `(2,)`: x and y of the crop's upper left corner in the scene.
        scale: pixels of the scene for one of the crop.
    """

    image: np.ndarray
    keypoints: np.ndarray
    corner: np.ndarray
    scale: float

    def in_scene(self, points: np.ndarray) -> np.ndarray:
        """Return where points `(n, 2)` of the crop lie in the scene, in its coordinates."""
        return self.corner + (points + 0.5) * self.scale


class TopDown(Task[KeypointRecipe]):
    """Find the key points of the digit in the middle of a crop."""

    TITLE = "Key points of digits"
    MEASURES: ClassVar[dict[str, str]] = {
        "pck": f"{KeypointRecipe.MEASURE}: key points nearer than a tenth of the box's longer edge",
        "oks": "mean OKS",
    }

    def build(self, *, training: bool, weights: str | None = None) -> "keras.Model":
        """Build a ResNet with the head of Xiao et al. 2018; see `Task.build`.

        Returns:
            Pixels `(batch, crop_size, crop_size, 3)` to heatmaps, a fourth of their height and
            width, `(batch, height, width, 5)`.
        """
        from resnet_keras.models import add_heatmap_head
        from resnet_keras.vision.backbones import backbone

        recipe = self.recipe
        pyramid = backbone(
            dataclasses.replace(recipe, size=recipe.crop_size),
            ("C5",),
            training=training,
            weights=weights,
        )
        return add_heatmap_head(pyramid, len(POINTS), filters=recipe.head_filters)

    def compile(self, model: "keras.Model", optimizer: "keras.optimizers.Optimizer") -> None:
        """Compile with the mean squared error of heatmaps; see `Task.compile`."""
        from resnet_keras.vision.keypoints import HeatmapLoss

        loss = HeatmapLoss((self.recipe.crop_size,) * 2, sigma=self.recipe.sigma)
        model.compile(optimizer, loss, auto_scale_loss=False)

    def example(self, scene: "Scene") -> tuple[np.ndarray, np.ndarray]:
        """Make of a scene the crop of its first digit, and its key points."""
        crop = crops(scene, self.recipe.crop_size, most=1)[0]
        return crop.image, crop.keypoints

    def test(
        self, model: "keras.Model", scenes: "Sequence[Scene]"
    ) -> tuple[dict[str, float], list[Figure]]:
        """Measure PCK and OKS of all digits; see `Task.test`."""
        from resnet_keras.vision.keypoints import decode, oks, pck

        size = self.recipe.crop_size
        cut = [crops(scene, size) for scene in scenes]
        every = [crop for some in cut for crop in some]
        found, _ = decode(
            model.predict(np.stack([crop.image for crop in every]), batch_size=64, verbose=0),
            (size, size),
        )
        boxes = np.concatenate([scene.boxes for scene in scenes])
        edges = boxes[:, 2:] - boxes[:, :2]
        points = np.stack([crop.in_scene(p) for crop, p in zip(every, found, strict=True)])
        truth = np.concatenate([corners_and_centres(scene.boxes) for scene in scenes])
        near = pck(points, truth, edges.max(1))
        similar = oks(points, truth, edges.prod(1), SIGMAS)
        ends = np.cumsum([len(some) for some in cut])[:-1]
        figures = [
            _drawn(scene, some) for scene, some in zip(scenes, np.split(points, ends), strict=True)
        ]
        shares = {f"pck {name}": float(share) for name, share in zip(POINTS, near, strict=True)}
        measured = {"pck": float(near.mean()), "oks": float(similar.mean()), "digits": len(every)}
        return measured | shares, figures


def corners_and_centres(boxes: np.ndarray) -> np.ndarray:
    """Return the key points of digits by their boxes.

    Args:
        boxes: `(n, 4)`, corners x1, y1, x2, y2.

    Returns:
        float32 `(n, 5, 3)`, in the order of `POINTS`: x, y, and 1, because all are visible.
    """
    x1, y1, x2, y2 = np.asarray(boxes, np.float32).T
    xs, ys = (x1, x2, x1, x2, (x1 + x2) / 2), (y1, y1, y2, y2, (y1 + y2) / 2)
    points = np.stack([np.stack(xs, -1), np.stack(ys, -1)], -1)
    return np.concatenate([points, np.ones_like(points[..., :1])], -1)


def crops(scene: "Scene", size: int, *, most: int | None = None) -> list[Crop]:
    """Cut the digits out of a scene, each in a square that is too large and beside it by chance.

    Chance is drawn from the scene itself: the same scene gives the same crops.

    Args:
        scene: with at least one digit.
        size: height and width of a crop, in pixels.
        most: how many digits, the first ones; None: all.
    """
    rng = np.random.default_rng(zlib.crc32(scene.image.data))
    whole = Image.fromarray(scene.image)
    found = []
    for box, points in zip(scene.boxes[:most], corners_and_centres(scene.boxes), strict=False):
        edge = float((box[2:] - box[:2]).max())
        centre = (box[:2] + box[2:]) / 2 + edge * rng.uniform(*_SHIFTS, 2)
        wide = edge * _PADDING * rng.uniform(*_SCALES)
        corner, scale = centre - wide / 2, wide / size
        area = (*corner, *(corner + wide))
        image = whole.transform(
            (size, size), Image.Transform.EXTENT, area, Image.Resampling.BILINEAR
        )
        # A pixel's middle is at .5 in the coordinates of a scene.
        there = (points[:, :2] - corner) / scale - 0.5
        keypoints = np.concatenate([there, points[:, 2:]], -1).astype(np.float32)
        found.append(Crop(np.asarray(image), keypoints, corner, scale))
    return found


def crops_of(split: str, number: int, size: int, *, scenes: int = 128) -> "ArraySplit":
    """Return crops as the images of a split, which `export` calibrates or proves on.

    Args:
        split: "train" or "test".
        number: how many scenes they are from, the first ones; all digits of each.
        size: height and width of a crop, in pixels.
        scenes: height and width of a scene.

    Returns:
        A split whose only class means nothing: heatmaps have no classes.
    """
    from resnet_keras.data import ArraySplit
    from resnet_keras.vision.scenes import digit_scene

    every = [crops(digit_scene(split, n, size=scenes), size) for n in range(number)]
    images = np.stack([crop.image for some in every for crop in some])
    labels = np.zeros(len(images), np.int64)
    return ArraySplit(labels=("digit",), channels=3, arrays=(images, labels))


def export_heatmaps(
    task: TopDown, folder: Path, name: str = "model.tflite", **options: Any
) -> dict[str, Any]:
    """Export the network of a finished run, with a proof on the crops of the test scenes.

    Args:
        task: whose run it is.
        folder: of the run; `model.json`, the metadata of its `model.keras`, is written, too.
        name: of the file, by the suffixes that `export` knows.
        **options: of `export`; int8 is calibrated on crops of training scenes.

    Returns:
        The report of `export`, and what the file does to key points: `keypoint_difference`, the
        largest difference of x or y from those of the Keras model, in cells of a heatmap, and
        `keypoints_within_half_a_cell`, the share of the key points that differ by no more.

    Raises:
        BoundMissed: the file's heatmaps are too different; it is not kept.
    """
    from resnet_keras.exporting import export
    from resnet_keras.model_files import Metadata, open_model_file
    from resnet_keras.preprocessing import Preprocessing
    from resnet_keras.vision.keypoints import decode

    recipe, size = task.recipe, task.recipe.crop_size
    path = folder / "model.keras"
    Metadata(Preprocessing((size, size)), POINTS, features=True, heatmaps=True).write(path)
    split = crops_of("test", recipe.test_scenes, size, scenes=recipe.size)
    if options.get("quantize") == "int8":
        options["calibrate"] = crops_of("train", 100, size, scenes=recipe.size)
    report = export(path, folder / name, split=split, examples=split.examples, **options)
    images, points = split.arrays[0], []
    for file in (path, folder / name):
        predict = open_model_file(file, folded=False).predict
        parts = [predict(images[i : i + 64]) for i in range(0, len(images), 64)]
        heatmaps = np.concatenate(parts)
        points.append(decode(heatmaps, (size, size))[0] * (heatmaps.shape[1] / size))
    cells = np.abs(points[0] - points[1]).max(-1)
    within = float(np.mean(cells <= 0.5))
    say(
        f"{folder / name}: {report['bytes']:,} bytes; {100 * within:.2f} % of the key points of "
        f"{len(images)} digits are within half a cell of Keras' (at most {cells.max():g} cells off)"
    )
    return report | {
        "keypoint_difference": float(cells.max()),
        "keypoints_within_half_a_cell": within,
    }


def _drawn(scene: "Scene", found: np.ndarray) -> Figure:
    """Mark the key points that were found in a scene, `(digits, 5, 2)`, and the boxes that are."""
    image = Image.fromarray(scene.image // 2)
    pen = ImageDraw.Draw(image)
    for box, points in zip(scene.boxes.tolist(), found.tolist(), strict=True):
        x1, y1, x2, y2 = box
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=(120, 120, 120))
        for (x, y), colour in zip(points, _COLOURS, strict=True):
            pen.ellipse((x - 1.5, y - 1.5, x + 0.5, y + 0.5), outline=colour, fill=colour)
    far = np.abs(found - corners_and_centres(scene.boxes)[..., :2]).max()
    return Figure(np.asarray(image), f"largest error {far:.1f} pixels; boxes are the true ones")
