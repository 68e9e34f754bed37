"""What a user can fix is an `InputError`; anything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and what to do."""
