"""ResNet-50 on ImageNet-1k in half precision, OpenMMLab: 76.30 % top-1, 93.07 % top-5 published.

    python recipes/imagenet_resnet50_fp16.py --data-dir ~/tensorflow_datasets

Not measured here. The network computes in float16 with float32 master weights. The loss is scaled
by 512, and steps with gradients that are not finite are skipped. OpenMMLab trained on 8 GPUs with
32 images each, so batch norm saw 32 images at a time. On fewer GPUs it sees more.
"""

from dataclasses import replace

from resnet_keras import train
from resnet_keras.recipes import imagenet_resnet50

RECIPE = replace(imagenet_resnet50.RECIPE, precision="mixed_float16", loss_scale=512.0)

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
