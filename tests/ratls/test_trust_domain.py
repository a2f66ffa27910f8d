"""A trust domain at the other end: its certificate and its answers, held against the policy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from policy.admission import MachineNotListed, MeasurementNotListed
from policy.domain_admission import (
    Rtmr2NotListed,
    Rtmr3NotListed,
    RunTimeEventNotListed,
    RunTimeEventsDiffer,
    RunTimeEventsMissing,
)
from policy.trust_domain import AT_RUN_TIME
from ratls.appraise import AdmittedCertificate, Challenge, appraise_certificate, appraise_challenge
from ratls.attester import StatesEvents, stated_events
from ratls.attester_option import _Simulated
from ratls.evidence import MAX_EVIDENCE
from ratls.identity import EnclaveIdentity
from ratls.options import enclave_facts
from simulation.documents import qe_level
from tests.support.domains import DomainAttester
from tests.support.flight_peers import Study
from tests.support.refusal import refused
from verifier.acceptance import TcbStatusUnaccepted
from verifier.event_log import replay
from verifier.tcb import TcbInfoMismatch

EVENTS = (b"\xe1" * 48, b"\xe2" * 48)
RUN_TIME = {
    "rtmr3": f'"{AT_RUN_TIME}"',
    "rtmr3_events": "[" + ", ".join(f'"{e.hex()}"' for e in EVENTS) + "]",
}
CHALLENGE = Challenge(b"n" * 32, b"p" * 32, b"t" * 32)


def study(**fields: str) -> Study:
    """A study whose policy lists a trust domain; `fields` are TOML."""
    sgx = Study.create()
    policy = sgx.parties.policy(enclave=sgx.parties.domain(**fields))
    held = replace(sgx.expectation, policy=policy, collateral=sgx.world.collateral(tdx=True))
    return replace(sgx, policy=policy, expectation=held)


AGREED, AT_ANY_TIME = study(), study(**RUN_TIME)


def identity(of: Study, attester: DomainAttester | None = None, **altered: Any) -> EnclaveIdentity:
    attester = attester or DomainAttester(of.world.platform, **altered)
    return EnclaveIdentity.create(attester, of.policy.digest, at=of.world.at)


def appraised(of: Study, start: EnclaveIdentity) -> AdmittedCertificate:
    return appraise_certificate(start.certificate_der, of.expectation, at=of.world.at)


def test_a_trust_domain_proves_itself_and_answers() -> None:
    """M08: the whole chain, from the certificate to fresh evidence."""
    start = identity(AGREED)
    admitted = appraised(AGREED, start)
    raw = start.answer_challenge(CHALLENGE.nonce, CHALLENGE.peer_spki_sha256, CHALLENGE.task_digest)
    fresh = appraise_challenge(raw, admitted, CHALLENGE, AGREED.expectation, at=AGREED.world.at)
    facts = enclave_facts(fresh)
    assert facts["enclave"] == "joint-training-td"
    assert facts["rtmr1"] == "37" * 48
    assert "mr_enclave" not in facts


def test_a_guest_with_another_command_line() -> None:
    """M08: firmware and kernel are as agreed; it is refused before a byte was sent to it."""
    with refused(Rtmr2NotListed, check="measurement"):
        appraised(AGREED, identity(AGREED, rtmr2=b"\x99" * 48))
    appraised(AGREED, identity(AGREED))


def test_a_trust_domain_judged_by_what_is_said_of_enclaves() -> None:
    """T05: genuine, of the same machine, and of the other technology."""
    wrong = replace(AGREED.expectation, collateral=AGREED.world.collateral())
    start = identity(AGREED)
    with refused(TcbInfoMismatch, check="platform-match"):
        appraise_certificate(start.certificate_der, wrong, at=AGREED.world.at)
    appraised(AGREED, start)


def test_another_machine_of_the_same_intel() -> None:
    """B09, T24: machines are listed for trust domains as for enclaves."""
    other = AGREED.world.with_platform(ppid=b"\x99" * 16)
    start = identity(AGREED, DomainAttester(other.platform))
    with refused(MachineNotListed, check="machine"):
        appraised(AGREED, start)
    appraised(AGREED, identity(AGREED))


def test_an_old_quoting_enclave_beside_a_current_machine() -> None:
    """T18: its level counts in the one status."""
    old = DomainAttester(AGREED.world.platform, qe_report=lambda r: replace(r, isv_svn=1))
    levels = [
        qe_level(4, date=AGREED.world.at),
        qe_level(1, date=AGREED.world.at, status="OutOfDate"),
    ]
    collateral = AGREED.world.collateral(tdx=True, qe_identity=lambda d: {**d, "tcbLevels": levels})
    expectation = replace(AGREED.expectation, collateral=collateral)
    with refused(TcbStatusUnaccepted, check="tcb-status"):
        appraise_certificate(identity(AGREED, old).certificate_der, expectation, at=AGREED.world.at)
    appraise_certificate(identity(AGREED).certificate_der, expectation, at=AGREED.world.at)


def test_an_enclave_where_a_trust_domain_was_agreed_on() -> None:
    """Q08."""
    sgx = AGREED.identity(AGREED.policy.digest)
    expectation = replace(AGREED.expectation, collateral=AGREED.world.collateral())
    with refused(MeasurementNotListed, check="measurement"):
        appraise_certificate(sgx.certificate_der, expectation, at=AGREED.world.at)
    appraised(AGREED, identity(AGREED))


def test_events_travel_in_the_evidence() -> None:
    """M08: in the claims that the quote commits to, and within what other readers take."""
    attester = DomainAttester(AT_ANY_TIME.world.platform, events=EVENTS[:1])
    start = identity(AT_ANY_TIME, attester)
    admitted = appraised(AT_ANY_TIME, start)
    assert admitted.claims.events == EVENTS[:1]
    attester.extend(EVENTS[1])  # between two challenges
    raw = start.answer_challenge(CHALLENGE.nonce, CHALLENGE.peer_spki_sha256, CHALLENGE.task_digest)
    expectation, at = AT_ANY_TIME.expectation, AT_ANY_TIME.world.at
    assert appraise_challenge(raw, admitted, CHALLENGE, expectation, at=at).claims.events == EVENTS
    long = DomainAttester(AT_ANY_TIME.world.platform, events=EVENTS * 16)
    assert appraised(AT_ANY_TIME, identity(AT_ANY_TIME, long)).claims.events == EVENTS * 16
    assert len(raw) < MAX_EVIDENCE - 1536


def test_something_else_is_started_after_the_certificate() -> None:
    """M08: each challenge is judged anew."""
    attester = DomainAttester(AT_ANY_TIME.world.platform, events=EVENTS)
    start = identity(AT_ANY_TIME, attester)
    admitted = appraised(AT_ANY_TIME, start)
    attester.extend(hashlib.sha384(b"a shell").digest())
    raw = start.answer_challenge(CHALLENGE.nonce, CHALLENGE.peer_spki_sha256, CHALLENGE.task_digest)
    with refused(RunTimeEventNotListed, check="measurement"):
        appraise_challenge(
            raw, admitted, CHALLENGE, AT_ANY_TIME.expectation, at=AT_ANY_TIME.world.at
        )


def test_a_guest_that_hides_an_event() -> None:
    """M08: what it states is listed, but does not add up to the register."""
    attester = DomainAttester(AT_ANY_TIME.world.platform, events=EVENTS)
    attester.extend(b"\x66" * 48)
    attester.stated = EVENTS
    with refused(RunTimeEventsDiffer, check="measurement"):
        appraised(AT_ANY_TIME, identity(AT_ANY_TIME, attester))
    attester.register = replay(EVENTS)
    appraised(AT_ANY_TIME, identity(AT_ANY_TIME, attester))


def test_a_guest_that_states_no_events() -> None:
    """M08: where the policy has the words, silence is refused; where it has a value, it is not."""
    with refused(RunTimeEventsMissing, check="measurement"):
        appraised(AT_ANY_TIME, identity(AT_ANY_TIME, rtmr3=replay(EVENTS)))
    appraised(AGREED, identity(AGREED))


def test_stated_events_do_not_loosen_a_register_that_is_listed() -> None:
    attester = DomainAttester(AGREED.world.platform, events=EVENTS)
    with refused(Rtmr3NotListed, check="measurement"):
        appraised(AGREED, identity(AGREED, attester))
    listed = study(rtmr3=f'"{replay(EVENTS).hex()}"')
    attester = DomainAttester(listed.world.platform, events=EVENTS)
    appraised(listed, identity(listed, attester))


@pytest.mark.parametrize("events", [None, EVENTS])
def test_an_attester_by_name_states_what_its_simulation_states(
    events: tuple[bytes, ...] | None,
) -> None:
    attester: Any = DomainAttester(AGREED.world.platform, events=events)
    if events is None:
        attester = AGREED.identity()._attester
    assert isinstance(attester, StatesEvents) is (events is not None)
    assert stated_events(_Simulated(attester)) == events
