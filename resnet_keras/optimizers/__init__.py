"""SGD, LARS, LAMB and AdamW as the papers' code computes them, on any number of replicas.

A new optimizer is one module here and one row of `OPTIMIZERS`. Classes are loaded when they are
first used: a recipe reads the rows before Keras is loaded.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """What a recipe has to know of an optimizer.

    Attributes:
        name: of the class; its module has the recipe's name for it: `optimizers/sgd.py`.
        arguments: the columns of a recipe that are arguments of this class alone.
        moments: given a recipe, how many arrays of the weights' size the optimizer keeps.
    """

    name: str
    arguments: tuple[str, ...]
    moments: Callable[[Any], int]


OPTIMIZERS = {
    "sgd": Choice("SGD", ("momentum", "nesterov"), moments=lambda recipe: recipe.momentum > 0),
    "lars": Choice(
        "LARS",
        ("momentum", "trust_coefficient", "epsilon"),
        moments=lambda recipe: recipe.momentum > 0,
    ),
    "lamb": Choice("LAMB", ("beta_1", "beta_2", "epsilon"), moments=lambda recipe: 2),
    "adamw": Choice("AdamW", ("beta_1", "beta_2", "epsilon"), moments=lambda recipe: 2),
}

_MODULES = {choice.name: module for module, choice in OPTIMIZERS.items()}
_MODULES |= {"Optimizer": "optimizer", "Table": "table", "Averaging": "averaging"}

__all__ = ["OPTIMIZERS", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    """Import the class of a name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
