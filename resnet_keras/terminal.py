"""What a user sees on stderr: one line for what he can mend, no noise of other people's."""

import contextlib
import os
import re
import sys
import tempfile

# TensorFlow prints these on every machine without a GPU, and while it quantizes; no setting of its
# own silences them.
_NOISE = re.compile(
    r"cudart_stub|cuda_platform|cuInit|oneDNN custom operations|before absl::InitializeLog"
    r"|fully_quantize|^$"
)


class InputError(ValueError):
    """Something that the user can mend; the message says what is wrong, where, and what to do."""


def exit_with_one_line() -> None:
    """From now on an `InputError` that nobody catches ends the program with one line, code 2.

    For programs, not libraries: recipes and the command line call it. Any other error keeps its
    traceback, because it is ours to mend.
    """
    sys.excepthook = _one_line


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


def say(line: object) -> None:
    """One line on stderr, whatever the names of files and classes in it are."""
    print(printable(str(line)), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Show what would steer the terminal (names of files, of classes) as Python writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _one_line(kind, error, trace):
    if not issubclass(kind, InputError):
        return sys.__excepthook__(kind, error, trace)
    say("error: " + " ".join(str(error).split()))
    raise SystemExit(2)  # Python takes the exit code of a hook that raises this
