"""Two dated parts at once: the refusal names the one that does not cover the instant."""

from __future__ import annotations

from datetime import timedelta

from simulation.documents import instant
from tests.verifier.world import AT, bites, put, with_, world
from verifier.validity import CrlNotCurrent

SKEW = timedelta(seconds=300)
W = world()


def test_part_that_begins_this_very_instant_is_not_to_blame() -> None:
    """The TCB info just begins to count; the revocation list has ended."""
    beginning = put(issueDate=instant(AT + SKEW))
    good = W.collateral(tcb_info=beginning)
    bad = W.collateral(tcb_info=beginning, pck_crl=with_(next_update=AT))
    bites(lambda bundle: W.verify(collateral=bundle), good, bad, CrlNotCurrent, check="validity")
