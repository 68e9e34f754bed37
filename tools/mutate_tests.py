"""Which tests are those of a module, and how tools/mutate.py runs those of one mutant."""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# The files of tests of each module, tests/test_NAME.py, and tests of other files that compare its
# numbers with those of others; what says most about it comes first.
TESTS = {
    "models": ("models", "applications", "weights::test_parity"),
    "layers": ("layers",),
    "optimizers": ("optimizers", "building"),
    "losses": ("losses",),
    "augmentations": ("augmentations_changes", "augmentations", "policies"),
    "data": (
        "data", "folders", "csv", "listing", "sources", "builders", "folds", "prepare", "features",
        "own_images",
    ),
    "evaluation": ("evaluation", "multi_label", "folds"),
    "weights": (
        "weights", "weights_names", "weights_refused", "weights_heads", "weights_keras",
        "weights_assumed", "weights_converted", "weights_relatives", "weights_channels", "pickle",
        "pickle_code", "weight_files",
    ),
    "exporting": (
        "exporting_models", "exporting_onnx", "exporting_quantized", "exporting_rgb", "exporting",
        "exporting_saved_model", "exporting_openvino", "web",
    ),
    "training": (
        "watch", "building", "memory", "progress", "best_epoch", "tracking", "features",
        "distillation", "training", "resume", "replicas",
    ),
}  # fmt: skip

# Modules that training a network uses: for their mutants every run of tests trains its own.
TRAINED_WITH = {"models", "layers", "optimizers", "losses", "augmentations", "data", "training"}

# A test that takes longer waits until the quicker ones of its file have passed.
_QUICK_SECONDS = 0.3


@dataclass
class Known:
    """What the tests of a module do where nothing is wrong.

    Attributes:
        seconds: of each test, by its id.
        files: of the package whose functions it calls; None: it starts a process, whose calls are
            not seen.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, list[str] | None] = field(default_factory=dict)


def run_in(tree: Path, arguments: list[str], plugin: Any, temporary: Path) -> int:
    """Run pytest in a copy of the repository, in which this process then is; its exit code."""
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2"}
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(tree), str(tree / "tests")]
    options = ["-q", "-p", "no:cacheprovider", "--tb=short", f"--basetemp={temporary}"]
    return int(pytest.main([*arguments, *options], plugins=[plugin]))


def tests_of(module: str) -> list[str]:
    """The files of tests of a module, and single tests of other files, as pytest wants them."""
    parts = (name.partition("::") for name in TESTS[module])
    return [f"tests/test_{file}.py{colons}{test}" for file, colons, test in parts]


class Given:
    """A plugin that gives tests the network that many of them need, once it is trained.

    Args:
        folder: that `train` has filled.
        module: whose tests are run.
    """

    source: Path | None = None  # of the class: pytest has no fixtures of an instance

    def __init__(self, folder: Path, module: str):
        self.module = module
        Given.source = None if module in TRAINED_WITH else folder

    @pytest.fixture(scope="session", autouse=True)
    @classmethod
    def given(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Put it where tests/conftest.py would train it."""
        if cls.source is not None:
            shutil.copytree(cls.source, tmp_path_factory.getbasetemp(), dirs_exist_ok=True)

    @staticmethod
    def train(tree: Path, folder: Path, temporary: Path) -> int:
        """Train it, of code without an error."""
        (tree / "tests" / "test_given.py").write_text("def test_given(digits_run):\n    pass\n")
        code = run_in(tree, ["tests/test_given.py"], None, temporary)
        for name in ("digits", "data0"):
            shutil.copytree(temporary / name, folder / name)
        shutil.copy(temporary / "digits.made", folder)
        (tree / "tests" / "test_given.py").unlink()
        return code


class Recorder(Given):
    """A plugin that notes what the tests of a module do."""

    def __init__(self, folder: Path, module: str):
        super().__init__(folder, module)
        self.known = Known()
        self._package = ""
        self._files: set[str] = set()  # of what is running; "" for a process
        self._fixtures: dict[str, set[str]] = {}

    def run(self, tree: Path, path: Path, temporary: Path) -> int:
        """Run all tests, and write what they do."""
        self._package = str(tree / "resnet_keras") + os.sep
        sys.addaudithook(self._started)
        code = run_in(tree, tests_of(self.module), self, temporary)
        path.write_text(json.dumps(vars(self.known)))
        return code

    def _called(self, frame: Any, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if name.startswith(self._package):
            self._files.add("resnet_keras/" + name.removeprefix(self._package))

    def _started(self, event: str, arguments: Any) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self._files.add("")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note the files of a test and of its fixtures, which an earlier test may have made."""
        self._files = set()
        sys.settrace(self._called)
        threading.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            found = self._files.union(
                *(self._fixtures.get(name, ()) for name in getattr(item, "fixturenames", ()))
            )
            self.known.files[item.nodeid] = None if "" in found else sorted(found)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Note the files of a fixture."""
        before, self._files = self._files, set()
        try:
            return (yield)
        finally:
            self._fixtures.setdefault(fixturedef.argname, set()).update(self._files)
            self._files |= before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the seconds of a test."""
        seconds = self.known.seconds
        seconds[report.nodeid] = round(seconds.get(report.nodeid, 0) + report.duration, 3)


class Chooser(Given):
    """A plugin that runs the tests of one mutant, until one fails.

    Args:
        folder: as of `Given`.
        module: the mutant's.
        known: what its tests do without an error.
        file: path below the repository: only tests that call its functions are run, and those that
            are not known; None: all.
    """

    def __init__(self, folder: Path, module: str, known: Known, file: str | None):
        super().__init__(folder, module)
        self.known, self.file, self.failed = known, file, ""

    def run(self, tree: Path, path: Path, temporary: Path) -> int:
        """Run them, and write which has failed."""
        code = run_in(tree, [*tests_of(self.module), "-x"], self, temporary)
        path.write_text(self.failed)
        return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose the tests; the quick ones of a file come first."""
        if self.file is not None:
            called = (self.known.files.get(item.nodeid) for item in items)
            items[:] = [
                item
                for item, files in zip(list(items), called, strict=True)
                if files is None or self.file in files
            ]
        files = [name.partition("::")[0] for name in tests_of(self.module)]
        order = {Path(name).name: place for place, name in enumerate(files)}

        def place(item: pytest.Item) -> tuple[int, bool]:
            slow = self.known.seconds.get(item.nodeid, 0) > _QUICK_SECONDS
            processes = "run_python" in getattr(item, "fixturenames", ())
            return order[item.path.name], slow or processes

        items.sort(key=place)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid
