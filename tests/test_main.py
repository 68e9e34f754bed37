"""The command line: one line of JSON on stdout, and one line for what the user can fix."""

import csv
import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from parity import save_state
from runs import finished, forks, refused_in_one_line
from safetensors.numpy import load_file

import resnet_keras
import resnet_keras.__main__ as command_line
from resnet_keras.__main__ import VERBS, _show, _write_predictions
from resnet_keras.errors import InputError

ROOT = Path(__file__).parents[1]

# Each ends with one line and code 2.
BAD = (
    ("summary", "resnet5"), ("summary",), ("nosuch",), (), ("evaluate", "missing.keras"),
    ("predict", "missing.keras", "x.png"), ("summary", "resnet18", "--classes", "0"),
    ("convert", "missing.pth", "out.keras"), ("convert", "README.md", "out.keras"),
    ("convert", "a.pth", "b.keras", "--mean", "1,x,3"),
    ("report", "tests"),
    ("export", "missing.keras", "out.tflite"), ("summary", "resnet18", "--input-size", "-3"),
    ("summary", "resnet18", "--input-size", "0"),
)  # fmt: skip


@pytest.fixture(scope="module")
def command():
    """Run a verb, from the project's root; gives the finished process."""
    with forks(ROOT, COLUMNS="80") as ask:

        def run(*arguments):
            words = ("python", "-m", "resnet_keras", *map(str, arguments))
            return finished(ask(shlex.join(words)))

        yield run


def test_summary_as_json(command):
    done = command("summary", "resnet18_cifar", "--json")
    assert json.loads(done.stdout) == {
        "params": 11173962, "macs": 555422720, "flops_mmcv": 557211648, "flops_fvcore": 556659712,
    }  # fmt: skip
    assert done.stdout.count("\n") == 1


def test_summary_of_other_sizes(command):
    done = command("summary", "resnet50", "--classes", "5", "--json")
    assert json.loads(done.stdout)["flops_fvcore"] == 4109474816
    half = command("summary", "resnet18_cifar", "--input-size", "64", "--json")
    assert json.loads(half.stdout)["macs"] == 4 * (555422720 - 5120) + 5120


def test_doctor(command):
    done = command("doctor", "--json")
    answer = json.loads(done.stdout)
    assert answer["precision"] in ("float32", "mixed_bfloat16", "mixed_float16")
    assert answer["tensorflow"] == tf.__version__ and answer["because"]


def test_predict_and_evaluate_and_export(command, digits_run, data_dir, tmp_path):
    from resnet_keras import data

    images, labels = data.Source("digits", "test", data_dir=data_dir).open().arrays
    for i in range(3):
        tf.io.write_file(str(tmp_path / f"{i}.png"), tf.io.encode_png(images[i]))
    out = tmp_path / "model.tflite"
    done = command("export", digits_run / "model.keras", out, "--data-dir", data_dir, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["top1_agreement"] == 1
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for model_file in (digits_run / "model.keras", out):
        answer = json.loads(command("predict", model_file, *paths, "--json").stdout)
        assert list(answer) == [str(path) for path in paths]
        best = [answer[str(path)][0]["label"] for path in paths]
        assert sum(b == str(y) for b, y in zip(best, labels[:3], strict=True)) >= 2
        scores = [item["score"] for item in answer[str(paths[0])]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    done = command("evaluate", out, "--data-dir", data_dir, "--json")
    results = json.loads((digits_run / "results.json").read_text())
    assert json.loads(done.stdout)["top1"] == results["top1"]


def test_evaluate_saves_and_calibrates(command, digits_run, data_dir, tmp_path):
    flags = ("--split", "test[:50%]", "--calibrate-on", "test[50%:]", "--save", tmp_path / "x.npz")
    done = command("evaluate", digits_run / "model.keras", "--data-dir", data_dir, *flags, "--json")
    answer = json.loads(done.stdout)
    assert answer["examples"] == answer["calibration_examples"] == 180
    assert answer["calibrated_on"] == "test[50%:]" and answer["temperature"] > 0
    assert len(answer["per_class"]) == 10 and (tmp_path / "x.npz").exists()
    table = command("evaluate", digits_run / "model.keras", "--data-dir", data_dir).stdout
    assert "hardest classes" in table and table.count("%") == 5


def test_report_of_runs(command, digits_run, tmp_path):
    out = tmp_path / "new" / "page.html"
    done = command("report", digits_run, digits_run, "--out", out, "--json")
    assert json.loads(done.stdout) == {"report": str(out), "bytes": out.stat().st_size}
    assert "2 runs compared" in out.read_text()


def test_convert_there_and_back(command, tmp_path):
    state = save_state("resnet18_cifar10", tmp_path / "theirs.safetensors")
    done = command("convert", tmp_path / "theirs.safetensors", tmp_path / "ours.keras", "--json")
    answer = json.loads(done.stdout)
    assert (answer["naming"], answer["model"]) == ("OpenMMLab", "resnet18_cifar")
    assert len(answer["matched"]) == 102 and not answer["skipped"] and not answer["new"]
    metadata = json.loads((tmp_path / "ours.json").read_text())
    assert (metadata["size"], metadata["resize"], metadata["antialias"]) == (
        [32, 32],
        None,
        False,
    )
    done = command("convert", tmp_path / "ours.keras", tmp_path / "back.safetensors")
    assert done.returncode == 0, done.stderr
    back = load_file(tmp_path / "back.safetensors")
    for name, array in state.items():
        assert back[name.split(".", 1)[1]].tobytes() == array.tobytes()


def test_names_of_files_that_are_not_text_can_be_written(tmp_path):
    """Linux allows any bytes."""
    name = os.fsdecode(b"caf\xe9.png")
    answer = [{"path": name, "predictions": [{"label": "a", "score": 0.5}]}]
    _write_predictions(tmp_path / "x.csv", answer)
    rows = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()
    assert rows == ["path,rank,label,score", r"caf\udce9.png,1,a,0.5"]


def test_predictions_as_csv(command, digits_run, data_dir, tmp_path):
    from resnet_keras import data

    images, _ = data.Source("digits", "test", data_dir=data_dir).open().arrays
    paths = [tmp_path / "a, b.png", tmp_path / "c.png"]
    for path, image in zip(paths, images, strict=False):
        tf.io.write_file(str(path), tf.io.encode_png(image))
    (tmp_path / "b.png").write_bytes(b"")
    flags = ("--top", "2", "--out", tmp_path / "x.csv", "--json", "--skip-bad")
    given = (paths[0], tmp_path / "b.png", paths[1])
    done = command("predict", digits_run / "model.keras", *given, *flags)
    assert "1 of 3 files left out: 1 empty" in done.stderr
    answer = json.loads(done.stdout)
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["rank"]) for row in rows] == [
        (str(path), rank) for path in paths for rank in ("1", "2")
    ]
    flat = [item for path in paths for item in answer[str(path)]]
    assert [(row["label"], float(row["score"])) for row in rows] == [
        (item["label"], item["score"]) for item in flat
    ]


