"""The scores of a model file for every image of a split, and the images worth looking at."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.evaluation import measures
from resnet_keras.files import whole

# Images kept beside the scores: the most confident mistakes, and the first right ones.
MISTAKES, RIGHT = 24, 8


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of every image of a split, in the order of the split.

    Attributes:
        scores: float32 `(n, classes)`.
        labels: int64 `(n,)`, the true classes; float32 `(n, classes)`, 1 for each label of an
            image, where images have several.
        classes: the names of the classes.
        dataset: its name, as it was given.
        split: its name, as it was given.
        model_sha256: hexadecimal SHA-256 of the model file; empty for a folder.
        paths: of the image files, strings `(n,)`; None if images are not files.
        shown: int64 `(k,)`, the numbers of the images that are kept: the most confident mistakes,
            the most confident first, then right ones, each the first of its class.
        images: uint8 `(k, height, width, channels)`, those images as the network saw them.
        threshold: of the scores of labels that an image has, where it can have several.
    """

    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    dataset: str
    split: str
    model_sha256: str
    paths: np.ndarray | None
    shown: np.ndarray
    images: np.ndarray
    threshold: float | None = None

    @property
    def multi_label(self) -> bool:
        """Whether images have any number of labels."""
        return self.threshold is not None

    def save(self, path: str | Path) -> None:
        """Write an `.npz` file that NumPy reads without pickle, whole or not at all.

        Its arrays are the attributes that are arrays, `classes`, `index`, which counts the images,
        and `about`, JSON with the other attributes.
        """
        path = Path(path)
        arrays: dict[str, Any] = {
            "index": np.arange(len(self.labels)),
            "scores": self.scores,
            "labels": self.labels,
            "classes": np.array(self.classes),
            "shown": self.shown,
            "images": self.images,
            "about": np.array(json.dumps({name: getattr(self, name) for name in _ABOUT})),
        }
        if self.paths is not None:
            arrays["paths"] = self.paths
        with whole(path) as part, open(part, "wb") as file:
            np.savez(file, **arrays)  # compressed, scores are hardly smaller


_ABOUT = ("dataset", "split", "model_sha256", "threshold")


def load_predictions(path: str | Path) -> Predictions:
    """Read what `Predictions.save` wrote.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return Predictions(
                scores=arrays["scores"],
                labels=arrays["labels"],
                classes=tuple(arrays["classes"].tolist()),
                **json.loads(str(arrays["about"])),
                paths=arrays.get("paths"),
                shown=arrays["shown"],
                images=arrays["images"],
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no predictions: {error}") from None


class Gallery:
    """Keeps the images worth looking at while the batches of a split go by.

    Args:
        threshold: of `Predictions`. With one, an image is right if all its decisions are, and a
            mistake is the more confident the farther a score is from 0 or 1, where it should be.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold
        self.mistakes: list[tuple[float, int, np.ndarray]] = []
        self.right: dict[bytes, tuple[int, np.ndarray]] = {}
        self.seen = 0

    def look(self, images: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Take one batch: uint8 `(n, height, width, c)`, float32 `(n, classes)`, and labels."""
        if self.threshold is None:
            right = measures.ranks(scores, labels) < 1
            confidence = scores.max(axis=1)
        else:
            wrong = measures.decided(scores, self.threshold) != (labels > 0.5)
            right = ~wrong.any(axis=1)
            confidence = np.where(wrong, np.abs(scores - labels), 0.0).max(axis=1)
        for i in np.flatnonzero(~right & ~np.isnan(confidence)):
            self.mistakes.append((-float(confidence[i]), self.seen + int(i), images[i]))
        # Of equal confidence the first is kept, whatever the batches are. Copied, because a part
        # of a batch would keep all of it in memory.
        self.mistakes.sort(key=lambda mistake: mistake[:2])
        self.mistakes = [(c, n, image.copy()) for c, n, image in self.mistakes[:MISTAKES]]
        for i in np.flatnonzero(right):
            if len(self.right) < RIGHT and (key := labels[i].tobytes()) not in self.right:
                self.right[key] = (self.seen + int(i), images[i].copy())
        self.seen += len(labels)

    def numbers_and_images(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return `shown` and `images` of `Predictions`; `shape` is that of an image."""
        kept = [(n, image) for _, n, image in self.mistakes] + list(self.right.values())
        images = np.array([image for _, image in kept], np.uint8).reshape(-1, *shape)
        return np.array([n for n, _ in kept], np.int64), images
