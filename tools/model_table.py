"""Write the README's tables from SPECS, recipes/ and results/, or check that they are so.

    python tools/model_table.py
    python tools/model_table.py --check

A result is a folder `results/RECIPE` or `results/RECIPE-what-was-different` with the `recipe.json`,
`log.csv` and `results.json` of a run.
"""

import argparse
import ast
import json
import re
import runpy
import sys
from pathlib import Path

from resnet_keras.console import load_tensorflow
from resnet_keras.recipe import KNOWN, Recipe
from resnet_keras.specs import SPECS

ROOT = Path(__file__).parents[1]

# The machine's, not the recipe's.
FREE = ("replicas", "precision")

PUBLISHED = re.compile(r"([\d.]+) % top-1(?:, ([\d.]+) % top-5)? published")
BY = ("OpenMMLab", "He et al.", "Zhong et al.", "Wightman et al.")


def models() -> list[str]:
    """One row a network of SPECS, counted on the network that the builder makes."""
    load_tensorflow()
    import keras

    from resnet_keras.models import count
    from resnet_keras.zoo import ResNet

    rows = [
        "| name | image | parameters | multiply-adds | OpenMMLab's FLOPs |",
        "|---|---|---:|---:|---:|",
    ]
    for name in SPECS:
        # Only the shapes are asked for: no weight is drawn.
        with keras.StatelessScope(initialize_variables=False):
            model = ResNet(name)
            counts = count(model)
        size = model.input_shape[1]
        rows.append(
            f"| `{name}` | {size} | {counts['params']:,} | {_short(counts['macs'])} | "
            f"{_short(counts['flops_mmcv'])} |"
        )
    return rows


def _short(number: int) -> str:
    return f"{number / 1e9:.3f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"


def recipes(root: Path = ROOT) -> list[str]:
    """One row a recipe: what others published for it, and what was measured with it.

    Raises:
        SystemExit: a result that is no recipe's, or a docstring that says otherwise.
    """
    files = sorted((root / "recipes").glob("*.py"), key=_place)
    stems = [path.stem for path in files]
    results = sorted((root / "results").glob("*/results.json"))
    owners = {path: _owner(path.parent.name, stems) for path in results}
    rows = [
        "| recipe | published by others, top-1/top-5 in % | by | measured here, top-1/top-5 in % |",
        "|---|---|---|---|",
    ]
    for path in files:
        claim = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
        found = PUBLISHED.search(claim)
        published = "/".join(filter(None, found.groups())) if found else "-"
        by = next((name for name in BY if name in claim), "-") if found else "-"
        own = [result.parent for result, owner in owners.items() if owner == path.stem]
        measured = "<br>".join(_measured(folder, path, claim) for folder in own)
        link = f"[`{path.stem}`](recipes/{path.name})"
        rows.append(f"| {link} | {published} | {by} | {measured or 'not measured here'} |")
    return rows


def fill(text: str, tables: dict[str, list[str]]) -> str:
    """A document with the lines between `<!-- NAME -->` and `<!-- /NAME -->` replaced.

    Raises:
        SystemExit: it has no such place.
    """
    for name, rows in tables.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->\n)", re.S)
        if not pattern.search(text):
            raise SystemExit(f"no place for the table: <!-- {name} --> and <!-- /{name} -->")
        lines = "".join(f"{row}\n" for row in ["", *rows, ""])
        text = pattern.sub(lambda match, lines=lines: match[1] + lines + match[2], text)
    return text


def _recipe(path: Path) -> Recipe:
    """The recipe of a file; it may be a change of another one beside it."""
    sys.path.insert(0, str(path.parent))
    try:
        return runpy.run_path(str(path))["RECIPE"]
    finally:
        sys.path.remove(str(path.parent))


def _place(path: Path) -> tuple:
    """Order: by the size of the data set, then by name, numbers as numbers."""
    dataset = _recipe(path).dataset
    known = list(KNOWN)
    numbers = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]
    return known.index(dataset) if dataset in known else len(known), numbers


def _owner(folder: str, stems: list[str]) -> str:
    """The recipe of a result, by the folder's name."""
    fitting = [stem for stem in stems if folder == stem or folder.startswith(f"{stem}-")]
    if not fitting:
        raise SystemExit(f"results/{folder} is named after no recipe")
    return max(fitting, key=len)


def _measured(folder: Path, recipe: Path, claim: str) -> str:
    """What a run reached, and in which fields it was not the recipe as it stands."""
    results = json.loads((folder / "results.json").read_text())
    if "Not measured here" in claim:
        raise SystemExit(
            f"{recipe.name} says that it is not measured, but results/{folder.name} is"
        )
    theirs = json.loads((folder / "recipe.json").read_text())
    defaults = Recipe(model="", dataset="").to_json()
    ours = _recipe(recipe).identity()
    other = [
        f"{name} {theirs.get(name, defaults[name])}"
        for name in ours
        if name not in FREE and theirs.get(name, defaults[name]) != ours[name]
    ]
    accuracy = f"{100 * results['top1']:.2f}/{100 * results['top5']:.2f}"
    plain = folder.name == recipe.stem
    if plain and other:
        raise SystemExit(f"results/{folder.name} is not of {recipe.name}: {', '.join(other)}")
    if plain and f"{100 * results['top1']:.2f} %" not in claim:
        raise SystemExit(f"{recipe.name} does not say {100 * results['top1']:.2f} %, as measured")
    how = f" with {', '.join(other)}" if other else ""
    note = folder / "note.txt"  # what was different that no field says
    how += f"; {note.read_text().strip()}" if note.exists() else ""
    return f"[{accuracy}](results/{folder.name}){how}"


def main() -> None:
    """Write README.md; with `--check`, only compare, and exit with 1 where it is stale."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = fill(before, {"models": models(), "recipes": recipes()})
    if before == after:
        return
    if check:
        raise SystemExit("README.md is stale: run `python tools/model_table.py`")
    readme.write_text(after)
    print("README.md is written", file=sys.stderr)


if __name__ == "__main__":
    main()
