"""The flags of a recipe's command line: one for each column, under the heading of its group."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from resnet_keras.optimizers import OPTIMIZERS
from resnet_keras.recipe.columns import Column, columns

if TYPE_CHECKING:
    from resnet_keras.recipe.row import Row


def flags(recipe: Row) -> type:
    """Return a dataclass for tyro to parse: a field for each group, whose fields are the columns.

    Their defaults are the recipe's values.
    """
    parts = []
    for group in recipe.GROUPS:
        kinds = get_type_hints(group)
        part = dataclasses.make_dataclass(
            group.__name__,
            [
                (name, _annotated(name, kinds[name], column), getattr(recipe, name))
                for name, column in columns(group).items()
            ],
        )
        heading = tyro.conf.arg(help=group.__doc__)
        kind = Annotated[tyro.conf.OmitArgPrefixes[part], heading]  # type: ignore[valid-type]
        parts.append((group.__name__.lower(), kind, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass("Flags", parts)


def values(parsed: Any) -> dict[str, Any]:
    """Return the columns' values of a parsed object of `flags`."""
    return {
        name: value
        for part in dataclasses.fields(parsed)
        for name, value in vars(getattr(parsed, part.name)).items()
    }


def description(docstring: str) -> str:
    """Return a docstring for the terminal: paragraphs filled to its width, commands as they are."""
    width = min(shutil.get_terminal_size().columns, 100)
    paragraphs = textwrap.dedent(docstring).strip().split("\n\n")
    return "\n\n".join(
        paragraph if paragraph.startswith(" ") else textwrap.fill(paragraph, width)
        for paragraph in paragraphs
    )


def _annotated(name: str, kind: Any, column: Column) -> Any:
    """A column's type, with what `--help` shows of it."""
    owners = [row.name for row in OPTIMIZERS.values() if name in row.arguments]
    help = f"{', '.join(owners)}: {column.help}" if owners else column.help
    return Annotated[
        kind,
        tyro.conf.arg(
            help=help,
            metavar=_metavar(kind, column),
            help_behavior_hint=lambda default: f"(default: {default or 'none'})",
        ),
    ]


def _metavar(kind: Any, column: Column) -> str | None:
    """What stands for a value in `--help`; None for tyro's own."""
    if column.metavar is not None:
        return column.metavar
    if column.choices is not None:
        return f"{{{','.join(map(str, column.choices))}}}"
    if get_origin(kind) is UnionType:
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is tuple:
        return f"[{get_args(kind)[0].__name__.upper()} ...]"
    if kind is bool or get_origin(kind) is Literal:
        return None
    return "PATH" if kind is Path else kind.__name__.upper()
