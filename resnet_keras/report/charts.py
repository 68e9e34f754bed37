"""Charts as SVG, which takes its colours from the page, light or dark."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from resnet_keras.evaluation.measures import Reliability
from resnet_keras.report.text import escape, percent

# In units of the SVG: about as wide as a phone, so that text can be read there.
WIDTH = 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 12, 40
# Width of a letter of the numbers at an axis, about.
_LETTER = 6.2

# Up to this many points of a curve can be hovered.
_MOST_DOTS = 200


def figure(title: str, drawn: str, words: str) -> str:
    """Put a chart between its title and its caption; all three are HTML."""
    caption = f"<figcaption>{words}</figcaption>" if words else ""
    drawn = drawn.replace('role="img"', f'role="img" aria-label="{title}"')
    return f"<figure><h3>{title}</h3>{drawn}{caption}</figure>"


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str,
    y_label: str,
    show: Callable[[float], str],
    low: float | None = None,
    logarithmic: bool = False,
) -> str:
    """Draw curves below a legend, which shows their values at the pointer.

    Args:
        series: points `(x, y)` by name; the order decides the colours.
        x_label: of the axis, with its unit.
        y_label: of the axis, with its unit.
        show: formats a value of y.
        low: lower end of the y axis, where curves are cut off; by default the lowest value.
        logarithmic: use a logarithmic y axis, and leave out values of 0 or less.
    """
    there = {
        name: [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]
        for name, points in series.items()
    }
    series = {name: points for name, points in there.items() if points}
    if not series:
        return ""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    ends = (min(ys) if low is None else low, max(ys))
    frame = _Frame((min(xs), max(xs)), ends, 240, logarithmic=logarithmic)
    drawn, words = [], []
    for number, (name, points) in enumerate(series.items()):
        colour = f"s{number % 8}"
        path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)
        drawn.append(f'<path class="line {colour}" d="{path}"/>')
        # In a very long run, not every epoch can be hovered.
        every = math.ceil(len(points) / _MOST_DOTS)
        drawn += [
            f'<circle class="dot {colour}" data-series="{number}" data-x="{x:g}" '
            f'data-y="{escape(show(y))}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="4"/>'
            for x, y in [*points[:-1:every], points[-1]]
        ]
        words.append(
            f'<span><i class="{colour}"></i>{escape(name)} <b>{escape(show(points[-1][1]))}</b>'
            "</span>"
        )
    legend = (
        f'<div class="legend">{"".join(words)}<span class="at">last {escape(x_label)}</span></div>'
    )
    return legend + frame.svg(drawn, x_label, y_label, clip=True)


def intervals(
    rows: Sequence[tuple[str, float, float, float, int]], *, x_label: str, y_label: str
) -> str:
    """Draw a fraction and its interval, one row for each class.

    Args:
        rows: name, fraction, lower and upper end of its interval, number of images.
        x_label: of the axis, with its unit.
        y_label: of the axis, with its unit.
    """
    step = 21
    left = 40 + _LETTER * max(min(len(row[0]), 13) for row in rows)
    low = math.floor(min(row[2] for row in rows) * 20) / 20  # rounded down to 5 %
    high = max(row[3] for row in rows)
    height = _TOP + step * len(rows) + _BOTTOM
    frame = _Frame((100 * low, 100 * high), (len(rows), 0), height, left=left, grid="x")
    drawn = []
    for i, (name, share, lower, upper, images) in enumerate(rows):
        y = _TOP + step * (i + 0.5)
        drawn.append(
            f"<g><title>{escape(name)}: {percent(share)} of {images:,} images, 95 % interval "
            f"{percent(lower)} to {percent(upper)}</title>"
            f'<rect class="row" x="0" y="{y - step / 2:.1f}" width="{WIDTH}" height="{step}"/>'
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(_short(name, 13))}</text>"
            f'<path class="whisker" d="M{frame.x(100 * lower):.1f} {y:.1f}'
            f'H{frame.x(100 * upper):.1f}"/>'
            f'<circle class="point s0" cx="{frame.x(100 * share):.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    return frame.svg(drawn, x_label, y_label, y_ticks=())


def confusion(counts: np.ndarray, names: Sequence[str]) -> str:
    """Draw how often a true class (row) was predicted as another (column).

    Args:
        counts: integers `(classes, classes)`.
        names: of the classes.
    """
    n = len(names)
    longest = 11 if n <= 20 else 0
    left = 34 + 5.6 * min(max(map(len, names)), longest) if longest else 30
    size = (WIDTH - left - 4) / n
    top = 6
    bottom = top + size * n
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = [f'<rect class="plot" x="{left}" y="{top}" width="{size * n}" height="{size * n}"/>']
    letters = min(11.0, size * 0.42)
    for i, j in zip(*np.nonzero(counts), strict=True):
        x, y = left + size * j, top + size * i
        right = i == j
        # The square root makes rare mistakes visible.
        strength = 0.06 + 0.94 * math.sqrt(shares[i, j])
        kind = "right" if right else "wrong"
        words = "right" if right else f"predicted as {names[j]}"
        drawn.append(
            f"<g><title>{escape(names[i])} {escape(words)}: {counts[i, j]:,} images, "
            f"{percent(shares[i, j])} of the class</title>"
            f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{max(size - 1, size * 0.9):.2f}" '
            f'height="{max(size - 1, size * 0.9):.2f}" fill-opacity="{strength:.2f}"/>'
        )
        if n <= 20:
            strong = " strong" if strength > 0.62 else ""
            drawn.append(
                f'<text class="cell{strong}" x="{x + size / 2:.1f}" y="{y + size / 2:.1f}" '
                f'font-size="{letters:.1f}">{counts[i, j]}</text>'
            )
        drawn.append("</g>")
    if longest:
        for i, name in enumerate(names):
            middle = size * (i + 0.5)
            word = escape(_short(name, longest))
            drawn.append(
                f'<text class="tick" x="{left - 5:.1f}" y="{top + middle + 3.5:.1f}" '
                f'text-anchor="end">{word}</text>'
                f'<text class="tick" text-anchor="end" '
                f'transform="translate({left + middle + 4:.1f} {bottom + 6:.1f}) rotate(-90)">'
                f"{word}</text>"
            )
    height = bottom + left - 2
    drawn.append(
        f'<text class="axis" transform="translate(11 {top + size * n / 2:.1f}) rotate(-90)">'
        "true class</text>"
        f'<text class="axis" x="{left + size * n / 2:.1f}" y="{height - 4:.1f}">'
        "predicted class</text>"
    )
    return _svg(drawn, height)


def reliability(binned: Reliability) -> str:
    """Draw the reliability diagram of Guo et al. 2017, figure 1, above the counts of its bins."""
    bins = len(binned.counts)
    top_height, low_height = 250, 112
    frame = _Frame((0, 100), (0, 100), top_height)
    below = _Frame((0, 100), (0, 100), low_height)
    shares = 100 * binned.counts / binned.counts.sum()
    width = frame.x(100 / bins) - frame.x(0) - 1.5
    drawn, counted = [], []
    for i in np.flatnonzero(binned.counts):
        x = frame.x(100 * i / bins) + 0.75
        accuracy, confidence = 100 * binned.accuracy[i], 100 * binned.confidence[i]
        both, base = min(accuracy, confidence), frame.y(0)
        gap = "overconfident" if confidence > accuracy else "underconfident"
        top, height = frame.y(max(accuracy, confidence)), abs(accuracy - confidence)
        height *= (frame.y(0) - frame.y(100)) / 100
        words = (
            f"confidence {100 * i / bins:.0f} to {100 * (i + 1) / bins:.0f} %: "
            f"{binned.counts[i]:,} images, accuracy {accuracy:.1f} %, "
            f"mean confidence {confidence:.1f} %"
        )
        pale = 0.2 + 0.8 * math.sqrt(binned.counts[i] / binned.counts.max())
        drawn.append(
            f'<g opacity="{pale:.2f}"><title>{words}</title>'
            f'<rect class="bar" x="{x:.1f}" y="{frame.y(both):.1f}" width="{width:.1f}" '
            f'height="{base - frame.y(both):.1f}"/>'
            f'<rect class="{gap}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"/></g>'
        )
        counted.append(
            f'<rect class="count" x="{x:.1f}" y="{below.y(shares[i]):.1f}" width="{width:.1f}" '
            f'height="{max(below.y(0) - below.y(shares[i]), 1):.1f}"><title>{words}</title></rect>'
        )
    drawn.append(
        f'<path class="ideal" d="M{frame.x(0)} {frame.y(0)}L{frame.x(100)} {frame.y(100)}"/>'
    )
    ticks = (0, 20, 40, 60, 80, 100)
    return frame.svg(
        drawn, "confidence: score of the top class, %", "accuracy, %", x_ticks=ticks, y_ticks=ticks
    ) + below.svg(counted, "confidence, %", "images, %", x_ticks=ticks, y_ticks=(0, 50, 100))


class _Frame:
    """The axes of a chart, from values to units of the SVG.

    Args:
        x: the values at the ends of the x axis.
        y: the values at the ends of the y axis.
        height: of the chart.
        left: place of the y axis; by default there is room for its numbers.
        grid: "x" also draws vertical lines.
        logarithmic: use a logarithmic y axis.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        height: float,
        *,
        left: float | None = None,
        grid: str = "y",
        logarithmic: bool = False,
    ):
        self.scale: Callable[[float], float] = math.log10 if logarithmic else float
        if logarithmic:  # at least one power of ten lies within
            y = (min(y[0], 10 ** math.floor(math.log10(y[1]))), y[1])
        self.low_x, self.high_x = x if x[0] != x[1] else (x[0] - 0.5, x[1] + 0.5)
        self.low_y, self.high_y = y if y[0] != y[1] else (y[0] - 0.5, y[1] + 0.5)
        powers = self.scale is math.log10
        self.y_ticks = (_powers if powers else _ticks)(self.low_y, self.high_y, 5)
        if left is None:
            longest = max((len(f"{tick:g}") for tick in self.y_ticks), default=0)
            left = max(_LEFT, 26 + _LETTER * longest)
        self.left, self.height, self.grid = left, height, grid

    def x(self, value: float) -> float:
        share = (value - self.low_x) / (self.high_x - self.low_x)
        return self.left + share * (WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.scale(self.low_y), self.scale(self.high_y)
        share = (self.scale(value) - low) / (high - low)
        return self.height - _BOTTOM - share * (self.height - _BOTTOM - _TOP)

    def svg(
        self,
        drawn: Sequence[str],
        x_label: str,
        y_label: str,
        *,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
        clip: bool = False,
    ) -> str:
        """Draw the axes with their ticks and labels, and what is in the chart.

        Args:
            drawn: SVG elements.
            x_label: of the axis, with its unit.
            y_label: of the axis, with its unit.
            x_ticks: values; by default round numbers.
            y_ticks: values; by default round numbers.
            clip: cut off what is outside the axes.
        """
        x_ticks = _ticks(self.low_x, self.high_x, 6) if x_ticks is None else x_ticks
        y_ticks = self.y_ticks if y_ticks is None else y_ticks
        base, right = self.height - _BOTTOM, WIDTH - _RIGHT
        axes = []
        for tick in y_ticks:
            axes.append(
                f'<path class="grid" d="M{self.left} {self.y(tick):.1f}H{right}"/>'
                f'<text class="tick" x="{self.left - 6}" y="{self.y(tick) + 4:.1f}" '
                f'text-anchor="end">{tick:g}</text>'
            )
        for tick in x_ticks:
            if self.grid == "x":
                axes.append(f'<path class="grid" d="M{self.x(tick):.1f} {_TOP}V{base}"/>')
            axes.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{base + 15}" '
                f'text-anchor="middle">{tick:g}</text>'
            )
        axes.append(
            f'<path class="base" d="M{self.left} {base}H{right}"/>'
            f'<text class="axis" x="{(self.left + right) / 2}" y="{self.height - 7}">'
            f"{escape(x_label)}</text>"
            f'<text class="axis" transform="translate(12 {(_TOP + base) / 2}) rotate(-90)">'
            f"{escape(y_label)}</text>"
        )
        if clip:
            # A nested svg cuts off what is outside of it, without an id.
            box = f'x="{self.left}" y="{_TOP - 6}" width="{WIDTH - self.left}"'
            height = base - _TOP + 6
            view = f"{self.left} {_TOP - 6} {WIDTH - self.left} {height}"
            drawn = [f'<svg {box} height="{height}" viewBox="{view}">', *drawn, "</svg>"]
        return _svg([*axes, *drawn], self.height)


def _svg(drawn: Sequence[str], height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(drawn)}</svg>'


def _ticks(low: float, high: float, most: int) -> list[float]:
    """List round numbers on an axis, in steps of 1, 2 or 5 times a power of ten."""
    low, high = min(low, high), max(low, high)
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _powers(low: float, high: float, most: int) -> list[float]:
    """List powers of ten on an axis; where there are few, also 2 and 5 times, or 3 times them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**k for k in decades for m in parts]
        ticks = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high * (1 + 1e-9)]
        if len(ticks) <= most + 1:
            return ticks
    return ticks[:: math.ceil(len(ticks) / (most + 1))]


def _short(word: str, longest: int) -> str:
    return word if len(word) <= longest else word[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
