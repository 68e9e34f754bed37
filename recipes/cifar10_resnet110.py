"""ResNet-110 on CIFAR-10 as in the ResNet paper (He et al. 2015, table 6): 93.39 % top-1 published.

    python recipes/cifar10_resnet110.py

Not measured here. The learning rate is 0.01 for the first 400 steps. The published accuracy is the
mean of five trainings, the best of which reached 93.57 %.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import cifar10_resnet20

RECIPE = replace(
    cifar10_resnet20.RECIPE,
    model="resnet110_cifar",
    warmup_steps=400, warmup_start=0.1, warmup_curve="constant",
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
