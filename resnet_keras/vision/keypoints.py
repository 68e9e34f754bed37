"""Key points of one object in an image: from and to heatmaps, their loss, PCK and OKS.

The heatmaps are those of Xiao et al. 2018, "Simple Baselines for Human Pose Estimation and
Tracking", as MMPose's codec `MSRAHeatmap` has them; `models.add_heatmap_head` is the network.
Key points are `(x, y)` in pixels of the image, with 0 in the middle of the first pixel.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from resnet_keras.errors import InputError

# Standard deviation of COCO's annotators for each of its 17 key points, from the nose to the right
# ankle, as a share of the square root of the area (cocodataset.org, "Keypoint Evaluation").
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)


def encode(
    keypoints: Any, image_size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float = 2.0
) -> tuple[Any, Any]:
    """Draw the heatmaps that a network is to learn.

    Each is a Gaussian of height 1 around the cell that is nearest to the key point, cut off at
    three standard deviations.

    Args:
        keypoints: `(batch, key points, 3)`: x and y in pixels, and whether the point is visible (1)
            or not (0).
        image_size: height and width, in pixels.
        heatmap_size: height and width, in cells.
        sigma: standard deviation of the Gaussian, in cells.

    Returns:
        Heatmaps, float32 `(batch, height, width, key points)`, of zeros for points that are not
        visible; and the weights of the points in the loss, float32 `(batch, key points)`: 0 for
        those that are not visible, and those whose Gaussian lies outside.
    """
    keypoints = ops.cast(keypoints, "float32")
    visible = keypoints[:, :, 2] >= 0.5
    radius = 3 * sigma
    weights, squares = visible, 0.0
    near = visible[:, None, None, :]
    for axis, (image, cells) in enumerate(zip(image_size, heatmap_size, strict=True)):
        # Cut towards zero, as MMPose does.
        centre = ops.cast(keypoints[:, :, 1 - axis] / (image / cells) + 0.5, "int32")
        centre = ops.cast(centre, "float32")
        weights = ops.logical_and(weights, centre - radius < cells)
        weights = ops.logical_and(weights, centre + radius + 1 >= 0)
        places = ops.reshape(ops.arange(cells, dtype="float32"), [-1, 1] if axis else [-1, 1, 1])
        distance = places - centre[:, None, None, :]
        near = ops.logical_and(near, ops.abs(distance) <= radius)
        squares = squares + ops.square(distance)
    gaussian = ops.exp(-squares / (2 * sigma**2))
    return ops.where(near, gaussian, 0.0), ops.cast(weights, "float32")


def decode(heatmaps: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Find the key points in heatmaps.

    Each is the cell of the maximum, moved by a quarter of a cell towards the larger of its two
    neighbours, on each axis; then cells become pixels. As in MMPose there is no such move in the
    first two columns and the last (of x), and rows (of y), nor on an axis where the cell is in the
    first row or column of the other.

    Args:
        heatmaps: floating `(batch, height, width, key points)`.
        image_size: height and width of the images, in pixels.

    Returns:
        Key points, float32 `(batch, key points, 2)`: x and y in pixels; and their scores, float32
        `(batch, key points)`: the maximum. Where that is not above 0, x and y are -1 cells.
    """
    maps = np.moveaxis(np.asarray(heatmaps, np.float32), 3, 1)
    batch, points, height, width = maps.shape
    flat = maps.reshape(batch, points, -1)
    best, scores = flat.argmax(-1), flat.max(-1)
    y, x = np.unravel_index(best, (height, width))

    def towards(step: int, inside: np.ndarray) -> np.ndarray:
        """The sign of the slope along an axis, whose cells are `step` apart."""
        sides = [best + step, best - step]
        after, before = (
            np.take_along_axis(flat, np.where(inside, side, 0)[..., None], -1)[..., 0]
            for side in sides
        )
        return np.where(inside, np.sign(after - before), 0)

    found = np.stack([x, y], -1).astype(np.float32)
    found[..., 0] += 0.25 * towards(1, (x > 1) & (x < width - 1) & (y > 0))
    found[..., 1] += 0.25 * towards(width, (y > 1) & (y < height - 1) & (x > 0))
    found = np.where(scores[..., None] > 0, found, np.float32(-1))
    scale = np.array([image_size[1] / width, image_size[0] / height], np.float32)
    return found * scale, scores


