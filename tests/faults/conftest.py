"""What tests of faults share: warm processes, and a run that nothing has disturbed."""

import time

import pytest
from commands import Place
from warm import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Starts commands as processes that have loaded the libraries already."""
    warm = Warm(tmp_path_factory.mktemp("warm"))
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def unbroken(warm, tmp_path_factory):
    """A place with a whole run that nothing has disturbed."""
    place = Place(tmp_path_factory.mktemp("unbroken"))
    for command in (place.prepare, place.train):
        start = time.monotonic()
        process = warm.run(command)
        assert process.code == 0, process.output
        place.seconds = time.monotonic() - start  # of the training
    return place
