"""The tables of README.md and docs/recipes.md come from SPECS, recipes and results."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

TOOL = runpy.run_path("tools/model_table.py")
README = Path("README.md").read_text()
ALL = Path("docs/recipes.md").read_text()


def names(rows):
    """The recipes of a table's rows, in order."""
    return [row.split("`")[1] for row in rows if row.startswith("| [`")]


def test_the_recipes_on_both_pages_are_up_to_date():
    assert TOOL["fill"](README, {"recipes": TOOL["selection"]()}) == README
    assert TOOL["fill"](ALL, {"recipes": TOOL["recipes"]()}) == ALL


def test_all_recipes_are_listed_with_what_others_published():
    table = TOOL["recipes"]()[2:]
    rows = dict(zip(names(table), table, strict=True))
    assert set(rows) == {path.stem for path in Path("recipes").glob("*.py")}
    assert "| 76.55/93.06 | OpenMMLab |" in rows["imagenet_resnet50"]
    assert "| 93.39 | He et al. |" in rows["cifar10_resnet110"]
    assert "| 95.61 | Zhong et al. |" in rows["fashion_mnist_resnet20"]
    assert "| 80.858/95.434 | torchvision |" in rows["imagenet_resnet50_torchvision_v2"]
    assert "| 78.48/94.20 | GluonCV |" in rows["imagenet_resnetv1d50_gluoncv"]
    assert "| 76.07 | MLPerf |" in rows["imagenet_resnet50_lars"]
    assert "| 77.12 | NVIDIA |" in rows["imagenet_resnet50_nvidia"]
    assert "| 79.0 | Touvron et al. |" in rows["imagenet_resnet50_fixres"]
    assert "| - | - |" in rows["quickstart"]
    assert "](../recipes/quickstart.py)" in rows["quickstart"]
    assert "](../results/quickstart)" in rows["quickstart"]


def test_the_readme_has_the_measured_recipes_first_and_names_where_all_are():
    *table, _, note = TOOL["selection"]()
    shown = names(table)
    results = {path.parent.name: path for path in Path("results").glob("*/results.json")}
    measured = sorted(n for n, path in results.items() if "top1" in json.loads(path.read_text()))
    assert measured and len(measured) < len(results)  # scenes are in another table
    assert sorted(shown[: len(measured)]) == measured
    assert all("not measured here" in row for row in table[2 + len(measured) :])
    assert 0 < len(shown) - len(measured) < 10 and len(set(shown)) == len(shown)
    everything = len(list(Path("recipes").glob("*.py")))
    assert "[docs/recipes.md](docs/recipes.md)" in note and f"all {everything}." in note
    assert "](recipes/quickstart.py)" in table[2] and "](results/quickstart)" in table[2]


def test_a_selected_recipe_must_exist(project):
    with pytest.raises(SystemExit, match="not in recipes/: cifar10_resnet18, "):
        TOOL["selection"](project("cifar10_resnet20", 0.91))


@pytest.mark.slow
def test_check_of_both_pages(run_python):
    done = run_python("tools/model_table.py", "--check")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path):
    """A folder with a recipe; a call adds a run of it and returns the folder."""
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


def test_a_result_stands_beside_what_was_published(project):
    root = project("cifar10_resnet20", 0.91)
    project("cifar10_resnet20-seed-1", 0.92, seed=1)
    project("cifar10_resnet20-again", 0.90)
    (root / "results" / "cifar10_resnet20-again" / "note.txt").write_text("before a fix\n")
    (row,) = TOOL["recipes"](root)[2:]
    assert "| 91.25 | He et al. |" in row
    assert "[91.00/99.50](../results/cifar10_resnet20)" in row
    assert "[92.00/99.50](../results/cifar10_resnet20-seed-1) with seed 1 |" in row
    assert "[90.00/99.50](../results/cifar10_resnet20-again); before a fix<br>" in row


@pytest.mark.parametrize(
    ("name", "top1", "changes", "words"),
    [("cifar10_resnet20", 0.9, {}, "does not say 90.00 %"),
     ("cifar10_resnet20", 0.91, {"epochs": 3}, "is not of cifar10_resnet20.py: epochs 3"),
     ("other", 0.91, {}, "not named after a recipe")],
)  # fmt: skip
def test_a_result_that_contradicts_its_recipe_is_refused(project, name, top1, changes, words):
    root = project(name, top1, **changes)
    with pytest.raises(SystemExit, match=words):
        TOOL["recipes"](root)


@pytest.mark.parametrize(
    ("name", "measure", "called"),
    [("detect_digits", "coco_map", "COCO mAP"), ("segment_digits", "mean_iou", "mIoU"),
     ("keypoints_digits", "pck", "PCK@0.1")],
)  # fmt: skip
def test_a_task_is_measured_by_what_the_field_calls_it(tmp_path, name, measure, called):
    (tmp_path / "recipes").mkdir()
    text = Path(f"recipes/{name}.py").read_text()
    claim = "Not measured here|[\\d.]+ measured here"  # whichever it says
    text, changed = re.subn(claim, "0.125 measured here", text)
    assert changed == 1
    (tmp_path / "recipes" / f"{name}.py").write_text(text)
    folder = tmp_path / "results" / name
    folder.mkdir(parents=True)
    recipe = runpy.run_path(f"recipes/{name}.py")["RECIPE"]
    (folder / "recipe.json").write_text(json.dumps(recipe.to_json()))
    (folder / "results.json").write_text(json.dumps({measure: 0.125, "measure": measure}))
    (row,) = TOOL["recipes"](tmp_path)[2:]
    assert f"[{called} 0.125](../results/{name})" in row


def test_what_the_machine_settles_is_no_difference(project):
    root = project("cifar10_resnet20", 0.91, precision="mixed_float16", replicas=8, logger="none")
    (row,) = TOOL["recipes"](root)[2:]
    assert "[91.00/99.50](../results/cifar10_resnet20) |" in row


def test_a_recipe_that_denies_its_result_is_refused(project):
    root = project("cifar10_resnet20", 0.91)
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
