"""The report about the run of a task."""

import math
from collections.abc import Sequence

from resnet_keras.report.charts import figure, lines
from resnet_keras.report.images import image
from resnet_keras.report.page import document, exports_section, recipe_section
from resnet_keras.report.runs import Run
from resnet_keras.report.text import duration, escape
from resnet_keras.vision.task import Figure, Task


def page(task: Task, run: Run, figures: Sequence[Figure]) -> str:
    """Write the page.

    Args:
        task: whose run it is.
        run: with its results.
        figures: of predictions.

    Returns:
        HTML, ASCII characters only.
    """
    parts = (
        _tiles(task, run),
        _curves(run),
        _predictions(figures),
        exports_section(run),
        recipe_section(run, type(task.recipe)),
    )
    return document(task.TITLE, f"Run {run.name}", "\n".join(parts))


def _tiles(task: Task, run: Run) -> str:
    """Show the most important numbers."""
    results = run.results
    tiles = [(f"{results[name]:.3f}", words) for name, words in task.MEASURES.items()]
    tiles.append((f"{results['scenes']:,}", "test scenes, of digits that no training scene has"))
    of_crops = " and those of crops" if task.recipe.crops else ""
    words = f"training time, {len(run.rows)} epochs{of_crops}"
    tiles.append((duration(results["train_seconds"]), words))
    drawn = (
        f'<div class="tile{"" if i else " first"}"><b>{escape(number)}</b>'
        f"<span>{escape(words)}</span></div>"
        for i, (number, words) in enumerate(tiles)
    )
    return f'<div class="tiles">{"".join(drawn)}</div>'


def _curves(run: Run) -> str:
    """Show losses and learning rate by epoch."""
    names = dict.fromkeys(name for row in run.rows for name in row if name.endswith("loss"))
    losses = {name.replace("_", " "): run.column(name) for name in ("loss", *names)}
    finite = {
        name: points
        for name, points in losses.items()
        if any(y > 0 and math.isfinite(y) for _, y in points)
    }
    loss = lines(
        finite, x_label="epoch", y_label="loss (log scale)", show=lambda y: f"{y:.4f}",
        logarithmic=True,
    )  # fmt: skip
    rate = lines(
        {"last step of the epoch": run.column("learning_rate")}, x_label="epoch",
        y_label="learning rate (no unit)", show=lambda y: f"{y:.3g}", low=0.0,
    )  # fmt: skip
    words = "Of training scenes, which the network sees once each."
    figures = figure("Loss", loss, words) + figure("Learning rate", rate, "")
    return f'<h2>Training</h2><div class="figures">{figures}</div>'


def _predictions(figures: Sequence[Figure]) -> str:
    """Show what the network makes of the first test scenes."""
    shown = "".join(
        f'<figure class="image">{image(pixels, f"test scene {n}")}'
        f'<span class="soft">{escape(caption)}</span></figure>'
        for n, (pixels, caption) in enumerate(figures)
    )
    return (
        "<h2>Predictions</h2><p class='soft'>The first test scenes, none of them chosen.</p>"
        f'<div class="images">{shown}</div>'
    )
