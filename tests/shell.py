"""Runs commands one after the other: each a line of JSON on stdin, answered by one on stdout.

Each is a fork of this process, which has loaded the libraries already: otherwise every one of them
would take five seconds for that alone.
"""

import json
import os
import runpy
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def run(command: str) -> dict:
    """Run a `python ...` command, or Python code, in a fork."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for number, file in ((0, open(os.devnull)), (1, out), (2, err)):
                    os.dup2(file.fileno(), number)
                code = in_child(command)
            finally:
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": texts[0],
            "err": texts[1],
            "memory": used.ru_maxrss >> 10,  # MiB
            "seconds": round(used.ru_utime + used.ru_stime, 1),  # of a core
        }


def in_child(command: str) -> int:
    """The exit code of a command."""
    try:
        if command.startswith("python "):
            words = shlex.split(command)[1:]
            module = words[:1] == ["-m"]
            sys.argv = words[1:] if module else words
            # As the interpreter does: the folder of a script, or that of the shell.
            sys.path.insert(0, "" if module else str(Path(words[0]).parent))
            if module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(words[0], run_name="__main__")
        else:
            exec(compile(command, "document", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        kind, error, trace = sys.exc_info()
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exc()
            return 1
        try:
            sys.excepthook(kind, error, trace)
        except SystemExit as stop:
            return stop.code
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main() -> None:
    """Load what commands need, but start no thread and no device; then run them."""
    answers = os.fdopen(os.dup(1), "w")
    sys.path.insert(0, str(REPOSITORY))
    import ai_edge_litert.interpreter
    import keras
    import tensorflow
    import tensorflow_datasets

    del ai_edge_litert, keras, tensorflow, tensorflow_datasets
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
