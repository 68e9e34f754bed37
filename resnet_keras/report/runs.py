"""A run folder as `train` left it, read for people; nothing in it is trusted to be whole."""

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.evaluation import Predictions, load_predictions, predict_split
from resnet_keras.evaluation.predictions import digest
from resnet_keras.files import read_object
from resnet_keras.recipe import Recipe, groups, splits, tested


@dataclasses.dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        folder: where it lies.
        recipe: `recipe.json`.
        rows: of `log.csv`, one an epoch; a column that holds no number is left out.
        results: `results.json`; empty while the run is not finished.
        predictions: of `model.keras` on the test images; None without a model.
        exports: the file's name to what its `.report.json` says.
    """

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, float]]
    results: dict[str, Any]
    predictions: Predictions | None
    exports: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """What tells it from other runs."""
        return self.folder.resolve().name

    @property
    def tested(self) -> str:
        """The images it was tested on: a run that chooses values holds some back."""
        return tested(self.recipe.get("holdout"))

    def grouped(self) -> dict[str, list[tuple[str, Any, bool]]]:
        """The recipe as `(field, value, whether it is not the default)`, by groups."""
        defaults = {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in dataclasses.fields(Recipe)
        }
        grouped = {
            group: [
                (name, self.recipe[name], self.recipe[name] != defaults[name])
                for name in names
                if name in self.recipe
            ]
            for group, names in groups().items()
        }
        others = [
            (name, value, True) for name, value in self.recipe.items() if name not in defaults
        ]
        return {group: fields for group, fields in grouped.items() if fields} | (
            {"Other": others} if others else {}
        )

    def column(self, name: str) -> list[tuple[float, float]]:
        """`(epoch, value)` of a column of the log."""
        return [(row["epoch"], row[name]) for row in self.rows if name in row and "epoch" in row]


def read_run(folder: str | Path, *, data_dir: str | Path | None = None) -> Run:
    """Read a run folder; images are only predicted where `predictions.npz` is not the model's.

    Args:
        folder: what `train` wrote.
        data_dir: where prepared data sets lie, if they are needed.

    Raises:
        InputError: it is no run folder, or a file of it is damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").exists():
        raise InputError(f"a run folder has a recipe.json. Received: {str(folder)!r}")
    recipe = _json(folder / "recipe.json")
    return Run(
        folder=folder,
        recipe=recipe,
        rows=_rows(folder / "log.csv"),
        results=_results(folder / "results.json"),
        predictions=_predictions(folder, recipe, data_dir),
        exports={
            path.name.removesuffix(".report.json"): _json(path)
            for path in sorted(folder.glob("*.report.json"))
        },
    )


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _results(path: Path) -> dict[str, Any]:
    """`results.json`, whose numbers the page reckons with."""
    results = _json(path)
    for name in ("top1", "top5", "examples", "train_seconds"):
        value, most = results.get(name, 1), 1 if name.startswith("top") else math.inf
        if type(value) not in (int, float) or not 0 <= value <= most:
            raise InputError(f"{path} is damaged. Received: {name}={value!r}")
    if results.get("examples", 1) < 1:
        raise InputError(f"{path} is damaged. Received: examples={results['examples']!r}")
    return results


def _rows(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    return [
        {name: number for name, text in row.items() if (number := _number(text)) is not None}
        for row in rows
    ]


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _predictions(folder: Path, recipe: dict, data_dir: str | Path | None) -> Predictions | None:
    """Those that are there, if they are of this model; else new ones, which are not kept."""
    from resnet_keras.model_files import open_model_file

    model, path = folder / "model.keras", folder / "predictions.npz"
    if not model.exists():
        return None
    if path.exists():
        said = load_predictions(path)
        if said.model_file == digest(model):
            return said
    return predict_split(
        open_model_file(model),
        data_dir=data_dir or recipe.get("data_dir"),
        split=splits(recipe.get("holdout"))[1],
        skip_bad=bool(recipe.get("skip_bad")),
    )
