"""Which tests are those of a module, and how tools/mutate.py runs those of one mutant."""

import ast
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# The files of tests of each module, tests/test_NAME.py, and tests of other files that compare its
# numbers with those of others; what says most about it comes first.
TESTS = {
    "models": ("models", "models_heatmaps", "backbones", "applications", "weights::test_parity"),
    "layers": ("layers", "recompute"),
    "optimizers": ("optimizers", "optimizers_averages", "optimizers_keras", "building"),
    "losses": (
        "losses", "distillation::test_the_loss_is_the_papers_formula",
        "distillation::test_its_gradient_is_that_of_the_soft_targets",
        "distillation::test_a_temperature_must_be_above_0",
    ),
    "augmentations": ("augmentations_changes", "augmentations", "policies"),
    "data": (
        "data", "data_images", "formats", "folders", "csv", "listing", "sources", "builders",
        "folds", "prepare", "features", "own_images",
    ),
    "evaluation": ("measures", "evaluation", "multi_label", "folds"),
    "weights": (
        "weights", "weights_names", "weights_refused", "weights_heads", "weights_keras",
        "weights_assumed", "weights_converted", "weights_relatives", "weights_channels",
        "weights_pose", "facts", "pickle", "pickle_code", "weight_files",
        "published::test_weights_by_name_are_those_of_the_file",
        "published::test_mean_and_deviation_follow_the_weights",
        "published::test_evaluate_and_predict_take_names",
    ),
    "exporting": (
        "exporting_prove", "exporting_models", "exporting_onnx", "exporting_quantized",
        "exporting_rgb", "exporting", "exporting_saved_model", "exporting_openvino", "web",
    ),
    "training": (
        "watch", "building", "memory", "progress", "best_epoch", "tracking", "features",
        "distillation", "job", "machine", "training", "own_images", "resume", "replicas", "hosts",
    ),
}  # fmt: skip

# The files of tests that are written for a file of the package or for a folder, by its path without
# suffix; where none is named, those of the module.
SPECIFIC = {
    "data/archives": ("prepare",),
    "data/batches": ("data", "data_images", "features"),
    "data/builders": ("builders", "sources"),
    "data/building": ("sources", "prepare", "builders"),
    "data/csv_files": ("csv",),
    "data/features": ("features",),
    "data/files": ("data", "folders"),
    "data/folders": ("folders",),
    "data/formats": ("formats", "folders", "data_images"),
    "data/images": ("data_images", "formats"),
    "data/listing": ("listing", "folders", "folds", "csv"),
    "data/preparation": ("prepare", "folders"),
    "data/reading": ("data", "folders"),
    "data/records": ("data", "sources"),
    "data/sources": ("sources", "folders", "csv"),
    "data/splits": ("data", "features"),
    "data/tfds_splits": ("sources", "builders"),
    "data/waiting": ("data",),
    "training/__init__": ("job", "memory", "training", "best_epoch", "features", "own_images"),
    "training/best_epoch": ("best_epoch", "resume"),
    "training/building": ("building", "training"),
    "training/distillation": ("distillation",),
    "training/dry_run": ("job", "features", "memory", "training"),
    "training/features": ("features",),
    "training/fitting": ("training", "best_epoch", "own_images", "resume"),
    "training/job": ("job", "best_epoch"),
    "training/machine": ("machine",),
    "training/memory": ("memory",),
    "training/progress": ("progress",),
    "training/replicas": ("hosts", "own_images", "replicas"),
    "training/run_folder": ("training", "resume", "own_images"),
    "training/tracking": ("tracking", "training"),
    "training/watch": ("watch", "resume", "training"),
    "weights/assumptions": ("weights_assumed", "weights_pose"),
    "weights/conversion": (
        "weights_converted",
        "weights_keras",
        "weights_heads",
        "weights_refused",
    ),
    "weights/formats": ("weight_files", "weights_relatives", "weights_heads", "weights_keras"),
    "weights/formats/h5": ("weights_keras", "weight_files"),
    "weights/formats/hub": ("weight_files", "weights_assumed"),
    "weights/formats/keras_archive": ("weights_keras",),
    "weights/formats/keras_config": ("weights_keras",),
    "weights/formats/not_read": ("weights_relatives", "weight_files"),
    "weights/formats/numpy_pickle": ("weights_names", "pickle"),
    "weights/formats/pickles": ("pickle", "pickle_code", "weights_relatives", "weights_names"),
    "weights/formats/pth": ("pickle", "weights_relatives", "weight_files"),
    "weights/formats/state_dict": ("weights_heads", "weights_relatives"),
    "weights/loading": ("weights_refused", "weights_channels", "weights", "weights_heads"),
    "weights/names/caffe2": ("weights_names",),
    "weights/names/config_text": ("weights_assumed", "weights_pose"),
    "weights/names/facts": ("facts", "weights_assumed"),
    "weights/names/heads": ("weights_heads", "weights_keras"),
    "weights/names/keras_applications": ("weights_keras",),
    "weights/names/keras_hub": ("weights_keras",),
    "weights/names/keras_layers": ("weights_keras", "weights_assumed"),
    "weights/names/keras_resnet50": ("weights_keras",),
    "weights/names/mmpose": ("weights_pose",),
    "weights/names/networks": ("weights_heads",),
    "weights/names/other_networks": ("weights_relatives", "weights_keras"),
    "weights/names/reading": ("weights_assumed",),
    "weights/names/resnet_keras": ("weights_keras",),
    "weights/names/told": ("weights_keras", "weights_assumed"),
    "weights/names/torch_names": ("weights_names", "weights", "weights_refused"),
    "weights/names": ("weights_names", "weights_relatives", "weights_assumed", "weights_refused"),
}

