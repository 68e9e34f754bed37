"""Data sets of TFDS, folders of images and CSV files, as batches of `(uint8 images, labels)`."""

from resnet_keras.data.archives import Expected
from resnet_keras.data.batches import evaluation_batches, training_batches, view_batches
from resnet_keras.data.builders import Digits, read_digits
from resnet_keras.data.csv_files import open_csv
from resnet_keras.data.features import FeatureSplit
from resnet_keras.data.files import Files, FileSplit
from resnet_keras.data.folders import open_folder
from resnet_keras.data.images import decode, evaluation_image, prepared_or_black, read_image
from resnet_keras.data.preparation import prepare
from resnet_keras.data.reading import reading
from resnet_keras.data.records import RecordSplit
from resnet_keras.data.sources import Source
from resnet_keras.data.splits import ArraySplit, Split
from resnet_keras.data.waiting import Waiting

__all__ = [
    "ArraySplit",
    "Digits",
    "Expected",
    "FeatureSplit",
    "FileSplit",
    "Files",
    "RecordSplit",
    "Source",
    "Split",
    "Waiting",
    "decode",
    "evaluation_batches",
    "evaluation_image",
    "prepared_or_black",
    "open_csv",
    "open_folder",
    "prepare",
    "read_digits",
    "read_image",
    "reading",
    "training_batches",
    "view_batches",
]
