"""The `.pth` reader against files that were damaged by chance: read or refused, nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("pth_fuzzer.py")


@pytest.mark.parametrize(
    ("files", "seconds", "least"),
    [(1000, 60, 100), pytest.param(10**9, 600, 10_000, marks=pytest.mark.slow)],
)
def test_damage_is_read_or_refused(tmp_path, files, seconds, least):
    done = subprocess.run(
        [sys.executable, FUZZER, str(files), str(seconds), "0"],
        cwd=tmp_path, capture_output=True, text=True, timeout=seconds + 300,
    )  # fmt: skip
    # 77: the reader started, opened or fetched something; negative: it was ended by a signal.
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    counts = json.loads(done.stdout)
    assert counts["read"] + counts["refused"] >= least
    # Some changes hit a number of a tensor, most hit a program.
    assert min(counts["read"], counts["refused"]) >= least // 100
    # A file of 10 kB can ask for any memory, and does not get it.
    assert counts["grown_mib"] < 300
    assert counts["left"] == ["seed.pth"]  # no MARK
