"""ResNetV1D-152 on ImageNet-1k as GluonCV trained it: 80.61 % top-1, 95.34 % top-5 published.

    python recipes/imagenet_resnetv1d152_gluoncv.py --data-dir ~/tensorflow_datasets

Not measured here. The recipe is that of V1D-50, longer, with mixup, in float32 and with a quarter
of the images and the learning rate in each step, so batch norm saw 32 images at a time:
imagenet_resnetv1d50_gluoncv.py has its values and where they are from.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnetv1d50_gluoncv

RECIPE = replace(
    imagenet_resnetv1d50_gluoncv.RECIPE,
    model="resnetv1d152", precision="float32", mixup=0.2,
    batch_size=256, learning_rate=0.1, epochs=200,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
