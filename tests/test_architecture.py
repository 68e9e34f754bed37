"""Imports only go down, and a room says only its own words (see the design in CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "resnet_keras"

FLOORS = [
    {"specs", "terminal"},
    {"disk"},
    {"layers", "optim", "losses", "augment", "recipe", "clones"},
    {"models", "data", "model_file", "backup"},
    {"weights", "quantize"},
    {"evaluate"},
    {"report"},
    {"export"},
    {"train"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in sorted(rooms)}

# The one step up: `ResNet(weights=...)` is a contract.
ALLOWED_UP = {("models", "weights")}

WITHOUT_TENSORFLOW = {
    "specs",
    "layers",
    "losses",
    "optim",
    "models",
    "weights",
    "quantize",
    "recipe",
    "clones",
}


def sources(room):
    path = PACKAGE / f"{room}.py"
    return [path] if path.exists() else sorted((PACKAGE / room).glob("*.py"))


def imports(room, top_level_only=False):
    """Full names of what a room imports."""
    for path in sources(room):
        tree = ast.parse(path.read_text())
        for node in tree.body if top_level_only else ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def words(room):
    """Attribute chains as written, e.g. `tf.distribute.MirroredStrategy`, and plain names."""
    for path in sources(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute | ast.Name):
                yield ast.unparse(node)


def test_every_room_has_its_floor():
    rooms = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.parent.name for p in PACKAGE.glob("*/__init__.py")
    }
    assert rooms - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("room", FLOOR)
def test_imports_only_go_down(room):
    used = {name.split(".")[1] for name in imports(room) if name.startswith("resnet_keras.")}
    up = {other for other in used - {room} if other in FLOOR and FLOOR[other] >= FLOOR[room]}
    assert {(room, other) for other in up} <= ALLOWED_UP


@pytest.mark.parametrize("room", sorted(WITHOUT_TENSORFLOW))
def test_no_tensorflow_at_import(room):
    loaded = {name.split(".")[0] for name in imports(room, top_level_only=True)}
    assert not loaded & {"tensorflow", "tensorflow_datasets"}


def test_specs_see_the_standard_library_alone():
    assert {name.split(".")[0] for name in imports("specs")} <= {"dataclasses"}


@pytest.mark.parametrize(
    ("word", "rooms"),
    [("tfds.", {"data"}), ("tf.data", {"data"}), ("tf.distribute", {"train"}),
     ("keras.distribution", {"train"}), ("keras.callbacks", {"train"}),
     ("set_dtype_policy", {"train", "weights"}), ("IMAGENET_MEAN", {"models"}),
     ("stateless_uniform", {"augment"}), ("tf.io.decode", {"data"})],
)  # fmt: skip
def test_a_word_stays_in_its_room(word, rooms):
    saying = {room for room in FLOOR if any(word in said for said in words(room))}
    assert saying <= rooms


@pytest.mark.parametrize("room", FLOOR)
def test_no_room_times_by_a_clock_that_can_be_set(room):
    assert not {"time.time", "datetime.now", "datetime.datetime.now"} & set(words(room))


@pytest.mark.parametrize(
    "room", ["models", "weights", "quantize", "export", "augment", "layers", "optim"]
)
def test_rooms_that_never_see_recipes(room):
    assert not [name for name in imports(room) if name.startswith("resnet_keras.recipe")]


def test_no_room_without_a_name():
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "core", "misc", "base"}
