"""Measures what the tests notice: makes one small error at a time and runs the module's tests.

    pip install -r tools/mutation-requirements.txt
    python tools/mutate.py models layers optimizers losses --mutants 25 --seed 0

The errors ("mutants") are those of mutmut: an operator, a number, a constant, an argument, a
keyword or a string of the code is another one. For each module a seeded sample of lines is drawn,
and of each line one mutant. Docstrings, messages, type hints, decorators and what only a type
checker sees do not count, nor do arguments that only guard against mistakes, such as `strict` of
`zip`.

Each mutant is written into a copy of the repository, and a fork of this process, which has loaded
TensorFlow already, runs the fast tests of its own module there until one fails: those that ran code
of its function when all of them passed, those that ran its very line first; of its file, where none
ran its function. What each test runs is measured with coverage.py, once for each file of tests,
translations by TensorFlow's AutoGraph included. A mutant is killed by a test that fails, an error
while tests are collected, or a time limit; else it survives. Results are lines of JSON in `--out`,
so that the same command resumes after an interruption; with `--again`, it runs the survivors once
more. Equivalent mutants, which no test can tell from the code, are listed with their reasons in
tools/mutate_equivalents.toml and do not count.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))
from mutate_tests import TESTS, TRAINED_WITH, Chooser, Given, Known, Recorder, specific_to, tests_of

if TYPE_CHECKING:
    from mutate_code import Mutant

ROOT = Path(__file__).parents[1]
EQUIVALENTS = Path(__file__).with_name("mutate_equivalents.toml")

# A mutant may take this many times as long as its tests without it, and at least this many seconds.
PATIENCE, LEAST_SECONDS = 4, 60


def copy_tree(target: Path) -> None:
    """Copy the repository, what is not committed too, but nothing that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    # By the contents of the files: two mutants may be written within one second.
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash",
         target / "resnet_keras", target / "tests"],
        check=True,
    )  # fmt: skip


def load_libraries() -> None:
    """Load what every mutant's tests need, but start no thread and no device."""
    import ai_edge_litert.interpreter
    import keras
    import onnx
    import scipy.stats
    import sklearn.metrics
    import tensorflow
    import tensorflow_datasets

    del ai_edge_litert, keras, onnx, scipy, sklearn, tensorflow, tensorflow_datasets
    assert "resnet_keras" not in sys.modules


