"""Build a `keras.Model` from a `Spec`, with random weights; its stages and its multiply-adds.

`add_heatmap_head` makes a network of a ResNet that finds key points.

Layer names are those of keras.applications (`conv1_conv`, `conv3_block4_2_bn`, `conv4_block6_out`,
`avg_pool`, `predictions`) and are a contract: weights transfer by name, `features` and `freeze`
find their layers by name.
"""

from resnet_keras.models.building import (
    BN_EPSILON,
    Head,
    Normalisation,
    build,
    for_channels,
    normalisation_of,
)
from resnet_keras.models.counting import count
from resnet_keras.models.heatmaps import add_heatmap_head, is_of_heatmaps
from resnet_keras.models.stages import FeaturePyramid, adapt_last_norm, features, freeze

__all__ = [
    "BN_EPSILON",
    "FeaturePyramid",
    "Head",
    "Normalisation",
    "adapt_last_norm",
    "add_heatmap_head",
    "build",
    "count",
    "features",
    "for_channels",
    "freeze",
    "is_of_heatmaps",
    "normalisation_of",
]
