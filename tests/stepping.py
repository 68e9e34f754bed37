"""What tests of optimizers share: parameters that are moved, gradients, and numbers of PyTorch."""

import json
from pathlib import Path

import keras
import numpy as np

# Made by tests/golden/torch_training.py.
TORCH = json.loads(Path("tests/golden/torch_training.json").read_text())


def variables(**values):
    """Float64 variables of these names and values."""
    return [keras.Variable(np.array(v, "float64"), name=name) for name, v in values.items()]


def steps(optimizer, gradients, variable=None, start=1.0):
    """Follow one scalar parameter through a list of gradients."""
    if variable is None:
        (variable,) = variables(kernel=[start])
    optimizer.build([variable])
    path = []
    for gradient in gradients:
        optimizer.scale_loss(np.float32(1))  # as a training step does
        optimizer.apply([np.array([gradient])])
        path.append(float(np.asarray(variable)[0]))
    return path


# The first pair of gradients has norm 5 and is cut to 1, the others are short enough.
GRADIENTS = [([3.0, 0.0], [4.0]), ([-0.2, 0.1], [0.3]), ([0.1, 0.05], [-0.4])]

# What a loss scale that is too large makes of a gradient.
BAD = float("inf")
