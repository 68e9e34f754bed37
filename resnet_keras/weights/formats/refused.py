"""The error with which a format's reader says what is wrong with a file."""


class Refused(ValueError):
    """What makes a file no checkpoint; the message starts with a verb, "is" or "has"."""
