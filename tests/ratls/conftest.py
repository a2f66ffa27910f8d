"""One simulated Intel and one study for the tests of a run: nothing in them changes."""

from __future__ import annotations

from typing import Any

import pytest

from ratls.identity import EnclaveIdentity
from tests.support.flight_peers import Study
from tests.support.intel import World


@pytest.fixture(scope="session")
def study() -> Study:
    return Study.create()


@pytest.fixture(scope="session")
def world(study: Study) -> World:
    return study.world


@pytest.fixture
def quotes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The challenges that an enclave has answered."""
    made: list[Any] = []
    genuine = EnclaveIdentity.answer_challenge

    def counted(self: EnclaveIdentity, *given: Any) -> bytes:
        made.append(given)
        return genuine(self, *given)

    monkeypatch.setattr(EnclaveIdentity, "answer_challenge", counted)
    return made
