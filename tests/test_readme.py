"""Every command of the README exists, and bad ones would be noticed."""

import re
from pathlib import Path

import pytest

README = Path("README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if line.startswith("python")
]


def test_the_two_commands_of_the_start_are_the_first():
    block = re.search(r"```sh\n(.*?)```", README, re.S)[1]
    assert block.splitlines() == [
        "pip install -r requirements.txt",
        "python recipes/quickstart.py",
    ]
    assert Path("requirements.txt").read_text().splitlines()[-1] == "-e ."


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_and_files_of_commands_exist(command, run_python):
    words = command.split()[1:]
    script = words[:3] if words[0] == "-m" else words[:1]
    done = run_python(*script, "--help")
    assert done.returncode == 0, done.stderr
    for flag in (word for word in words[len(script) :] if word.startswith("--")):
        assert flag in done.stdout, flag


def test_recipes_of_the_table_are_the_recipes_there_are():
    named = set()
    for name in re.findall(r"\| `(\S+)\.py` \|", README):
        base, *numbers = re.split(r"[{}]", name)
        named |= {base + n for n in numbers[0].split(",")} if numbers else {base}
    assert named == {path.stem for path in Path("recipes").glob("*.py")}


def test_it_is_short():
    assert len(README.splitlines()) < 200
