"""Load other people's checkpoints, and write weights for PyTorch, without PyTorch.

`formats` says how a file is read, `names` whose names are in it. Nothing in a file is run, and a
model is changed only once everything in the file is known to fit.
"""

from resnet_keras.weights.conversion import convert, model_file_of, save_torch
from resnet_keras.weights.formats.hub import recognises as is_on_hub
from resnet_keras.weights.loading import Report, load_weights, recognised
from resnet_keras.weights.names import Checkpoint
from resnet_keras.weights.names.reading import Reading

__all__ = [
    "Checkpoint",
    "Reading",
    "Report",
    "convert",
    "is_on_hub",
    "load_weights",
    "model_file_of",
    "recognised",
    "save_torch",
]
