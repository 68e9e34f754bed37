"""The command line of a recipe."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from resnet_keras.arguments import parsed
from resnet_keras.console import exit_with_one_line
from resnet_keras.recipe import flags

if TYPE_CHECKING:
    from resnet_keras.recipe.row import Row

R = TypeVar("R", bound="Row")


def parse(recipe: R, docstring: str | None) -> R:
    """Return the recipe as the command line changes it; see `Row.parse`."""
    exit_with_one_line()
    if docstring and {"-h", "--help"} & set(sys.argv[1:]):
        # Not as tyro's description, whose lines tyro joins to one that no terminal holds.
        print(flags.description(docstring), end="\n\n")
    kind = flags.flags(recipe)
    answer: Any = parsed(lambda: tyro.cli(kind, description=""), kind, sys.argv[1:])
    fields: dict[str, Any] = flags.values(answer)
    recipe = dataclasses.replace(recipe, **fields)
    if fields["run_dir"] is None:
        name = recipe.run_name(Path(sys.argv[0]).stem)
        recipe = dataclasses.replace(recipe, **{"run_dir": Path("runs") / name})
    return recipe
