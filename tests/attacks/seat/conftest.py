"""One study for all of these tests; nothing in it changes."""

from __future__ import annotations

import pytest

from tests.support.flight_peers import Study


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.create()
