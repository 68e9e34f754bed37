"""The sections of the page about predictions: by class, confusion, calibration, mistakes."""

import math
from pathlib import Path

import numpy as np

from resnet_keras.evaluation import Predictions, measures
from resnet_keras.report import charts, images
from resnet_keras.report.charts import figure
from resnet_keras.report.text import escape, percent

# With more classes, the page shows the hardest ones only, and no confusion matrix.
_MOST_ROWS, _MOST_CELLS = 24, 100

# 95 % of a normal distribution are within this many standard deviations.
_Z = 1.959964


def accuracy_section(predictions: Predictions) -> str:
    """Show accuracy by class, confusion and calibration; of several labels, each one's."""
    if predictions.threshold is not None:
        return _labels_section(predictions, predictions.threshold)
    places = measures.ranks(predictions.scores, predictions.labels)
    counts = _confusion_counts(predictions)
    stacked = _by_class(predictions, places) + _confused_pairs(predictions, counts)
    figures = [f'<div class="stack">{stacked}</div>']
    if len(predictions.classes) <= _MOST_CELLS:
        figures.append(
            figure(
                "Confusion",
                charts.confusion(counts, predictions.classes),
                "Number of images. Correct predictions are blue, wrong ones orange. The colour is "
                "stronger for a larger fraction of the true class, on a square-root scale.",
            )
        )
    if measures.are_probabilities(predictions.scores):
        figures.append(_reliability(predictions, float(np.mean(places < 1))))
    return (
        f"<h2>Accuracy</h2><p class='soft'>All {len(predictions.labels):,} images of "
        f"{escape(predictions.dataset)}, split {escape(predictions.split)}.</p>"
        f'<div class="figures loose">{"".join(figures)}</div>'
    )


def mistakes_section(predictions: Predictions) -> str:
    """Show the most confident mistakes, as images."""
    shown = [
        f'<figure class="image">{images.image(predictions.images[k], _alternative(predictions, n))}'
        f"{_caption(predictions, n)}</figure>"
        for k, n in _shown(predictions)
        if not _is_right(predictions, n)
    ]
    if not shown:
        return ""
    under = "the predicted class with its score, then the label, which may itself be wrong"
    if predictions.multi_label:
        under = "the predicted labels with their scores, then the true ones, which may be wrong"
    return (
        f"<h2>Most confident mistakes</h2><p class='soft'>Under each image: {under}.</p>"
        f'<div class="images">{"".join(shown)}</div>'
    )


def with_maps(predictions: Predictions, most: int = 4) -> list[int]:
    """Choose the images that Grad-CAM is shown of: some mistakes, then some correct predictions.

    Args:
        predictions: with the images.
        most: up to this many images of each kind.

    Returns:
        Their places among the images kept.
    """
    shown = _shown(predictions)
    wrong = [k for k, n in shown if not _is_right(predictions, n)][:most]
    return wrong + [k for k, n in shown if _is_right(predictions, n)][:most]


def grad_cam_section(predictions: Predictions, maps: np.ndarray | None) -> str:
    """Show Grad-CAM of some mistakes and of some correct predictions.

    Args:
        predictions: with the images.
        maps: of the images of `with_maps`, `(k, rows, columns, classes)`; None: no section.
    """
    if maps is None:
        return ""
    figures = []
    for k, of_classes in zip(with_maps(predictions), maps, strict=True):
        n = int(predictions.shown[k])
        views = [("the image", images.image(predictions.images[k], _alternative(predictions, n)))]
        for label in _mapped(predictions, n):
            name = escape(predictions.classes[label])
            drawn = images.heat(
                predictions.images[k], of_classes[..., label], f"evidence for {name}"
            )
            views.append((f"for {name}", drawn))
        inside = "".join(
            f'<div class="image">{image}<span class="soft">{words}</span></div>'
            for words, image in views
        )
        title = _title(predictions, n)
        figures.append(f"<figure><h3>{title}</h3><div class='triple'>{inside}</div></figure>")
    if not figures:
        return ""
    return (
        "<h2>Grad-CAM</h2><p class='soft'>Bright areas speak for the class (Selvaraju et al. "
        f"2017): the output of the last stage, {maps.shape[1]} x {maps.shape[2]} values for the "
        "whole image. Each map is scaled to its own maximum.</p>"
        f'<div class="triples">{"".join(figures)}</div>'
    )


