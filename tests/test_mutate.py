"""tools/mutate.py knows files that are there, and equivalents of the code as it is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import mutate_tests  # noqa: E402

ENTRIES = tomllib.loads((ROOT / "tools" / "mutate_equivalents.toml").read_text())["equivalent"]


@pytest.mark.parametrize("module", mutate_tests.TESTS)
def test_a_module_and_its_tests_are_there(module):
    package = ROOT / "resnet_keras"
    assert (package / module).is_dir() or (package / f"{module}.py").is_file()
    for name in mutate_tests.tests_of(module):
        file, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / file).read_text()
        assert (ROOT / file).is_file()


@pytest.mark.parametrize("path", mutate_tests.SPECIFIC)
def test_what_has_tests_of_its_own_is_there_and_so_are_they(path):
    package = ROOT / "resnet_keras"
    assert (package / path).is_dir() or (package / f"{path}.py").is_file()
    tests = mutate_tests.specific_to(f"resnet_keras/{path}.py")
    assert tests and all((ROOT / file).is_file() for file in tests)
    assert {*tests} <= {t.partition("::")[0] for t in mutate_tests.tests_of(path.split("/")[0])}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["reason"])
def test_an_equivalent_is_one_of_the_code_as_it_is(entry):
    lines = entry["diff"].strip("\n").splitlines()
    removed = "\n".join(line[1:] for line in lines if line.startswith("-"))
    assert {line[0] for line in lines} <= {"-", "+"} and entry["reason"]
    assert f"\n{removed}\n" in (ROOT / entry["file"]).read_text()


def test_a_sample_depends_on_the_seed_alone_and_holds_what_counts():
    pytest.importorskip("mutmut.mutation.mutators")

    def drawn(*flags):
        command = [sys.executable, "tools/mutate.py", "losses", "--list", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    first = drawn("--mutants", "15")
    assert first == drawn("--mutants", "15") and drawn("--mutants", "25").startswith(first)
    assert first != drawn("--mutants", "15", "--seed", "1")
    assert first.count("resnet_keras/losses.py:") == 15
    changed = [line for line in drawn("--mutants", "99").splitlines() if line.startswith("+")]
    assert not any("raise " in line or '"""' in line for line in changed)
