"""Killed at any moment: downloads, features, prepared data, folders, and runs on scenes.

Whatever has its final name is whole, nothing that was there is lost, and the same command ends
with what an unbroken one has. `pytest -m slow -s` tells how many kills there were of each kind.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from commands import RECIPE, Place
from mirror import BODY, DOWNLOAD, NAME, mirror
from moments import end_at_random, let_alone
from runs import end, log, newest_step
from scenes import EXPORTS, STEPS
from warm import Warm
from whole import tree, weights

from resnet_keras import backup
from resnet_keras.model_files import open_model_file

# Another seed kills at other moments.
SEED = int(os.environ.get("FAULTS_SEED", 2))


def kill(start, folder, rng, length):
    """Kill a process at a random moment; whether it was killed, and the process."""
    process, _ = end_at_random(start, folder, signal.SIGKILL, rng, length)
    assert process.code in (0, -signal.SIGKILL), process.output
    return process.code != 0, process


# Downloads.


class Plain:
    """A process that has loaded nothing, as `warm.Process`."""

    def __init__(self, code, environment):
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.output = ""

    @property
    def code(self):
        return self.popen.returncode

    def poll(self):
        return self.popen.poll()

    def send(self, number):
        self.popen.send_signal(number)

    def wait(self):
        self.output, _ = self.popen.communicate(timeout=60)


def downloads_killed(kills, folder, capsys):
    """Kill downloads until there were so many; each cache is downloaded to its end."""
    rng, done, lives, length = random.Random(SEED), 0, 0, (0.5, 30)
    with mirror() as (server, environment):
        while done < kills:
            lives += 1
            cache = folder / str(lives)
            cache.mkdir(parents=True)
            there, path, part = 0, cache / NAME, cache / f"{NAME}.part"

            def start(cache=cache):
                return Plain(DOWNLOAD, environment | {"RESNET_KERAS_CACHE": str(cache)})

            for _ in range(6):
                killed, _ = kill(start, cache, rng, length)
                done += killed
                come = part.read_bytes() if part.exists() else b""
                assert BODY.startswith(come)
                if path.exists():
                    assert path.read_bytes() == BODY and not part.exists()
                    break
                assert killed and len(come) >= there  # nothing that came is lost
                there = len(come)
            missing = 0 if path.exists() else len(BODY) - there
            server.sent.clear()
            process, measured = let_alone(start, cache)
            process.wait()
            assert process.code == 0 and path.read_bytes() == BODY, process.output
            assert server.sent == ([missing] if missing else [])
            assert {p.name for p in cache.iterdir()} == {NAME, f".{NAME}.lock"}
            length = (max(length[0], measured[0]), max(length[1], measured[1]))
    with capsys.disabled():
        print(f"\n{done} kills of downloads into {lives} caches", flush=True)


def test_kills_of_downloads(tmp_path, capsys):
    downloads_killed(2, tmp_path, capsys)


@pytest.mark.slow
def test_many_kills_of_downloads(tmp_path, capsys):
    downloads_killed(80, tmp_path, capsys)


# Prepared data.


@pytest.mark.slow
def test_kills_of_preparations(warm, unbroken, tmp_path, capsys):
    rng, done, lives, length = random.Random(SEED), 0, 0, (1.5, 40)
    whole = tree(unbroken.data / "digits" / "1.0.0")
    while done < 20:
        lives += 1
        place = Place(tmp_path / str(lives))
        folder = place.data / "digits" / "1.0.0"
        for _ in range(5):
            killed, _ = kill(lambda p=place: warm.start(p.prepare), place.folder, rng, length)
            done += killed
            if folder.exists():
                assert tree(folder) == whole
                break
        process = warm.run(place.prepare)
        assert process.code == 0 and tree(folder) == whole, process.output
        for path in place.data.glob("*/incomplete.*"):
            assert f"{path} is left over from an interrupted `prepare`" in process.output
    with capsys.disabled():
        print(f"\n{done} kills of `prepare` in {lives} folders", flush=True)


# Features.


@pytest.fixture
def frozen(warm, unbroken, tmp_path):
    """Gives the command of a training on features, and the place that it writes into."""

    def make(name):
        place = Place(tmp_path / name)
        shutil.copytree(unbroken.data, place.data, dirs_exist_ok=True)
        flags = "--skip-head --freeze 3 --views 2 --mixup 0 --drop-path 0 --backup-every 6"
        return place, (
            f"python {RECIPE} --data-dir {place.data} --run-dir {place.run} {flags} "
            f"--weights {unbroken.run / 'model.keras'}"
        )

    return make


def features_in(place):
    return {path.name: path.read_bytes() for path in (place.run / "features").glob("*.npy")}


@pytest.mark.slow
def test_kills_of_features(warm, frozen, tmp_path, capsys):
    place, command = frozen("unbroken")
    process = warm.start(command)
    process.wait_for(lambda: "features of 3,234 of 3,234 images" in process.output)
    process.send(signal.SIGSTOP)
    features = features_in(place)  # they go when the training ends
    process.send(signal.SIGCONT)
    process.wait()
    assert process.code == 0 and len(features) == 2 * 6 + 2, process.output
    whole, files = end(place.run), place.files()
    other, command = frozen("measured")
    process, length = let_alone(lambda: warm.start(command), other.folder)
    assert end(other.run) == whole

    rng, done, lives, kept = random.Random(SEED), 0, 0, 0
    while done < 30:
        lives += 1
        place, command = frozen(str(lives))
        before = {}
        for _ in range(10):
            killed, process = kill(lambda c=command: warm.start(c), place.folder, rng, length)
            done += killed
            now = features_in(place)
            assert now.items() <= features.items()
            if (place.run / "results.json").exists():
                break
            over = newest_step(place.run) == whole[0]  # they are being removed
            assert over or before.items() <= now.items()
            before, kept = now, kept + bool(now)
        process = warm.run(command)
        assert process.code == 0, process.output
        assert end(place.run) == whole and place.files() == files
    assert kept > 5
    with capsys.disabled():
        print(f"\n{done} kills of trainings on features in {lives} lives, ", flush=True)
        print(f"{kept} of them with features on the disk", flush=True)


# Exported folders that take the place of older ones.


@pytest.fixture
def two_models(unbroken, tmp_path):
    """Two model files with the same name in two folders, whose scores differ."""
    paths = []
    for name, factor in (("old", 1.0), ("new", -1.0)):
        folder = tmp_path / name
        folder.mkdir()
        model = keras.saving.load_model(unbroken.run / "model.keras", compile=False)
        model.set_weights([factor * w if w.ndim == 2 else w for w in model.get_weights()])
        model.save(folder / "model.keras")
        shutil.copy(unbroken.run / "model.json", folder)
        paths.append(folder / "model.keras")
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("saved", ""), ("web", "--format web")])
def test_kills_of_exports_that_replace_a_folder(
    warm, unbroken, two_models, tmp_path, name, options, capsys
):
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    out = tmp_path / "out" / name
    commands = [
        f"python -m resnet_keras export {model} {out} --data-dir {unbroken.data} --examples 32 "
        f"{options}"
        for model in two_models
    ]
    truth = [open_model_file(model).predict(images) for model in two_models]

    def holds(path):
        """Which of the two a folder holds; it is whole, with all of its files."""
        found = open_model_file(path / "model.onnx" if name == "web" else path).predict(images)
        assert (
            not (path / "index.html").exists()
            or {str(p.relative_to(path)) for p in path.rglob("*")} == files
        )
        return [np.abs(found - scores).max() < 1e-4 for scores in truth].index(True)

    files = None
    for number in (0, 1):
        process, length = let_alone(lambda c=commands[number]: warm.start(c), out.parent)
        assert process.code == 0, process.output
        files = {str(path.relative_to(out)) for path in out.rglob("*")}
        assert holds(out) == number
    rng, done, number = random.Random(SEED), 0, 0
    while done < 12:
        for _ in range(4):
            killed, _ = kill(lambda c=commands[number]: warm.start(c), out.parent, rng, length)
            done += killed
            # Between two renames the older one lies in the part, and comes back.
            holds(out if out.exists() else out.with_name(f".{name}.part") / "old")
        process = warm.run(commands[number])
        assert process.code == 0 and holds(out) == number, process.output
        report = json.loads(out.with_name(f"{name}.report.json").read_text())
        assert report["kept"] and report["model_file"] == str(two_models[number])
        assert sorted(os.listdir(out.parent)) == sorted({name, *(
            f"{name}.{suffix}" for suffix in ("md", "report.json")
        ), *(["saved.json"] if name == "saved" else [])})  # fmt: skip
        number = 1 - number
    with capsys.disabled():
        print(f"\n{done} kills of exports that replace a folder ({name})", flush=True)


# Runs on scenes.


@pytest.fixture(scope="module")
def warm_vision(tmp_path_factory):
    """As `warm`, with what detectors and segmenters need."""
    pytest.importorskip("keras_cv")
    pytest.importorskip("pycocotools")
    warm = Warm(tmp_path_factory.mktemp("warm_vision"), "keras_cv", "pycocotools.cocoeval")
    yield warm
    warm.close()


SCENES = RECIPE.with_name("scenes.py")


def outputs(path):
    """What an exported file computes from one scene of noise, the largest output first."""
    rng = np.random.default_rng(0)
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        (node,) = session.get_inputs()
        noise = rng.integers(0, 256, (1, *node.shape[1:])).astype(np.uint8)
        dtype = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}[node.type]
        found = session.run(None, {node.name: noise.astype(dtype)})
    else:
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        (node,) = interpreter.get_input_details()
        noise = rng.integers(0, 256, (1, *node["shape"][1:])).astype(node["dtype"])
        interpreter.set_tensor(node["index"], noise)
        interpreter.invoke()
        found = [interpreter.get_tensor(n["index"]) for n in interpreter.get_output_details()]
    return sorted((output.astype(np.float64) for output in found), key=np.size, reverse=True)


class WholeScenes:
    """What an unbroken run on scenes has, against which broken ones are held."""

    def __init__(self, run, name):
        self.name, self.end, self.log = name, end(run), log(run)
        self.weights = weights(run / "model.keras")
        self.files = self.names(run)
        self.crops = tree(run / "crops" / "images")  # none where there are no crops
        self.measured = self.numbers(run)
        self.exports = {file: outputs(run / file) for file in EXPORTS[name]}

    @staticmethod
    def names(run):
        """The files of a run; backups but the last are of other steps after other kills."""
        names = (str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        return sorted(n for n in names if "backup/" not in n)

    @staticmethod
    def numbers(run):
        results = json.loads((run / "results.json").read_text())
        return {k: v for k, v in results.items() if k not in ("train_seconds", "versions")}

    def check(self, run):
        """Whatever is there is whole."""
        if (run / "log.csv").exists():
            rows = log(run)
            assert rows == self.log[: len(rows)]
        for path in run.glob("backup/*.safetensors"):
            alone = run.with_name("alone")
            shutil.copytree(run / "backup", alone, ignore=lambda _, names, keep=path: [
                n for n in names if n != keep.name])  # fmt: skip
            assert backup.load(alone).step == int(path.stem)
            shutil.rmtree(alone)
        if (run / "crops" / "images").exists():
            assert tree(run / "crops" / "images") == self.crops
        for path in [*run.glob("*.json"), *run.glob("crops/run/*.json")]:
            json.loads(path.read_text())
        if (run / "model.keras").exists():
            assert weights(run / "model.keras") == self.weights
        if (run / "report.html").exists():
            assert (run / "report.html").read_text().rstrip().endswith("</html>")
        if (run / "results.json").exists():
            assert self.numbers(run) == self.measured and (run / "report.html").exists()
        for file, truth in self.exports.items():
            # Names in a file depend on what its process has built before.
            if (run / file).exists():
                for found, expected in zip(outputs(run / file), truth, strict=True):
                    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()

    def check_end(self, run):
        self.check(run)
        assert end(run) == self.end and self.names(run) == self.files
        page = (run / "report.html").read_text()
        for file in self.exports:
            assert json.loads((run / f"{file}.report.json").read_text())["kept"]
            assert f"<code>{file}</code></td>" in page


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("keypoints", 20), ("detect", 10), ("segment", 10)])
def test_kills_of_runs_on_scenes(warm_vision, tmp_path, name, kills, capsys):
    def command(run):
        return f"python {SCENES} {name} --run-dir {run}"

    folder = tmp_path / "unbroken"
    folder.mkdir()
    process, (seconds, events) = let_alone(
        lambda: warm_vision.start(command(folder / "run")), folder
    )
    assert process.code == 0, process.output
    # What is resumed takes less time than the whole.
    length = (0.7 * seconds, round(0.7 * events))
    whole = WholeScenes(folder / "run", name)
    assert whole.end[0] == STEPS
    rng, done, lives, phases = random.Random(SEED), 0, 0, {}
    while done < kills:
        lives += 1
        folder = tmp_path / str(lives)
        folder.mkdir()
        run, before = folder / "run", 0
        for _ in range(12):
            killed, process = kill(lambda r=run: warm_vision.start(command(r)), folder, rng, length)
            whole.check(run)
            assert newest_step(run) >= before
            before = newest_step(run)
            if not killed:
                break
            done += 1
            phase = (
                "exports" if (run / "results.json").exists()
                else "model, results" if before == STEPS
                else "steps" if before else "crops, building"
            )  # fmt: skip
            phases[phase] = phases.get(phase, 0) + 1
        process = warm_vision.run(command(run))
        assert process.code == 0, process.output
        whole.check_end(run)
    with capsys.disabled():
        print(f"\n{done} kills of {name} in {lives} lives: {phases}", flush=True)
