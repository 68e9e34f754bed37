"""Text of the page and of the model card: escaped, and with units."""

import html

from resnet_keras.files import local_path
from resnet_keras.text import printable

# The page of this repository about the programs that open exported files.
CLIENTS = "docs/clients.md"


def escape(text: object) -> str:
    """Escape anybody's text for HTML and SVG, inside quotes or not."""
    return html.escape(printable(str(text)), quote=True)


def escape_markdown(text: str) -> str:
    """Escape anybody's text for a line of Markdown."""
    text = printable(text)
    for mark in "\\`*[]<>|":  # the backslash first: the others are escaped with it
        text = text.replace(mark, f"\\{mark}")
    return text


def escape_code(text: str) -> str:
    """Escape anybody's text for a code span of Markdown, where only backticks are markup."""
    return printable(text).replace("`", "'")


def public(dataset: str) -> str:
    """Name a data set to others: a local folder without the path to it."""
    folder = local_path(dataset)
    return dataset if folder is None else folder.absolute().name


def percent(share: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage; "-" for None."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Write seconds in seconds, minutes or hours; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def milliseconds(latency: dict[str, float] | float | None) -> str | None:
    """Write the latency of an export's report, in ms, by the number of threads."""
    if latency is None or isinstance(latency, int | float):
        return None if latency is None else f"{latency:.3g}"
    threads = {"1": " (1 thread)", "all": ""}
    return ", ".join(
        f"{value:.3g}{threads.get(number, f' ({number} threads)')}"
        for number, value in latency.items()
    )
