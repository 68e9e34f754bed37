"""What people read of a run: `report.html`, and the metadata of a model that goes to others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.files import write_text
from resnet_keras.model_files import load_keras
from resnet_keras.report.cards import model_card
from resnet_keras.report.page import page
from resnet_keras.report.runs import Run, read_run

__all__ = ["model_card", "write_report"]


def write_report(
    runs: Sequence[str | Path], *, out: str | Path | None = None, data_dir: str | Path | None = None
) -> Path:
    """Write one self-contained page about one or several runs.

    What the network says of the test images is read from `predictions.npz`, which `train` and
    `evaluate --save` write; where there is none of this model, the images are predicted.

    Args:
        runs: run folders; several are compared.
        out: the page; by default `report.html` in the first folder.
        data_dir: where prepared data sets lie, should they be needed.

    Returns:
        The path of the page.

    Raises:
        InputError: no run folder, a damaged file in one, or a data set that is not there.
    """
    if not runs:
        raise InputError("`report` needs at least one run folder.")
    out = Path(out) if out is not None else Path(runs[0]) / "report.html"
    if out.is_dir():
        raise InputError(f"`out` must be a file. Received: out={str(out)!r}")
    read = [read_run(run, data_dir=data_dir) for run in runs]
    html = page(read, [_facts(run) for run in read])
    write_text(out, html)
    return out


def _facts(run: Run) -> dict[str, Any]:
    """What the model file tells: counts, and Grad-CAM of the images that are shown."""
    if run.predictions is None:
        return {}
    from resnet_keras.models import count
    from resnet_keras.report.attention import grad_cam

    model = load_keras(run.folder / "model.keras")
    said = run.predictions
    facts = {"maps": grad_cam(model, said.images) if len(said.images) else None}
    if None not in model.input_shape[1:]:
        facts |= count(model)
    return facts
