"""Other people's words in our messages: one line, and not a long one."""


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return shortened(one_line(str(error)) or type(error).__name__)


def one_line(text: str) -> str:
    """Join the words of a text by single spaces."""
    return " ".join(text.split())


def shortened(text: str) -> str:
    """Cut the middle out of a long text: messages say at their end what was received."""
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-200:]}"
