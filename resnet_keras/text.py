"""Text that other people wrote (names of files and classes, messages), made safe to show.

One rule for the terminal, error messages, `labels.txt`, the report and the model card: a character
that would steer a terminal, end a line or change the direction of writing is shown as Python
writes it, and so is half of a surrogate pair, which no file takes.
"""

import unicodedata

# Control characters, formatting characters (bidirectional overrides among them), lone surrogates,
# separators of lines and of paragraphs.
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")

# ZERO WIDTH NON-JOINER and JOINER are formatting characters, but part of the spelling of Persian
# words and of emoji.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    r"""Replace every unsafe character by its Python escape, such as `\x1b` or `\u202e`.

    Line breaks and tabs are unsafe; joiners, private characters and those that are newer than
    this Python stay.
    """
    return "".join(_escaped(character) for character in text)


def one_line(text: str) -> str:
    """Join the words of a text by single spaces, and make them printable."""
    return printable(" ".join(text.split()))


def shortened(text: str, *, most: int = 300) -> str:
    """Cut the middle out of a text of more than `most` characters; above 5.

    Messages say at their beginning what is wrong, at their end what was received.
    """
    if len(text) <= most:
        return text
    left = most - len(" ... ")
    end = left * 2 // 5
    return f"{text[: left - end]} ... {text[len(text) - end :]}"


def reason(error: Exception) -> str:
    """Shorten an error's message to one line: it may quote any text of a file."""
    return shortened(one_line(str(error)) or type(error).__name__, most=600)


def _escaped(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE and character not in _JOINERS:
        return repr(character)[1:-1]
    return character