def in_fork(work: Callable[[], int], seconds: float, log: Path) -> int | None:
    """The exit code of some work in a fork; None where it took too long, and was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            with open(log, "wb") as file, open(os.devnull, "rb") as nothing:
                for number, other in ((0, nothing), (1, file), (2, file)):
                    os.dup2(other.fileno(), number)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end, done, status = time.monotonic() + seconds, 0, 0
    while not done and time.monotonic() < end:
        time.sleep(0.05)
        done, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # the work, or what it has left running
    if done:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(child, 0)
    return None


class Place:
    """A copy of the repository, where one mutant after the other is tested.

    Args:
        folder: an empty one.
        out: where results are kept.
        all_tests: run all tests of a module for each mutant, without finding out first which of
            them run its function: quicker for a few mutants that are killed soon.
        specific: likewise, but only the tests that are written for the mutant's file.
    """

    def __init__(self, folder: Path, out: Path, *, all_tests: bool, specific: bool = False):
        self.all_tests, self.specific = all_tests or specific, specific
        self.tree, self.temporary, self.out = folder / "tree", folder / "temporary", out
        self.given = folder / "given"
        self.known: dict[str, Known] = {}
        copy_tree(self.tree)

    def know(self, module: str) -> Known:
        """What the tests of a module do without an error."""
        if module in self.known:
            return self.known[module]
        log = self.out / f"{module}.log"
        if module not in TRAINED_WITH and not self.given.exists():
            self.given.mkdir()
            train = partial(Given.train, self.tree, self.given, self.temporary)
            _require(in_fork(train, 600, log), log)
        if self.all_tests:
            return Known()
        path = self.out / f"{module}.tests.json"
        digests = {file: _digest(self.tree, file) for file in tests_of(module)}
        saved = json.loads(path.read_text()) if path.exists() else {"digests": {}, "known": {}}
        known = Known(**saved["known"])
        changed = [file for file in digests if saved["digests"].get(file) != digests[file]]
        if changed:
            print(f"{module}: without an error: {' '.join(changed)}", flush=True)
            kept = set(digests) - set(changed)
            known.forget({test.partition("::")[0] for test in {*changed, *saved["digests"]} - kept})
            found = self.given.with_name("found.json")
            recorder = Recorder(self.given, module, known)
            work = partial(recorder.run, self.tree, changed, found, self.temporary)
            _require(in_fork(work, 3600, log), log)
            saved = {"digests": digests, "known": json.loads(found.read_text())}
            path.write_text(json.dumps(saved))
            known = Known(**saved["known"])
            for test in known.failed:
                print(f"{module}: {test} fails without an error and is left out", flush=True)
        self.known[module] = known
        return known

    def judge(self, mutant: "Mutant") -> dict:
        """Run the tests of one mutant, and put the file back."""
        known = self.know(mutant.module)
        file, failed = self.tree / mutant.file, self.given.with_name("failed.txt")
        before = file.read_text()
        failed.unlink(missing_ok=True)
        chooser = Chooser(
            self.given, mutant.module, known,
            file=mutant.file, line=mutant.line, function=mutant.function,
            files=specific_to(mutant.file) if self.specific else (),
        )  # fmt: skip
        work = partial(chooser.run, self.tree, failed, self.temporary)
        limit = max(LEAST_SECONDS, PATIENCE * sum(map(known.seconds.get, chooser.places)))
        limit = 1800 if self.all_tests else limit
        start = time.monotonic()
        try:
            file.write_text(mutant.source)
            code = in_fork(work, limit, self.out / f"{mutant.module}.last.log")
        finally:
            file.write_text(before)
        return {
            "key": mutant.key, "module": mutant.module, "file": mutant.file, "line": mutant.line,
            "diff": mutant.diff, "seconds": round(time.monotonic() - start, 1),
            "outcome": "timeout" if code is None else "killed" if code else "survived",
            "by": failed.read_text() if failed.exists() else "",
        }  # fmt: skip


def _require(code: int | None, log: Path) -> None:
    if code != 0:
        sys.exit(f"the tests fail without an error: see {log}")


def _digest(tree: Path, tests: str) -> str:
    """What changes when the package or a file of its tests does."""
    digest = hashlib.sha256()
    for file in [*sorted((tree / "resnet_keras").rglob("*.py")), tree / tests.partition("::")[0]]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def run(modules: list[str], options: argparse.Namespace, results: dict[str, dict]) -> None:
    """Test the mutants that have no result yet; `results`, by `Mutant.key`, are added to."""
    end = time.monotonic() + 60 * options.minutes
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = Place(
            Path(folder), options.out, all_tests=options.all_tests, specific=options.specific
        )
        for module in modules:
            for number, mutant in enumerate(chosen(module, options), 1):
                old = results.get(mutant.key, {}).get("outcome")
                if old and not (options.again and old == "survived"):
                    continue
                if time.monotonic() > end:
                    return
                result = results[mutant.key] = place.judge(mutant)
                with open(options.out / "results.jsonl", "a", encoding="utf-8") as file:
                    print(json.dumps(result), file=file)
                print(f"{module} {number}: {_line(result)}", flush=True)


def chosen(module: str, options: argparse.Namespace) -> "list[Mutant]":
    """The sample of a module: the first mutants that are drawn and not equivalent."""
    from mutate_code import mutants_of  # not above: `--help` needs no mutmut

    found = []
    for mutant in mutants_of(module, options.seed):
        if len(found) == options.mutants:
            break
        if (mutant.file, *mutant.diff) not in equivalents():
            found.append(mutant)
    return found


def equivalents() -> set[tuple[str, ...]]:
    """File and diff of the mutants that no test can tell from the code."""
    listed = tomllib.loads(EQUIVALENTS.read_text()).get("equivalent", [])
    return {(entry["file"], *entry["diff"].strip("\n").splitlines()) for entry in listed}


def _line(result: dict) -> str:
    """A result in one line."""
    by = f" by {result['by']}" if result["by"] else ""
    changed = " | ".join(" ".join(line.split()) for line in result["diff"])
    where = f"{result['file']}:{result['line']}"
    return f"{result['outcome']} in {result['seconds']} s{by}: {where}: {changed}"


def table(modules: list[str], options: argparse.Namespace, results: dict[str, dict]) -> str:
    """A row for each module, and the survivors."""
    rows = [
        "| module | mutants | killed | timeout | survived | noticed |",
        "|---|---|---|---|---|---|",
    ]
    survivors, total = [], [0] * 4
    for module in modules:
        found = [results[m.key] for m in chosen(module, options) if m.key in results]
        counts = [sum(r["outcome"] == kind for r in found) for kind in OUTCOMES]
        rows.append(_row(module, [len(found), *counts]))
        total = [one + other for one, other in zip(total, [len(found), *counts], strict=True)]
        survivors += [_line(r) for r in found if r["outcome"] == "survived"]
    return "\n".join([*rows, _row("all", total), "", *survivors])


OUTCOMES = ("killed", "timeout", "survived")


def _row(name: str, counts: list[int]) -> str:
    share = f"{100 * (counts[1] + counts[2]) / counts[0]:.0f} %" if counts[0] else "-"
    return f"| `{name}` | {' | '.join(map(str, counts))} | {share} |"


def main() -> None:
    """Parse the arguments; draw, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", default=[*TESTS], help=f"of {', '.join(TESTS)}")
    parser.add_argument("--mutants", type=int, default=20, help="of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants")
    parser.add_argument("--minutes", type=float, default=600, help="start none after them")
    parser.add_argument("--all-tests", action="store_true", help="not only what runs the function")
    parser.add_argument("--specific", action="store_true", help="only tests written for the file")
    parser.add_argument("--again", action="store_true", help="run the survivors once more")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    parser.add_argument("--list", action="store_true", help="only print the sample")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.list:
        for module in options.modules:
            for mutant in chosen(module, options):
                print(f"{mutant.file}:{mutant.line}", *mutant.diff, sep="\n")
        return
    path = options.out / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = {result["key"]: result for result in map(json.loads, lines)}
    if not options.table:
        run(options.modules, options, results)
    print(table(options.modules, options, results))


if __name__ == "__main__":
    main()
