"""What is measured: networks, and how many steps a second something makes.

Libraries are imported where they are used: a peer that is missing is one row of the table, and
Python without TensorFlow runs what needs none.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple


class Net(NamedTuple):
    """A network that is measured: its images, its classes, and its shape for PyTorch."""

    size: int
    classes: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    cifar: bool  # the stem


WIDTHS = (64, 128, 256, 512)

# "tiny" is for rehearsals: it has every kind of layer that ResNet-50 has.
NETS = {
    "resnet50": Net(224, 1000, (3, 4, 6, 3), WIDTHS, bottleneck=True, cifar=False),
    "resnet18_cifar": Net(32, 10, (2, 2, 2, 2), WIDTHS, bottleneck=False, cifar=True),
    "tiny": Net(32, 10, (1, 1), (8, 16), bottleneck=True, cifar=False),
}


def our_network(net: str, size: int | None = None, classes: int | None = None, **layers):
    """Ours as `train` builds it, compiled."""
    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.losses import CrossEntropy
    from resnet_keras.optimizers import SGD
    from resnet_keras.specs import Spec
    from resnet_keras.zoo import ResNet

    shape = NETS.get(net, NETS["resnet50"])
    size = size or shape.size
    model = ResNet(
        Spec("bottleneck", shape.depths, shape.widths) if net == "tiny" else net,
        input_shape=(size, size, 3),
        classes=classes or shape.classes,
        classifier_activation=None,
        **{"norm": BatchNormalization, "conv": Conv2D, **layers},
    )
    optimizer = SGD(0.1, momentum=0.9, weight_decay=1e-4)
    model.compile(optimizer, CrossEntropy(), auto_scale_loss=False)
    return model


def backend() -> str:
    """Keras' backend, by its variable."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def keras_of(dtype: str):
    """Keras under the policy of a type."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    return keras


def steps_per_second(steps: Callable[[int], None], seconds: float = 8.0) -> float:
    """How many a second `steps(number)` does, after a warm-up that also tells how many to ask."""
    steps(2)
    start = time.perf_counter()
    steps(1)
    number = max(3, round(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    steps(number)
    return number / (time.perf_counter() - start)


def random_batch(net: str, batch: int, dtype: str = "uint8"):
    """Images and labels of NumPy."""
    import numpy as np

    shape = NETS.get(net, NETS["resnet50"])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, shape.size, shape.size, 3)).astype(dtype)
    return images, rng.integers(0, shape.classes, batch)


def torch_resnet(net: str):
    """A network of `NETS` in PyTorch's own layers; ResNet-50 is v1.5."""
    from torch import nn

    _, classes, depths, widths, bottleneck, cifar = NETS[net]

    def norm(width):
        return nn.BatchNorm2d(width)

    def conv(inputs, outputs, kernel, stride=1):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, bottleneck):
            super().__init__()
            outputs = 4 * width if bottleneck else width
            layers = [conv(inputs, width, 1), norm(width), nn.ReLU(True)] if bottleneck else []
            layers += [conv(width if bottleneck else inputs, width, 3, stride), norm(width)]
            layers += [nn.ReLU(True), conv(width, outputs, 1 if bottleneck else 3), norm(outputs)]
            self.body = nn.Sequential(*layers)
            changes = stride > 1 or inputs != outputs
            shortcut = [conv(inputs, outputs, 1, stride), norm(outputs)] if changes else []
            self.shortcut = nn.Sequential(*shortcut)
            self.relu = nn.ReLU(True)

        def forward(self, x):
            return self.relu(self.body(x) + self.shortcut(x))

    inputs = widths[0]
    layers = [conv(3, inputs, 3 if cifar else 7, 1 if cifar else 2), norm(inputs), nn.ReLU(True)]
    layers += [] if cifar else [nn.MaxPool2d(3, 2, 1)]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for number in range(depth):
            stride = 2 if stage and not number else 1
            layers.append(Block(inputs, width, stride, bottleneck))
            inputs = 4 * width if bottleneck else width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers, *head)
