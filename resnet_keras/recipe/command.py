"""The command line that is made from a recipe's columns."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from resnet_keras.arguments import parsed
from resnet_keras.console import exit_with_one_line

if TYPE_CHECKING:
    from resnet_keras.recipe import Recipe


def parse(recipe: Recipe, docstring: str | None) -> Recipe:
    """The recipe as the command line changes it; see `Recipe.parse`."""
    exit_with_one_line()
    # tyro joins lines that begin with a letter to one that no terminal holds.
    claim = docstring and textwrap.indent(docstring, " ")
    recipe = parsed(
        lambda: tyro.cli(type(recipe), default=recipe, description=claim),
        type(recipe),
        sys.argv[1:],
    )
    if recipe.run_dir is None:
        recipe = dataclasses.replace(recipe, run_dir=Path("runs") / Path(sys.argv[0]).stem)
    return recipe
