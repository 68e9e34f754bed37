"""What people read about runs and models: `report.html`, and the model card."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_keras.data import Split
from resnet_keras.errors import InputError
from resnet_keras.evaluation import open_split_for, predict_split, require_fit, source_for
from resnet_keras.files import write_text
from resnet_keras.model_files import load_keras, open_model_file
from resnet_keras.report.cards import model_card
from resnet_keras.report.page import page
from resnet_keras.report.predictions import with_maps
from resnet_keras.report.runs import Run, over_folds, read_run

__all__ = ["model_card", "over_folds", "read_run", "with_predictions", "write_report"]


def write_report(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    test: Split | None = None,
    results: dict[str, Any] | None = None,
) -> Path:
    """Write one self-contained HTML page about one run or several.

    The scores of the test images are read from `predictions.npz`, which `train` and
    `evaluate(save=)` write. Where it is missing or was made with another model, the images are
    predicted.

    Args:
        runs: run folders; several are compared.
        out: the page; by default `report.html` in the first folder.
        data_dir: folder of the prepared data sets, if test images must be opened; by default as
            in the recipe.
        test: the test images, if they are open; by default those that the run was tested on.
        results: of the only run, before its `results.json` is written, as that file will have them.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is not a run folder, a file in it is damaged, a data set is missing,
            or `out` is not .html.
    """
    if not runs:
        raise InputError("`report` needs at least one run folder. Received: none")
    out = Path(out) if out is not None else Path(runs[0]) / "report.html"
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"`out` must be an .html file. Received: out={str(out)!r}")
    read = [with_predictions(read_run(run, results), test, data_dir=data_dir) for run in runs]
    html = page(read, [_facts(run) for run in read])
    write_text(out, html)
    return out


def with_predictions(
    run: Run, test: Split | None = None, *, data_dir: str | Path | None = None
) -> Run:
    """Predict the test images of a run that has a model but no predictions of it.

    Nothing is written into the folder of the run.

    Args:
        run: what `read_run` returned.
        test: as in `write_report`.
        data_dir: as in `write_report`.

    Raises:
        InputError: the data set is missing, or does not fit the model.
    """
    if run.predictions is not None or run.model is None:
        return run
    model_file = open_model_file(run.model)
    if test is None:
        source = source_for(
            model_file,
            split=run.splits.test,
            data_dir=data_dir or run.recipe.get("data_dir"),
            skip_bad=bool(run.recipe.get("skip_bad")),
        )
        test = open_split_for(model_file, source)
    else:
        require_fit(model_file, test)
    return dataclasses.replace(run, predictions=predict_split(model_file, test))


def _facts(run: Run) -> dict[str, Any]:
    """Compute what the page shows of a model: its size, and Grad-CAM of the images shown."""
    if run.predictions is None or run.model is None:
        return {}
    from resnet_keras.models import count
    from resnet_keras.report.activation_maps import grad_cam

    model = load_keras(run.model)
    images = run.predictions.images[with_maps(run.predictions)]
    facts: dict[str, Any] = {"maps": grad_cam(model, images) if len(images) else None}
    if None not in model.input_shape[1:]:
        facts |= count(model)
    return facts
