"""ResNet-34 on ImageNet-1k as OpenMMLab trained it: 73.62 % top-1, 91.59 % top-5 published.

    python recipes/imagenet_resnet34.py --data-dir ~/tensorflow_datasets

Not measured here. OpenMMLab trained on 8 GPUs with 32 images each, so batch norm saw 32 images at a
time. On fewer GPUs it sees more.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50

RECIPE = replace(imagenet_resnet50.RECIPE, model="resnet34")

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
