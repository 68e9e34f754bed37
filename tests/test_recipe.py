"""A recipe is a table row: its ranges, its command line, its learning rate."""

import dataclasses
import json
import runpy
import sys

import pytest

from resnet_keras import Recipe
from resnet_keras.terminal import InputError

ROW = Recipe(
    model="resnet50", dataset="imagenet2012", epochs=100, schedule="step", milestones=(30, 60, 90)
)


def test_rate_of_the_imagenet_rows():
    # 1,281,167 pictures in batches of 256: 5005 steps, as OpenMMLab's logs have them.
    assert ROW.steps_per_epoch(1_281_167) == 5005
    knots = {0: 0.1, 30 * 5005 - 1: 0.1, 30 * 5005: 0.01, 60 * 5005: 1e-3, 90 * 5005: 1e-4}
    for step, rate in knots.items():
        assert ROW.rate(step) == pytest.approx(rate)
    assert ROW.rate(100 * 5005 - 1) == pytest.approx(1e-4)


def test_cosine_with_warm_up():
    recipe = dataclasses.replace(
        ROW, schedule="cosine", milestones=(), epochs=10, warmup_epochs=2, learning_rate=1.0
    )
    rates = [recipe.rate(i, steps_per_epoch=5) for i in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0 and rates[30] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[49] < 0.002


def test_rate_of_an_unknown_data_set_wants_the_steps():
    recipe = dataclasses.replace(ROW, dataset="imagenette")
    with pytest.raises(InputError, match="steps_per_epoch"):
        recipe.rate(0)
    assert recipe.rate(0, steps_per_epoch=10) == 0.1


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 0}, {"epochs": -1}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
     {"momentum": 1.0}, {"min_area": 0.0}, {"milestones": (60, 30)}, {"std": (0.0,)},
     {"replicas": 0}, {"padding": -1}, {"batch_size": 255, "replicas": 2}, {"seed": -1}],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(change):
    with pytest.raises(InputError, match=f"`{next(iter(change))}` must.*Received: "):
        dataclasses.replace(ROW, **change)


def test_command_line_changes_a_recipe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipes/row.py", "--epochs", "3", "--milestones", "1", "2"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    recipe = ROW.parse()
    assert (recipe.epochs, recipe.milestones, str(recipe.run_dir)) == (3, (1, 2), "runs/row")
    assert recipe.learning_rate == ROW.learning_rate


@pytest.mark.parametrize(
    "arguments",
    [("--epochs", "0"), ("--epochs", "many"), ("--no-such-flag", "1"), ("--batch-size", "-8"),
     ("--precision", "float8"), ("--replicas", "3", "--batch-size", "64"), ("--epochs",)],
)  # fmt: skip
def test_bad_arguments_are_one_line_and_code_2(run_python, arguments):
    done = run_python("recipes/quickstart.py", *arguments)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and arguments[0].lstrip("-").split("-")[0] in line


def test_help_shows_the_claim_and_needs_no_tensorflow(run_python):
    code = (
        "import runpy, sys; sys.argv = ['recipes/quickstart.py', '--help']\n"
        "try: runpy.run_path('recipes/quickstart.py', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "handwritten digits" in done.stdout and "--learning-rate" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


RECIPES = ("quickstart", "fashion_mnist_resnet20", "cifar10_resnet18", "imagenet_resnet50")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_files_are_recipes(name):
    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))).identity() == recipe.identity()
