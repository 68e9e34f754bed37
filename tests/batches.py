"""Training batches of small images, for the tests of data."""

import numpy as np

from resnet_keras import data
from resnet_keras.recipe.columns import Augmentation


def numbered(examples, size=4):
    """Images that carry their number in every pixel and as their label."""
    images = np.arange(examples, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(images, (examples, size, size, 1)).copy()
    names = tuple(map(str, range(examples)))
    return data.ArraySplit(labels=names, channels=1, arrays=(images, np.arange(examples)))


def batches_of(split, size=4, batch_size=8, seed=1, start=0, rows=None, **columns):
    """Training batches; `columns` are those of a recipe."""
    augmentation = Augmentation(train_size=size, **columns)
    return data.training_batches(
        split, augmentation, batch_size=batch_size, seed=seed, start=start, rows=rows
    )
