"""Signals: how SIGTERM and SIGINT stop a program, whatever its libraries make of them."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], object]

# Seconds that a program has to stop in by itself.
_PATIENCE = 10


class Stopped(SystemExit):
    """A signal has come: the program exits with 128 + signal, unless `stopping` is around.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


# What `stop` has raised. Libraries in C++ may swallow it and continue without what they asked for.
_raised: Stopped | None = None


@contextlib.contextmanager
def signals_to(handler: Handler) -> Iterator[None]:
    """Let a handler take SIGTERM and SIGINT for a while; nothing happens outside the main thread.

    Python handles signals in its main thread alone: who trains in another one stops it otherwise.

    Args:
        handler: called as `signal.signal` calls handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Stop the program, as a handler of signals; a second signal ends it at once.

    A program that has not stopped after 10 seconds is ended.

    Raises:
        Stopped: always, so that files which are not whole yet are removed.
    """
    global _raised
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_DFL)
    _raised = Stopped(number)
    threading.Thread(target=_end, args=(_raised,), daemon=True).start()
    raise _raised


def heed_signals() -> None:
    """Raise again what `stop` raised and somebody swallowed, before a step that cannot be undone.

    Raises:
        Stopped: a signal has come.
    """
    if _raised is not None:
        raise _raised


@contextlib.contextmanager
def stopping(hint: str) -> Iterator[None]:
    """Let SIGTERM and SIGINT end what is within with one line and exit code 128 + signal.

    Args:
        hint: the end of the line: how to resume.

    Raises:
        SystemExit: a signal has come.
    """
    global _raised
    stopped = None
    try:
        with _silent_in_destructors(), signals_to(stop):
            yield
    except BaseException as error:
        # Any other error after a signal is what a library made of it; without one, it is its own.
        stopped = error if isinstance(error, Stopped) else _raised
        if stopped is None:
            raise
    if stopped := stopped or _raised:
        _raised = None
        # Only now, when the frames are gone: bars of other libraries end with them, and wipe out
        # lines.
        name = signal.Signals(stopped.number).name
        print(f"\nstopped by {name}. {hint}", file=sys.stderr, flush=True)
        raise SystemExit(stopped.code)


@contextlib.contextmanager
def _silent_in_destructors() -> Iterator[None]:
    """Print nothing where a signal comes within `__del__`, whose errors Python ignores and shows.

    `heed_signals` and `stopping` raise it again.
    """
    before = sys.unraisablehook

    def hook(ignored):
        if not isinstance(ignored.exc_value, Stopped):
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _end(stopped: Stopped) -> None:
    """End the program, if it has not stopped by itself."""
    time.sleep(_PATIENCE)
    if _raised is stopped:
        name = signal.Signals(stopped.number).name
        os.write(2, f"\nstopped by {name}.\n".encode())
        os._exit(128 + stopped.number)
