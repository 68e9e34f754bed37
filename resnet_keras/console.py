"""What a user sees on stderr: one line for what he can fix, no noise of other people's."""

import contextlib
import errno
import io
import os
import re
import select
import shlex
import signal
import sys
import tempfile
import threading
import time

from resnet_keras.errors import InputError

# TensorFlow prints these on every machine without a GPU, and while it quantizes; no setting of its
# own silences them.
_NOISE = re.compile(
    r"cudart_stub|cuda_platform|cuInit|oneDNN custom operations|before absl::InitializeLog"
    r"|fully_quantize|^$"
)


# What a machine refuses until its user has done something; libraries in C++ tell it in words alone.
_REFUSALS = [
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.EACCES,
                   errno.EPERM)
]  # fmt: skip


def exit_with_one_line() -> None:
    """From now on an `InputError` that nobody catches ends the program with one line, code 2.

    So does what the machine refuses: see `refusal`. Where nobody reads stdout or stderr any more,
    `| head` has its lines, say, it ends as by a signal: see `text_to`.

    For programs, not libraries: recipes and the command line call it. Any other error keeps its
    traceback, because it is ours to fix.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # nobody has replaced it
            setattr(sys, name, text_to(number, stream))
    sys.excepthook = _one_line
    sys.unraisablehook = _unless_stopped


def text_to(number: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """A stream of text that, where nobody reads it any more, stops the program as SIGTERM does.

    So a training saves before. Without a handler of SIGTERM the program ends at once, without a
    word, as SIGPIPE ends others. Python ignores that, and must: sockets know it, too.

    Args:
        number: of the open file.
        like: a stream whose settings it has.
    """
    like.flush()
    file = _Read(number, "w", closefd=number > 2)
    return io.TextIOWrapper(
        file if like.write_through else io.BufferedWriter(file),  # as Python makes its own
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


class _Read(io.FileIO):
    """An open file that somebody reads."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            handler = signal.getsignal(signal.SIGTERM)
            if not callable(handler):
                os._exit(128 + signal.SIGPIPE)
            _silence({self.fileno(), 1, 2})
            handler(signal.SIGPIPE, None)
            return len(data)


def _silence(numbers: set[int]) -> None:
    """Of some open files, let those that nobody reads take whatever comes."""
    poll = select.poll()
    for number in numbers:
        poll.register(number, 0)  # errors are always told
    with open(os.devnull, "w") as nowhere:
        for number, _ in poll.poll(0):
            os.dup2(nowhere.fileno(), number)


@contextlib.contextmanager
def signals_to(handler):
    """SIGTERM and SIGINT go to `handler`, called as those of `signal.signal`, for a while."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


class Stopped(SystemExit):
    """A signal has come: the program ends with 128 + signal, unless `stopping` is around."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


# What `stop` has raised. Libraries in C++ may swallow it, and go on with what they were not given.
_raised: Stopped | None = None

# Seconds that a program has to end in; then it is ended.
_PATIENCE = 10


def stop(number, frame) -> None:
    """End the program, as a handler of signals; what it was about to write is taken away.

    A second signal ends it at once.

    Raises:
        Stopped: always.
    """
    global _raised
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_DFL)
    _raised = Stopped(number)
    threading.Thread(target=_end, args=(_raised,), daemon=True).start()
    raise _raised


def heed_signals() -> None:
    """Before something cannot be taken back: raise again what `stop` raised and somebody swallowed.

    Raises:
        Stopped: a signal has come.
    """
    if _raised is not None:
        raise _raised


@contextlib.contextmanager
def stopping(hint: str):
    """SIGTERM and SIGINT end what is within with one line, and 128 + signal.

    Args:
        hint: of the line: how to go on.
    """
    global _raised
    stopped = None
    try:
        with signals_to(stop):
            yield
    except BaseException as error:
        # Any other error behind a signal is what a library made of it; without one, it is its own.
        stopped = error if isinstance(error, Stopped) else _raised
        if stopped is None:
            raise
    if stopped := stopped or _raised:
        _raised = None
        # Now that the frames are gone: with them go bars of other libraries, which wipe out lines.
        name = signal.Signals(stopped.number).name
        print(f"\nstopped by {name}. {hint}", file=sys.stderr, flush=True)
        raise SystemExit(stopped.code)


def _unless_stopped(ignored) -> None:
    """As a hook of errors that Python must ignore, in `__del__` say: a signal is none."""
    if not isinstance(ignored.exc_value, Stopped):
        sys.__unraisablehook__(ignored)


def _end(stopped: Stopped) -> None:
    """End the program, if that was not heeded."""
    time.sleep(_PATIENCE)
    if _raised is stopped:
        name = signal.Signals(stopped.number).name
        os.write(2, f"\nstopped by {name}.\n".encode())
        os._exit(stopped.code)


def refusal(error: BaseException | None) -> str | None:
    """Why the machine refuses, in its words (`No space left on device`); None if it does not.

    Args:
        error: any library's; what it came from is looked at, too.
    """
    while error is not None:
        text = f"{getattr(error, 'strerror', None)} {error}"
        for reason in _REFUSALS:
            if reason in text:
                return reason
        error = error.__cause__ or error.__context__
    return None


def load_tensorflow() -> None:
    """Import TensorFlow without what it prints about GPUs that are not there."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with without_noise():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def without_noise():
    """Hold back what is written to stderr, by C++ too; at the end let through all but noise."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not _NOISE.search(line):
                    print(line, file=sys.stderr)


def command() -> str:
    """The command that this process was started with, as a shell takes it."""
    program, *arguments = sys.argv
    if spec := getattr(sys.modules["__main__"], "__spec__", None):  # python -m
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif program.endswith(".py") or program == "-c":
        start = ["python", program]
    else:
        start = [os.path.basename(program)]
    return shlex.join([*start, *arguments])


def say(line: object) -> None:
    """One line on stderr, whatever the names of files and classes in it are."""
    print(printable(str(line)), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Show what would steer the terminal (names of files, of classes) as Python writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """The beginning of a text, such that it fits into a line."""
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _one_line(kind, error, trace):
    text = str(error)
    if not issubclass(kind, InputError):
        if not issubclass(kind, Exception) or (reason := refusal(error)) is None:
            return sys.__excepthook__(kind, error, trace)
        if where := getattr(error, "filename", None):
            text = f"{where}: {reason}"
        elif reason not in text:
            text += f": {reason}"
        text += ". Fix that, then give the same command again."
    say("error: " + " ".join(text.split()))
    raise SystemExit(2)  # Python takes the exit code of a hook that raises this
