"""One simulated Intel and one study for the tests of a run: nothing in them changes."""

from __future__ import annotations

import pytest

from tests.support.flight_peers import Study
from tests.support.intel import World


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.create()


@pytest.fixture(scope="session")
def world(study: Study) -> World:
    return study.world
