"""What is measured: networks, and how many steps a second something makes.

Libraries are imported where they are used: a peer that is missing is one row of the table, and
Python without TensorFlow runs what needs none.
"""

import os
import time
from collections.abc import Callable

NETS = {"resnet50": (224, 1000), "resnet18_cifar": (32, 10)}  # image size, classes


def our_network(net: str, size: int, classes: int):
    """Ours as `train` builds it, compiled."""
    from resnet_keras.layers import BatchNormalization, Conv2D
    from resnet_keras.losses import CrossEntropy
    from resnet_keras.optimizers import SGD
    from resnet_keras.zoo import ResNet

    model = ResNet(
        net,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
        norm=BatchNormalization,
        conv=Conv2D,
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
