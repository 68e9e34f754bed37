"""ResNet-50 on ImageNet-1k in half precision, OpenMMLab: 76.30 % top-1, 93.07 % top-5 published.

Not measured here.

    python recipes/imagenet_resnet50_fp16.py --data-dir ~/tensorflow_datasets

Float16 with float32 master weights, the loss scaled by 512; steps whose gradients are not finite
are skipped. Published with 8 GPUs of 32 images each, so batch norm saw 32 images at a time.
"""

from dataclasses import replace

import imagenet_resnet50

from resnet_keras import train

RECIPE = replace(imagenet_resnet50.RECIPE, precision="mixed_float16", loss_scale=512.0)

if __name__ == "__main__":
    train(RECIPE.parse(__doc__))
