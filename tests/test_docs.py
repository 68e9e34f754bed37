"""Every command in README.md and docs/ is run, or says in its first line what it needs.

Where that is missing, recipes are run with `--dry-run`; of other commands it is tested that their
verb and their flags exist.
"""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import forks

from resnet_keras import Recipe
from resnet_keras.__main__ import VERBS

PAGES = ["README.md", *sorted(str(path) for path in Path("docs").glob("*.md"))]

# Run by `.ci/run`, or a whole training, which test_recipes.py runs with fewer epochs.
ELSEWHERE = ("pip install -r requirements.txt", "python recipes/quickstart.py")

# Programs of others, in blocks that need something.
OTHERS = ("grep ", "pip install ", "pip-audit ", "pnnx ", "tensorflowjs_converter ", "docker ")


def blocks(page):
    """`(language, needs something, lines)` of each block of commands or code."""
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", Path(page).read_text(), re.S):
        needs = block.startswith("# needs ")
        yield language, needs, block.splitlines()[needs:]


def commands(page):
    """Commands and code that are run, in order."""
    for language, needs, lines in blocks(page):
        if not needs:
            yield from lines if language == "sh" else ["\n".join(lines)]


def unrun(page):
    """Commands that are not run: those of blocks that need something, and those within the text."""
    found = [
        line for language, needs, lines in blocks(page) if needs and language == "sh"
        for line in lines if not line.startswith(OTHERS)
    ]  # fmt: skip
    text = re.sub(r"```.*?```", "", Path(page).read_text(), flags=re.S)
    found += re.findall(r"`(python (?:recipes/|tools/|-m )[^`]+)`", text)
    # Without the variables in front.
    return [line[line.index("python ") :] for line in found]


# Trainings and exports, which take minutes together; by default only their flags are tried.
SLOW_PAGES = (
    "docs/train.md",
    "docs/images.md",
    "docs/resume.md",
    "docs/distributed.md",
    "docs/export.md",
    "docs/backbones.md",
)


def parameters(pairs):
    """Pages and commands as parameters of a test."""
    return [
        pytest.param(page, command, id=f"{page}: {command.splitlines()[-1]}")
        for page, command in pairs
    ]


RUN = [(page, command) for page in PAGES for command in commands(page) if command not in ELSEWHERE]
SLOW = [(page, what) for page, what in RUN if page in SLOW_PAGES or "quickstart.py" in what]
QUICK = [pair for pair in RUN if pair not in SLOW]
UNRUN = [(page, command) for page in PAGES for command in dict.fromkeys(unrun(page))]
TRIED = UNRUN + [(page, command) for page, command in SLOW if command.startswith("python ")]


def as_dry_run(command):
    """What of a command can be tried without what it needs."""
    words = shlex.split(command)
    if words[1].startswith("recipes/"):
        there = {"--dry-run", "--help"} & set(words)
        return command if there else f"{command} --dry-run"
    script = words[:4] if words[1] == "-m" else words[:2]
    return shlex.join([*script, "--help"])


