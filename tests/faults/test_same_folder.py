"""A training, evaluations, exports and reports of one run folder at once disturb each other not."""

import itertools
import shutil

import numpy as np
import pytest
from commands import Place
from runs import end

from resnet_keras.evaluation import load_predictions
from resnet_keras.files import sha256

# What a command may be refused with, while others work in the same folder.
REASONS = ("another process is training in", "another process is writing", "was replaced while")

ROUNDS, AT_ONCE = 4, 2


@pytest.mark.slow
def test_everything_at_once(warm, unbroken, whole, tmp_path, capsys):
    place = Place(tmp_path)
    for name in ("run", "data"):
        shutil.copytree(getattr(unbroken, name), getattr(place, name), dirs_exist_ok=True)
    model, scores = place.run / "model.keras", place.folder / "scores.npz"
    evaluate = f"python -m resnet_keras evaluate {model} --data-dir {place.data} --save {scores}"
    commands = [evaluate, place.report, *place.exports.values(), place.train, evaluate]
    codes = {command: [] for command in commands}
    others = itertools.cycle(commands)
    running = {}

    def look(process, command):
        codes[command].append(process.code)
        if process.code:
            line = process.refused()
            assert any(reason in line for reason in REASONS), line

    for number in range(ROUNDS):
        if number == ROUNDS - 1:  # from the first step on; before, it only evaluates and writes
            shutil.rmtree(place.run / "backup")
        (place.run / "results.json").unlink()
        training = warm.start(place.train)
        training.wait_for(lambda t=training: "Writing" in t.output)
        while training.poll() is None or running:
            while len(running) < AT_ONCE and training.code is None:
                command = next(others)
                running[warm.start(command)] = command
            for process in [process for process in running if process.poll() is not None]:
                look(process, running.pop(process))
        assert training.code == 0, training.output
        whole.check(place)
        assert end(place.run) == whole.end
        found = load_predictions(place.run / "predictions.npz")
        assert found.model_sha256 == sha256(model)
    assert not list(place.run.rglob(".*.part"))
    assert np.array_equal(load_predictions(scores).scores, found.scores)
    for command, done in codes.items():  # what was refused succeeds when it is let alone
        process = warm.run(command) if 0 not in done else None
        assert process is None or process.code == 0, process.output
    with capsys.disabled():
        counts = [f"{len(c)} ({sum(map(bool, c))} refused)" for c in codes.values()]
        print("\nevaluate, report, exports, train: " + ", ".join(counts), flush=True)
