"""TFDS data sets or folders of images -> batches of `(uint8 images, labels)`."""

from resnet_keras.data.archives import Expected
from resnet_keras.data.batches import evaluation_batches, training_batches
from resnet_keras.data.builders import Digits
from resnet_keras.data.files import Files, naming_files
from resnet_keras.data.folders import open_folder
from resnet_keras.data.images import Split, decode, evaluation_image, read_image, sample
from resnet_keras.data.preparation import prepare
from resnet_keras.data.sets import Source

__all__ = [
    "Digits",
    "Expected",
    "Files",
    "Source",
    "Split",
    "decode",
    "evaluation_batches",
    "evaluation_image",
    "naming_files",
    "open_folder",
    "prepare",
    "read_image",
    "sample",
    "training_batches",
]
