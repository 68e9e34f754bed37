"""The oldest and the newest set that pyproject.toml allows, on each Python that is here."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

EXTRAS = ("train", "export")

# A part of the suite: what each dependency is used for.
PART = """
    test_models test_layers test_recompute test_optimizers test_optimizers_averages
    test_optimizers_keras test_losses test_pickle test_weights
    test_weight_files test_internals test_recipe test_main test_job test_machine
    test_training test_resume test_exporting test_exporting_onnx test_report test_folders
    test_formats
""".split()

# Tools of the suite are those that run it now.
TOOLS = (
    *("pytest", "pytest-xdist", "hypothesis", "jax", "huggingface_hub"),
    *("websocket-client", "pyyaml"),
)


def lowest(dependency):
    """`tensorflow>=2.21,<2.22` -> `tensorflow==2.21`."""
    name, bound = re.fullmatch(r"([\w-]+)>=([\w.]+)(?:,<[\w.]+)?", dependency).groups()
    return f"{name}=={bound}"


def is_here(python):
    """Whether it runs: of pyenv there is a name of each version that any folder may use."""
    return shutil.which(python) is not None and subprocess.run([python, "-V"]).returncode == 0


# All that `pip install resnet-keras[all]` brings.
NEEDED = [
    line
    for group in (PROJECT["dependencies"], *map(PROJECT["optional-dependencies"].get, EXTRAS))
    for line in group
    if not line.startswith("resnet-keras")
]
SETS = {"oldest": [lowest(line) for line in NEEDED], "newest": NEEDED}


def test_every_dependency_has_an_oldest_version():
    assert "keras==3.15" in SETS["oldest"] and len(SETS["oldest"]) > 15


@pytest.mark.slow
@pytest.mark.parametrize("chosen", SETS)
@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13"])
def test_a_part_of_the_suite(tmp_path, python, chosen):
    if not is_here(python):
        pytest.skip(f"{python} is not here")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    inside = tmp_path / "venv" / "bin" / "python"
    # JAX of a newer Python is not always there for an older one.
    same = f"python3.{sys.version_info.minor}" == python and chosen == "newest"
    tools = [f"{name}=={version(name)}" if same else name for name in TOOLS]
    subprocess.run(
        [inside, "-m", "pip", "install", "-q", *SETS[chosen], *tools], check=True, timeout=3000
    )
    subprocess.run([inside, "-m", "pip", "check"], check=True)
    # Warnings of other versions than the pinned ones are their own; some tests start pytest again.
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTEST_ADDOPTS": "-W default",
    }  # fmt: skip
    done = subprocess.run(
        [inside, "-m", "pytest", "-p", "no:cacheprovider",
         *(f"tests/{name}.py" for name in PART)],
        cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, text=True, timeout=7200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
