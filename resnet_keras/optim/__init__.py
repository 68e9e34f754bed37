"""SGD and LAMB as the papers' code computes them, on any number of replicas."""

from resnet_keras.optim.lamb import LAMB
from resnet_keras.optim.sgd import SGD
from resnet_keras.optim.step import Optimizer
from resnet_keras.optim.table import Table

__all__ = ["LAMB", "SGD", "Optimizer", "Table"]