# Modules that training a network uses: for their mutants every run of tests trains its own.
TRAINED_WITH = {"models", "layers", "optimizers", "losses", "augmentations", "data", "training"}

# In the names of files of TensorFlow's AutoGraph: tf.data and tf.function run such a translation of
# a function `f`, `tf__f`.
_TRANSLATED = "__autograph_generated_file"

# A test that takes longer waits until the quicker ones have passed.
_QUICK_SECONDS = 0.3


@dataclass
class Known:
    """What the tests of a module do where nothing is wrong.

    Attributes:
        seconds: of each test, by its id.
        lines: of each test, by its id: the lines of functions that it runs in this process, by the
            file of the package.
        processes: ids of tests that start a process, whose lines are not seen.
        failed: ids of tests that fail all the same, as for want of time; they are not run again.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    processes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def forget(self, files: set[str]) -> None:
        """Forget the tests of these files of tests."""
        for each in self.seconds, self.lines:
            for test in [test for test in each if _file_of(test) in files]:
                del each[test]
        for tests in self.processes, self.failed:
            tests[:] = [test for test in tests if _file_of(test) not in files]


def _file_of(test: str) -> str:
    """The file of a test's id."""
    return test.partition("::")[0]


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


def specific_to(file: str) -> list[str]:
    """The files of tests that are written for a file of the package; none where none are known."""
    path = Path(file).relative_to("resnet_keras").with_suffix("")
    names = next((SPECIFIC[str(p)] for p in (path, *path.parents) if str(p) in SPECIFIC), ())
    return [f"tests/test_{name}.py" for name in names]


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
    """A plugin that notes what the tests of a module do.

    Args:
        folder: as of `Given`.
        module: whose tests are run.
        known: what is known already of other tests; is added to.
    """

    def __init__(self, folder: Path, module: str, known: Known):
        super().__init__(folder, module)
        self.known = known
        self._started_process = False
        self._fixtures: dict[str, bool] = {}  # whether one has started a process
        self._needs: dict[str, set[str]] = {}  # the fixtures of each test

    def run(self, tree: Path, tests: list[str], path: Path, temporary: Path) -> int:
        """Run tests, and write what all do that are known."""
        import coverage  # not above: those of the suite do without it

        files = [str(tree / "resnet_keras" / "*"), f"*{_TRANSLATED}*"]
        self.coverage = coverage.Coverage(None, include=files, config_file=False)
        sys.addaudithook(self._started)
        self.coverage.start()
        code = run_in(tree, tests, self, temporary)
        self.coverage.stop()
        data, functions = self.coverage.get_data(), _functions(tree)
        for file in map(Path, data.measured_files()):
            found = data.contexts_by_lineno(str(file))
            if _TRANSLATED in file.name:
                names = set(re.findall(r"def tf__(\w+)", file.read_text(encoding="utf-8")))
                contexts = set().union(*found.values())
                for name in names:
                    for where, lines in functions.get(name, ()):
                        self._add(where, lines, contexts)
                continue
            where = str(file.relative_to(tree))
            within = {n for each in functions.values() for f, ns in each if f == where for n in ns}
            for line, contexts in found.items():
                if line in within:
                    self._add(where, [line], set(contexts))
        path.write_text(json.dumps(vars(self.known)))
        return 0 if code == pytest.ExitCode.TESTS_FAILED else code

    def _add(self, file: str, lines: Iterable[int], contexts: set[str]) -> None:
        for test, fixtures in self._needs.items():
            if test in contexts or fixtures & contexts:
                self.known.lines.setdefault(test, {}).setdefault(file, []).extend(lines)

    def _started(self, event: str, arguments: Any) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.posix_spawn"):
            self._started_process = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Note what a test does, its file, and its fixtures, which another may have made."""
        self._started_process = False
        names = set(getattr(item, "fixturenames", ()))
        self._needs[item.nodeid] = {f"fixture {name}" for name in names} | {
            f"collection {_file_of(item.nodeid)}"
        }
        self._context = item.nodeid
        self.coverage.switch_context(self._context)
        try:
            return (yield)
        finally:
            self.coverage.switch_context("")
            if self._started_process or any(self._fixtures.get(name) for name in names):
                self.known.processes.append(item.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        """Note what a file of tests does when it is imported."""
        self.coverage.switch_context(f"collection {_file_of(collector.nodeid)}")
        try:
            return (yield)
        finally:
            self.coverage.switch_context("")

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """Note what a fixture does."""
        before = self._started_process, self._context
        self._started_process, self._context = False, f"fixture {fixturedef.argname}"
        self.coverage.switch_context(self._context)
        try:
            return (yield)
        finally:
            if self._started_process:
                self._fixtures[fixturedef.argname] = True
            self._started_process, self._context = before[0] or self._started_process, before[1]
            self.coverage.switch_context(self._context)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up the seconds of a test; note one that fails."""
        seconds = self.known.seconds
        seconds[report.nodeid] = round(seconds.get(report.nodeid, 0) + report.duration, 3)
        if report.failed:
            self.known.failed.append(report.nodeid)


