"""Write the tables of README.md, docs/recipes.md and docs/zoo.md from their sources.

    python tools/model_table.py
    python tools/model_table.py --check

These are SPECS, recipes/, results/ and the table of published weights. README.md has the measured
recipes and a few others, docs/recipes.md has all. A result is a folder
`results/RECIPE`, or `results/RECIPE-CHANGE` for a run with other values, with the `recipe.json`,
`log.csv` and `results.json` of the run.
"""

import argparse
import ast
import json
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path

from resnet_keras.console import load_tensorflow
from resnet_keras.published import pretrained
from resnet_keras.recipe import KNOWN, Row, columns
from resnet_keras.specs import SPECS

ROOT = Path(__file__).parents[1]

PUBLISHED = re.compile(r"([\d.]+) % top-1(?:, ([\d.]+) % top-5)? published")
BY = (
    *("Touvron et al.", "OpenMMLab", "He et al.", "Zhong et al.", "Wightman et al."),
    *("torchvision", "GluonCV", "MLPerf", "NVIDIA"),
)

# Shown in README.md after the measured ones: one of each kind.
SELECTED = (
    "cifar10_resnet18",
    "imagenet_resnet50",
    "imagenet_resnet50_rsb_a1",
    "imagenet_resnet50_torchvision_v2",
    "imagenet_resnetv1d50",
    "finetune_resnet50",
)

# Rows of the first table of README.md: what was measured, the file in results/benchmarks, the title
# there, and with whom ours is compared.
BENCHMARKS = (
    ("Training ResNet-50 in bfloat16, images per second", "train-resnet50-bfloat16",
     "training resnet50, bfloat16, batch 32",
     {"keras.applications": "keras.applications", "torch, eager": "PyTorch"}),
    ("Predicting with ResNet-50, images per second", "infer",
     "predicting with ResNet-50, batch 32",
     {"keras.applications' predict": "keras.applications"}),
    ("Reading and augmenting JPEG files on one core, images per second", "pipeline",
     "training pipeline, 500x375 JPEG to 224x224, one core", {"torchvision": "torchvision"}),
)  # fmt: skip

HEADER = [
    "| recipe | published by others, top-1/top-5 in % | by | measured here, top-1/top-5 in % |",
    "|---|---|---|---|",
]


def models() -> list[str]:
    """Return the table of the networks, counted on what the builder makes."""
    load_tensorflow()
    import keras

    from resnet_keras import ResNet
    from resnet_keras.models import count

    rows = [
        "| name | image | parameters | multiply-adds | OpenMMLab's FLOPs |",
        "|---|---|---:|---:|---:|",
    ]
    for name in SPECS:
        # Only shapes are needed, no weights.
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
    """Return the table of all recipes: what others published, and what was measured here.

    The links are relative to docs/.

    Raises:
        SystemExit: a result that belongs to no recipe, or that its recipe's docstring contradicts.
    """
    return [*HEADER, *(row for row, _ in _rows(root, "../").values())]


def selection(root: Path = ROOT) -> list[str]:
    """Return the table of the measured classifiers, then of a few others, with a link to all.

    What tasks on scenes have reached is not of these columns; `measured` has it.

    The links are relative to the root.

    Raises:
        SystemExit: as `recipes`; or a selected recipe that does not exist.
    """
    rows = _rows(root, "")
    missing = [name for name in SELECTED if name not in rows]
    if missing:
        raise SystemExit(f"selected, but not in recipes/: {', '.join(missing)}")
    classifiers = [
        name for name in rows if hasattr(_recipe(root / "recipes" / f"{name}.py"), "dataset")
    ]
    measured = [name for name in classifiers if rows[name][1]]
    shown = [*measured, *(name for name in SELECTED if name not in measured)]
    note = (
        f"These are the measured classifiers and a selection of the others; "
        f"[docs/recipes.md](docs/recipes.md) lists all {len(rows)}."
    )
    return [*HEADER, *(rows[name][0] for name in shown), "", note]


def measured() -> list[str]:
    """Return the table of what was measured here: accuracies, then speeds beside those of others.

    The links are relative to the root.
    """
    rows = ["| measured on one or two CPU cores | result | command |", "|---|---|---|"]
    for path in sorted((ROOT / "recipes").glob("*.py"), key=_place):
        folder = ROOT / "results" / path.stem
        if not (folder / "results.json").exists():
            continue
        results, recipe = json.loads((folder / "results.json").read_text()), _recipe(path)
        minutes, seconds = divmod(round(results["train_seconds"]), 60)
        if "top1" in results:
            what = f"`{recipe.model}` on {recipe.dataset}, {results['examples']:,} test images"
            result = f"{100 * results['top1']:.2f} % top-1"
        else:
            what = f"{recipe.TASK} with `{recipe.model}`, {results['scenes']:,} test scenes"
            result = f"{recipe.MEASURE} {results[results['measure']]:.3f}"
        rows.append(
            f"| {what} | [{result}](results/{path.stem}), trained in {minutes} min {seconds} s | "
            f"`python recipes/{path.name}` |"
        )
    for what, name, title, peers in BENCHMARKS:
        found = json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text())
        table = found["measured"][title]["table"]
        ours = next(iter(table.values()))
        others = ", ".join(
            f"{label} {_rounded(table[peer]['images_per_second'])} ({table[peer]['ours_is']:.2f} x)"
            for peer, label in peers.items()
        )
        rows.append(
            f"| {what} | [{_rounded(ours['images_per_second'])}]"
            f"(results/benchmarks/{name}.json); {others} | `{found['command']}` |"
        )
    return rows


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def _rows(root: Path, up: str) -> dict[str, tuple[str, bool]]:
    """By recipe: its row, whose links begin with `up`, and whether it was measured."""
    files = sorted((root / "recipes").glob("*.py"), key=_place)
    stems = [path.stem for path in files]
    results = sorted((root / "results").glob("*/results.json"))
    owners = {path: _owner(path.parent.name, stems) for path in results}
    rows = {}
    for path in files:
        claim = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
        found = PUBLISHED.search(claim)
        published = "/".join(filter(None, found.groups())) if found else "-"
        by = next((name for name in BY if name in claim), "-") if found else "-"
        own = [result.parent for result, owner in owners.items() if owner == path.stem]
        measured = "<br>".join(_measured(folder, path, claim, up) for folder in own)
        link = f"[`{path.stem}`]({up}recipes/{path.name})"
        row = f"| {link} | {published} | {by} | {measured or 'not measured here'} |"
        rows[path.stem] = row, bool(own)
    return rows


