"""Two dated parts at once: the refusal names the one that does not cover the instant."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from simulation.documents import instant
from tests.support.refusal import refused
from tests.verifier.world import AT, put, world
from verifier.validity import CrlNotCurrent

SKEW = timedelta(seconds=300)
W = world()


def test_part_that_begins_this_very_instant_is_not_to_blame() -> None:
    """The TCB info just begins to count; the revocation list has ended."""
    beginning = put(issueDate=instant(AT + SKEW))
    W.verify(collateral=W.collateral(tcb_info=beginning))
    with refused(CrlNotCurrent, check="validity"):
        W.verify(
            collateral=W.collateral(
                tcb_info=beginning, pck_crl=lambda form: replace(form, next_update=AT)
            )
        )
