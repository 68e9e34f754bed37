"""ResNet-50 on ImageNet-1k, "ResNet strikes back" A2 (Wightman et al.): 79.55 % top-1 published.

    python recipes/imagenet_resnet50_rsb_a2.py --data-dir ~/tensorflow_datasets

Not measured here. The published accuracy and all values are those of OpenMMLab's configuration.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50_rsb_a1

RECIPE = replace(
    imagenet_resnet50_rsb_a1.RECIPE,
    weight_decay=0.02, label_smoothing=0.0, mixup=0.1, epochs=300,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
