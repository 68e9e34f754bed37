"""ResNet-101 on CIFAR-10 as OpenMMLab trained it: 95.58 % top-1, 99.87 % top-5 published.

    python recipes/cifar10_resnet101.py

Not measured here. OpenMMLab trained on 8 GPUs with 16 images each, so batch norm saw 16 images at a
time. On fewer GPUs it sees more.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import cifar10_resnet18

RECIPE = replace(cifar10_resnet18.RECIPE, model="resnet101_cifar")

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
