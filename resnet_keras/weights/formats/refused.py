"""The error with which a format's reader says what is wrong with a file."""


class Refused(ValueError):
    """Why a file cannot be read as a checkpoint; the message starts with "is", "has" or "gives"."""
