"""Two trainings in one run folder: the second is refused, the first ends as if it were alone."""

import pytest
from commands import Place
from runs import end, newest_step


@pytest.fixture
def place(warm, tmp_path):
    place = Place(tmp_path)
    assert warm.run(place.prepare).code == 0
    return place


def refused(process, place, other):
    words = f"another process is training in {place.run} (process {other.pid} on "
    assert words in process.refused()


# tests/test_training.py and tests/test_backup.py hold the refusal by default.
@pytest.mark.slow
def test_the_second_training_is_refused(warm, place, whole):
    first = warm.start(place.train)
    first.wait_for(lambda: newest_step(place.run) > 0)
    refused(warm.run(place.train), place, first)
    first.wait()
    assert first.code == 0, first.output
    whole.check(place)
    assert end(place.run) == whole.end
    assert place.files() == whole.files


@pytest.mark.slow
def test_of_several_started_at_once_one_trains(warm, place, whole):
    several = [warm.start(place.train) for _ in range(4)]
    codes = [process.wait() for process in several]
    assert sorted(codes) == [0, 2, 2, 2], "\n".join(process.output for process in several)
    winner = several[codes.index(0)]
    for process in several:
        if process is not winner:
            refused(process, place, winner)
    assert end(place.run) == whole.end
    assert place.files() == whole.files
