"""What every kind of recipe does with its columns: check, compare, read from a command line."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self, get_type_hints

from resnet_keras.console import exit_with_one_line
from resnet_keras.errors import InputError
from resnet_keras.recipe.checks import refuse, typed
from resnet_keras.recipe.columns import columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A recipe whose fields are columns; `Recipe` is one, and so are those of other tasks.

    Attributes:
        GROUPS: the dataclasses that have the fields, each a heading of `--help`.

    Raises:
        InputError: a value of another type or out of range.
    """

    GROUPS: ClassVar[tuple[type, ...]] = ()

    def __post_init__(self):
        """Check types and ranges. Lists become tuples, and strings paths, where needed."""
        kinds, known = get_type_hints(type(self)), columns(*self.GROUPS)
        for name in known:
            object.__setattr__(self, name, typed(name, getattr(self, name), kinds[name]))
        for name, column in known.items():
            value = getattr(self, name)
            if (rule := column.broken_rule(value)) is not None:
                refuse(name, f"must be {rule}", value)

    def parse(self, docstring: str | None = None) -> Self:
        """Return this recipe with the changes that the command line asks for.

        From here on, an InputError ends the program with one line and exit code 2.

        Args:
            docstring: of the recipe file; `--help` begins with it.

        Returns:
            The changed recipe; its `run_dir` is `runs/` and the name of the recipe file unless
            given.
        """
        try:
            from resnet_keras.recipe.command import parse  # only a command line needs its libraries
        except ModuleNotFoundError as missing:  # of `pip install resnet-keras` without extras
            if missing.name != "tyro":
                raise
            exit_with_one_line()
            raise InputError(
                "recipes need more packages: pip install 'resnet-keras[train]'. "
                f"Received: {missing}"
            ) from None

        return parse(self, docstring)

    def run_name(self, program: str) -> str:
        """Name the run folder of a recipe file.

        Args:
            program: the name of the file, without its suffix.
        """
        return program

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them: paths as strings, tuples as lists."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v
            for k, v in fields.items()
        }

    def identity(self) -> dict[str, Any]:
        """Return the fields that the result depends on, as JSON can hold them."""
        fields, known = self.to_json(), columns(*self.GROUPS)
        return {name: fields[name] for name, column in known.items() if column.resume != "free"}

    def conflict(self, earlier: dict[str, Any]) -> str | None:
        """Return the first field that keeps this recipe from resuming a run of another.

        Args:
            earlier: the recipe of the run, as `to_json` gave it; a missing field has its default.

        Returns:
            The name of the field. None: the run can be resumed.

        Raises:
            InputError: `earlier` has a field that recipes do not have.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for field, value in earlier.items():
            if field not in defaults:
                raise InputError(
                    f"its recipe has the unknown field `{field}`, of another version (runs of "
                    "version 0.1.0 cannot be resumed). Choose another --run-dir. "
                    f"Received: {field}={value!r}"
                )
        known = columns(*self.GROUPS)
        for field, mine in self.identity().items():
            theirs = earlier.get(field, defaults[field])
            theirs = list(theirs) if isinstance(theirs, tuple) else theirs
            if known[field].resume == "settled" and defaults[field] in (mine, theirs):
                continue
            if mine != theirs and not (field in ("epochs", "steps") and self._longer(mine, theirs)):
                return field
        return None

    def _longer(self, mine: Any, theirs: Any) -> bool:
        """Whether a training only becomes longer, and its learning rates so far do not change."""
        return False
