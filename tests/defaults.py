"""Defaults of public functions, which are those of their commands: both are documented."""

import dataclasses
import inspect


def defaults(*sources):
    """The defaults of functions and of dataclasses, by name."""
    found = {}
    for source in sources:
        parameters = inspect.signature(source).parameters.values()
        found |= {p.name: p.default for p in parameters if p.default is not p.empty}
    # What a command takes in groups.
    groups = {name: value for name, value in found.items() if dataclasses.is_dataclass(value)}
    for name, group in groups.items():
        del found[name]
        found |= dataclasses.asdict(group)
    return found