def _functions(tree: Path) -> dict[str, list[tuple[str, range]]]:
    """The functions of the package by their names: their files, and the lines of their bodies.

    Bodies are not run when a file is imported.
    """
    found: dict[str, list[tuple[str, range]]] = {}
    for file in (tree / "resnet_keras").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lines = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
                found.setdefault(node.name, []).append((str(file.relative_to(tree)), lines))
    return found


class Chooser(Given):
    """A plugin that runs the tests of one mutant, until one fails.

    Args:
        folder: as of `Given`.
        module: the mutant's.
        known: what its tests do without an error.
        file: path of the mutant's file, below the repository.
        line: the mutant's.
        function: lines of the function around it; None: it is run when the file is imported, and
            all tests count.
        files: of tests to run, all where nothing is known of single ones; empty: the module's.
    """

    def __init__(
        self,
        folder: Path,
        module: str,
        known: Known,
        *,
        file: str,
        line: int,
        function: range | None,
        files: Iterable[str] = (),
    ):
        super().__init__(folder, module)
        self.known, self.failed, self.files = known, "", list(files) or tests_of(module)
        self.places: dict[str, int] = {}
        self._rank(file, line, function)

    def _rank(self, file: str, line: int, function: range | None) -> None:
        """Give each known test that counts its place: what runs the line comes first."""
        ranks: dict[str, int] = {}
        for test in self.known.seconds:
            lines = self.known.lines.get(test, {}).get(file, ())
            if line in lines:
                ranks[test] = 0
            elif function and any(other in function for other in lines):
                ranks[test] = 1
            elif lines:
                ranks[test] = 2
            elif test in self.known.processes or function is None:
                ranks[test] = 3
        if function and any(rank < 2 for rank in ranks.values()):
            ranks = {test: rank for test, rank in ranks.items() if rank != 2}
        self.places = {test: ranks[test] for test in ranks if test not in self.known.failed}

    def run(self, tree: Path, path: Path, temporary: Path) -> int:
        """Run them, and write which has failed."""
        files = self.files
        if self.known.seconds:
            needed = {_file_of(test) for test in self.places}
            files = [file for file in files if _file_of(file) in needed]
        if not files:
            return 0
        code = run_in(tree, [*files, "-x"], self, temporary)
        path.write_text(self.failed)
        return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose the tests, and put them in order."""
        if self.known.seconds:
            items[:] = [item for item in items if item.nodeid in self.places]
        order = {name: place for place, name in enumerate(map(_file_of, self.files))}

        def place(item: pytest.Item) -> tuple[int, bool, int]:
            processes = "run_python" in getattr(item, "fixturenames", ())
            slow = processes or self.known.seconds.get(item.nodeid, 0) > _QUICK_SECONDS
            return self.places.get(item.nodeid, 0), slow, order[_file_of(item.nodeid)]

        items.sort(key=place)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the first test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid
