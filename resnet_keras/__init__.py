"""ResNet for Keras 3: every published row, trainable, convertible, exportable."""

from resnet_keras.models import ResNet, ResNetV1D, features, freeze
from resnet_keras.specs import SPECS, Spec

__all__ = ["SPECS", "ResNet", "ResNetV1D", "Spec", "features", "freeze"]
