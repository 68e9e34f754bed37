"""What a program says on stdout and stderr: its own lines, without the noise of its libraries."""

import contextlib
import io
import os
import re
import select
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType

from resnet_keras.errors import InputError, explanation
from resnet_keras.text import printable

# TensorFlow prints these on every machine without a GPU, and while it quantizes; no setting of its
# own silences them.
_NOISE = re.compile(
    r"cudart_stub|cuda_platform|cuInit|oneDNN custom operations|before absl::InitializeLog"
    r"|fully_quantize|^$"
)


def exit_with_one_line() -> None:
    """End this program with one line and exit code 2 on an error that the user can fix.

    That is an `InputError`, or what the machine refuses: see `errors.explanation`. Every other
    error keeps its traceback and exit code 1. A reader of stdout or stderr that leaves (`| head`)
    is a signal: see `text_to`.

    For programs, not libraries: recipes and the command line call it.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # nobody has replaced it
            setattr(sys, name, text_to(number, stream))
    sys.excepthook = _excepthook


def text_to(number: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Open a text stream that stops the program, as SIGTERM does, when its reader has exited.

    So a training saves first. Without a handler of SIGTERM the program ends at once and silently,
    as SIGPIPE ends others; Python ignores SIGPIPE, and must, because of sockets.

    Args:
        number: of the open file.
        like: the stream whose settings it takes over.
    """
    like.flush()
    file = _Pipe(number, "w", closefd=number > 2)
    return io.TextIOWrapper(
        file if like.write_through else io.BufferedWriter(file),  # as Python makes its own
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


class _Pipe(io.FileIO):
    """An open file whose reader may leave."""

    def write(self, data):
        try:
            return super().write(data)
        except BrokenPipeError:
            handler = signal.getsignal(signal.SIGTERM)
            if not callable(handler):
                os._exit(128 + signal.SIGPIPE)
            _discard({self.fileno(), 1, 2})
            handler(signal.SIGPIPE, None)
            return len(data)


def _discard(numbers: set[int]) -> None:
    """Send to /dev/null what is written from now on to those open files whose readers have left."""
    poll = select.poll()
    for number in numbers:
        poll.register(number, 0)  # errors are always reported
    with open(os.devnull, "w") as nowhere:
        for number, _ in poll.poll(0):
            os.dup2(nowhere.fileno(), number)


def load_tensorflow() -> None:
    """Import TensorFlow without its messages about missing GPUs.

    Raises:
        InputError: it is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with without_noise():
            import tensorflow as tf

            tf.config.list_physical_devices()
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise InputError(
            f"this needs TensorFlow: pip install 'resnet-keras[train]'. Received: {error}"
        ) from error


@contextlib.contextmanager
def without_noise(*told: type[Exception]) -> Iterator[None]:
    """Capture stderr, including that of C++; at the end print it without the noise.

    Args:
        *told: errors that say all that is captured before them, which then is not printed.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except told:
            sys.stderr.flush()
            captured.truncate(0)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                if not _NOISE.search(line):
                    print(line, file=sys.stderr)


def command() -> str:
    """Return the command that started this process, quoted for a shell."""
    program, *arguments = sys.argv
    if spec := getattr(sys.modules["__main__"], "__spec__", None):  # python -m
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif program.endswith(".py") or program == "-c":
        start = ["python", program]
    else:
        start = [os.path.basename(program)]
    return shlex.join([*start, *arguments])


def say(line: object) -> None:
    """Print one line on stderr, with the names of files and classes in it made printable."""
    print(printable(str(line)), file=sys.stderr, flush=True)


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what the user can fix in one line, and the traceback of everything else."""
    if (line := explanation(error)) is None:
        return sys.__excepthook__(kind, error, trace)
    say(f"error: {line}")
    raise SystemExit(2)  # Python takes the exit code of a hook that raises this
