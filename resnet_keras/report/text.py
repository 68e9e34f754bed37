"""Words of others on a page: nothing of them is markup, and nothing moves a cursor."""

import html
import unicodedata

from resnet_keras.files import local_path


def escape(words: object) -> str:
    """Text for HTML and SVG, in quotes or not.

    Control characters become their images (U+2400..), what changes the direction of writing or
    is no character becomes U+FFFD.
    """
    return html.escape("".join(map(_visible, str(words))), quote=True)


def public(dataset: str) -> str:
    """A data set's name for others: a folder's without the way to it."""
    folder = local_path(dataset)
    return dataset if folder is None else folder.absolute().name


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction in per cent."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _visible(character: str) -> str:
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    if code == 127:
        return "\N{SYMBOL FOR DELETE}"
    if character in "\u200c\u200d":  # joiners, of Persian and of emoji
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return "\N{REPLACEMENT CHARACTER}"
    return character


def milliseconds(latency: dict[str, float] | float | None) -> str | None:
    """How long one image took, as an export's report says it: by the number of threads."""
    if latency is None or isinstance(latency, int | float):
        return None if latency is None else f"{latency:.3g}"
    threads = {"1": " (1 thread)", "all": ""}
    return ", ".join(
        f"{value:.3g}{threads.get(number, f' ({number} threads)')}"
        for number, value in latency.items()
    )