def test_the_version_is_that_of_the_package(command):
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"{resnet_keras.__version__}\n")


def test_answers_are_tables(capsys):
    _show({"params": 1234567, "names": ("a", "b"), "skipped": {"train": 1}, "x": "\x1b[2J"},
          sys.stdout)  # fmt: skip
    shown = capsys.readouterr().out
    assert "1,234,567" in shown and "2 tensors" in shown and "train 1" in shown
    assert "\\x1b[2J" in shown and "\x1b" not in shown
    _show([{"name": "a", "top1": 0.5}, {"name": "b", "top1": None}], sys.stdout)
    shown = capsys.readouterr().out
    assert "name" in shown and "top1" in shown
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert "0.5" in rows[0] and "│ -    │" in rows[1] and len(rows) == 2


def test_a_new_command_is_one_function(capfd, monkeypatch):
    monkeypatch.setattr(command_line, "VERBS", {})

    @command_line.verb
    def greet(name: str, *, times: int = 1):
        """Greet somebody.

        Args:
            name: Whom.
            times: How often.
        """
        return {"greeting": " ".join([name] * times)}

    call, as_json = command_line._bound(["greet", "you", "--times", "2", "--json"])
    assert call() == greet("you", times=2) == {"greeting": "you you"} and as_json
    with pytest.raises(SystemExit):
        command_line._bound(["greet", "--help"])
    shown = capfd.readouterr().out
    assert "Greet somebody." in shown and "How often. (default: 1)" in shown and "--json" in shown


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("sumary",), "unknown command sumary (did you mean summary?). See --help."),
        ((), "missing: a command (summary, zoo, convert, "),
        (("predict", "a.keras"), "missing: PATH. See --help."),
        (("export", "a.keras"), "missing: OUT. See --help."),
        (("evaluate", "a", "--batch-size", "x"), "--batch-size must be an integer. Received: x"),
        (("evaluate", "a", "--dataste", "x"), "unrecognized option --dataste (did you mean "),
        (("predict", "a.keras", "b.png", "--out", "c.txt"), "`out` must end in .csv. Received: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_with_arguments_is_said_before_anything_is_loaded(arguments, line):
    with pytest.raises(InputError) as caught:
        call, _ = command_line._bound(list(arguments))
        call()
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_one_line_and_code_2(command, arguments):
    done = command(*arguments)
    assert refused_in_one_line(done) and not done.stdout


def test_a_complaint_is_nothing_that_another_program_would_read(command):
    done = command("summary", "resnet5", "--json")
    assert "resnet18" in refused_in_one_line(done) and not done.stdout


def test_help_fits_a_terminal(command):
    done = command("--help")
    assert done.returncode == 0 and "export" in done.stdout
    usage, *lines = done.stdout.splitlines()
    assert usage.startswith("usage: resnet-keras [-h] {") and max(map(len, lines)) <= 80


def test_run_lists_the_recipes_with_their_claims_and_names_what_is_not_one(command):
    done = command("run", "--help")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0].startswith("usage: resnet-keras run RECIPE")
    stems = [path.stem for path in sorted((ROOT / "recipes").glob("*.py"))]
    assert [line for line in lines if line in stems] == stems
    claim = lines[lines.index("cifar10_resnet18") + 1]
    assert claim.strip().startswith("ResNet-18 on CIFAR-10 as OpenMMLab trained it: 94.82 %")
    assert command("run").stdout == done.stdout
    line = refused_in_one_line(command("run", "quikstart"))
    assert "unknown recipe (did you mean quickstart?)" in line
    assert line.endswith("Received: quikstart")


