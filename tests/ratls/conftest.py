"""A whole simulated Intel for the tests of one run: nothing in it changes."""

from __future__ import annotations

import pytest

from tests.support.intel import World


@pytest.fixture(scope="session")
def world() -> World:
    return World.create()
