"""The report of runs as one HTML page that asks nobody for anything."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_keras.evaluate import Predictions, measures
from resnet_keras.report import charts, pictures
from resnet_keras.report.runs import Run
from resnet_keras.report.text import duration, escape, percent

# With more classes than these, the page shows the hardest ones, and no matrix.
_MOST_ROWS, _MOST_CELLS = 24, 100

# 95 % of a normal distribution lie within so many standard deviations.
_Z = 1.959964

# The browser itself forbids whatever would leave the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(runs: Sequence[Run], facts: Sequence[dict[str, Any]]) -> str:
    """The whole page.

    Args:
        runs: the first one gives the title.
        facts: of each run, what its model tells: `params`, `macs` and `maps` (Grad-CAM of the
            pictures that are shown), None where there is no model.

    Returns:
        HTML of ASCII characters, whatever the runs' words are.
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
    here = Path(__file__).parent
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>\n{(here / 'page.css').read_text()}</style>\n"
        f'</head>\n<body>\n<main>\n<header><div><div class="over">{escape(over)}</div>'
        f"<h1>{escape(title)}</h1></div>"
        '<button type="button" hidden aria-label="Change between light and dark"></button>'
        f"</header>\n{first}{''.join(sections)}\n"
        '<footer class="soft">Written by <code>resnet-keras report</code>. This page is complete: '
        "it loads nothing.</footer>\n</main>\n"
        f"<script>\n{(here / 'page.js').read_text()}</script>\n</body>\n</html>\n"
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
    """Everything about one run."""
    parts = [_tiles(run, known), _curves(run)]
    if run.predictions is not None:
        parts += [_quality(run.predictions), _mistakes(run.predictions)]
        parts += [_attention(run.predictions, known.get("maps"))]
    return "\n".join([*parts, _exports(run), _what_ran(run)])


def _tiles(run: Run, known: dict[str, Any]) -> str:
    """The numbers that one looks for."""
    results, said = run.results, run.predictions
    tiles = []
    if "top1" in results:
        n = results["examples"]
        low, high = interval(results["top1"], n)
        words = f"top-1 of {n:,} test pictures; 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        tiles += [(percent(results["top1"], 2), words)]
        tiles += [(percent(results.get("top5"), 2), "top-5")]
    ece, loss = _calibration(said)
    if ece is not None:
        tiles += [
            (percent(ece, 2), "expected calibration error"),
            (f"{loss:.3f}", "nats: negative log-likelihood"),
        ]
    if known.get("params"):
        tiles.append((_large(known["params"]), "parameters"))
        tiles.append((_large(known["macs"]), "multiply-adds a picture"))
    if "train_seconds" in results:
        epochs = f"training, {len(run.rows)} epochs"
        tiles.append((duration(results["train_seconds"]), epochs))
    drawn = [
        f'<div class="tile{"" if i else " first"}"><b>{escape(number)}</b>'
        f"<span>{escape(words)}</span></div>"
        for i, (number, words) in enumerate(tiles)
    ]
    unfinished = "" if results else '<p class="soft">This run is not finished.</p>'
    return f'{unfinished}<div class="tiles">{"".join(drawn)}</div>'