def ece_and_nll(predictions: Predictions | None) -> tuple[float | None, float | None]:
    """Compute calibration error and negative log-likelihood; None without probabilities."""
    if predictions is None or predictions.multi_label:
        return None, None
    if not measures.are_probabilities(predictions.scores):
        return None, None
    scores, labels = predictions.scores, predictions.labels
    ece = measures.reliability(scores, labels).ece
    return ece, measures.negative_log_likelihood(scores, labels)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Compute the 95 % interval of a fraction of `n` images (Wilson 1927, "Probable inference")."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _labels_section(predictions: Predictions, threshold: float) -> str:
    """Show a table of the labels, the lowest average precision first."""
    scores, labels = predictions.scores, predictions.labels
    found = measures.decisions(scores, labels, threshold)
    predicted, true = measures.decided(scores, threshold), labels > 0.5
    rows = []
    for i, name in enumerate(predictions.classes):
        precision = measures.average_precision(scores[:, i], labels[:, i])
        counts = (true[:, i], predicted[:, i], true[:, i] & predicted[:, i])
        cells = [percent(precision), percent(found.f1[i]), *(f"{x.sum():,}" for x in counts)]
        rows.append((math.inf if precision is None else precision, name, cells))
    rows.sort(key=lambda row: row[0])
    drawn = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f'<td class="n">{cell}</td>' for cell in cells)
        + "</tr>"
        for _, name, cells in rows
    )
    names = ("average precision", "F1", "images with it", "predicted", "of these right")
    heads = "".join(f'<th class="n">{name}</th>' for name in names)
    return (
        f"<h2>Labels</h2><p class='soft'>All {len(labels):,} images of "
        f"{escape(predictions.dataset)}, split {escape(predictions.split)}; a label is predicted "
        f"from a score of {threshold:.4g} on.</p>"
        '<div class="figures loose"><figure><h3>By label</h3><div class="wide"><table>'
        f"<tr><th>label</th>{heads}</tr>{drawn}"
        "</table></div><figcaption>The lowest average precision first.</figcaption></figure></div>"
    )


def _sets(predictions: Predictions, n: int) -> tuple[list[int], list[int]]:
    """The labels of an image that are predicted, the highest score first, and the true ones."""
    assert predictions.threshold is not None
    scores = predictions.scores[n]
    chosen = np.flatnonzero(measures.decided(scores, predictions.threshold))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    return chosen.tolist(), np.flatnonzero(predictions.labels[n] > 0.5).tolist()


def _mapped(predictions: Predictions, n: int, most: int = 4) -> list[int]:
    """The classes whose maps are shown of an image: the predicted and the true ones."""
    if not predictions.multi_label:
        return list(dict.fromkeys(_predicted_and_true(predictions, n)))
    chosen, true = _sets(predictions, n)
    wrong = [label for label in (*chosen, *true) if (label in chosen) != (label in true)]
    return list(dict.fromkeys([*wrong, *chosen, *true]))[:most]


def _names(predictions: Predictions, labels: list[int]) -> str:
    return escape(", ".join(predictions.classes[label] for label in labels) or "none")


def _with_scores(predictions: Predictions, n: int, labels: list[int]) -> str:
    """Name labels with their scores."""
    each = (
        f"{escape(predictions.classes[label])} {percent(float(predictions.scores[n, label]))}"
        for label in labels
    )
    return ", ".join(each) or "none"


def _by_class(predictions: Predictions, places: np.ndarray) -> str:
    """Show the top-1 of each class, or of the hardest classes."""
    classes, labels = predictions.classes, predictions.labels
    seen = np.bincount(labels, minlength=len(classes))
    shares = measures.per_class(places, labels, len(classes))
    rows = [
        (name, share, *wilson_interval(share, int(n)), int(n))
        for name, share, n in zip(classes, shares, seen, strict=True)
        if share is not None
    ]
    rows.sort(key=lambda row: row[1])
    shown = rows[:_MOST_ROWS]
    words = "Hardest first. The bar is the 95 % interval (Wilson) for the images of the class."
    if len(shown) < len(rows):
        median = float(np.median([row[1] for row in rows]))
        words += (
            f" These are the {len(shown)} hardest of {len(rows)} classes; "
            f"the median of all is {percent(median)}."
        )
    chart = charts.intervals(shown, x_label="top-1, % of the class' images", y_label="class")
    return figure("Accuracy by class", chart, words)


