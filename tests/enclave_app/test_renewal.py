"""Certificates of hours: the next comes in time, and what began under an earlier one goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from policy.receipt import Acknowledgement
from ratls import client_call
from ratls.appraise import appraise_certificate
from ratls.attester import Attester
from ratls.claims import InstanceChanged, KeyUnbound
from ratls.client_stream import open_exchange
from ratls.errors import AttesterError, CallFailed
from ratls.framing import Kind
from ratls.identity import RENEW_AFTER, ConnectionKeyGone, EnclaveIdentity, Identities
from ratls.probe import probe_name
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import count_refusal, refused

ONE, TWO = "train_party_1", "train_party_2"


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture
def live(world: EnclaveWorld) -> Iterator[LiveEnclave]:
    with world.running() as running:
        yield running


def renew(live: LiveEnclave) -> EnclaveIdentity:
    """Hours pass; the identity before."""
    before = live.enclave.identity
    live.enclave.identities._next = NOW
    live.enclave.sweep()
    assert live.enclave.identity is not before
    return before


def test_a_release_ends_under_the_certificate_that_it_began_with(
    world: EnclaveWorld, live: LiveEnclave
) -> None:
    alice, bob, carol = world.consortium.alice, world.consortium.bob, world.consortium.carol
    task, batches = world.task(), rows(1).to_batches(max_chunksize=30)
    with live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange:
        live.open(exchange, alice, ONE, task)
        exchange.send_sealed(batches[0].serialize(), batches[0].num_rows, last=False)
        before = renew(live)
        exchange.challenge_again()
        exchange.send_sealed(batches[1].serialize(), batches[1].num_rows, last=True)
        signed = exchange.commit(live.commit(exchange, alice, ONE, batches, task))
    assert Acknowledgement.open(signed).tls_spki == before.spki
    assert live.admitted.spki != before.spki
    assert live.admitted.claims.instance == before.instance
    live.release(bob, TWO, rows(2), task)  # over a new connection, under the new certificate
    assert live.wait(carol, task)
    assert "certificate-renewed" in [line["event"] for line in live.log]


def test_who_pinned_the_earlier_certificate_probes_anew(
    world: EnclaveWorld, live: LiveEnclave
) -> None:
    """F06: nothing is said to the new certificate before it was appraised."""
    earlier = live.admitted
    renew(live)
    given: dict[str, Any] = {
        "task": b"",
        "task_digest": bytes(32),
        "dataset": "",
        "expectation": world.expectation,
        "clock": lambda: NOW,
        "timeout": 60.0,
    }
    own = world.channel(world.consortium.alice)
    with refused(CallFailed), open_exchange(Kind.ATTEST, live.address, earlier, own, **given):
        pass
    place, der = probe_name(live.address, 60.0)
    again = appraise_certificate(der, world.expectation, at=NOW)
    with open_exchange(Kind.ATTEST, place, again, own, **given) as exchange:
        assert exchange.fresh.claims.instance == earlier.claims.instance


def test_a_client_that_names_a_key_that_the_enclave_never_had(
    world: EnclaveWorld, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = client_call.ClientCall.__init__

    def lying(self: Any, channel: Any, seconds: float, pinned: bytes) -> None:
        genuine(self, channel, seconds, b"k" * 32)

    monkeypatch.setattr(client_call.ClientCall, "__init__", lying)
    with (
        refused_by_enclave(ConnectionKeyGone),
        live.exchange(Kind.ATTEST, world.consortium.alice),
    ):
        pass
    monkeypatch.undo()
    with live.exchange(Kind.ATTEST, world.consortium.alice) as exchange:
        assert exchange.fresh


def test_an_enclave_that_answers_with_its_other_key(
    world: EnclaveWorld, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B18: the same start, and evidence about a key that this connection does not end in."""
    before = renew(live)
    monkeypatch.setattr(Identities, "of", lambda self, pinned: before)
    with refused(KeyUnbound), live.exchange(Kind.ATTEST, world.consortium.alice):
        pass


class Failing:
    """An attester that has no quote for a while."""

    def __init__(self, attester: Attester) -> None:
        self.mode, self._attester, self.fails = attester.mode, attester, True

    def quote(self, report_data: bytes) -> bytes:
        if self.fails:
            raise NoQuote("quote", expected="one", found="none")
        return self._attester.quote(report_data)


class NoQuote(AttesterError):
    """Stands for any refusal of a real attester."""

    code = "attester-unavailable"
    default_fix = "wait"


def test_without_a_quote_the_present_certificate_stays_and_the_next_try_comes(
    world: EnclaveWorld, live: LiveEnclave
) -> None:
    identities = live.enclave.identities
    before, failing = identities.current, Failing(world.attester)
    before._attester = failing
    identities._next = NOW
    live.enclave.sweep()
    assert identities.current is before
    assert live.log[-1]["event"] == "certificate-not-renewed"
    again = identities._tried + timedelta(seconds=60)
    assert not identities.renew_if_due(again - timedelta(seconds=1))
    with refused(NoQuote):
        identities.renew_if_due(again)
    failing.fails = False
    assert not identities.renew_if_due(again + timedelta(seconds=59))
    assert identities.renew_if_due(again + timedelta(seconds=60))
    assert identities.current is not before


def test_earlier_certificates_are_kept_until_their_end(world: EnclaveWorld) -> None:
    first = EnclaveIdentity.create(world.attester, world.policy.digest, at=NOW)
    held, at = Identities(first), NOW
    made = [first]
    for _ in range(4):
        at += RENEW_AFTER
        assert not held.renew_if_due(at - timedelta(seconds=1))
        assert held.renew_if_due(at)
        assert not held.renew_if_due(at)
        made.append(held.current)
        assert held.of(b"") is held.current
    # A certificate lasts for twelve hours: the first ended with the fourth.
    with refused(ConnectionKeyGone):
        held.of(first.spki_sha256)
    assert [held.of(identity.spki_sha256) for identity in made[1:]] == made[1:]
    assert len({identity.spki for identity in made}) == 5
    assert {(i.instance, i.receipt_spki) for i in made} == {(first.instance, first.receipt_spki)}


def test_a_clock_that_runs_ahead_for_a_moment(world: EnclaveWorld) -> None:
    """It is the host's: the certificate of that moment is replaced, once the clock is right."""
    count_refusal()
    first = EnclaveIdentity.create(world.attester, world.policy.digest, at=NOW)
    held = Identities(first)
    assert held.renew_if_due(NOW + timedelta(days=30))
    assert held.current.begins > NOW
    assert held.renew_if_due(NOW + timedelta(seconds=1))
    assert held.current.begins < NOW
    assert not held.renew_if_due(NOW + timedelta(seconds=2))


def test_another_start_is_no_renewal(world: EnclaveWorld, live: LiveEnclave) -> None:
    """D09: the evidence of another instance is refused, whatever key it is about."""
    before = live.admitted
    identity = live.enclave.identity
    identity._claims = replace(identity._claims, instance=b"o" * 16)  # type: ignore[arg-type]
    with refused(InstanceChanged), live.exchange(Kind.ATTEST, world.consortium.alice):
        pass
    identity._claims = replace(identity._claims, instance=before.claims.instance)
    with live.exchange(Kind.ATTEST, world.consortium.alice) as exchange:
        assert exchange.fresh
