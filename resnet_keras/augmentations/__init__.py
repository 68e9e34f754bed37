"""Pure functions on pixels: crops, resizing, flips, RandAugment, colour, erasing, mixing.

Nothing here holds state: the same pixels and the same `seed` give the same result, eagerly, inside
`tf.data`, on any number of threads and under any Keras dtype policy. A `seed` is an int32 or int64
tensor of shape [2], best from `example_seed`. Each function draws from a stream of its own, so one
seed may go to all of them. An image is a uint8 tensor `(height, width, 3)`, RGB; geometry, erasing
and mixing take any number of channels.
"""

from resnet_keras.augmentations.geometry import (
    center_crop_window,
    flip,
    pad_and_crop,
    random_crop_window,
    resize,
    resize_and_center_crop,
)
from resnet_keras.augmentations.mixing import cutmix, mixup, mixup_or_cutmix
from resnet_keras.augmentations.policies import (
    color_jitter,
    rand_augment,
    random_affine,
    random_erasing,
)
from resnet_keras.augmentations.seeds import example_seed

__all__ = [
    "center_crop_window",
    "color_jitter",
    "cutmix",
    "example_seed",
    "flip",
    "mixup",
    "mixup_or_cutmix",
    "pad_and_crop",
    "rand_augment",
    "random_affine",
    "random_crop_window",
    "random_erasing",
    "resize",
    "resize_and_center_crop",
]