def _curves(run: Run) -> str:
    """Accuracy, loss and learning rate along the training."""
    columns = {
        name: run.column(name)
        for name in ("accuracy", "val_accuracy", "loss", "val_loss", "learning_rate")
    }
    names = {"training pictures": "accuracy", "test pictures": "val_accuracy"}
    accuracy = {word: _times(columns[c], 100) for word, c in names.items() if columns[c]}
    names = {"training pictures": "loss", "test pictures": "val_loss"}
    loss = {word: columns[c] for word, c in names.items() if columns[c]}
    # The test's colour is the first everywhere.
    order = ("test pictures", "training pictures")
    accuracy = {word: accuracy[word] for word in order if word in accuracy}
    loss = {word: loss[word] for word in order if word in loss}
    figures = [
        _figure(
            "Accuracy",
            _legend({w: f"{points[-1][1]:.2f} %" for w, points in accuracy.items()})
            + charts.lines(
                accuracy,
                x_label="epoch",
                y_label="top-1, %",
                show=lambda y: f"{y:.2f} %",
                low=_worth_showing(accuracy),
            ),
            "Training pictures are augmented, and counted while the network learns: they can be "
            "harder than test pictures." + _cut(accuracy),
        )
        if accuracy
        else "",
        _figure(
            "Loss",
            _legend({w: f"{points[-1][1]:.4f}" for w, points in loss.items()})
            + charts.lines(
                loss,
                x_label="epoch",
                y_label="cross-entropy, nats (log scale)",
                show=lambda y: f"{y:.4f}",
                logarithmic=True,
            ),
            "As the recipe defines it"
            + (", with smoothed targets" if run.recipe.get("label_smoothing") else "")
            + "; weight decay is not in it.",
        )
        if loss
        else "",
        _figure(
            "Learning rate",
            _legend({"at the epoch's last step": f"{columns['learning_rate'][-1][1]:.2g}"})
            + charts.lines(
                {"rate": columns["learning_rate"]},
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
    return f'<h2>How it learned</h2><div class="figures">{"".join(figures)}</div>'


def _quality(said: Predictions) -> str:
    """By class, confusion, calibration."""
    places = measures.ranks(said.scores, said.labels)
    counts = _confusion_counts(said)
    figures = [_by_class(said, places)]
    if len(said.classes) <= _MOST_CELLS:
        figures.append(
            _figure(
                "Confusion",
                charts.confusion(counts, said.classes),
                "Number of pictures. Blue is right, orange is wrong; the stronger, the larger the "
                "share of the true class (in %, as the root of it).",
            )
        )
    if measures.are_probabilities(said.scores):
        binned = measures.reliability(said.scores, said.labels)
        loss = measures.negative_log_likelihood(said.scores, said.labels)
        confident = float(said.scores.max(axis=1).mean())
        lean = "over" if confident > np.mean(places < 1) else "under"
        figures.append(
            _figure(
                "Reliability",
                charts.reliability(binned),
                "Blue: how many are right of those that are so confident. Orange: it was too "
                "confident by so much; green: too modest. The paler, the fewer pictures. "
                f"ECE {percent(binned.ece, 2)} with 15 bins (Guo et al. 2017), negative "
                f"log-likelihood {loss:.4f} nats. Mean confidence is "
                f"{percent(confident, 2)}: {lean}confident.",
            )
        )
    return (
        f"<h2>What it gets right</h2><p class='soft'>All {len(said.labels):,} pictures of "
        f"{escape(said.split)} of {escape(said.dataset)}.</p>"
        f'<div class="figures">{"".join(figures)}</div>{_confused_pairs(said, counts)}'
    )


def _by_class(said: Predictions, places: np.ndarray) -> str:
    """Top-1 of each class, or of the hardest."""
    seen = np.bincount(said.labels, minlength=len(said.classes))
    shares = measures.per_class(places, said.labels, len(said.classes))
    rows = [
        (name, share, *interval(share, int(n)), int(n))
        for name, share, n in zip(said.classes, shares, seen, strict=True)
        if share is not None
    ]
    rows.sort(key=lambda row: row[1])
    shown = rows[:_MOST_ROWS]
    words = "Hardest first. The bar is the 95 % interval (Wilson) of so many pictures."
    if len(shown) < len(rows):
        median = float(np.median([row[1] for row in rows]))
        words += (
            f" These are the {len(shown)} hardest of {len(rows)} classes; "
            f"the median is {percent(median)}."
        )
    chart = charts.intervals(shown, x_label="top-1, % of the class' pictures", y_label="class")
    return _figure("Accuracy by class", chart, words)


def _confused_pairs(said: Predictions, counts: np.ndarray, most: int = 8) -> str:
    """The most frequent mistakes, in words."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for true, taken in (np.unravel_index(i, wrong.shape) for i in order):
        if wrong[true, taken]:
            rows.append(
                f"<tr><td>{escape(said.classes[true])}</td><td>{escape(said.classes[taken])}</td>"
                f'<td class="n">{wrong[true, taken]:,}</td>'
                f'<td class="n">{percent(wrong[true, taken] / counts[true].sum())}</td></tr>'
            )
    if not rows:
        return ""
    return (
        '<figure class="below"><h3>Most frequent mistakes</h3><div class="wide"><table>'
        '<tr><th>true class</th><th>taken for</th><th class="n">pictures</th>'
        f'<th class="n">share of the class</th></tr>{"".join(rows)}</table></div></figure>'
    )


def _mistakes(said: Predictions) -> str:
    """The pictures it was surest about, and wrong."""
    shown = _shown(said)
    cards = [
        f'<figure class="picture">'
        f"{pictures.picture(said.pictures[k], _alternative(said, n))}{_caption(said, n)}</figure>"
        for k, n in shown
        if not _right(said, n)
    ]
    if not cards:
        return ""
    return (
        "<h2>The most confident mistakes</h2><p class='soft'>What the network said and how sure "
        "it was, above what the label says. Some of them are mistakes of the label.</p>"
        f'<div class="pictures">{"".join(cards)}</div>'
    )


def _attention(said: Predictions, maps: np.ndarray | None, most: int = 4) -> str:
    """Grad-CAM of a few mistakes and of a few that are right."""
    if maps is None:
        return ""
    shown = _shown(said)
    wrong = [(k, n) for k, n in shown if not _right(said, n)][:most]
    right = [(k, n) for k, n in shown if _right(said, n)][:most]
    cards = []
    for k, n in wrong + right:
        true, taken = int(said.labels[n]), int(_says(said)[n])
        views = [("the picture", pictures.picture(said.pictures[k], _alternative(said, n)))]
        for label in dict.fromkeys((taken, true)):
            name = escape(said.classes[label])
            drawn = pictures.heat(said.pictures[k], maps[k, ..., label], f"evidence for {name}")
            views.append((f"for {name}", drawn))
        inside = "".join(
            f'<div class="picture">{image}<span class="soft">{words}</span></div>'
            for words, image in views
        )
        cards.append(
            f"<figure><h3>{_verdict(said, n)}</h3><div class='triple'>{inside}</div></figure>"
        )
    if not cards:
        return ""
    return (
        "<h2>What it looked at</h2><p class='soft'>Grad-CAM (Selvaraju et al. 2017) on the output "
        f"of the last stage, {maps.shape[1]} x {maps.shape[2]} values over the picture: bright "
        "is what speaks for the class, each map by its own highest value.</p>"
        f'<div class="triples">{"".join(cards)}</div>'
    )


def _exports(run: Run) -> str:
    """The files that were made of the model, and how far they are from it."""
    if not run.exports:
        return ""
    rows = []
    for name, report in run.exports.items():
        cells = (
            _large_bytes(report.get("bytes")),
            _scientific(report.get("max_difference")),
            _scientific(report.get("mean_difference")),
            percent(report.get("top1_agreement"), 2),
            f"{percent(report.get('top1'), 2)} / {percent(report.get('top1_source'), 2)}",
            f"{_milliseconds(report.get('latency_ms'))} / "
            f"{_milliseconds(report.get('latency_ms_source'))}",
            f"{report['examples']:,}" if isinstance(report.get("examples"), int) else "-",
        )
        there = "" if (run.folder / name).exists() else " (not kept)"
        rows.append(
            f"<tr><td><code>{escape(name)}</code>{there}</td>"
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
            + "</tr>"
        )
    heads = (
        *("size", "largest difference", "mean difference", "same top-1"),
        *("top-1: it / Keras", "ms a picture: it / Keras", "test pictures"),
    )
    return (
        '<h2>Exports</h2><figure><h3>Parity with model.keras</h3><div class="wide"><table>'
        "<tr><th>file</th>"
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + f"</tr>{''.join(rows)}</table></div><figcaption>Differences are of probabilities, on real test "
        "pictures. Milliseconds: median of one picture at a time, on the machine of the export."
        "</figcaption></figure>"
    )


def _what_ran(run: Run) -> str:
    """The recipe, the machine, versions."""
    sheets = []
    for group, fields in run.grouped().items():
        changed = [(name, value) for name, value, differs in fields if differs]
        rest = [(name, value) for name, value, differs in fields if not differs]
        more = (
            f"<details><summary>{len(rest)} as by default</summary>{_definitions(rest)}</details>"
            if rest
            else ""
        )
        sheets.append(
            f'<div class="sheet"><h3>{escape(group)}</h3>{_definitions(changed)}{more}</div>'
        )
    results = run.results
    shown = ("precision", "replicas", "train_seconds", "images_per_second", "skipped", "machine")
    machine = []
    for name in shown:
        value = results.get(name)
        if isinstance(value, dict):
            machine += [(f"{name}: {k}", v) for k, v in value.items()]
        elif value is not None:
            machine.append((name, value))
    versions = results.get("versions")
    machine += list(versions.items()) if isinstance(versions, dict) else []
    if machine:
        sheets.append(
            f'<div class="sheet"><h3>As it ran, and on what</h3>{_definitions(machine)}</div>'
        )
    return f'<h2>What ran</h2><div class="figures">{"".join(sheets)}</div>'


def _comparison(runs: Sequence[Run]) -> str:
    """Curves of several runs over each other, and in which fields they differ."""
    names = _distinct([run.name for run in runs])
    figures = []
    for title, column, label, times, show in (
        ("Accuracy", "val_accuracy", "top-1, %", 100, lambda y: f"{y:.2f} %"),
        ("Loss", "val_loss", "cross-entropy, nats (log scale)", 1, lambda y: f"{y:.4f}"),
        ("Learning rate", "learning_rate", "learning rate (no unit)", 1, lambda y: f"{y:.3g}"),
    ):
        series = {
            word: _times(run.column(column), times)
            for word, run in zip(names, runs, strict=True)
            if run.column(column)
        }
        if series:
            last = {word: show(points[-1][1]) for word, points in series.items()}
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
            words = "" if column == "learning_rate" else "Of the test pictures." + cut
            figures.append(_figure(title, _legend(last) + chart, words))
    fields = dict.fromkeys(name for run in runs for name in run.recipe)
    differing = [
        name
        for name in fields
        if name not in ("run_dir", "data_dir")
        and len({str(run.recipe.get(name)) for run in runs}) > 1
    ]
    heads = ("top-1", "top-5", "ECE", "loss, nats", "test pictures", "epochs", "training")
    rows = []
    for i, (word, run) in enumerate(zip(names, runs, strict=True)):
        results = run.results
        ece, loss = _calibration(run.predictions)
        cells = (
            percent(results.get("top1"), 2),
            percent(results.get("top5"), 2),
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
    table = (
        '<figure class="below"><h3>Side by side</h3><div class="wide"><table><tr><th>run</th>'
        + "".join(f'<th class="n">{head}</th>' for head in heads)
        + "".join(f'<th class="n">{escape(name)}</th>' for name in differing)
        + f"</tr>{''.join(rows)}</table></div><figcaption>Behind the training time: the fields of the "
        "recipe in which they differ.</figcaption></figure>"
    )
    return f'<div class="figures below">{"".join(figures)}</div>{table}'


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` pictures (Wilson 1927, "Probable inference")."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _calibration(said: Predictions | None) -> tuple[float | None, float | None]:
    """ECE and negative log-likelihood; None where there are no probabilities."""
    if said is None or not measures.are_probabilities(said.scores):
        return None, None
    ece = measures.reliability(said.scores, said.labels).ece
    return ece, measures.negative_log_likelihood(said.scores, said.labels)


def _figure(title: str, drawn: str, words: str) -> str:
    caption = f"<figcaption>{words}</figcaption>" if words else ""
    return f"<figure><h3>{title}</h3>{drawn}{caption}</figure>"


def _legend(last: dict[str, str]) -> str:
    items = (
        f'<span><i class="s{i % 8}"></i>{escape(word)} <b>{escape(value)}</b></span>'
        for i, (word, value) in enumerate(last.items())
    )
    return f'<div class="legend">{"".join(items)}</div>'


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


def _worth_showing(series: dict[str, Sequence[tuple[float, float]]]) -> float | None:
    """Where the accuracy axis begins: in a long run, where the first tenth has ended."""
    longest = max(len(points) for points in series.values())
    if longest < 20:
        return None
    values = [y for points in series.values() for _, y in points[len(points) // 10 :]]
    return math.floor(min(values) / 5) * 5


def _cut(series: dict[str, Sequence[tuple[float, float]]]) -> str:
    low = _worth_showing(series)
    lowest = min(y for points in series.values() for _, y in points)
    return f" What is below {low:g} % is cut off." if low is not None and lowest < low else ""


def _says(said: Predictions) -> np.ndarray:
    """The class that the network says; among equals not the true one, as `ranks` counts them."""
    scores = said.scores.copy()
    places = measures.ranks(said.scores, said.labels)
    wrong = np.flatnonzero(places >= 1)
    scores[wrong, said.labels[wrong]] = -np.inf
    return scores.argmax(axis=1)


def _confusion_counts(said: Predictions) -> np.ndarray:
    counts = np.zeros((len(said.classes),) * 2, int)
    np.add.at(counts, (said.labels, _says(said)), 1)
    return counts


def _shown(said: Predictions) -> list[tuple[int, int]]:
    """Place among the kept pictures, and number of the picture."""
    return [(k, int(n)) for k, n in enumerate(said.shown)]


def _right(said: Predictions, n: int) -> bool:
    return bool(measures.ranks(said.scores[n : n + 1], said.labels[n : n + 1])[0] < 1)


def _verdict(said: Predictions, n: int) -> str:
    says, true = int(_says(said)[n]), int(said.labels[n])
    name, score = escape(said.classes[says]), percent(float(said.scores[n, says]))
    if says == true:
        return f"Says {name}, {score}, and is right"
    return f"Says {name}, {score}; is {escape(said.classes[true])}"


def _caption(said: Predictions, n: int) -> str:
    says, true = int(_says(said)[n]), int(said.labels[n])
    score = percent(float(said.scores[n, says]))
    return (
        f'<span class="said">{escape(said.classes[says])}</span> {score}<br>'
        f'is <span class="is">{escape(said.classes[true])}</span><br>'
        f'<span class="soft">{escape(_where(said, n))}</span>'
    )


def _alternative(said: Predictions, n: int) -> str:
    return f"test picture {escape(_where(said, n))}: {escape(said.classes[said.labels[n]])}"


def _where(said: Predictions, n: int) -> str:
    if said.paths is None:
        return f"no. {n}"
    return Path(str(said.paths[n])).name


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of runs, numbered where two are equal."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})"
        for i, name in enumerate(names)
    ]


def _network(run: Run) -> str:
    return str(run.recipe.get("model", "A network"))


def _dataset(run: Run) -> str:
    name = str(run.recipe.get("dataset", "unknown pictures"))
    return Path(name.removeprefix("folder:")).name if name.startswith("folder:") else name


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


def _milliseconds(number: Any) -> str:
    return f"{number:.3g}" if isinstance(number, int | float) else "-"
