"""ResNets for Keras 3: published recipes, converted checkpoints, exact resume, proven exports.

Names are loaded when they are first used (PEP 562): a recipe's `--help` needs no TensorFlow.
"""

import importlib
import os
from typing import Any

from resnet_keras import registration
from resnet_keras.optimizers import OPTIMIZERS

# Since 1.29, onnxruntime sends telemetry from its import on, unless this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0.dev0"

# Public names, and the modules that define them.
_MODULES = {
    "ResNet": "zoo",
    "ResNetV1D": "zoo",
    "features": "models",
    "freeze": "models",
    "load_weights": "weights",
    "pretrained": "published",
    "Pretrained": "published",
    "convert": "weights",
    "Spec": "specs",
    "SPECS": "specs",
    "Preprocessing": "preprocessing",
    "Recipe": "recipe",
    "train": "training",
    "evaluate": "evaluation",
    "predict": "evaluation",
    "export": "exporting",
}

_MODULES |= {choice.name: "optimizers" for choice in OPTIMIZERS.values()}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import the module of a public name, or a submodule, when it is first asked for."""
    if name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


registration.after_keras("resnet_keras.models.stages")  # has a class that models are saved with
