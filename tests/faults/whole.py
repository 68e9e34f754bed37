"""What nothing has disturbed, and what must be so of anything at any moment."""

import json
import shutil

import keras
import numpy as np
from commands import EXPORTS
from runs import end, log

from resnet_keras import backup
from resnet_keras.evaluation import load_predictions
from resnet_keras.model_files import open_model_file


class Whole:
    """An unbroken run, whose files those of a broken one are held against, at any moment."""

    def __init__(self, place):
        self.place = place
        self.log = log(place.run)
        self.end = end(place.run)
        self.weights = weights(place.run / "model.keras")
        self.files = place.files()
        images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
        self.images, self.seen = images, {}

    def check(self, place):
        """Whatever is there is whole, and is what the unbroken run has."""
        if place.run.exists():
            self._check_log(place)
            self._check_backups(place)
            for path in sorted(place.run.iterdir()):
                if not path.name.startswith(".") and self._changed(path):
                    self._check_file(path)
        if (place.data / "digits" / "1.0.0").exists():
            assert tree(place.data / "digits" / "1.0.0") == tree(self.place.data / "digits/1.0.0")

    def _changed(self, path):
        """Whether a file, or one in a folder, is another than when it was last looked at."""
        stats = (inner.stat() for inner in (path, *path.rglob("*")))
        now = [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats]
        before, self.seen[path] = self.seen.get(path), now
        return now != before

    def _check_log(self, place):
        if (place.run / "log.csv").exists():
            rows = log(place.run)
            assert rows == self.log[: len(rows)]
            assert (place.run / "log.csv").read_text().endswith("\n")

    def _check_backups(self, place):
        steps = [path for path in place.run.glob("backup/*.safetensors") if self._changed(path)]
        for path in steps:
            alone = place.folder / "alone"
            alone.mkdir()
            shutil.copyfile(path, alone / path.name)
            assert backup.load(alone).step == int(path.stem)  # raises if it is damaged
            (alone / path.name).unlink()
            alone.rmdir()

    def _check_file(self, path):
        whole = self.place.run / path.name
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.name == "labels.txt":
            assert path.read_bytes() == whole.read_bytes()
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.suffix == ".md":
            assert path.read_text().startswith("---\n")
        elif path.suffix == ".npz":
            mine, theirs = load_predictions(path), load_predictions(whole)
            assert np.array_equal(mine.scores, theirs.scores)
        elif path.name == "model.keras":
            assert weights(path) == self.weights
        elif path.name in EXPORTS:
            self._check_export(path)

    def _check_export(self, path):
        """Proved by the interpreter that its users have."""
        file = path / "model.onnx" if path.name == "web" else path
        if path.name == "web":
            assert (path / "embedded.js").read_text().endswith(";\n")
        model = keras.saving.load_model(path.parent / "model.keras", compile=False)
        expected = model.predict_on_batch(self.images.astype(np.float32))
        assert np.allclose(
            open_model_file(file).predict(self.images), expected,
            atol=1e-4,
        )  # fmt: skip


def weights(path):
    """Every number of a model file, and how it is built."""
    model = keras.saving.load_model(path, compile=False)
    return model.to_json(), [array.tobytes() for array in model.get_weights()]


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
