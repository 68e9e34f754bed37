"""Pure functions on pixels: crops, resizing, flips, policies, colour, erasing, mixing.

Nothing here holds state: the same pixels and the same `seed` give the same result, eagerly, inside
`tf.data`, on any number of threads and under any Keras dtype policy. A `seed` is an int32 or int64
tensor of shape [2], best made by `example_seed`. Each function draws from a stream of its own, so
all of them can share one seed. An image is a uint8 tensor `(height, width, 3)`, RGB; geometry,
erasing and mixing take any number of channels, TrivialAugmentWide and AutoAugment grey images, too.

What a recipe's columns do to an image is in `augment`, what they do to a batch in `mix`.
"""

from resnet_keras.augmentations.changes import (
    augment,
    color_jitter,
    rand_augment,
    random_affine,
    random_erasing,
    require_channels,
)
from resnet_keras.augmentations.geometry import (
    center_crop_window,
    flip,
    pad_and_crop,
    random_crop_window,
    resize,
    resize_and_center_crop,
)
from resnet_keras.augmentations.mixing import (
    cutmix,
    mix,
    mixes,
    mixup,
    mixup_or_cutmix,
    with_partners,
)
from resnet_keras.augmentations.policies import POLICIES, auto_augment, trivial_augment_wide
from resnet_keras.augmentations.seeds import example_seed

__all__ = [
    "POLICIES",
    "augment",
    "auto_augment",
    "center_crop_window",
    "color_jitter",
    "cutmix",
    "example_seed",
    "flip",
    "mix",
    "mixes",
    "mixup",
    "mixup_or_cutmix",
    "pad_and_crop",
    "rand_augment",
    "random_affine",
    "random_crop_window",
    "random_erasing",
    "require_channels",
    "resize",
    "resize_and_center_crop",
    "trivial_augment_wide",
    "with_partners",
]
