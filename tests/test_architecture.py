"""The structure that CONTRIBUTING.md describes: imports go down, each thing has one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_keras

PACKAGE = Path(__file__).parents[1] / "resnet_keras"

# From the bottom to the top; modules of a layer do not import each other unless named below.
LAYERS = [
    {"specs", "errors", "text", "registration"},
    {"preprocessing", "signals", "console", "arguments", "devices"},
    {"files"},
    {"internals"},
    {"layers", "optimizers", "losses", "clones"},
    {"recipe"},
    {"augmentations"},
    {"models", "data"},
    {"model_files", "backup", "published"},
    {"weights"},
    {"zoo"},
    {"quantize", "evaluation"},
    {"report"},
    {"exporting"},
    {"training"},
    {"vision"},
    {"__main__"},
]
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in sorted(modules)}

STANDARD_LIBRARY = set(sys.stdlib_module_names)

WITHOUT_TENSORFLOW = [
    *("specs", "errors", "text", "preprocessing", "signals", "console", "arguments", "files"),
    *("layers", "losses", "optimizers", "models", "weights", "zoo", "quantize", "recipe"),
    *("clones", "devices"),
]

MOST_LINES, MOST_PARAMETERS = 80, 10

# Its arguments are those of keras.applications, and the contract.
MANY_PARAMETERS = {"ResNet"}


def sources(module):
    path = PACKAGE / f"{module}.py"
    return [path] if path.exists() else sorted((PACKAGE / module).rglob("*.py"))


def trees(module):
    for path in sources(module):
        yield path, ast.parse(path.read_text())


def imports(module, top_level_only=False):
    """Full names of what a module imports."""
    for _, tree in trees(module):
        for node in tree.body if top_level_only else ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def words(module):
    """Attribute chains as written, e.g. `tf.distribute.MirroredStrategy`, and plain names."""
    for _, tree in trees(module):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute | ast.Name):
                yield ast.unparse(node)


def functions():
    """`(where, function)` of every function of the package."""
    for module in LAYER:
        for path, tree in trees(module):
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}", node


def test_every_module_has_its_layer():
    modules = {p.stem for p in PACKAGE.glob("*.py")} | {
        p.parent.name for p in PACKAGE.glob("*/__init__.py")
    }
    assert modules - {"__init__"} == set(LAYER)


@pytest.mark.parametrize("module", LAYER)
def test_imports_only_go_down(module):
    used = {name.split(".")[1] for name in imports(module) if name.startswith("resnet_keras.")}
    assert not [m for m in used - {module} if m in LAYER and LAYER[m] >= LAYER[module]]


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_no_tensorflow_at_import(module):
    loaded = {name.split(".")[0] for name in imports(module, top_level_only=True)}
    assert not loaded & {"tensorflow", "tensorflow_datasets"}


@pytest.mark.parametrize(
    "module",
    [*("specs", "errors", "text", "registration"),
     *("preprocessing", "signals", "console", "arguments")],
)  # fmt: skip
def test_the_lowest_modules_import_the_standard_library_alone(module):
    roots = {name.split(".")[0] for name in imports(module, top_level_only=True)}
    assert roots - STANDARD_LIBRARY <= {"resnet_keras"}


@pytest.mark.parametrize(
    ("word", "modules"),
    [("tfds.", {"data", "internals"}), ("tf.data", {"data", "vision"}),
     ("keras.callbacks", {"training"}), ("tf.distribute", {"training", "optimizers"}),
     ("keras.distribution", {"training"}),
     ("set_dtype_policy", {"training", "vision", "weights"}), ("IMAGENET_MEAN", {"models"}),
     ("stateless_uniform", {"augmentations"}), ("tf.io.decode", {"data"})],
)  # fmt: skip
def test_a_library_is_used_in_one_place(word, modules):
    assert {m for m in LAYER if any(word in written for written in words(m))} <= modules


@pytest.mark.parametrize("module", LAYER)
def test_no_module_times_by_a_clock_that_can_be_set(module):
    assert not {"time.time", "datetime.now", "datetime.datetime.now"} & set(words(module))


@pytest.mark.parametrize(
    "module", ["models", "weights", "zoo", "quantize", "exporting", "layers", "optimizers"]
)
def test_modules_that_never_see_recipes(module):
    assert not [name for name in imports(module) if name.startswith("resnet_keras.recipe")]


def test_every_module_says_what_it_is():
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "core", "misc", "base"}


@pytest.mark.parametrize("where_and_function", list(functions()), ids=lambda pair: pair[0])
def test_functions_are_short_and_take_few_arguments(where_and_function):
    _, function = where_and_function
    assert function.end_lineno - function.lineno < MOST_LINES
    if function.name not in MANY_PARAMETERS:
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        assert len([a for a in given if a.arg not in ("self", "cls")]) <= MOST_PARAMETERS


# Public names.


def test_the_package_shows_its_names_without_loading_them(run_python):
    code = (
        "import sys, resnet_keras as r; names = dir(r);"
        "assert set(r.__all__) <= set(names) and r.__version__;"
        "assert not {'keras', 'tensorflow', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", resnet_keras.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(resnet_keras, name)
    assert isinstance(value, dict) or value.__doc__
    assert not isinstance(value, type(resnet_keras))


def test_every_optimizer_is_public():
    from resnet_keras import optimizers

    assert {choice.name for choice in optimizers.OPTIMIZERS.values()} <= set(resnet_keras.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'ResNext'"):
        resnet_keras.ResNext  # noqa: B018


@pytest.mark.slow
def test_submodules_are_modules_whatever_was_loaded_before(run_python):
    code = (
        "import resnet_keras; resnet_keras.train, resnet_keras.evaluate, resnet_keras.export;"
        "import resnet_keras.training.memory as m, resnet_keras.evaluation, resnet_keras.exporting;"
        "assert callable(m.estimate) and callable(resnet_keras.train);"
        "assert resnet_keras.training.memory is m"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_keras", "resnet_keras.training", "resnet_keras.recipe"])
def test_pydoc_shows_it(name):
    done = subprocess.run(
        [sys.executable, "-m", "pydoc", name], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and f"Help on package {name}" in done.stdout, done.stderr
