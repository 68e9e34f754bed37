"""ResNet for Keras 3: every published row, trainable, convertible, exportable.

Names are loaded when they are first used: a recipe's `--help` needs no TensorFlow.
"""

import importlib
import os
import sys
import types

# Since 1.29 onnxruntime tells Microsoft what runs, from its import on, if it is not told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_ROOMS = {
    "ResNet": "models",
    "ResNetV1D": "models",
    "features": "models",
    "freeze": "models",
    "load_weights": "weights",
    "Spec": "specs",
    "SPECS": "specs",
    "SGD": "optim",
    "Recipe": "recipe",
    "train": "train",
    "evaluate": "evaluate",
    "export": "export",
}

__all__ = sorted(_ROOMS)


class _Face(types.ModuleType):
    """`train`, `evaluate` and `export` are the functions, although rooms bear these names."""

    def __setattr__(self, name, value):
        # Python binds each room to its package when it is first imported.
        if isinstance(value, types.ModuleType) and _ROOMS.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __getattr__(self, name):
        if name not in _ROOMS:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{self.__name__}.{_ROOMS[name]}"), name)
        self.__setattr__(name, value)
        return value


sys.modules[__name__].__class__ = _Face
