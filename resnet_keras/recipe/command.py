"""The command line that is made from a recipe's columns."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from resnet_keras.console import exit_with_one_line
from resnet_keras.errors import InputError

if TYPE_CHECKING:
    from resnet_keras.recipe import Recipe


def parse(recipe: Recipe, docstring: str | None) -> Recipe:
    """The recipe as the command line changes it; see `Recipe.parse`."""
    exit_with_one_line()
    # tyro joins lines that begin with a letter to one that no terminal holds.
    claim = docstring and textwrap.indent(docstring, " ")
    recipe = one_line(lambda: tyro.cli(type(recipe), default=recipe, description=claim))
    if recipe.run_dir is None:
        recipe = dataclasses.replace(recipe, run_dir=Path("runs") / Path(sys.argv[0]).stem)
    return recipe


def one_line(parser: Callable[[], Any]) -> Any:
    """Call a parser of tyro's; what is wrong with the arguments is one line, as an InputError."""
    screen = io.StringIO()
    try:
        with contextlib.redirect_stderr(screen):
            return parser()
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        lines = [line.strip("│╭╰╮╯─ ") for line in screen.getvalue().splitlines()]
        message = " ".join(line for line in lines[1:4] if line)
        raise InputError(f"{message.rstrip('.')}. See --help.") from None
