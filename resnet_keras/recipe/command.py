"""The command line of a recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from resnet_keras.console import exit_with_one_line
from resnet_keras.errors import InputError
from resnet_keras.recipe import flags

if TYPE_CHECKING:
    from resnet_keras.recipe import Recipe

R = TypeVar("R", bound="Recipe")


def parse(recipe: R, docstring: str | None) -> R:
    """Return the recipe as the command line changes it; see `Recipe.parse`."""
    exit_with_one_line()
    if docstring and {"-h", "--help"} & set(sys.argv[1:]):
        # Not as tyro's description, whose lines tyro joins to one that no terminal holds.
        print(flags.description(docstring), end="\n\n")
    parsed = one_line(lambda: tyro.cli(flags.flags(recipe), description=""))
    recipe = dataclasses.replace(recipe, **flags.values(parsed))
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