@keras.saving.register_keras_serializable("resnet_keras")
class HeatmapLoss(keras.losses.Loss):
    """Mean squared error of heatmaps, where points that are not visible count as no error.

    MMPose's `KeypointMSELoss` with `use_target_weight`: the mean is over all cells of all points,
    visible or not.

    Args:
        image_size: height and width, in pixels.
        sigma: as of `encode`.
        name: of the loss.
    """

    def __init__(
        self, image_size: Sequence[int], *, sigma: float = 2.0, name: str = "heatmap_loss"
    ):
        super().__init__(name=name)
        height, width = image_size
        self.image_size = (height, width)
        self.sigma = sigma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute the loss of each image, `(batch,)`.

        Args:
            y_true: key points, `(batch, key points, 3)`, as of `encode`.
            y_pred: heatmaps, `(batch, height, width, key points)`.
        """
        heatmaps = ops.cast(y_pred, "float32")
        cells = (heatmaps.shape[1], heatmaps.shape[2])
        targets, weights = encode(y_true, self.image_size, cells, self.sigma)
        errors = ops.square(heatmaps - targets) * weights[:, None, None, :]
        return ops.mean(errors, axis=(1, 2, 3))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name, "image_size": list(self.image_size), "sigma": self.sigma}


def pck(
    found: np.ndarray, keypoints: np.ndarray, sizes: np.ndarray, threshold: float = 0.1
) -> np.ndarray:
    """Measure the share of key points that are near enough: PCK (Yang and Ramanan 2013).

    Args:
        found: `(n, key points, 2)`: x and y, in pixels.
        keypoints: what is right, `(n, key points, 3)`: x, y, and whether it is visible.
        sizes: the longer edge of each object's box, `(n,)`, in pixels.
        threshold: what is nearer than this share of the size counts.

    Returns:
        For each key point, `(key points,)`, the share of the objects in which it is visible; NaN
        where it is in none. MMPose's `PCKAccuracy` is their mean.
    """
    distances = np.linalg.norm(np.asarray(found, np.float64) - keypoints[..., :2], axis=-1)
    visible = keypoints[..., 2] > 0
    near = visible & (distances < threshold * np.asarray(sizes)[:, None])
    number = visible.sum(0)
    return np.where(number > 0, near.sum(0) / np.maximum(number, 1), np.nan)


def oks(
    found: np.ndarray, keypoints: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """Measure how similar key points are to the right ones: COCO's object keypoint similarity.

    The mean over the visible points of `exp(-d^2 / (2 area (2 sigma)^2))`, where d is the distance
    in pixels (cocodataset.org, "Keypoint Evaluation").

    Args:
        found: `(n, key points, 2)`: x and y, in pixels.
        keypoints: what is right, `(n, key points, 3)`: x, y, and whether it is visible.
        areas: of the objects, `(n,)`, in square pixels; COCO has those of the segments.
        sigmas: of each key point, `(key points,)`, such as `COCO_SIGMAS`.

    Returns:
        For each object, `(n,)`, from 0 to 1; NaN where no point is visible.

    Raises:
        InputError: (a ValueError) as many `sigmas` as key points are needed.
    """
    if len(sigmas) != keypoints.shape[1]:
        raise InputError(
            f"`sigmas` must be one number for each of {keypoints.shape[1]} key points. "
            f"Received: {len(sigmas)}"
        )
    squares = np.sum((np.asarray(found, np.float64) - keypoints[..., :2]) ** 2, axis=-1)
    # As in pycocotools, an area of 0 is no division by 0.
    sizes = np.asarray(areas, np.float64)[:, None] + np.spacing(1)
    widths = 2 * sizes * (2 * np.asarray(sigmas)) ** 2
    visible = keypoints[..., 2] > 0
    similar = np.where(visible, np.exp(-squares / widths), 0).sum(1)
    number = visible.sum(1)
    return np.where(number > 0, similar / np.maximum(number, 1), np.nan)