@pytest.mark.slow
def test_run_trains_and_prints_a_command_that_resumes(run_python, tmp_path):
    run = tmp_path / "run"
    flags = ("--epochs", "1", "--run-dir", run, "--data-dir", tmp_path / "data")
    done = run_python("-m", "resnet_keras", "run", "quickstart", *flags)
    assert done.returncode == 0, done.stderr
    assert "top-1 " in done.stdout and (run / "model.tflite").exists()
    started = json.loads((run / "model.tflite.report.json").read_text())["command"]
    assert started.startswith("python -m resnet_keras.recipes.quickstart --epochs 1 ")


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_command_fits_a_terminal_and_names_every_argument(command, name):
    done = command(name, "--help")
    usage, *lines = done.stdout.splitlines()
    assert done.returncode == 0 and usage.startswith(f"usage: resnet-keras {name} [-h]")
    assert max(map(len, lines)) <= 80
    assert "None" not in done.stdout and "--json" in done.stdout


def test_the_printed_command_runs_as_it_stands(run_python, tmp_path):
    code = "from resnet_keras.console import command\nprint(command())"
    for name in ("a b.py", "it's.py"):
        path = tmp_path / name
        path.write_text(code)
        printed = run_python(path, "--data-dir", "my data").stdout.strip()
        assert shlex.split(printed) == ["python", str(path), "--data-dir", "my data"]
    (tmp_path / "mod").mkdir()
    (tmp_path / "mod" / "__main__.py").write_text(code)
    printed = run_python("-m", "mod", "x y", PYTHONPATH=f"{ROOT}:{tmp_path}").stdout.strip()
    assert printed == "python -m mod 'x y'"


def test_convert_ignores_the_metadata_of_an_older_model_and_replaces_no_other_file(
    command, tmp_path
):
    from resnet_keras import SPECS, ResNet
    from resnet_keras.model_files import Metadata
    from resnet_keras.preprocessing import Preprocessing
    from resnet_keras.weights import save_torch

    small = dataclasses.replace(SPECS["resnet18_cifar"], depths=(1, 1), widths=(8, 16))
    save_torch(ResNet(small, classes=3), tmp_path / "x.safetensors")
    Metadata(Preprocessing(224, 256), labels=("old",)).write(tmp_path / "x.keras")
    done = command("convert", tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "x.json").read_text())["size"] == [32, 32]
    (tmp_path / "x.json").write_text('{"mine": 1}')
    done = command("convert", tmp_path / "x.safetensors", tmp_path / "x.keras")
    assert done.returncode == 2 and "x.json" in done.stderr.splitlines()[-1]
    assert (tmp_path / "x.json").read_text() == '{"mine": 1}'


# As in an environment that has not the extras; Python asks the finders for what is not loaded.
WITHOUT = """
import sys

class Missing:
    def find_spec(name, path, target=None):
        if name.split(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
from resnet_keras.__main__ import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("package", "words", "extra"),
    [("tyro", ["doctor"], "train"), ("tensorflow", ["summary", "resnet20_cifar"], "train"),
     pytest.param("ai_edge_litert", ["predict", "x.tflite", "x.png"], "export",
                  marks=pytest.mark.slow),
     pytest.param("openvino", ["predict", "x.xml", "x.png"], "openvino",
                  marks=pytest.mark.slow)],
)  # fmt: skip
def test_what_an_extra_brings_is_named_where_it_is_missing(
    run_python, tmp_path, package, words, extra
):
    for name in ("x.tflite", "x.xml", "x.bin"):
        (tmp_path / name).write_bytes(b"x")
    words = [str(tmp_path / word) if word.startswith("x.") else word for word in words]
    line = refused_in_one_line(run_python("-c", WITHOUT, package, *words))
    assert f"pip install 'resnet-keras[{extra}]'" in line and package in line


def test_a_recipe_names_the_extra_that_brings_its_command_line(run_python):
    code = WITHOUT.split("from resnet_keras.__main__")[0]
    code += "import runpy; runpy.run_module('resnet_keras.recipes.quickstart', run_name='__main__')"
    line = refused_in_one_line(run_python("-c", code, "tyro"))
    assert "recipes need more packages: pip install 'resnet-keras[train]'" in line
