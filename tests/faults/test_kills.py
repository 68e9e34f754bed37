"""Killed at any moment, a run is never damaged, resumes, and ends as an unbroken one."""

import os
import random
import re
import signal
from collections import Counter

import pytest
from commands import STEPS, Place
from moments import end_at_random, let_alone
from runs import end, newest_step
from whole import weights

SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT)

# Of the slow test; another seed kills at other moments.
KILLS, SEED = int(os.environ.get("FAULTS_KILLS", 200)), int(os.environ.get("FAULTS_SEED", 2))

# What a training says first.
LISTENING = "float32: as requested"


class Killer:
    """Starts commands and ends them at random moments: by the clock, or by what files show."""

    def __init__(self, warm, whole, seed):
        self.warm, self.whole, self.random = warm, whole, random.Random(seed)
        self.kinds, self.phases, self.moments = Counter(), Counter(), Counter()
        self.length = {}  # of each kind of command, in seconds and in events, when let alone

    @property
    def kills(self):
        return sum(self.kinds.values())

    def let_alone(self, phase, command, place):
        """Run a command to its end."""
        process, now = let_alone(lambda: self.warm.start(command), place.folder)
        assert process.code == 0, process.output
        longest = self.length.get(phase, (0, 0))
        self.length[phase] = tuple(map(max, longest, now))
        self.whole.check(place)
        return process

    def kill(self, phase, command, place):
        """Start a command and end it at a random moment; False if it was at its end before."""
        number = self.random.choice(SIGNALS)
        before = newest_step(place.run)
        process, moment = end_at_random(
            lambda: self.warm.start(command), place.folder, number, self.random,
            self.length.get(phase, (8, 100)),
        )  # fmt: skip
        if process.code == 0:
            self.whole.check(place)
            return False
        phase = phase_of(phase, process, place)
        self.kinds[number.name] += 1
        self.phases[phase] += 1
        self.moments[moment] += 1
        self.moments["with a file half written"] += bool(half_written(place))
        said_so(process, number, phase)
        self.whole.check(place)
        assert newest_step(place.run) >= before
        return True

    def lines(self):
        for name, counts in (("signal", self.kinds), ("phase", self.phases)):
            yield f"{name}: " + ", ".join(f"{k} {n}" for k, n in sorted(counts.items()))
        yield "moment: " + ", ".join(f"{k} {n}" for k, n in sorted(self.moments.items()))


def phase_of(phase, process, place):
    """Where a training was when it ended."""
    if phase != "train":
        return phase
    if "Writing" not in process.output:
        return "train: start"
    return "train: steps" if newest_step(place.run) < STEPS else "train: model, results"


def half_written(place):
    """What a process was about to write when it was killed."""
    return [*place.run.rglob(".*.part"), *place.data.glob("*/incomplete.*")]


def said_so(process, number, phase):
    """What a process that was ended tells the user, and the shell."""
    if number == signal.SIGKILL:
        assert process.code == -number, process.output
        return
    # Python itself, before the program has begun.
    python = process.code == 1 and "KeyboardInterrupt" in process.output
    if not process.output or (number == signal.SIGINT and python):
        assert process.code in (-number, 1) and LISTENING not in process.output
        return
    assert process.code == 128 + number, process.output
    if "SystemError" in process.output:
        return  # TensorFlow has turned the signal into this error, and printed it
    assert "Traceback" not in process.output
    # A bar of TFDS may still wipe out the line below, and go up again.
    shown = process.output.replace("\x1b[A", "").splitlines()
    last = [line for line in shown if line.strip()][-1]
    assert number.name in last, process.output
    if phase.startswith("train"):
        assert re.search(r"To resume: python \S*small.py ", last), process.output


def life(killer, place, tries):
    """A whole run, from the preparation to the report; each command is killed `tries` times."""
    for phase, command in place.commands():
        for _ in range(tries.get(phase, 0)):
            done = not killer.kill(phase, command, place)
            if done and phase == "train":
                break
        if phase in tries:
            process = killer.let_alone(phase, command, place)
            print(f"{phase}: {killer.kills} kills so far", flush=True)
        if phase == "prepare":
            for path in place.data.glob("*/incomplete.*"):
                assert f"{path} is left over from an interrupted `prepare`" in process.output
    assert end(place.run) == killer.whole.end
    assert weights(place.run / "model.keras") == killer.whole.weights


def test_three_kills_change_nothing(warm, whole, tmp_path):
    killer = Killer(warm, whole, seed=1)
    killer.length["train"] = (0.6 * whole.place.seconds, 40)  # before its end in any case
    place = Place(tmp_path)
    life(killer, place, {"train": 3})
    assert killer.kills == 3
    assert place.files() == whole.files


@pytest.mark.slow
def test_two_hundred_kills_change_nothing(warm, whole, tmp_path, capsys):
    killer = Killer(warm, whole, seed=SEED)
    for phase, command in whole.place.commands():
        if phase not in ("prepare", "train"):
            killer.let_alone(phase, command, whole.place)
    # A training resumes where it was killed: early moments give it many lives.
    killer.length |= {"prepare": (2, 40), "train": (0.3 * whole.place.seconds, 40)}
    tries = {phase: 12 for phase, _ in whole.place.commands()} | {"prepare": 16, "train": 40}
    lives = 0
    while killer.kills < KILLS:
        lives += 1
        place = Place(tmp_path / str(lives))
        life(killer, place, tries)
        assert place.files() == whole.place.files()
    assert killer.phases["train: steps"] >= KILLS // 10
    with capsys.disabled():
        print(f"\n{killer.kills} kills in {lives} lives", *killer.lines(), sep="\n", flush=True)
