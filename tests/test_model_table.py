"""The README's tables come from SPECS, recipes and results; a stale one is noticed."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

TOOL = runpy.run_path("tools/model_table.py")
README = Path("README.md").read_text()


def test_the_recipes_of_the_readme_are_those_that_there_are():
    assert TOOL["fill"](README, {"recipes": TOOL["recipes"]()}) == README


def test_rows_that_others_published():
    rows = {row.split("`")[1]: row for row in TOOL["recipes"]()[2:]}
    assert set(rows) == {path.stem for path in Path("recipes").glob("*.py")}
    assert "| 76.55/93.06 | OpenMMLab |" in rows["imagenet_resnet50"]
    assert "| 93.39 | He et al. |" in rows["cifar10_resnet110"]
    assert "| 95.61 | Zhong et al. |" in rows["fashion_mnist_resnet20"]
    assert "| - | - |" in rows["quickstart"]


@pytest.mark.slow
def test_the_whole_check(run_python):
    done = run_python("tools/model_table.py", "--check")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def house(tmp_path):
    """A recipe and the result of a run of it."""
    (tmp_path / "recipes").mkdir()
    text = Path("recipes/cifar10_resnet20.py").read_text()
    text = text.replace("Not measured here", "Measured here: 91.00 %")
    (tmp_path / "recipes" / "cifar10_resnet20.py").write_text(text)
    recipe = runpy.run_path("recipes/cifar10_resnet20.py")["RECIPE"]

    def add(name, top1, **changes):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        fields = recipe.to_json() | {"run_dir": "elsewhere"} | changes
        (folder / "recipe.json").write_text(json.dumps(fields))
        (folder / "results.json").write_text(json.dumps({"top1": top1, "top5": 0.995}))
        return tmp_path

    return add


def test_a_result_stands_beside_what_was_published(house):
    root = house("cifar10_resnet20", 0.91)
    house("cifar10_resnet20-seed-1", 0.92, seed=1)
    house("cifar10_resnet20-again", 0.90)
    (root / "results" / "cifar10_resnet20-again" / "note.txt").write_text("before a fix\n")
    (row,) = TOOL["recipes"](root)[2:]
    assert "| 91.25 | He et al. |" in row
    assert "[91.00/99.50](results/cifar10_resnet20)" in row
    assert "[92.00/99.50](results/cifar10_resnet20-seed-1) with seed 1 |" in row
    assert "[90.00/99.50](results/cifar10_resnet20-again); before a fix<br>" in row


@pytest.mark.parametrize(
    ("name", "top1", "changes", "words"),
    [("cifar10_resnet20", 0.9, {}, "does not say 90.00 %"),
     ("cifar10_resnet20", 0.91, {"epochs": 3}, "is not of cifar10_resnet20.py: epochs 3"),
     ("other", 0.91, {}, "named after no recipe")],
)  # fmt: skip
def test_a_result_that_contradicts_its_recipe_is_refused(house, name, top1, changes, words):
    root = house(name, top1, **changes)
    with pytest.raises(SystemExit, match=words):
        TOOL["recipes"](root)


def test_a_recipe_that_denies_its_result_is_refused(house):
    root = house("cifar10_resnet20", 0.91)
    shutil.copy("recipes/cifar10_resnet20.py", root / "recipes")
    with pytest.raises(SystemExit, match="says that it is not measured"):
        TOOL["recipes"](root)


def test_only_what_is_between_the_marks_is_written():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    new = TOOL["fill"](text, {"x": ["| 1 |"]})
    assert new == "a\n<!-- x -->\n\n| 1 |\n\n<!-- /x -->\nb\n"
    assert TOOL["fill"](new, {"x": ["| 1 |"]}) == new
    with pytest.raises(SystemExit, match="no place"):
        TOOL["fill"]("a\n", {"x": []})
