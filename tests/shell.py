"""Runs commands of documents one after the other: `shell.py COMMANDS.json`, in a folder of theirs.

Each is a fork of this process, which has loaded the libraries already: otherwise every one of them
would take five seconds for that alone. Gives one line of JSON a command: exit code, output.
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
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                code = in_child(command)
            finally:
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        output.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "output": output.read().decode(errors="replace"),
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
    commands = json.loads(Path(sys.argv[1]).read_text())
    answers = os.fdopen(os.dup(1), "w")
    sys.path.insert(0, str(REPOSITORY))
    import ai_edge_litert.interpreter
    import keras
    import tensorflow
    import tensorflow_datasets

    del ai_edge_litert, keras, tensorflow, tensorflow_datasets
    for command in commands:
        print(json.dumps(run(command)), file=answers, flush=True)


if __name__ == "__main__":
    main()
