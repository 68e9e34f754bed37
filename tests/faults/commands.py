"""The commands that faults fall upon, with a data folder and a run folder of their own."""

from pathlib import Path

RECIPE = Path(__file__).with_name("small.py")

# Backups at every third step: an epoch has 12 and all have 48.
STEPS = 48
FLAGS = "--backup-every 3"

EXPORTS = {
    "model.tflite": "", "model.onnx": "", "saved": "", "web": "--format web",
}  # fmt: skip


class Place:
    """A folder with the commands of a whole run in it."""

    def __init__(self, folder):
        self.folder, self.data, self.run = folder, folder / "data", folder / "run"
        self.data.mkdir(parents=True, exist_ok=True)
        verb = "python -m resnet_keras"
        model = self.run / "model.keras"
        self.prepare = f"{verb} prepare digits --data-dir {self.data}"
        self.train = f"python {RECIPE} --data-dir {self.data} --run-dir {self.run} {FLAGS}"
        self.report = f"{verb} report {self.run} --data-dir {self.data}"
        self.exports = {
            name: f"{verb} export {model} {self.run / name} --data-dir {self.data} --examples 64 "
            f"{options}"
            for name, options in EXPORTS.items()
        }

    def commands(self):
        """Each command of a run's life with a name, in order."""
        yield "prepare", self.prepare
        yield "train", self.train
        for name, command in self.exports.items():
            yield f"export {name}", command
        yield "report", self.report

    def files(self):
        """Every file of the run, hidden ones too; TensorBoard has one for each start.

        The backup before the last is of the end of an epoch, or of a signal in the last one.
        """
        names = (path.relative_to(self.run) for path in self.run.rglob("*") if path.is_file())
        found = sorted(str(name) for name in names if name.parts[0] != "tensorboard")
        backups = [name for name in found if name.startswith("backup/0")]
        return {"the backup before" if name in backups[:-1] else name for name in found}
