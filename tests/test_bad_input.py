"""Bad input, made from the contract: every verb, every field of a recipe. One line, code 2."""

import dataclasses
import json
import subprocess
import sys
import types
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_keras.__main__ import VERBS
from resnet_keras.recipe import Recipe, columns

ROOT = Path(__file__).parents[1]

# Forks for each case, because what is imported needs not be imported 300 times. The child is the
# program as a user starts it, in a folder of its own.
SERVER = """
import json, os, runpy, sys, tempfile
import resnet_keras.__main__ as command
import resnet_keras.recipe

sys.modules["tensorflow"] = None  # cannot be imported: all is refused before it would be

def run(arguments):
    if arguments[0].endswith(".py"):
        sys.argv = arguments
        sys.path[0] = os.path.dirname(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        sys.argv = ["resnet-keras", *arguments]
        command.main()

def child(arguments, folder, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.chdir(folder)
    try:
        run(arguments)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())  # as Python does
        except SystemExit as stop:
            return stop.code
        return 1
    return 0

for line in sys.stdin:
    arguments = json.loads(line)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, \\
            tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            code = child(arguments, folder, out, err)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        print(json.dumps([os.waitstatus_to_exitcode(status), *texts, os.listdir(folder)]),
              flush=True)
"""


@pytest.fixture(scope="module")
def attempt():
    """Run a verb or a recipe: (code, stdout, stderr, what it wrote)."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )  # fmt: skip

    def ask(*arguments):
        server.stdin.write(json.dumps(arguments) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    with server:  # closes its pipes, waits
        yield ask
    assert server.returncode == 0


# Words that are no number, whatever the locale; and no option (`--` may end what is empty).
WORDS = st.sampled_from(
    ["", " ", "many", "1e", "½", "1,5", "0x1g", "ünï", "1 2", "日本", "NULL", "9" * 400 + "x",
     "\x1b[31m1", "'; rm -rf /", "../../x", "$(id)", "1_000_"]
)  # fmt: skip
FRACTIONS = st.floats(0.01, 1e6).filter(lambda x: x % 1).map(str)
NEGATIVE = st.integers(max_value=-1).map(str)


def options(function):
    """The name and type of every argument; those of a dataclass stand for its fields."""
    for name, kind in typing.get_type_hints(function).items():
        if dataclasses.is_dataclass(kind):
            yield from options(kind)
        elif name != "return":
            yield name, kind


def bad_values(kind, field=None):
    """Strategies for command-line values that a type, or the field of a recipe, refuses."""
    if isinstance(kind, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        return bad_values(kinds[0], field) if len(kinds) == 1 else None
    origin = typing.get_origin(kind)
    ranged = field in columns() and columns()[field].broken_rule(-0.5) is not None
    if kind is int:
        return st.one_of(WORDS, FRACTIONS, *([NEGATIVE] if ranged else []))
    if kind is float:
        worse = st.sampled_from(["nan", "inf", "-inf", "-0.5", "-1e300"])
        return st.one_of(WORDS, *([worse] if ranged else []))
    if origin is typing.Literal:
        return st.one_of(WORDS, st.text("abcxyz", min_size=1)).filter(
            lambda word: word not in typing.get_args(kind)
        )
    if origin is tuple and typing.get_args(kind)[0] in (int, float):
        return WORDS.filter(bool)
    return None  # any word is a path, a name


FIELDS = {f.name: bad_values(typing.get_type_hints(Recipe)[f.name], f.name)
          for f in dataclasses.fields(Recipe)}  # fmt: skip
FIELDS = {name: values for name, values in FIELDS.items() if values is not None}
BOOLEANS = [f.name for f in dataclasses.fields(Recipe) if f.type is bool]
VERB_FIELDS = {
    (verb, name): values
    for verb, function in VERBS.items()
    for name, kind in options(function)
    if (values := bad_values(kind)) is not None
}
POSITIONALS = {"summary": ["resnet18"], "prepare": ["digits"], "convert": ["a.pth", "b.keras"],
               "evaluate": ["a.keras"], "predict": ["a.keras", "b.jpg"],
               "export": ["a.keras", "b.tflite"]}  # fmt: skip


def flag(name):
    return "--" + name.replace("_", "-")


@st.composite
def recipe_cases(draw):
    """A recipe and one bad thing."""
    recipes = st.sampled_from(["quickstart", "imagenet_resnet50_rsb_a2", "finetune_resnet50"])
    recipe = str(ROOT / "recipes" / f"{draw(recipes)}.py")
    kind = draw(st.sampled_from(["value"] * 8 + ["boolean", "unknown", "none", "stray"]))
    if kind == "value":
        name = draw(st.sampled_from(sorted(FIELDS)))
        return [recipe, flag(name), draw(FIELDS[name])]
    if kind == "boolean":
        return [
            recipe,
            flag(draw(st.sampled_from(BOOLEANS))),
            draw(WORDS.filter(lambda word: word != "--")),
        ]
    if kind == "unknown":
        return [recipe, "--" + draw(st.text("abcäöü_-", min_size=3, max_size=300)) + "qq", "1"]
    if kind == "none":
        return [recipe, flag(draw(st.sampled_from(sorted(set(FIELDS) - {"milestones"}))))]
    return [recipe, draw(st.text("abc 日ü", min_size=1))]


@st.composite
def verb_cases(draw):
    """A verb and one bad thing."""
    kind = draw(st.sampled_from(["value"] * 4 + ["unknown flag", "unknown verb", "too many"]))
    if kind == "value":
        verb, name = draw(st.sampled_from(sorted(VERB_FIELDS)))
        return [verb, *POSITIONALS[verb], flag(name), draw(VERB_FIELDS[verb, name])]
    if kind == "unknown verb":
        return [draw(WORDS.filter(lambda word: word not in VERBS))]
    verb = draw(st.sampled_from(sorted(set(VERBS) & set(POSITIONALS) - {"predict"})))
    if kind == "unknown flag":
        return [verb, *POSITIONALS[verb], "--" + draw(st.text("abcü", min_size=3)) + "qq"]
    return [verb, *POSITIONALS[verb], "one-more", "and-more"]


def check(attempt, arguments):
    code, out, err, written = attempt(*arguments)
    assert code == 2, (code, out, err)
    assert not out and not written
    (line,) = err.splitlines()
    assert line.startswith("error: ") and "Traceback" not in line
    assert "\x1b" not in line  # what a user pasted does not steer the terminal


GENERATED = settings(
    max_examples=100, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
MANY = settings(GENERATED, max_examples=1000)


@pytest.mark.slow
@GENERATED
@given(arguments=recipe_cases())
def test_no_recipe_starts_with_bad_input(attempt, arguments):
    check(attempt, arguments)


@GENERATED
@given(arguments=verb_cases())
def test_no_verb_starts_with_bad_input(attempt, arguments):
    check(attempt, arguments)


@pytest.mark.slow
@MANY
@given(arguments=st.one_of(recipe_cases(), verb_cases()))
def test_nothing_starts_with_much_bad_input(attempt, arguments):
    check(attempt, arguments)
