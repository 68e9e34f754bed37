"""What all programs share: the images, and where the scores go."""

import sys

import numpy as np

model, folder = sys.argv[1:3]
images = np.load(f"{folder}/images.npy")  # uint8 (n, height, width, channels)


def planes() -> np.ndarray:
    """Images channels first, float32."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def save(scores) -> None:
    np.save(f"{folder}/scores.npy", np.asarray(scores, np.float32))
