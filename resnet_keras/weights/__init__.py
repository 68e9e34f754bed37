"""Load other people's checkpoints, and write weights for PyTorch, without PyTorch.

`formats` says how a file is read, `names` whose names are in it. Nothing in a file is run, and a
model is changed only once everything in the file is known to fit.
"""

from resnet_keras.weights.conversion import convert, model_file_of, save_torch
from resnet_keras.weights.loading import Report, load_weights

__all__ = ["Report", "convert", "load_weights", "model_file_of", "save_torch"]