def zoo() -> list[str]:
    """Return the table of published weights."""
    rows = [
        "| name | network | published top-1/top-5 in % | image, short edge | hash | licence |",
        "|---|---|---|---|---|---|",
    ]
    for row in pretrained():
        accuracy = "/".join(f"{x:g}" for x in (row.top1, row.top5) if x is not None) or "-"
        images, digits = row.preprocessing, row.sha256 or row.md5
        size = f"{images.size[0]}, {images.resize}" if images.resize else f"{images.size[0]}"
        link = row.url.replace("hf://", "https://huggingface.co/")
        rows.append(
            f"| [`{row.name}`]({link}) | `{row.model}` | {accuracy} | {size} | "
            f"{digits[:8] if digits else '-'} | {row.licence or '-'} |"
        )
    return rows


def fill(text: str, tables: dict[str, list[str]]) -> str:
    """Return a document with the lines between `<!-- NAME -->` and `<!-- /NAME -->` replaced.

    Raises:
        SystemExit: the document has no such comments.
    """
    for name, rows in tables.items():
        place = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->\n", text, re.S)
        if place is None:
            raise SystemExit(
                f"no place for a table: <!-- {name} --> and <!-- /{name} --> are missing"
            )
        lines = "".join(f"{row}\n" for row in ["", *rows, ""])
        text = text[: place.start(1)] + lines + text[place.end(1) :]
    return text


def _recipe(path: Path) -> Row:
    """The recipe in a file."""
    return runpy.run_path(str(path))["RECIPE"]


def _place(path: Path) -> tuple:
    """Order: by the size of the data set, then by name, numbers as numbers."""
    dataset = getattr(_recipe(path), "dataset", None)  # a task on scenes has none
    known = list(KNOWN)
    numbers = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]
    return known.index(dataset) if dataset in known else len(known), numbers


def _owner(folder: str, stems: list[str]) -> str:
    """The recipe of a result, by the folder's name."""
    fitting = [stem for stem in stems if folder == stem or folder.startswith(f"{stem}-")]
    if not fitting:
        raise SystemExit(f"results/{folder} is not named after a recipe")
    return max(fitting, key=len)


def _measured(folder: Path, recipe: Path, claim: str, up: str) -> str:
    """What a run reached, and in which columns it differs from the recipe."""
    results = json.loads((folder / "results.json").read_text())
    if "Not measured here" in claim:
        raise SystemExit(
            f"{recipe.name} says that it is not measured, but results/{folder.name} is"
        )
    other = _differences(folder, recipe)
    if "measure" in results:  # of a task on scenes
        value = f"{results[results['measure']]:.3f}"
        accuracy = f"{_recipe(recipe).MEASURE} {value}"
    else:
        value, top5 = f"{100 * results['top1']:.2f} %", results["top5"]
        accuracy = f"{100 * results['top1']:.2f}/{'-' if top5 is None else f'{100 * top5:.2f}'}"
    plain = folder.name == recipe.stem
    if plain and other:
        raise SystemExit(f"results/{folder.name} is not of {recipe.name}: {', '.join(other)}")
    if plain and value not in claim:
        raise SystemExit(f"{recipe.name} does not say {value}, as measured")
    how = f" with {', '.join(other)}" if other else ""
    note = folder / "note.txt"  # a difference that is in no column
    how += f"; {note.read_text().strip()}" if note.exists() else ""
    return f"[{accuracy}]({up}results/{folder.name}){how}"


def _differences(folder: Path, path: Path) -> list[str]:
    """The columns in which a run differs from a recipe, but for those of the machine."""
    theirs, recipe = json.loads((folder / "recipe.json").read_text()), _recipe(path)
    ours = recipe.to_json()
    defaults = {field.name: field.default for field in fields(recipe)}
    defaults |= {name: list(v) for name, v in defaults.items() if isinstance(v, tuple)}
    return [
        f"{name} {theirs.get(name, defaults[name])}"
        for name, column in columns(*recipe.GROUPS).items()
        if column.resume == "same" and theirs.get(name, defaults[name]) != ours[name]
    ]


def main() -> None:
    """Write the pages; with `--check`, only compare, and exit with 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    pages = {
        "README.md": {"measured": measured(), "models": models(), "recipes": selection()},
        "docs/recipes.md": {"recipes": recipes()},
        "docs/zoo.md": {"zoo": zoo()},
    }
    stale = []
    for name, tables in pages.items():
        before = (ROOT / name).read_text()
        after = fill(before, tables)
        if before == after:
            continue
        stale.append(name)
        if not check:
            (ROOT / name).write_text(after)
            print(f"{name} is written", file=sys.stderr)
    if check and stale:
        raise SystemExit(f"{' and '.join(stale)}: out of date; run `python tools/model_table.py`")


if __name__ == "__main__":
    main()
