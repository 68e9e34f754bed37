"""A run folder as `train` left it; no file in it is trusted to be complete."""

import csv
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.evaluation import Predictions, load_predictions
from resnet_keras.files import read_object, sha256
from resnet_keras.recipe import Recipe, Row, Splits, groups, images_of, splits


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: the run folder.
        recipe: `recipe.json`.
        rows: `log.csv`, one row for each epoch; values that are not numbers are left out.
        results: `results.json`; empty if the run is not finished.
        model: the path of `model.keras`; None if there is none.
        predictions: `predictions.npz`, if it was made with this model; else None.
        exports: for the name of each exported file, its `.report.json`.
    """

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, float]]
    results: dict[str, Any]
    model: Path | None
    predictions: Predictions | None
    exports: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def splits(self) -> Splits:
        """The names of the splits of the run."""
        return splits(self.recipe)

    @property
    def tested(self) -> str:
        """What the page calls the images the run was tested on."""
        return images_of(self.results.get("tested_on", self.splits.test))

    @property
    def validated(self) -> str:
        """What the page calls the images the run was validated on after each epoch."""
        split = self.splits.validation or self.results.get("tested_on", self.splits.test)
        return images_of(self.results.get("validated_on", split))

    def grouped(self, kind: type[Row] = Recipe) -> dict[str, list[tuple[str, Any, bool]]]:
        """The recipe, of a kind, as `(field, value, whether it is not the default)`, by groups."""
        defaults = {
            field.name: list(field.default) if isinstance(field.default, tuple) else field.default
            for field in dataclasses.fields(kind)
        }
        grouped = {
            group: [
                (name, self.recipe[name], self.recipe[name] != defaults[name])
                for name in names
                if name in self.recipe
            ]
            for group, names in groups(kind.GROUPS).items()
        }
        others = [
            (name, value, True) for name, value in self.recipe.items() if name not in defaults
        ]
        return {group: fields for group, fields in grouped.items() if fields} | (
            {"Other": others} if others else {}
        )

    def column(self, name: str) -> list[tuple[float, float]]:
        """Return a column of the log as `(epoch, value)`."""
        return [(row["epoch"], row[name]) for row in self.rows if name in row and "epoch" in row]


def over_folds(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Average the results of the folds of one cross-validation.

    Args:
        runs: of recipes that differ in their fold alone; otherwise there is nothing to average.

    Returns:
        `folds`, how many there are; `of`, how many there should be; and for each of `top1`, `map`,
        `balanced_accuracy` and `macro_f1` that all runs have, `mean` and `std`, the standard
        deviation of the folds (divided by their number - 1). None where the runs are not finished
        folds, two or more.
    """
    own = ("fold", "run_dir", "data_dir")
    recipes = [{k: v for k, v in run.recipe.items() if k not in own} for run in runs]
    folds = [run.recipe.get("fold") for run in runs]
    finished = all("examples" in run.results for run in runs)
    if None in folds or len(set(folds)) < len(runs) or recipes != recipes[:1] * len(runs):
        return None
    if not finished or len(runs) < 2:
        return None
    found: dict[str, Any] = {"folds": len(runs), "of": recipes[0]["folds"]}
    for name in ("top1", "map", "balanced_accuracy", "macro_f1"):
        values = [run.results.get(name) for run in runs]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(numbers) == len(runs):
            found[name] = {"mean": statistics.mean(numbers), "std": statistics.stdev(numbers)}
    return found


def read_run(folder: str | Path, results: dict[str, Any] | None = None) -> Run:
    """Read a run folder.

    Args:
        folder: what `train` wrote.
        results: in place of those in `results.json`.

    Raises:
        InputError: it is not a run folder, or a file in it is damaged.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").exists():
        raise InputError(f"not a run folder: it has no recipe.json. Received: {str(folder)!r}")
    model = folder / "model.keras"
    return Run(
        folder=folder,
        recipe=_json(folder / "recipe.json"),
        rows=_rows(folder / "log.csv"),
        results=_results(folder / "results.json") if results is None else results,
        model=model if model.exists() else None,
        predictions=_predictions(folder / "predictions.npz", model),
        exports={
            path.name.removesuffix(".report.json"): _json(path)
            for path in sorted(folder.glob("*.report.json"))
        },
    )


def _json(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _results(path: Path) -> dict[str, Any]:
    """Read `results.json`, and check the numbers that the page computes with."""
    results = _json(path)
    several = results.get("map") is not None  # labels per image
    shares = ("top1", "top5", "map", "micro_f1", "macro_f1", "threshold")
    for name in (*shares, "examples", "train_seconds"):
        value, most = results.get(name, 1), 1 if name in shares else math.inf
        # top-5 of 5 classes or fewer, and what is defined for one class alone, or for several.
        if value is None and (name == "top5" or (name == "top1") == several):
            continue
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


def _predictions(path: Path, model: Path) -> Predictions | None:
    """Read predictions, unless another model made them."""
    if not (path.exists() and model.exists()):
        return None
    predictions = load_predictions(path)
    return predictions if predictions.model_sha256 == sha256(model) else None
