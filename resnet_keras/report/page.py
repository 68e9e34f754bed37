"""The report about runs: one HTML page that loads nothing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_keras.recipe import Recipe, Row
from resnet_keras.report import charts
from resnet_keras.report.charts import figure
from resnet_keras.report.predictions import (
    accuracy_section,
    ece_and_nll,
    grad_cam_section,
    mistakes_section,
    wilson_interval,
)
from resnet_keras.report.runs import Run, over_folds
from resnet_keras.report.text import CLIENTS, duration, escape, milliseconds, percent, public

# With this, the browser itself blocks every request.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(runs: Sequence[Run], facts: Sequence[dict[str, Any]]) -> str:
    """Write the page.

    Args:
        runs: one run, or several to compare.
        facts: for each run `params`, `macs` and `maps` (Grad-CAM of some images, see
            `grad_cam`) of its model; empty without a model.

    Returns:
        HTML, ASCII characters only.
    """
    if len(runs) == 1:
        title = f"{_network(runs[0])} on {_dataset(runs[0])}"
        over, first = f"Run {runs[0].name}", ""
    else:
        title, over = f"{len(runs)} runs compared", "Report"
        first = _comparison(runs)
    sections = [
        f'<article id="run{i}">{_heading(run, len(runs))}{_run(run, known)}</article>'
        for i, (run, known) in enumerate(zip(runs, facts, strict=True))
    ]
    return document(title, over, f"{first}{''.join(sections)}")


def document(title: str, over: str, body: str) -> str:
    """Write a self-contained page that loads nothing.

    Args:
        title: of the page, as text.
        over: what stands above the title, as text.
        body: what stands below it, as HTML.

    Returns:
        HTML, ASCII characters only.
    """
    here = Path(__file__).parent
    style, script = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n"
        f'</head>\n<body>\n<main>\n<header><div><div class="over">{escape(over)}</div>'
        f"<h1>{escape(title)}</h1></div>"
        '<button type="button" hidden aria-label="Change between light and dark"></button>'
        f"</header>\n{body}\n"
        '<footer class="soft">Written by <code>resnet-keras report</code>. This page is '
        "self-contained: it loads nothing.</footer>\n</main>\n"
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )
    return html.encode("ascii", "xmlcharrefreplace").decode()


def _heading(run: Run, runs: int) -> str:
    if runs == 1:
        return ""
    return (
        f'<div class="over part">Run {escape(run.name)}</div>'
        f"<h2>{escape(_network(run))} on {escape(_dataset(run))}</h2>"
    )


def _run(run: Run, known: dict[str, Any]) -> str:
    """Write the sections about one run."""
    parts = [_tiles(run, known), _curves(run)]
    if run.predictions is not None:
        parts += [
            accuracy_section(run.predictions),
            mistakes_section(run.predictions),
            grad_cam_section(run.predictions, known.get("maps")),
        ]
    return "\n".join([*parts, exports_section(run), recipe_section(run)])


def _tiles(run: Run, known: dict[str, Any]) -> str:
    """Show the most important numbers."""
    results = run.results
    tiles = []
    if results.get("map") is not None and "examples" in results:
        what = f"mAP of {results['examples']:,} {run.tested}: mean of the labels' average precision"
        at = f"at threshold {results.get('threshold', 0.5):.2f}"
        tiles.append((percent(results["map"], 2), what))
        tiles.append((percent(results.get("macro_f1"), 2), f"macro F1: mean of the labels', {at}"))
        tiles.append((percent(results.get("micro_f1"), 2), f"micro F1: of all decisions, {at}"))
    elif results.get("top1") is not None and "examples" in results:
        n = results["examples"]
        low, high = wilson_interval(results["top1"], n)
        words = f"top-1 of {n:,} {run.tested}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        tiles += [(percent(results["top1"], 2), words)]
        for name, words in (
            ("top5", "top-5"),
            ("balanced_accuracy", "balanced accuracy: mean of the classes' top-1"),
            ("macro_f1", "macro F1: mean of the classes' F1"),
        ):
            if results.get(name) is not None:
                tiles.append((percent(results[name], 2), words))
    ece, loss = ece_and_nll(run.predictions)
    if ece is not None:
        tiles += [
            (percent(ece, 2), "expected calibration error"),
            (f"{loss:.3f}", "negative log-likelihood, nats"),
        ]
    if known.get("params"):
        tiles.append((_large(known["params"]), "parameters"))
        tiles.append((_large(known["macs"]), "multiply-adds for one image"))
    if "train_seconds" in results:
        epochs = f"training time, {len(run.rows)} epochs"
        tiles.append((duration(results["train_seconds"]), epochs))
    drawn = [
        f'<div class="tile{"" if i else " first"}"><b>{escape(number)}</b>'
        f"<span>{escape(words)}</span></div>"
        for i, (number, words) in enumerate(tiles)
    ]
    unfinished = "" if results else '<p class="soft">This run is not finished.</p>'
    return f'{unfinished}<div class="tiles">{"".join(drawn)}</div>'


def _curves(run: Run) -> str:
    """Show accuracy, loss and learning rate by epoch."""
    columns = {
        name: run.column(name)
        for name in ("accuracy", "val_accuracy", "loss", "val_loss", "learning_rate")
    }
    names = {"training images": "accuracy", run.validated: "val_accuracy"}
    accuracy = {word: _times(columns[c], 100) for word, c in names.items() if columns[c]}
    names = {"training images": "loss", run.validated: "val_loss"}
    loss = {word: columns[c] for word, c in names.items() if columns[c]}
    # The first colour is that of the images that are not trained on, in every chart.
    order = (run.validated, "training images")
    accuracy = {word: accuracy[word] for word in order if word in accuracy}
    several = run.results.get("map") is not None
    loss = {word: loss[word] for word in order if word in loss}
    figures = [
        figure(
            "Accuracy",
            charts.lines(
                accuracy,
                x_label="epoch",
                y_label="right decisions, %" if several else "top-1, %",
                show=lambda y: f"{y:.2f} %",
                low=_worth_showing(accuracy),
            ),
            "Training images are augmented, and measured while the network is still learning: "
            f"their accuracy can be below that of the {run.validated}." + _cut(accuracy),
        )
        if accuracy
        else "",
        figure(
            "Loss",
            charts.lines(
                loss,
                x_label="epoch",
                y_label="cross-entropy, nats (log scale)",
                show=lambda y: f"{y:.4f}",
                logarithmic=True,
            ),
            "The loss of the recipe"
            + (", with label smoothing," if run.recipe.get("label_smoothing") else "")
            + " without weight decay.",
        )
        if loss
        else "",
        figure(
            "Learning rate",
            charts.lines(
                {"last step of the epoch": columns["learning_rate"]},
                x_label="epoch",
                y_label="learning rate (no unit)",
                show=lambda y: f"{y:.3g}",
                low=0.0,
            ),
            f"Schedule: {escape(run.recipe.get('schedule', '-'))}.",
        )
        if columns["learning_rate"]
        else "",
    ]
    if not any(figures):
        return ""
    return f'<h2>Training</h2><div class="figures">{"".join(figures)}</div>'


def exports_section(run: Run) -> str:
    """Compare the exported files with the model."""
    if not run.exports:
        return ""
    rows = []
    several = any(report.get("map") is not None for report in run.exports.values())
    measure = "map" if several else "top1"
    for name, report in run.exports.items():
        cells = (
            _large_bytes(report.get("bytes")),
            _scientific(report.get("max_difference")),
            _scientific(report.get("mean_difference")),
            percent(report.get(f"{'decision' if several else 'top1'}_agreement"), 2),
            f"{percent(report.get(measure), 2)} / {percent(report.get(f'{measure}_source'), 2)}",
            f"{milliseconds(report.get('latency_ms')) or '-'} / "
            f"{milliseconds(report.get('latency_ms_source')) or '-'}",
            f"{report['examples']:,}" if isinstance(report.get("examples"), int) else "-",
        )
        kept = report.get("kept") is not False and (run.folder / name).exists()
        there = "" if kept else " (not kept)"
        rows.append(
            f"<tr><td><code>{escape(name)}</code>{there}</td>"
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
            + "</tr>"
        )
    heads = (
        *("size", "max difference", "mean difference"),
        "agreement of decisions" if several else "top-1 agreement",
        *(
            f"{'mAP' if several else 'top-1'}: file / Keras",
            "ms per image: file / Keras",
            "test images",
        ),
    )
    return (
        '<h2>Exports</h2><figure><h3>Parity with model.keras</h3><div class="wide"><table>'
        "<tr><th>file</th>"
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + f"</tr>{''.join(rows)}</table></div><figcaption>Differences of probabilities, or of "
        "features as shares of the largest, on test images. Latency: the median for one image at "
        "a time, on the machine that exported the file. Lines for the programs that open it: "
        f"{CLIENTS}.</figcaption></figure>"
    )


def recipe_section(run: Run, kind: type[Row] = Recipe) -> str:
    """Show the recipe, the speed and the versions.

    Args:
        run: what `read_run` returned.
        kind: of the recipe.
    """
    sheets = []
    for group, fields in run.grouped(kind).items():
        changed = [(name, value) for name, value, differs in fields if differs]
        rest = [(name, value) for name, value, differs in fields if not differs]
        more = (
            f"<details><summary>{len(rest)} at default</summary>{_definitions(rest)}</details>"
            if rest
            else ""
        )
        sheets.append(
            f'<div class="sheet"><h3>{escape(group)}</h3>{_definitions(changed)}{more}</div>'
        )
    results = run.results
    shown = ("precision", "replicas", "train_seconds", "images_per_second", "skipped")
    ran = []
    for name in shown:
        value = results.get(name)
        if isinstance(value, dict):
            ran += [(f"{name}: {k}", v) for k, v in value.items()]
        elif value is not None:
            ran.append((name, value))
    versions = results.get("versions")
    ran += list(versions.items()) if isinstance(versions, dict) else []
    if ran:
        sheets.append(f'<div class="sheet"><h3>Environment</h3>{_definitions(ran)}</div>')
    return f'<h2>Recipe and environment</h2><div class="figures">{"".join(sheets)}</div>'


def _comparison(runs: Sequence[Run]) -> str:
    """Compare several runs: their curves, results, and the fields in which they differ."""
    names = _distinct([run.name for run in runs])
    figures = []
    for title, column, label, times, show in (
        (
            "Accuracy",
            "val_accuracy",
            "top-1 or right decisions, %",
            100,
            lambda y: f"{y:.2f} %",
        ),
        ("Loss", "val_loss", "cross-entropy, nats (log scale)", 1, lambda y: f"{y:.4f}"),
        ("Learning rate", "learning_rate", "learning rate (no unit)", 1, lambda y: f"{y:.3g}"),
    ):
        series = {
            word: _times(run.column(column), times)
            for word, run in zip(names, runs, strict=True)
            if run.column(column)
        }
        if series:
            low = _worth_showing(series) if column == "val_accuracy" else None
            chart = charts.lines(
                series,
                x_label="epoch",
                y_label=label,
                show=show,
                low=low,
                logarithmic=column == "val_loss",
            )
            cut = _cut(series) if column == "val_accuracy" else ""
            shown_on = f"On the images each run was validated on.{cut}"
            words = "" if column == "learning_rate" else shown_on
            figures.append(figure(title, chart, words))
    table = _side_by_side(names, runs)
    return f'<div class="figures below">{"".join(figures)}</div>{_folds(runs)}{table}'


def _side_by_side(names: Sequence[str], runs: Sequence[Run]) -> str:
    """Show a table of results, and of the fields in which the recipes differ."""
    fields = dict.fromkeys(name for run in runs for name in run.recipe)
    differing = [
        name
        for name in fields
        if name not in ("run_dir", "data_dir")
        and len({str(run.recipe.get(name)) for run in runs}) > 1
    ]
    several = any(run.results.get("map") is not None for run in runs)
    heads = (
        *(("mAP", "micro F1") if several else ()),
        "top-1",
        "top-5",
        "balanced",
        "ECE",
        "NLL, nats",
        "test images",
        "epochs",
        "training time",
    )
    rows = []
    for i, (word, run) in enumerate(zip(names, runs, strict=True)):
        results = run.results
        ece, loss = ece_and_nll(run.predictions)
        of_labels = (percent(results.get(name), 2) for name in ("map", "micro_f1") if several)
        cells = (
            *of_labels,
            percent(results.get("top1"), 2),
            percent(results.get("top5"), 2),
            percent(results.get("balanced_accuracy"), 2),
            percent(ece, 2),
            "-" if loss is None else f"{loss:.4f}",
            f"{results['examples']:,}" if "examples" in results else "-",
            str(len(run.rows)),
            duration(results.get("train_seconds")),
            *(_value(run.recipe.get(name)) for name in differing),
        )
        rows.append(
            f'<tr><td><a href="#run{i}">{escape(word)}</a></td>'
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
            + "</tr>"
        )
    return (
        '<figure class="below"><h3>Side by side</h3><div class="wide"><table><tr><th>run</th>'
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + "".join(f'<th class="n">{escape(name)}</th>' for name in differing)
        + f"</tr>{''.join(rows)}</table></div><figcaption>The columns after the training "
        "time are the recipe fields that differ.</figcaption></figure>"
    )


def _folds(runs: Sequence[Run]) -> str:
    """Show the averages over the folds of a cross-validation."""
    found = over_folds(runs)
    if found is None:
        return ""
    words = {
        "top1": "top-1",
        "map": "mAP",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
    }
    averages = ", ".join(
        f"{word} {100 * found[name]['mean']:.2f} ± {100 * found[name]['std']:.2f} %"
        for name, word in words.items()
        if name in found
    )
    return (
        f"<p><b>{found['folds']} of {found['of']} folds</b>: {averages} (mean and standard "
        "deviation of the folds)</p>"
    )


def _definitions(pairs: Sequence[tuple[str, Any]]) -> str:
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(_value(value))}</dd>" for name, value in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value)) or "-"
    return str(value)


def _times(points: Sequence[tuple[float, float]], factor: float) -> list[tuple[float, float]]:
    return [(x, factor * y) for x, y in points]


def _worth_showing(series: Mapping[str, Sequence[tuple[float, float]]]) -> float | None:
    """Choose where the accuracy axis begins: in a long run, after the first tenth of it."""
    longest = max(len(points) for points in series.values())
    if longest < 20:
        return None
    values = [y for points in series.values() for _, y in points[len(points) // 10 :]]
    return math.floor(min(values) / 5) * 5


def _cut(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    low = _worth_showing(series)
    lowest = min(y for points in series.values() for _, y in points)
    return f" Values below {low:g} % are cut off." if low is not None and lowest < low else ""


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the names of runs where two are equal."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]


def _network(run: Run) -> str:
    return str(run.recipe.get("model", "A network"))


def _dataset(run: Run) -> str:
    return public(str(run.recipe.get("dataset", "unknown data")))


def _large(number: int) -> str:
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(number)


def _large_bytes(number: Any) -> str:
    if not isinstance(number, int | float):
        return "-"
    return f"{number / 1e6:.2f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def _scientific(number: Any) -> str:
    return f"{number:.1e}" if isinstance(number, int | float) else "-"
