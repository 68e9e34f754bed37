"""What is wrong with the arguments of a command is said in one line, with rule and value."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import pytest
import tyro

from resnet_keras.arguments import did_you_mean, parsed
from resnet_keras.errors import InputError


@dataclasses.dataclass(frozen=True)
class Group:
    data_dir: Path | None = None
    mean: tuple[float, ...] | None = None


def command(
    source: tyro.conf.Positional[str],
    outs: tyro.conf.Positional[tuple[int, ...]],
    *,
    needed: int,
    epochs: int = 1,
    learning_rate: float | None = None,
    kind: Literal["sgd", "lamb"] = "sgd",
    flip: bool = False,
    group: tyro.conf.OmitArgPrefixes[Group] = Group(),  # noqa: B008
):
    return source, outs, needed, epochs, learning_rate, kind, flip, group


def parse(*words):
    return parsed(lambda: tyro.cli(command, args=words), command, words)


GOOD = ("a", "1", "--needed", "3")


def test_what_a_parser_takes_is_its_answer():
    answer = parse(*GOOD, "--learning_rate=-1e-3", "--flip", "--mean", "1", "2.5")
    assert answer == ("a", (1,), 3, 1, -1e-3, "sgd", True, Group(mean=(1.0, 2.5)))
    assert parse(*GOOD, "--no-flip", "--learning-rate", "None")[4] is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((*GOOD, "--epochs", "x"), "--epochs must be an integer. Received: x"),
        ((*GOOD, "--epochs=1.5"), "--epochs must be an integer. Received: 1.5"),
        ((*GOOD, "--epochs"), "--epochs needs a value. See --help."),
        ((*GOOD, "--learning-rate", "fast"), "--learning-rate must be a number. Received: fast"),
        ((*GOOD, "--kind", "adam"), "--kind must be one of sgd, lamb. Received: adam"),
        ((*GOOD, "--mean", "1", "x"), "--mean must be numbers. Received: x"),
        ((*GOOD, "--data_dir"), "--data-dir needs a value. See --help."),
        ((*GOOD, "--lerning-rate", "1"),
         "unrecognized option --lerning-rate (did you mean --learning-rate?). See --help."),
        ((*GOOD, "--zzz"), "unrecognized option --zzz. See --help."),
        ((*GOOD, "-z"), "unrecognized option -z. See --help."),
        ((*GOOD, "--flip=yes"), "--flip takes no value. Received: yes"),
        (("a", "x", "--needed", "3"), "OUT must be integers. Received: x"),
        (("a", "1"), "missing: --needed. See --help."),
        (("--needed", "3"), "missing: SOURCE, OUT. See --help."),
        ((), "missing: SOURCE, OUT. See --help."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_a_parser_refuses_is_one_line(words, line):
    with pytest.raises(InputError) as caught:
        parse(*words)
    assert str(caught.value) == line


def one(path: tyro.conf.Positional[Path], *, json: tyro.conf.FlagCreatePairsOff[bool] = False):
    return path, json


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("a", "b"), "unrecognized argument b. See --help."),
        (("a", "--json", "1"), "unrecognized argument 1. See --help."),
        (("a", "--no-json"), "unrecognized option --no-json. See --help."),
    ],
    ids=" ".join,
)
def test_what_is_too_much_is_named(words, line):
    with pytest.raises(InputError) as caught:
        parsed(lambda: tyro.cli(one, args=words), one, words)
    assert str(caught.value) == line


def test_what_nobody_can_explain_is_shown():
    def refuse():
        sys.exit(2)

    with pytest.raises(InputError, match="cannot be read. See --help. Received: 'a b'"):
        parsed(refuse, one, ["a b"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    epochs: int = 1

    def __post_init__(self):
        if self.epochs < 1:
            raise InputError(f"`epochs` must be above 0. Received: epochs={self.epochs}")


def test_a_value_that_its_class_refuses_keeps_the_words_of_the_class():
    with pytest.raises(InputError, match="^`epochs` must be above 0. Received: epochs=0$"):
        parsed(lambda: tyro.cli(Checked, args=["--epochs", "0"]), Checked, ["--epochs", "0"])


def test_help_ends_as_help_does(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert not caught.value.code and "--learning-rate" in capsys.readouterr().out


def test_only_similar_words_are_meant():
    assert did_you_mean("evalute", ["evaluate", "export"]) == " (did you mean evaluate?)"
    assert did_you_mean("x", ["evaluate", "export"]) == ""
    assert did_you_mean("--x", ["--mix", "--mixup"]) == ""
    assert did_you_mean("--mixu", ["--mixup"]) == " (did you mean --mixup?)"
