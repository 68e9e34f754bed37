"""What a user can fix ends a program with one line; a bug keeps its traceback."""

import contextlib
import errno
import os
import tempfile
import traceback


class InputError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and what to do."""


# What a machine refuses until its user has done something.
_REASONS = {
    number: os.strerror(number)
    for number in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
        errno.EIO,
        errno.EACCES,
        errno.EPERM,
    )
}

# Errors of programs: whatever their text says, and whatever they were raised from, they are bugs.
_BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    SystemError,
    TypeError,
    UnicodeError,
)


def refusal(error: BaseException | None) -> str | None:
    """Tell why the machine refuses what was tried (`No space left on device`).

    Only the failing call itself counts: the error, or one that it was explicitly raised from. An
    error that was handled before (`__context__`) has nothing to do with it.

    Args:
        error: of Python or of any library.

    Returns:
        The reason in the system's words; None for every other error.
    """
    while error is not None and not isinstance(error, _BUGS):
        if reason := _reason(error):
            return reason
        error = error.__cause__
    return None


def explanation(error: BaseException) -> str | None:
    """Say in one line what the user can fix.

    The traceback of what the machine refused goes to a file, which the line names: the failing
    call may be a library's. Where that file cannot be written either, the line does not name it.

    Args:
        error: that nobody has caught.

    Returns:
        The line; None for a bug, whose traceback is for its developers.
    """
    reason = refusal(error)
    if isinstance(error, InputError):
        text = str(error)
    elif reason is None or not isinstance(error, Exception):
        return None
    else:
        where = getattr(error, "filename", None)
        text = f"{where}: {reason}" if where else str(error)
        if reason not in text:
            text += f": {reason}"
        text += ". Fix that, then run the same command again."
    if refusal(error.__cause__ if isinstance(error, InputError) else error):
        if path := _write_traceback(error):
            text += f" The traceback is in {path}."
    return " ".join(text.split())


def _reason(error: BaseException) -> str | None:
    """Tell why the machine refuses, if this error itself says so."""
    if isinstance(error, OSError) and error.errno is not None:
        return _REASONS.get(error.errno)
    # Libraries in C++ have the words alone, in errors of their own or in those of pybind11.
    if isinstance(error, OSError | RuntimeError) or type(error).__module__ != "builtins":
        return next((reason for reason in _REASONS.values() if reason in str(error)), None)
    return None


def _write_traceback(error: BaseException) -> str | None:
    """Write a traceback to a temporary file; None where the machine refuses that, too."""
    path = None
    try:
        handle, path = tempfile.mkstemp(prefix="resnet_keras-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)
        return None
    return path
