"""TFDS data sets -> batches of `(uint8 pictures, integer labels)`."""

from resnet_keras.data.batches import evaluation_batches, training_batches
from resnet_keras.data.pictures import Pictures, evaluation_picture, read_picture
from resnet_keras.data.sets import Digits, open_split

__all__ = [
    "Digits",
    "Pictures",
    "evaluation_batches",
    "evaluation_picture",
    "open_split",
    "read_picture",
    "training_batches",
]
