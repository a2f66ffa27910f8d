"""A party leaves while an enclave has its rows: delivered, obeyed, acknowledged, and final."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from enclave_app.errors import AttemptClosed
from policy.envelope import Envelope, SignerUnknown
from policy.receipt import Ended
from policy.state import StateMissing, StudyState
from policy.statement import PolicyDigestDiffers, StudyDiffers
from policy.withdrawal import PartyWithdrew, SignedWithdrawal, Withdrawal
from provider.deliver import Delivered, Place, deliver
from ratls.client_stream import Pending
from ratls.framing import Kind
from ratls.peer_refusal import PeerRefused
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from verifier.collateral import Collateral
from verifier.modes import SimulationNotAllowed

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"


def withdrawal(world: EnclaveWorld, who: str = "alice", **fields: Any) -> bytes:
    party = getattr(world.consortium, who)
    document = Withdrawal.of([v.policy for v in world.complete.agreement.versions], party.party_id)
    made = {n: getattr(document, n) for n in Withdrawal.model_fields} | fields
    return Withdrawal(**made).signed(party.signing)


def delivered(desk: Desk, raw: bytes, *, allow_simulation: bool = True) -> Delivered:
    place = Place(
        desk.address, Collateral.parse(desk.world.collateral), allow_simulation, HANG_LIMIT
    )
    return deliver(raw, place, desk.party, desk.state, lambda: NOW)


def exchanged(live: LiveEnclave, who: str, raw: bytes) -> bytes:
    """What the enclave answers, without the checks of `deliver`."""
    party = getattr(live.world.consortium, who)
    with live.exchange(Kind.WITHDRAW, party, task=raw) as exchange:
        return exchange.ended()


def test_withdrawal_stops_the_release_and_drops_the_rows(
    live: LiveEnclave, world: EnclaveWorld, alice: Desk, bob: Desk
) -> None:
    """S14: release stops, the rows that are there are dropped, and the task ends for everybody."""
    task, whole = world.task(), live.enclave.budgets.memory.free
    live.release(alice.party, ONE, rows(1), task)
    assert live.enclave.budgets.memory.free < whole
    done = delivered(bob, withdrawal(world))
    assert done.document.party == "alice-clinic"
    assert Ended.open(done.kept.read_bytes()) == done.document
    assert live.enclave.budgets.memory.free == whole
    with refused_by_enclave(PartyWithdrew):
        live.release(bob.party, TWO, rows(2), task)
    with refused_by_enclave(PartyWithdrew):
        live.collect(world.consortium.carol, task)
    with refused_by_enclave(PartyWithdrew):
        live.collect(world.consortium.carol, world.task())
    assert delivered(bob, withdrawal(world)).document.party == "alice-clinic"  # again is the same


def test_outcome_that_waits_is_not_handed_out(live: LiveEnclave, world: EnclaveWorld) -> None:
    """The recipient leaves after the computation: nothing more goes out."""
    people, task = world.consortium, world.task()
    live.compute_at_once()
    live.release(people.bob, TWO, rows(2), task)
    live.release(people.alice, ONE, rows(1), task)
    exchanged(live, "alice", withdrawal(world, "carol"))
    with refused_by_enclave(PartyWithdrew):
        live.collect(people.carol, task)


def test_party_leaves_in_the_middle_of_its_upload(live: LiveEnclave, world: EnclaveWorld) -> None:
    people, task, whole = world.consortium, world.task(), live.enclave.budgets.memory.free
    with (
        refused(PeerRefused) as seen,
        live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
    ):
        sent = live.send(exchange, people.alice, ONE, rows(1).to_batches(25), task)
        exchange.sealed()
        exchanged(live, "bob", withdrawal(world))
        exchange.commit(live.commit(exchange, people.alice, ONE, sent, task))
    assert isinstance(seen.error, PeerRefused)
    # By whether its last chunk was there before.
    assert seen.error.peer_code in (PartyWithdrew.code, AttemptClosed.code)
    assert live.enclave.budgets.memory.free == whole


def test_other_tasks_go_on_without_a_withdrawal(live: LiveEnclave, world: EnclaveWorld) -> None:
    people, task = world.consortium, world.task()
    live.release(people.alice, ONE, rows(1), task)
    live.release(people.bob, TWO, rows(2), task)
    assert not isinstance(live.wait(people.carol, task), Pending)


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"policy_digest": bytes(32)}, PolicyDigestDiffers),
        ({"study": "another-study"}, StudyDiffers),
    ],
)
def test_withdrawal_from_another_agreement_ends_nothing(
    live: LiveEnclave, world: EnclaveWorld, fields: dict[str, Any], leaf: type[Any]
) -> None:
    """P18: else it would be a way to stop the studies of others."""
    with refused_by_enclave(leaf):
        exchanged(live, "alice", withdrawal(world, **fields))
    assert live.enclave.withdrawn == frozenset()
    live.release(world.consortium.alice, ONE, rows(1), world.task())


def test_bob_withdraws_alice(live: LiveEnclave, world: EnclaveWorld) -> None:
    document = Withdrawal.of([v.policy for v in world.complete.agreement.versions], "alice-clinic")
    with refused_by_enclave(SignerUnknown):
        exchanged(live, "bob", document.signed(world.consortium.bob.signing))
    live.release(world.consortium.alice, ONE, rows(1), world.task())


def test_agent_of_another_party_releases_nothing_any_more(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """Enforcement rests on the agents: no enclave is asked, and no row leaves."""
    StudyState(alice.state).keep_withdrawal(withdrawal(world, "bob"), NOW)
    with alice.refuses(PartyWithdrew):
        alice.push(world.task())
    assert live.log == [] or all(line.get("event") != "committed" for line in live.log)


def test_agent_hears_of_it_while_its_rows_stream(world: EnclaveWorld, bob: Desk) -> None:
    """Asked again before each second's rows, and before the commit."""
    job = bob.request(world.task()).check_task()
    StudyState(bob.state).keep_withdrawal(withdrawal(world), NOW)
    with refused(PartyWithdrew):
        bob.request(world.task()).require_in_force(job, NOW + timedelta(seconds=1))


def test_delivery_without_the_study(world: EnclaveWorld, bob: Desk) -> None:
    place = Place(bob.address, Collateral.parse(world.collateral), True, HANG_LIMIT)
    with refused(StateMissing):
        deliver(withdrawal(world), place, bob.party, bob.folder / "none", lambda: NOW)


def test_delivery_to_a_simulation_that_nobody_allowed(world: EnclaveWorld, bob: Desk) -> None:
    with refused(SimulationNotAllowed):
        delivered(bob, withdrawal(world), allow_simulation=False)


def test_restarted_enclave_obeys_the_withdrawals_of_its_agreement(
    world: EnclaveWorld, alice: Desk
) -> None:
    """A host that restarts it with the file that has them cannot undo them."""
    raw = Envelope.parse(withdrawal(world))
    signed = SignedWithdrawal.open(raw, [world.policy])
    agreement = replace(world.complete.agreement, withdrawals=(signed,))
    again = replace(world, complete=agreement.require_complete())
    with again.running() as live, refused_by_enclave(PartyWithdrew):
        live.release(world.consortium.alice, ONE, rows(1), world.task())