def read(folder, listed, runs, data_dir):
    """Do what pages say, one command after the other in one folder; gives what each answered."""
    for name in ("recipes", "tools"):
        (folder / name).symlink_to(Path(name).absolute())
    for name, run in runs.items():
        shutil.copytree(run, folder / "runs" / name)
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / "my_images" / label).mkdir(parents=True)
        for i in range(1, 7):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "my_images" / label / f"{i}.jpg")
    environment = {"TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": str(Path.cwd())}
    # Virtual devices are set up before TensorFlow is loaded: a process of its own.
    alone = [c for c in listed if "--replicas" in c and "--dry-run" not in c]
    with forks(folder, **environment) as ask:
        answers = [(command, ask(command)) for command in listed if command not in alone]
    for command in alone:
        done = subprocess.run(
            [sys.executable, *shlex.split(command)[1:]], cwd=folder, timeout=1200, text=True,
            env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        answers.append((command, {"code": done.returncode, "output": done.stdout}))
    return answers


@pytest.fixture(scope="module")
def quick(tmp_path_factory, digits_run, data_dir):
    """What the quick commands answered."""
    listed = [command for _, command in QUICK]
    runs = {"quickstart": digits_run, "short": digits_run}  # docs/report.md trains the second
    return dict(read(tmp_path_factory.mktemp("reader"), listed, runs, data_dir))


@pytest.fixture(scope="module")
def tried(tmp_path_factory, digits_run, data_dir):
    """What those commands answered that need something, without it."""
    listed = dict.fromkeys(as_dry_run(command) for _, command in TRIED)
    runs = {"quickstart": digits_run}
    return dict(read(tmp_path_factory.mktemp("reader"), listed, runs, data_dir))


@pytest.fixture(scope="module")
def slow(tmp_path_factory, digits_run, data_dir):
    """What the others answered, twice the same where a page has it twice."""
    listed = [command for _, command in SLOW]
    return read(tmp_path_factory.mktemp("reader"), listed, {"quickstart": digits_run}, data_dir)


@pytest.mark.parametrize(("page", "command"), parameters(QUICK))
def test_what_a_page_shows_can_be_done(page, command, quick):
    assert quick[command]["code"] == 0, quick[command]["output"]
    assert "Traceback" not in quick[command]["output"]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), parameters(dict.fromkeys(SLOW)))
def test_what_a_page_shows_in_minutes_can_be_done(page, command, slow):
    given = [answer for asked, answer in slow if asked == command]
    for answer in given:
        assert answer["code"] == 0, answer["output"]
        assert "Traceback" not in answer["output"]
    if len(given) == 2:  # docs/resume.md
        assert "is finished: top-1" in given[1]["output"]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), parameters(dict.fromkeys(TRIED)))
def test_what_needs_something_is_tried_without_it(page, command, tried):
    words = shlex.split(command)
    answer = tried[as_dry_run(command)]
    assert answer["code"] == 0, answer["output"]
    if words[1].startswith("recipes/") and "--help" not in words:
        assert '"total_steps":' in answer["output"]
    else:
        flags = {word for word in words if word.startswith("--")}
        assert flags <= set(re.findall(r"--[\w-]+", answer["output"]))


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_overlooked(page):
    for language, needs, lines in blocks(page):
        known = ("python ", "KERAS_BACKEND=", *(OTHERS if needs else ()))
        commands = [line for line in lines if language == "sh" and line not in ELSEWHERE]
        assert all(line.startswith(known) for line in commands)
    for block in Path(page).read_text().split("```")[1::2]:
        language, _, text = block.partition("\n")
        shown = re.search(r"^(\$ )?([A-Z_]+=\S+ )*(pip|python)", text, re.M)
        assert language in ("sh", "python") or not shown, block


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_flags_in_the_text_are_flags(page):
    known = {field.name for field in dataclasses.fields(Recipe)}
    for verb in VERBS.values():
        for name, kind in typing.get_type_hints(verb).items():
            fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
            known |= {name, *(field.name for field in fields)}
    for tool in Path("tools").glob("*.py"):
        known |= set(re.findall(r'add_argument\("--([\w-]+)"', tool.read_text()))
    known = {f"--{name.replace('_', '-')}" for name in known} | {"--help"}
    text = re.sub(r"```.*?```", "", Path(page).read_text(), flags=re.S)
    assert set(re.findall(r"`(--[\w-]+)", text)) <= known


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", Path(page).read_text()):
        assert "://" in target or (Path(page).parent / target).exists(), target


def test_the_two_commands_of_the_start_are_the_first():
    language, needs, lines = next(iter(blocks("README.md")))
    assert (language, needs, tuple(lines)) == ("sh", False, ELSEWHERE)
    assert Path("requirements.txt").read_text().splitlines()[-1] == "-e ."


def test_the_readme_is_short_and_shows_an_image():
    assert len(Path("README.md").read_text().splitlines()) < 200
    shown = Path("docs/report.png")
    assert shown.stat().st_size < 200_000
    with Image.open(shown) as image:
        assert image.width >= 1000
