"""Processes that have loaded the libraries already: 200 of them may be killed within minutes.

As a program this file is the server: it loads, starts no thread and no device, and forks. Each fork
is then a command as a user gives it, in a process of its own.
"""

import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]


class Warm:
    """Starts commands as forks of a process that has loaded TensorFlow, and `modules`."""

    def __init__(self, folder, *modules):
        self.folder, self.started = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *modules], cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **what):
        self.server.stdin.write(json.dumps(what) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, command, *, largest_file=None, **environment):
        """Start a `python ...` command; files cannot grow above `largest_file` bytes."""
        self.started += 1
        log = self.folder / f"{self.started}.log"
        pid = self.ask(
            command=command, log=str(log), largest_file=largest_file, environment=environment
        )
        return Process(self, pid, log)

    def run(self, command, **options):
        """Run a command to its end."""
        process = self.start(command, **options)
        process.wait()
        return process

    def close(self):
        self.server.stdin.close()
        self.server.wait(60)
        self.server.stdout.close()


class Process:
    """One command. `code` is None while it runs, and negative if a signal has ended it."""

    def __init__(self, warm, pid, log):
        self.warm, self.pid, self.log, self.code = warm, pid, log, None

    @property
    def output(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def errors(self):
        """The lines that begin with `error:`."""
        return [line for line in self.output.splitlines() if line.startswith("error: ")]

    def refused(self):
        """The one line of a command that the user must fix."""
        assert self.code == 2, self.output
        assert "Traceback" not in self.output, self.output
        (line,) = self.errors
        return line

    def poll(self):
        if self.code is None:
            self.code = self.warm.ask(wait=self.pid)
        return self.code

    def wait(self, seconds=900):
        end = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < end, self.output
            time.sleep(0.01)
        return self.code

    def wait_for(self, happened, seconds=600):
        """Wait until something is so, while the process runs."""
        end = time.monotonic() + seconds
        while not happened():
            assert self.poll() is None and time.monotonic() < end, self.output
            time.sleep(0.002)

    def send(self, number):
        if self.code is None:
            os.kill(self.pid, number)  # not waited for yet, so the number is still its own


def main():
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from shell import in_child

    # As `load_tensorflow` does, which finds it loaded and sets nothing any more.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import ai_edge_litert.interpreter
    import keras
    import onnxruntime
    import sklearn.datasets
    import tensorflow
    import tensorflow_datasets
    import tf2onnx

    for name in sys.argv[1:]:
        importlib.import_module(name)
    del ai_edge_litert, keras, onnxruntime, sklearn, tensorflow, tensorflow_datasets, tf2onnx
    answers = os.fdopen(os.dup(1), "w")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        if "wait" in what:
            pid, status = os.waitpid(what["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                child(in_child, **what)
        print(json.dumps(answer), file=answers, flush=True)


def child(in_child, command, log, largest_file, environment):
    code = 1
    try:
        os.environ.update(environment)
        random.seed()  # a fork has what its parent had, a process of its own has not
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        code = in_child(command)
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
