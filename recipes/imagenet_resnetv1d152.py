"""ResNetV1D-152 on ImageNet-1k as OpenMMLab trained it: 79.41 % top-1, 94.70 % top-5 published.

    python recipes/imagenet_resnetv1d152.py --data-dir ~/tensorflow_datasets

Not measured here. OpenMMLab trained on 8 GPUs with 32 images each, so batch norm saw 32 images at a
time. On fewer GPUs it sees more. OpenMMLab resized these images with Pillow, those of its plain
ResNets with OpenCV.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50

RECIPE = replace(imagenet_resnet50.RECIPE, model="resnetv1d152", antialias=True)

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
