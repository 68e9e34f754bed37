"""ResNet-56 on CIFAR-10 as in the ResNet paper (He et al. 2015, table 6): 93.03 % top-1 published.

    python recipes/cifar10_resnet56.py

Not measured here.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import cifar10_resnet20

RECIPE = replace(cifar10_resnet20.RECIPE, model="resnet56_cifar")

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
