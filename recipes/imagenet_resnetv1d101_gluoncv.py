"""ResNetV1D-101 on ImageNet-1k as GluonCV trained it: 80.51 % top-1, 95.12 % top-5 published.

    python recipes/imagenet_resnetv1d101_gluoncv.py --data-dir ~/tensorflow_datasets

Not measured here. The recipe is that of V1D-50, longer and with mixup:
imagenet_resnetv1d50_gluoncv.py has its values and where they are from.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnetv1d50_gluoncv

RECIPE = replace(
    imagenet_resnetv1d50_gluoncv.RECIPE,
    model="resnetv1d101", mixup=0.2, epochs=200,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
