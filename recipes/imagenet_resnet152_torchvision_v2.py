"""ResNet-152 on ImageNet-1k as torchvision's V2: 82.284 % top-1, 96.002 % top-5 published.

    python recipes/imagenet_resnet152_torchvision_v2.py --data-dir ~/tensorflow_datasets

Not measured here. The recipe is that of ResNet-50, with one other network:
imagenet_resnet50_torchvision_v2.py has its values and where they are from.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50_torchvision_v2

RECIPE = replace(imagenet_resnet50_torchvision_v2.RECIPE, model="resnet152")

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
