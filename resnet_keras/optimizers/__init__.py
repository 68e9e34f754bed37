"""SGD and LAMB as the papers' code computes them, on any number of replicas.

Names are loaded when they are first used: a recipe looks at `OPTIMIZERS` before Keras is loaded.
"""

import importlib
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """What a recipe has to know of an optimizer.

    Attributes:
        name: of the class, which is in the module of the recipe's name: `optimizers/sgd.py`.
        arguments: the columns of a recipe that are arguments of this class.
        moments: arrays of the weights' size that it keeps.
    """

    name: str
    arguments: tuple[str, ...]
    moments: int


OPTIMIZERS = {
    "sgd": Choice("SGD", ("momentum", "nesterov"), moments=1),
    "lamb": Choice("LAMB", ("beta_1", "beta_2", "epsilon"), moments=2),
}

_MODULES = {choice.name: module for module, choice in OPTIMIZERS.items()}
_MODULES |= {"Optimizer": "step", "Table": "table"}

__all__ = ["OPTIMIZERS", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Import the class of a name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
