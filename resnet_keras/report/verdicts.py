"""What a network said of the test images: by class, confused, calibrated, and where it looked."""

import math
from pathlib import Path

import numpy as np

from resnet_keras.evaluation import Predictions, measures
from resnet_keras.report import charts, images
from resnet_keras.report.charts import figure
from resnet_keras.report.text import escape, percent

# With more classes than these, the page shows the hardest ones, and no matrix.
_MOST_ROWS, _MOST_CELLS = 24, 100

# 95 % of a normal distribution lie within so many standard deviations.
_Z = 1.959964


def quality(said: Predictions) -> str:
    """By class, confusion, calibration."""
    places = measures.ranks(said.scores, said.labels)
    counts = _confusion_counts(said)
    stacked = _by_class(said, places) + _confused_pairs(said, counts)
    figures = [f'<div class="stack">{stacked}</div>']
    if len(said.classes) <= _MOST_CELLS:
        figures.append(
            figure(
                "Confusion",
                charts.confusion(counts, said.classes),
                "Number of images. Blue is right, orange is wrong; the stronger, the larger the "
                "share of the true class (in %, as the root of it).",
            )
        )
    if measures.are_probabilities(said.scores):
        binned = measures.reliability(said.scores, said.labels)
        loss = measures.negative_log_likelihood(said.scores, said.labels)
        confident = float(said.scores.max(axis=1).mean())
        lean = "over" if confident > np.mean(places < 1) else "under"
        figures.append(
            figure(
                "Reliability",
                charts.reliability(binned),
                "Blue: how many are right of those that are so confident. Orange: it was too "
                "confident by so much; green: too modest. The paler, the fewer images. "
                f"ECE {percent(binned.ece, 2)} with 15 bins (Guo et al. 2017), negative "
                f"log-likelihood {loss:.4f} nats. Mean confidence is "
                f"{percent(confident, 2)}: {lean}confident.",
            )
        )
    return (
        f"<h2>What it gets right</h2><p class='soft'>All {len(said.labels):,} images of "
        f"{escape(said.split)} of {escape(said.dataset)}.</p>"
        f'<div class="figures loose">{"".join(figures)}</div>'
    )


def mistakes(said: Predictions) -> str:
    """The images it was surest about, and wrong."""
    shown = _shown(said)
    cards = [
        f'<figure class="image">'
        f"{images.image(said.images[k], _alternative(said, n))}{_caption(said, n)}</figure>"
        for k, n in shown
        if not _right(said, n)
    ]
    if not cards:
        return ""
    return (
        "<h2>The most confident mistakes</h2><p class='soft'>What the network said and how sure "
        "it was, above what the label says. Some of them are mistakes of the label.</p>"
        f'<div class="images">{"".join(cards)}</div>'
    )


def attention(said: Predictions, maps: np.ndarray | None, most: int = 4) -> str:
    """Grad-CAM of a few mistakes and of a few that are right."""
    if maps is None:
        return ""
    shown = _shown(said)
    wrong = [(k, n) for k, n in shown if not _right(said, n)][:most]
    right = [(k, n) for k, n in shown if _right(said, n)][:most]
    cards = []
    for k, n in wrong + right:
        taken, true = _two(said, n)
        views = [("the image", images.image(said.images[k], _alternative(said, n)))]
        for label in dict.fromkeys((taken, true)):
            name = escape(said.classes[label])
            drawn = images.heat(said.images[k], maps[k, ..., label], f"evidence for {name}")
            views.append((f"for {name}", drawn))
        inside = "".join(
            f'<div class="image">{image}<span class="soft">{words}</span></div>'
            for words, image in views
        )
        cards.append(
            f"<figure><h3>{_verdict(said, n)}</h3><div class='triple'>{inside}</div></figure>"
        )
    if not cards:
        return ""
    return (
        "<h2>What it looked at</h2><p class='soft'>Grad-CAM (Selvaraju et al. 2017) on the output "
        f"of the last stage, {maps.shape[1]} x {maps.shape[2]} values over the image: bright "
        "is what speaks for the class, each map by its own highest value.</p>"
        f'<div class="triples">{"".join(cards)}</div>'
    )


def calibration(said: Predictions | None) -> tuple[float | None, float | None]:
    """ECE and negative log-likelihood; None where there are no probabilities."""
    if said is None or not measures.are_probabilities(said.scores):
        return None, None
    ece = measures.reliability(said.scores, said.labels).ece
    return ece, measures.negative_log_likelihood(said.scores, said.labels)


def interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` images (Wilson 1927, "Probable inference")."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


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
    words = "Hardest first. The bar is the 95 % interval (Wilson) of so many images."
    if len(shown) < len(rows):
        median = float(np.median([row[1] for row in rows]))
        words += (
            f" These are the {len(shown)} hardest of {len(rows)} classes; "
            f"the median is {percent(median)}."
        )
    chart = charts.intervals(shown, x_label="top-1, % of the class' images", y_label="class")
    return figure("Accuracy by class", chart, words)


def _confused_pairs(said: Predictions, counts: np.ndarray, most: int = 6) -> str:
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
        '<figure><h3>Most frequent mistakes</h3><div class="wide"><table>'
        '<tr><th>true class</th><th>taken for</th><th class="n">images</th>'
        f'<th class="n">of the class</th></tr>{"".join(rows)}</table></div></figure>'
    )


def _says(said: Predictions, images: slice = slice(None)) -> np.ndarray:
    """The class that the network says; where it says nothing (NaN), not the true one."""
    scores, labels = said.scores[images].copy(), said.labels[images]
    wrong = np.flatnonzero(measures.ranks(scores, labels) >= 1)
    scores[wrong, labels[wrong]] = -np.inf
    return scores.argmax(axis=1)


def _two(said: Predictions, n: int) -> tuple[int, int]:
    """What the network says one image is, and what it is."""
    return int(_says(said, slice(n, n + 1))[0]), int(said.labels[n])


def _confusion_counts(said: Predictions) -> np.ndarray:
    counts = np.zeros((len(said.classes),) * 2, int)
    np.add.at(counts, (said.labels, _says(said)), 1)
    return counts


def _shown(said: Predictions) -> list[tuple[int, int]]:
    """Place among the kept images, and number of the image."""
    return [(k, int(n)) for k, n in enumerate(said.shown)]


def _right(said: Predictions, n: int) -> bool:
    says, true = _two(said, n)
    return says == true


def _verdict(said: Predictions, n: int) -> str:
    says, true = _two(said, n)
    name, score = escape(said.classes[says]), percent(float(said.scores[n, says]))
    if says == true:
        return f"Says {name}, {score}, and is right"
    return f"Says {name}, {score}; is {escape(said.classes[true])}"


def _caption(said: Predictions, n: int) -> str:
    says, true = _two(said, n)
    score = percent(float(said.scores[n, says]))
    says, true = escape(said.classes[says]), escape(said.classes[true])
    return (
        f'<span class="said">{says}</span> <span class="nb">{score}</span><br>'
        f'is <span class="is">{true}</span><br>'
        f'<span class="soft">{escape(_where(said, n))}</span>'
    )


def _alternative(said: Predictions, n: int) -> str:
    return f"test image {escape(_where(said, n))}: {escape(said.classes[said.labels[n]])}"


def _where(said: Predictions, n: int) -> str:
    if said.paths is None:
        return f"no. {n}"
    return Path(str(said.paths[n])).name
