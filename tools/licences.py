"""Lists what this project needs, directly or not, with its licence: `docs/licences.md`.

    python tools/licences.py [--check]

It reads what is installed beside this project; nothing is asked for over a network. With `--check`
nothing is written: the exit code is 1 where the page lacks a distribution.
"""

import argparse
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- licences -->\n", "<!-- /licences -->"
BEGIN_TOOLS, END_TOOLS = "<!-- tools -->\n", "<!-- /tools -->"


def closure() -> set[str]:
    """The installed distributions that this project needs, directly or not."""
    # Not from what is installed of it: that says what it needed when it was installed.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["train"], *extras["export"]]
    needed = [line for line in needed if not line.startswith(project["name"])]
    lines, found, seen = [(line, "") for line in needed], set(), set()
    while lines:
        line, extra = lines.pop()
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        for part in ("", *need.extras):
            if (need.name, part) in seen:
                continue
            seen.add((need.name, part))
            try:
                needs = distribution(need.name).requires or []
            except PackageNotFoundError:
                continue  # of an optional part that is not installed
            found.add(canonical(need.name))
            lines += [(line, part) for line in needs]
    return found


def tools() -> set[str]:
    """What the extras `test` and `docs` name beyond that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = {canonical(Requirement(line).name) for line in (*extras["test"], *extras["docs"])}
    return names - {project["name"]} - closure()


def canonical(name: str) -> str:
    """A name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(name: str) -> str:
    """What a distribution says of its licence: an SPDX expression, a word, or its classifiers."""
    metadata = distribution(name).metadata
    expression, word = metadata["License-Expression"], (metadata["License"] or "").strip()
    if expression:
        return expression
    classifiers = [
        line.rsplit(" :: ", 1)[1]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    if word and "\n" not in word and len(word) < 60 and word != "UNKNOWN":
        return word
    return ", ".join(classifiers) or _from_text(name)


def _from_text(name: str) -> str:
    """The title of a licence's text, where the metadata say nothing."""
    for file in distribution(name).files or ():
        if re.match(r"(?i)(licen[cs]e|copying)", file.name):
            lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
            return f"{lines[0]} (its file {file.name})"
    return "not said"


def pinned() -> list[str]:
    """The distributions of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [canonical(line.split("==")[0]) for line in lines if "==" in line]


def table() -> str:
    """A row a distribution, those that are pinned first."""
    first = sorted(pinned())
    return _rows([f"**{name}**" for name in first] + sorted(closure() - set(first)))


def _rows(names: list[str]) -> str:
    rows = ["| distribution | licence |", "|---|---|"]
    rows += [f"| {name} | {licence(name.strip('*')).replace('|', '/')} |" for name in names]
    return "\n" + "\n".join(rows) + "\n\n"


def listed() -> set[str]:
    """The distributions on the page."""
    return set(re.findall(r"^\| \**([a-z0-9-]+)\** \|", PAGE.read_text(), re.M)) - {"distribution"}


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        lacking = (closure() | set(pinned()) | tools()) - listed()
        if lacking:
            print(f"docs/licences.md lacks {', '.join(sorted(lacking))}", file=sys.stderr)
        return bool(lacking)
    text = PAGE.read_text()
    for begin, end, rows in (
        (BEGIN, END, table()),
        (BEGIN_TOOLS, END_TOOLS, _rows(sorted(tools()))),
    ):
        head, rest = text.split(begin)
        text = head + begin + rows + end + rest.split(end)[1]
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
