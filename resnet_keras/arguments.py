"""Say in one line what is wrong with the arguments of a command.

tyro parses them; how it reports what it refuses is not part of its interface. So what it prints is
dropped, and the arguments are looked at again, by the types that it was given.
"""

import contextlib
import dataclasses
import difflib
import inspect
import io
import shlex
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from resnet_keras.errors import InputError

Answer = TypeVar("Answer")


class _Argument(NamedTuple):
    """An argument of a command.

    Attributes:
        name: as it is written: `--batch-size`; in capitals where it has no name: `MODEL_FILE`.
        kind: its type.
        required: whether it must be there.
        positional: whether it is known by its place.
    """

    name: str
    kind: Any
    required: bool
    positional: bool


def parsed(
    parser: Callable[[], Answer], command: Callable[..., Any], arguments: Sequence[str]
) -> Answer:
    """Call a parser, and say in one line what it refuses.

    Args:
        parser: calls `tyro.cli` with `command` and `arguments`.
        command: a function or a dataclass. Keyword-only parameters and fields are options, other
            parameters positional arguments. One that is itself a dataclass stands for its fields.
        arguments: as the shell gives them.

    Returns:
        What the parser gives.

    Raises:
        InputError: with the argument, the rule, and what was received.
        SystemExit: 0 after `--help`.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return parser()
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro takes a ValueError of a dataclass for one of the parser's.
        if isinstance(stop.__context__, InputError):
            raise stop.__context__ from None
        raise InputError(_complaint(_arguments(command), arguments)) from None


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ` (did you mean WORD?)` for the word that is meant; nothing where none is similar."""
    bare = {name.removeprefix("--"): name for name in known}  # dashes make options similar
    close = difflib.get_close_matches(word.removeprefix("--"), bare, n=1)
    return f" (did you mean {bare[close[0]]}?)" if close else ""


def _arguments(command: Callable[..., Any]) -> list[_Argument]:
    """List the arguments of a command."""
    hints = typing.get_type_hints(command)
    found = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            found += _arguments(kind)
            continue
        positional = not inspect.isclass(command) and parameter.kind is not parameter.KEYWORD_ONLY
        shown = name.upper() if positional else "--" + name.replace("_", "-")
        if positional and typing.get_origin(kind) is tuple:
            shown = shown.removesuffix("S")  # PATH: each is one of the `paths`
        required = parameter.default is parameter.empty
        found.append(_Argument(shown, kind, required, positional))
    return found


def _complaint(known: list[_Argument], words: Sequence[str]) -> str:
    """Find the first thing that is wrong with the arguments."""
    options = {argument.name: argument for argument in known if not argument.positional}
    places = [argument for argument in known if argument.positional]
    given: set[str] = set()
    loose: list[str] = []
    negated: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        if not _is_option(word):
            loose.append(word)
            continue
        option = options.get(name) or options.get("--" + name.removeprefix("--no-"))
        if option is None:
            return f"unrecognized option {name}{did_you_mean(name, list(options))}. See --help."
        given.add(option.name)
        if name != option.name:
            negated.append(name)
        values = [value] if equals else []
        if option.kind is not bool:
            while left and not equals and not _is_option(left[0]) and _takes(option, values):
                values.append(left.pop(0))
            if complaint := _wrong(option, values):
                return complaint
        elif values:
            return f"{name} takes no value. Received: {value}"
    if complaint := _wrong_places(places, loose) or _missing(options, given):
        return complaint
    if negated:  # where a parser has no `--no-` for its flags
        return f"unrecognized option {negated[0]}. See --help."
    return f"these arguments cannot be read. See --help. Received: {shlex.join(words)}"


def _wrong_places(places: list[_Argument], words: list[str]) -> str | None:
    """Say what is wrong with the arguments that are known by their place."""
    left = list(words)
    for number, place in enumerate(places):
        values: list[str] = []
        while left and _takes(place, values):
            if values and len(left) < len(places) - number:
                break  # those after it need one each
            values.append(left.pop(0))
        if not values:
            return f"missing: {', '.join(p.name for p in places[number:])}. See --help."
        if complaint := _wrong(place, values):
            return complaint
    return f"unrecognized argument {left[0]}. See --help." if left else None


def _missing(options: dict[str, _Argument], given: set[str]) -> str | None:
    """Name the options that must be there."""
    names = [o.name for o in options.values() if o.required and o.name not in given]
    return f"missing: {', '.join(names)}. See --help." if names else None


def _is_option(word: str) -> bool:
    """Tell an option from a value, which may be a negative number."""
    return word.startswith("-") and word != "-" and not _is(float, word)


def _takes(argument: _Argument, values: list[str]) -> bool:
    """Tell whether an argument takes a value more than these."""
    return not values or any(typing.get_origin(kind) is tuple for kind in _kinds(argument.kind))


def _wrong(argument: _Argument, values: list[str]) -> str | None:
    """Say what is wrong with the values of an argument."""
    kinds = _kinds(argument.kind)
    if not values:
        many = any(typing.get_origin(kind) is tuple for kind in kinds)
        return None if many else f"{argument.name} needs a value. See --help."
    for value in values:
        if not any(_is(kind, value) for kind in kinds):
            rules = " or ".join(_rule(kind) for kind in kinds if kind is not types.NoneType)
            return f"{argument.name} must be {rules}. Received: {value}"
    return None


def _kinds(kind: Any) -> tuple[Any, ...]:
    """List the types of a union."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def _is(kind: Any, word: str) -> bool:
    """Tell whether a word can be read as a type."""
    if kind is types.NoneType:
        return word.lower() == "none"
    if typing.get_origin(kind) is tuple:
        return _is(typing.get_args(kind)[0], word)
    if typing.get_origin(kind) is Literal:
        return word in map(str, typing.get_args(kind))
    if kind not in (int, float):
        return True
    try:
        kind(word)
    except ValueError:
        return False
    return True


def _rule(kind: Any) -> str:
    """Say what a type takes."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        return {int: "integers", float: "numbers"}.get(inner, "words")
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return {int: "an integer", float: "a number", Path: "a path"}.get(kind, "a word")
