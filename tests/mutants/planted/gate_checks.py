"""What somebody thought of testing about the gate. Not collected by the suite itself."""

from __future__ import annotations

import pytest

from tests.mutants.planted.gate import Stopped, enter


def test_lets_through() -> None:
    assert enter("Ada,18,7") == 7


@pytest.mark.parametrize("text", ["Ada,x,7", "Ada,17,7", "Bob,18,7"])
def test_stops(text: str) -> None:
    with pytest.raises(Stopped):
        enter(text)


def test_stops_the_nameless() -> None:
    with pytest.raises(Stopped):
        enter(",18,7", name="")


def test_stops_a_worthless_ticket() -> None:
    with pytest.raises(Stopped):
        enter("Ada,18,0", ticket=0)
