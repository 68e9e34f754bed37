"""ResNet-50 on ImageNet-1k, "ResNet strikes back" A3 (Wightman et al.): 78.30 % top-1 published.

    python recipes/imagenet_resnet50_rsb_a3.py --data-dir ~/tensorflow_datasets

Not measured here. The published accuracy and all values are those of OpenMMLab's configuration.
Images are 224 pixels wide in training; the paper's are 160.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50_rsb_a1

RECIPE = replace(
    imagenet_resnet50_rsb_a1.RECIPE,
    drop_path=0.0, repeats=1, rand_magnitude=6, mixup=0.1, label_smoothing=0.0,
    learning_rate=0.008, weight_decay=0.02, epochs=100,
)  # fmt: skip

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