def _confused_pairs(predictions: Predictions, counts: np.ndarray, most: int = 6) -> str:
    """Show a table of the most frequent mistakes."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows = []
    for true, predicted in (np.unravel_index(i, wrong.shape) for i in order):
        if n := wrong[true, predicted]:
            rows.append(
                f"<tr><td>{escape(predictions.classes[true])}</td>"
                f"<td>{escape(predictions.classes[predicted])}</td>"
                f'<td class="n">{n:,}</td>'
                f'<td class="n">{percent(n / counts[true].sum())}</td></tr>'
            )
    if not rows:
        return ""
    return (
        '<figure><h3>Most frequent mistakes</h3><div class="wide"><table>'
        '<tr><th>true class</th><th>predicted class</th><th class="n">images</th>'
        f'<th class="n">of the class</th></tr>{"".join(rows)}</table></div></figure>'
    )


def _reliability(predictions: Predictions, top1: float) -> str:
    """Show accuracy against confidence."""
    binned = measures.reliability(predictions.scores, predictions.labels)
    ece, nll = ece_and_nll(predictions)
    confidence = float(predictions.scores.max(axis=1).mean())
    lean = "overconfident" if confidence > top1 else "underconfident"
    return figure(
        "Reliability",
        charts.reliability(binned),
        "Blue: accuracy of the images in each range of confidence. Orange: overconfidence. Green: "
        f"underconfidence. Paler bars have fewer images. ECE {percent(ece, 2)} with "
        f"{len(binned.counts)} bins (Guo et al. 2017), negative log-likelihood {nll:.4f} nats. "
        f"Mean confidence {percent(confidence, 2)}, top-1 {percent(top1, 2)}: {lean}.",
    )


def _predicted(predictions: Predictions, images: slice = slice(None)) -> np.ndarray:
    """Return the predicted class; where there is none (NaN), any but the true one."""
    scores, labels = predictions.scores[images].copy(), predictions.labels[images]
    wrong = np.flatnonzero(measures.ranks(scores, labels) >= 1)
    scores[wrong, labels[wrong]] = -np.inf
    return scores.argmax(axis=1)


def _predicted_and_true(predictions: Predictions, n: int) -> tuple[int, int]:
    return int(_predicted(predictions, slice(n, n + 1))[0]), int(predictions.labels[n])


def _confusion_counts(predictions: Predictions) -> np.ndarray:
    counts = np.zeros((len(predictions.classes),) * 2, int)
    np.add.at(counts, (predictions.labels, _predicted(predictions)), 1)
    return counts


def _shown(predictions: Predictions) -> list[tuple[int, int]]:
    """Pair the place of each kept image with its number in the split."""
    return [(k, int(n)) for k, n in enumerate(predictions.shown)]


def _is_right(predictions: Predictions, n: int) -> bool:
    if predictions.multi_label:
        chosen, labels = _sets(predictions, n)
        return set(chosen) == set(labels)
    predicted, true = _predicted_and_true(predictions, n)
    return predicted == true


def _title(predictions: Predictions, n: int) -> str:
    if predictions.multi_label:
        chosen, labels = _sets(predictions, n)
        verdict = "correct" if _is_right(predictions, n) else f"true {_names(predictions, labels)}"
        return f"Predicted {_with_scores(predictions, n, chosen)}; {verdict}"
    predicted, true = _predicted_and_true(predictions, n)
    score = percent(float(predictions.scores[n, predicted]))
    name = escape(predictions.classes[predicted])
    if predicted == true:
        return f"Predicted {name}, {score}: correct"
    return f"Predicted {name}, {score}; labelled {escape(predictions.classes[true])}"


def _caption(predictions: Predictions, n: int) -> str:
    if predictions.multi_label:
        chosen, labels = _sets(predictions, n)
        return (
            f'<span class="predicted">{_with_scores(predictions, n, chosen)}</span><br>'
            f'labels <span class="true">{_names(predictions, labels)}</span><br>'
            f'<span class="soft">{escape(_which(predictions, n))}</span>'
        )
    predicted, true = _predicted_and_true(predictions, n)
    score = percent(float(predictions.scores[n, predicted]))
    return (
        f'<span class="predicted">{escape(predictions.classes[predicted])}</span> '
        f'<span class="nb">{score}</span><br>'
        f'label <span class="true">{escape(predictions.classes[true])}</span><br>'
        f'<span class="soft">{escape(_which(predictions, n))}</span>'
    )


def _alternative(predictions: Predictions, n: int) -> str:
    labels = [int(predictions.labels[n])] if not predictions.multi_label else []
    shown = _names(predictions, labels or _sets(predictions, n)[1])
    return f"test image {escape(_which(predictions, n))}: {shown}"


def _which(predictions: Predictions, n: int) -> str:
    """Tell an image from others: by the name of its file, or its number."""
    if predictions.paths is None:
        return f"no. {n}"
    return Path(str(predictions.paths[n])).name
