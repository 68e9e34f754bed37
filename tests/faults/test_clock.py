"""A clock that jumps, as one does that is set: what is timed is not timed by it."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
from commands import Place
from runs import end

# Every reading of the wall clock is months away from the one before it, in both directions.
JUMPS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static time_t jump(void) { return (random() % 21 - 10) * 2600000; }
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += jump();
    return code;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    int code = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return code;
}
time_t time(time_t *to) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (to) *to = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture
def jumping(tmp_path):
    """The environment of a process whose wall clock jumps."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a jumping clock with")
    source, library = tmp_path / "jumps.c", tmp_path / "jumps.so"
    source.write_text(JUMPS)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    code = "import time; print([time.time() for _ in range(8)])"
    times = json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment))
    assert max(times) - min(times) > 1e6  # it does jump
    return environment


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(warm, jumping, whole, tmp_path):
    place = Place(tmp_path)
    assert warm.run(place.prepare).code == 0
    words = place.train.split()[1:]
    words[words.index("--backup-every") + 1] = "1s"
    done = subprocess.run(
        [sys.executable, *words], env=jumping, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert end(place.run) == whole.end
    with open(place.run / "log.csv", newline="") as file:
        assert all(0 < float(row["seconds"]) < 600 for row in csv.DictReader(file))
    results = json.loads((place.run / "results.json").read_text())
    assert 0 < results["train_seconds"] < 600
    assert 0 < results["images_per_second"] < 1e7
