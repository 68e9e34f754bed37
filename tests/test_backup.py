"""A backup is whole or not there, and a damaged one is noticed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from resnet_keras.backup import Saved, alone, load, prune, save
from resnet_keras.errors import InputError


def backup(step):
    arrays = {
        "kernel": np.random.default_rng(step).standard_normal((3, 4)).astype("float32"),
        "iterations": np.asarray(step, "int64"),
        "seed": np.arange(2, dtype="uint32"),
        "transposed": np.arange(6.0).reshape(2, 3).T,
    }
    return Saved(step, arrays, {"rows": [{"epoch": 1, "loss": 0.1 + 0.2}]})


def assert_equal(a, b):
    assert (a.step, a.notes) == (b.step, b.notes) and a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype and array.shape == b.arrays[name].shape
        assert array.tobytes() == b.arrays[name].tobytes()


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    assert load(tmp_path / "none") is None
    save(tmp_path, backup(7))
    assert_equal(load(tmp_path), backup(7))


def test_two_generations_are_kept(tmp_path):
    for step in (5, 900, 1000, 12000):
        save(tmp_path, backup(step))
    assert [path.stem.lstrip("0") for path in sorted(tmp_path.iterdir())] == ["1000", "12000"]
    assert_equal(load(tmp_path), backup(12000))


def test_what_a_kill_behind_a_save_left_is_pruned(tmp_path):
    save(tmp_path / "elsewhere", backup(1))
    for step in (2, 3):
        save(tmp_path, backup(step))
    (tmp_path / "elsewhere" / "000000000001.safetensors").rename(
        tmp_path / "000000000001.safetensors"
    )
    prune(tmp_path, 3)
    assert [path.stem.lstrip("0") for path in sorted(tmp_path.glob("*.*"))] == ["2", "3"]


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "header"])
def test_a_damaged_backup_is_named_and_the_older_one_used(tmp_path, capsys, damage):
    save(tmp_path, backup(1))
    path = save(tmp_path, backup(2))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 4
    damaged = {"cut": whole[:-5], "bit": bytes(flipped), "empty": b"", "header": b"\xff" * 40}
    path.write_bytes(damaged[damage])
    assert_equal(load(tmp_path), backup(1))
    assert str(path) in capsys.readouterr().err
    for old in tmp_path.iterdir():
        old.write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path)


def test_a_folder_is_locked_until_its_process_is_dead(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from resnet_keras.backup import alone\n"
        "with alone(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"{tmp_path} .process {other.pid} on .*--run-dir"):
            with alone(tmp_path):
                raise AssertionError("two at once")
        other.kill()
    with alone(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        with alone(tmp_path):
            raise AssertionError("two at once")
    with alone(tmp_path):
        pass


def test_a_backup_that_may_not_be_read_is_not_called_damaged():
    with tempfile.TemporaryDirectory() as name:  # pytest's are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        save(folder, backup(1))
        save(folder, backup(2)).chmod(0)
        mine = os.geteuid()
        try:
            os.seteuid(65534 if mine == 0 else mine)  # the superuser may read all
            with pytest.raises(InputError, match="2.safetensors cannot be read: Permission denied"):
                load(folder)
        finally:
            os.seteuid(mine)
