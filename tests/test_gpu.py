"""The measurements of a GPU: rehearsed on a CPU, and stopped at their limits."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import gpu  # noqa: E402


def rehearse(out, *parts):
    done = subprocess.run(
        [sys.executable, "tools/gpu.py", *parts, "--rehearse", "--out", out],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())["parts"]


def reasons(found):
    """Why what was not measured was not, but for what needs PyTorch, which is no dependency."""
    rows = [
        (part, row, answer)
        for part, rows in found.items()
        for row, answers in rows.items()
        for answer in answers
    ]
    inner = [(part, row, x) for part, row, a in rows for x in a.values() if isinstance(x, dict)]
    said = [(part, row, a["not_measured"]) for part, row, a in rows + inner if "not_measured" in a]
    return [reason for reason in said if "'torch'" not in reason[2]]


@pytest.mark.slow
def test_the_whole_recipe_is_rehearsed(tmp_path):
    found = rehearse(tmp_path / "gpu.json", "images", "recipe", "memory")
    assert list(found) == ["images", "recipe", "memory"] and reasons(found) == []
    (recipe,) = found["recipe"]["ours"]
    assert recipe["together_images_per_second"] > 0 and recipe["cores_not_to_wait"] > 0
    (memory,) = found["memory"]["float32"]
    assert [row["batch"] for row in memory["batches"]] == gpu.TINY["batches"]


@pytest.mark.slow
def test_a_rehearsal_measures_each_part(tmp_path):
    parts = [name for name in gpu.parts("") if name not in ("exactness", "accuracy")]
    found = rehearse(tmp_path / "gpu.json", *parts)
    assert list(found) == parts and reasons(found) == []
    (changes,) = found["changes"]["ours"]
    assert changes["as it is"]["images_per_second"] > 0 and "NCHW convolutions" in changes
    # What is changed changes the program: the memory of the step is not the same.
    assert len({changes[name]["step_MiB"] for name in ("as it is", "both", "no donation")}) == 3


@pytest.mark.slow
def test_a_rehearsal_is_exact_and_trains(tmp_path):
    found = rehearse(tmp_path / "gpu.json", "exactness", "accuracy")
    assert reasons(found) == []
    (exact,) = found["exactness"]["float16 and exact resume"]
    assert exact["killed"] and exact["twice_bit_identical"] and exact["resumed_bit_identical"]
    (halves,) = found["exactness"]["float16"]
    assert len(halves["float16, dynamic"]["losses"]) == gpu.TINY["steps"]
    assert 0 < found["accuracy"]["short"][0]["top1"][0] <= 1


WORKER = """
import json, subprocess, sys, time
for number in (1, 2):
    print(json.dumps({"number": number}), flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".child", "w").write(str(child.pid))
time.sleep(600)
"""


def test_what_is_stopped_keeps_its_last_answer_and_leaves_no_process(tmp_path):
    (tmp_path / "contestants.py").write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = gpu._answer(str(tmp_path / "x"), {}, gpu.time.monotonic() + 6, environment)
    assert answer.pop("not_measured").startswith("stopped after ")
    assert answer == {"number": 2}
    child = int((tmp_path / "x.child").read_text())
    until = gpu.time.monotonic() + 10  # the kernel takes a moment
    while _runs(child) and gpu.time.monotonic() < until:
        gpu.time.sleep(0.05)
    assert not _runs(child)
    assert gpu._answer("x", {}, gpu.time.monotonic() + 1, environment) == {
        "not_measured": "no time was left"
    }


def _runs(pid):
    """Whether a process runs; one that nobody has waited for is over, too."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_that_fails_is_a_row_with_its_last_line(tmp_path, capsys):
    (tmp_path / "contestants.py").write_text("raise SystemExit('no such device')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = gpu._answer("x", {}, gpu.time.monotonic() + 60, environment)
    assert answer == {"not_measured": "no such device"}
    assert "no such device" in capsys.readouterr().err


def test_synthetic_imagenet_is_read_as_imagenet(tmp_path):
    import synthetic_imagenet

    from resnet_keras import data

    synthetic_imagenet.write(str(tmp_path), {"train": 5, "validation": 3})
    split = data.Source("imagenet2012", "train", data_dir=tmp_path).open()
    assert split.examples == 5 and len(split.labels) == 1000
    jpeg, label = synthetic_imagenet.crop([_photograph(1), _photograph(2)], 3)
    assert jpeg[:2] == b"\xff\xd8" and 0 <= label < 1000
    again, same = synthetic_imagenet.crop([_photograph(1), _photograph(2)], 3)
    assert (jpeg, label) == (again, same)


def _photograph(seed):
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (427, 640, 3), np.uint8)


def test_pieces_are_put_together(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "module.py").write_text("number = 7\n")
    with tarfile.open(tmp_path / "all.xz", "w:xz") as archive:
        archive.add(site, "site")
    whole = (tmp_path / "all.xz").read_bytes()
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    for number, start in enumerate(range(0, len(whole), 50)):
        name = f"site.tar.xz.{chr(97 + number // 26)}{chr(97 + number % 26)}"
        (pieces / name).write_bytes(whole[start : start + 50])
    command = ["bash", ROOT / "tools/install_pieces.sh", pieces, tmp_path / "target"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"export PYTHONPATH={tmp_path}/target/site\n", done.stderr
    assert (tmp_path / "target/site/module.py").read_text() == "number = 7\n"


@pytest.mark.parametrize("script", ["pack_wheels.sh", "install_pieces.sh"])
def test_a_script_without_arguments_says_how_it_is_called(script):
    done = subprocess.run(["bash", ROOT / "tools" / script], capture_output=True, text=True)
    assert done.returncode == 2 and script in done.stderr
