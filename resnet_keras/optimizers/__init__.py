"""SGD and LAMB as the papers' code computes them, on any number of replicas."""

from resnet_keras.optimizers.lamb import LAMB
from resnet_keras.optimizers.sgd import SGD
from resnet_keras.optimizers.step import Optimizer
from resnet_keras.optimizers.table import Table

__all__ = ["LAMB", "SGD", "Optimizer", "Table"]
