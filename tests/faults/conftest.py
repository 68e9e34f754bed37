"""What tests of faults share: warm processes, and a run that nothing has disturbed."""

import shutil
import time

import pytest
from commands import Place
from runs import made_once
from warm import Warm
from whole import Whole


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Starts commands as processes that have loaded the libraries already."""
    warm = Warm(tmp_path_factory.mktemp("warm"))
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def unbroken(warm, tmp_path_factory):
    """A place with a whole run that nothing has disturbed."""

    def make(folder):
        place = Place(folder)
        for command in (place.prepare, place.train):
            start = time.monotonic()
            process = warm.run(command)
            assert process.code == 0, process.output
        (folder / "seconds").write_text(str(time.monotonic() - start))  # of the training

    # It is exported, too.
    folder = tmp_path_factory.mktemp("unbroken") / "place"
    shutil.copytree(made_once(tmp_path_factory, "unbroken", make), folder)
    place = Place(folder)
    place.seconds = float((folder / "seconds").read_text())
    return place


@pytest.fixture(scope="session")
def whole(unbroken):
    """What broken runs are held against."""
    return Whole(unbroken)
