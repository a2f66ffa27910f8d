"""A provider meets an enclave whose certificate is renewed: between releases, and among rows."""

from __future__ import annotations

from typing import Any

import pytest

from policy.receipt import Acknowledgement
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.refusal import count_refusal

pytestmark = pytest.mark.slow


def renew(live: LiveEnclave) -> None:
    """Hours pass."""
    live.enclave.identities._next = NOW
    before = live.enclave.identity
    live.enclave.sweep()
    assert live.enclave.identity is not before


def test_a_second_release_after_the_next_certificate(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """What the address showed before no longer fits: the pin keeps it out; it is probed anew."""
    count_refusal()
    first = alice.push(world.task())
    renew(live)
    second = alice.push(world.task())
    keys = [
        Acknowledgement.open(done.kept.acknowledgement.read_bytes()).tls_spki
        for done in (first, second)
    ]
    assert keys[0] != keys[1]
    assert first.commit.instance == second.commit.instance


def test_a_release_in_which_the_certificate_is_renewed(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """Nobody is dropped: the rows, the commit and the acknowledgement are of one connection."""
    before, renewed = live.enclave.identity, []

    def progress(rows: int, total: int) -> None:
        if not renewed:
            renewed.append(rows)
            renew(live)

    options: dict[str, Any] = {"progress": progress}
    done = alice.push(world.task(), **options)
    assert renewed
    acknowledged = Acknowledgement.open(done.kept.acknowledgement.read_bytes())
    assert acknowledged.tls_spki == before.spki
