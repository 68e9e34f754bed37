"""The notebooks run from the first cell to the last, and leave the files that they promise."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

import resnet_keras

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code(path):
    """The code cells of a notebook."""
    return [
        "".join(cell["source"])
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_has_no_outputs_and_uses_public_names(path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < 20_000 and notebook["nbformat"] == 4
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    tree = ast.parse("\n".join(code(path)))
    used = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "resnet_keras"
        for alias in node.names
    ]
    assert used and set(used) <= set(resnet_keras.__all__)


def test_links_of_notebooks_lead_somewhere():
    for path in NOTEBOOKS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), target


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes a notebook in an empty folder, which it gives."""
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[test]'")
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[test]'")
    pytest.importorskip("ipykernel", reason="pip install -e '.[test]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))

    def execute(name):
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
        return tmp_path

    return execute


@pytest.mark.slow
def test_own_images_are_learned_and_exported(executed):
    run = executed("own_images") / "runs" / "my_images"
    results = json.loads((run / "results.json").read_text())
    # Of 1,797 digits about a fifth is tested on; a guess would be right in a tenth of the cases.
    assert 300 < results["examples"] < 420 and results["top1"] > 0.9
    report = json.loads((run / "int8.tflite.report.json").read_text())
    assert report["kept"] and (run / "int8.tflite").stat().st_size == report["bytes"]


@pytest.mark.slow
def test_a_converted_network_is_exported_twice_and_goes_back_to_pytorch(executed):
    folder = executed("convert_and_export")  # its own assertions compare the numbers
    for name in ("ours.keras", "ours.json", "ours.tflite", "ours.onnx", "for_pytorch.safetensors"):
        assert (folder / name).stat().st_size > 100
