"""From a peer's bytes to something to rely on: one valid world, one thing changed, one leaf."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from policy.admission import MachineNotListed, MeasurementNotListed, RootDiffers
from policy.agreement import PolicyExpired
from ratls import cbor
from ratls.appraise import (
    AdmittedCertificate,
    Challenge,
    Expectation,
    FreshEvidence,
    appraise_certificate,
    appraise_challenge,
)
from ratls.certificate import build_certificate, check_certificate
from ratls.claims import (
    CertificateClaims,
    ChallengeClaims,
    ClaimMissing,
    ClaimOfAnotherPurpose,
    ContextMismatch,
    InstanceChanged,
    KeyUnbound,
    ModeClaimMismatch,
    NonceMismatch,
    PeerHashMismatch,
    PolicyHashMismatch,
    ReceiptKeyUnbound,
    RoleMismatch,
    TaskHashMismatch,
)
from ratls.evidence import Evidence, make_evidence, report_data
from ratls.identity import EnclaveIdentity
from simulation.intel import Intel
from tests.support.flight_peers import NOW, PlatformAttester, Study
from tests.support.refusal import refused
from verifier.acceptance import EnclaveDebuggable
from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal, Outcome
from verifier.collateral import Collateral
from verifier.errors import RatlsError

PEER, TASK, NONCE = b"p" * 32, b"t" * 32, b"n" * 32
CHALLENGE = Challenge(NONCE, PEER, TASK)


def test_the_agreed_enclave_is_admitted_and_every_check_is_on_record(study: Study) -> None:
    identity = study.identity()
    admitted = study.admitted(identity)
    fresh = appraise_challenge(
        identity.answer_challenge(NONCE, PEER, TASK), admitted, CHALLENGE, study.expectation, at=NOW
    )
    assert admitted.der == identity.certificate_der
    assert hashlib.sha256(admitted.spki).digest() == hashlib.sha256(identity.spki).digest()
    assert fresh.claims.instance == identity.instance == admitted.claims.instance
    assert admitted.admission.enclave.name == study.policy.enclave[0].name
    for appraisal in (admitted.appraisal, fresh.appraisal):
        names = [record.check for record in appraisal.records]
        assert len(names) == len(set(names))
        assert {"quote-signature", "tcb-level", "measurement"} < set(names)
        assert all(record.outcome is Outcome.PASSED for record in appraisal.records)


def test_another_enclave_stops_at_the_measurement(study: Study) -> None:
    """Right machine, right policy, other code; the record shows what passed before."""
    identity = study.identity(mr_enclave=b"\xa2" * 32)
    with refused(MeasurementNotListed, check="measurement") as seen:
        study.admitted(identity)
    assert seen.error.appraisal is not None
    outcomes = {r.check: r.outcome for r in seen.error.appraisal.records}
    assert outcomes["certificate-claims"] is outcomes["tcb-level"] is Outcome.PASSED
    assert outcomes["product"] is Outcome.NOT_REACHED


def test_debug_enclave(study: Study) -> None:
    """The host reads the memory of a debug enclave whose measurement is the agreed one."""
    with refused(EnclaveDebuggable, check="attributes"):
        study.admitted(study.identity(flags=0x07))


def test_right_enclave_on_a_machine_that_the_attacker_chose(study: Study) -> None:
    """B09: its owner may have extracted the keys of this very machine."""
    world = study.world.with_platform(ppid=b"\x66" * 16)
    identity = EnclaveIdentity.create(PlatformAttester(world.platform), study.policy.digest, at=NOW)
    expectation = replace(study.expectation, collateral=world.collateral())
    with refused(MachineNotListed, check="machine"):
        appraise_certificate(identity.certificate_der, expectation, at=NOW)


def test_enclave_that_serves_another_policy(study: Study) -> None:
    """P15: with other recipients or release rules, for instance."""
    with refused(PolicyHashMismatch, check="certificate-claims"):
        study.admitted(study.identity(digest=b"x" * 32))


def test_after_the_policy_has_expired(study: Study) -> None:
    late = Study.create(NOW, expires=f"{NOW + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}")
    identity = late.identity()
    assert late.admitted(identity)
    with refused(PolicyExpired, check="policy-window"):
        appraise_certificate(
            identity.certificate_der, late.expectation, at=NOW + timedelta(minutes=2)
        )


def test_evidence_under_a_root_that_the_policy_does_not_name(study: Study) -> None:
    """X05: the verifier was given another simulation's root."""
    intel = Intel.create(NOW)
    platform = intel.platform(ppid=study.world.platform.tcb.ppid)
    identity = EnclaveIdentity.create(PlatformAttester(platform), study.policy.digest, at=NOW)
    expectation = Expectation(
        study.policy, Collateral.parse(intel.collateral(platform)), intel.anchors()
    )
    with refused(RootDiffers, check="root"):
        appraise_certificate(identity.certificate_der, expectation, at=NOW)


def test_certificate_whose_quote_is_cut(study: Study) -> None:
    """Every structural boundary is a malformed quote under this check, never a crash."""
    evidence = Evidence.parse(study.identity().answer_challenge(NONCE, PEER, TASK))
    admitted = study.admitted(study.identity())
    for end in (0, 48, 432, 436, 1100, len(evidence.quote) - 1):
        raw = Evidence(evidence.quote[:end], evidence.claims).encode()
        with pytest.raises(RatlsError) as caught:
            appraise_challenge(raw, admitted, CHALLENGE, study.expectation, at=NOW)
        assert caught.value.check == "challenge-report-data"


def forged(identity: EnclaveIdentity, study: Study, **claims: Any) -> bytes:
    """Evidence for CHALLENGE, well made but for these claims."""
    genuine = ChallengeClaims.parse(
        Evidence.parse(identity.answer_challenge(NONCE, PEER, TASK)).claims
    )
    return make_evidence(PlatformAttester(study.world.platform), replace(genuine, **claims))


@pytest.mark.parametrize(
    ("claims", "leaf"),
    [
        ({"nonce": b"m" * 32}, NonceMismatch),  #                                 B06
        ({"peer_hash": b"q" * 32}, PeerHashMismatch),  #                          B07
        ({"task_hash": bytes(32)}, TaskHashMismatch),
        ({"instance": b"i" * 16}, InstanceChanged),  #                            B18
        ({"receipt_key_hash": b"r" * 32}, ReceiptKeyUnbound),
        ({"policy_hash": b"x" * 32}, PolicyHashMismatch),
        ({"role": b"client"}, RoleMismatch),  #                                   B17
        ({"mode": b"production"}, ModeClaimMismatch),
        ({"context": b"ratls/2 challenge"}, ContextMismatch),  #                  B04
        ({"context": CertificateClaims.CONTEXT}, ContextMismatch),
    ],
)
def test_genuine_evidence_for_something_else(
    study: Study, claims: dict[str, bytes], leaf: type[RatlsError]
) -> None:
    """Each is a quote of the agreed enclave; one claim belongs to another exchange."""
    identity = study.identity()
    with refused(leaf, check="challenge-claims"):
        appraise_challenge(
            forged(identity, study, **claims),
            study.admitted(identity),
            CHALLENGE,
            study.expectation,
            at=NOW,
        )


def test_answer_of_another_start_with_the_same_code(study: Study) -> None:
    """B18: a genuine, admitted enclave, yet not the one whose certificate is pinned."""
    answer = study.identity().answer_challenge(NONCE, PEER, TASK)
    with refused(KeyUnbound, check="challenge-claims"):
        appraise_challenge(
            answer, study.admitted(study.identity()), CHALLENGE, study.expectation, at=NOW
        )


def test_evidence_of_the_certificate_in_place_of_a_fresh_one(study: Study) -> None:
    """B06: it is genuine and bound, and says nothing about now."""
    identity = study.identity()
    worn = check_certificate(identity.certificate_der, NOW).evidence
    with refused(ClaimMissing, check="challenge-claims"):
        appraise_challenge(worn, study.admitted(identity), CHALLENGE, study.expectation, at=NOW)


def test_fresh_evidence_worn_as_a_certificate(study: Study) -> None:
    identity = study.identity()
    key = load_pem_private_key(identity.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    worn = build_certificate(
        key, identity.answer_challenge(NONCE, PEER, TASK), identity.instance, 9, NOW
    )
    with refused(ClaimOfAnotherPurpose, check="certificate-claims"):
        appraise_certificate(worn.public_bytes(Encoding.DER), study.expectation, at=NOW)


def test_simulated_evidence_before_a_production_verifier(study: Study) -> None:
    """S11: whatever the policy says, the roots decide what the claim must be."""
    expectation = replace(study.expectation, roots=TrustAnchors.intel())
    with refused(ModeClaimMismatch, check="certificate-claims"):
        appraise_certificate(study.identity().certificate_der, expectation, at=NOW)


@pytest.mark.parametrize("made", [AdmittedCertificate, FreshEvidence])
def test_nobody_else_can_make_what_only_an_appraisal_makes(
    study: Study, made: Callable[..., object]
) -> None:
    admitted = study.admitted(study.identity())
    parts = (admitted.der, admitted.spki, admitted.claims, admitted.verified, admitted.admission)
    arguments = parts if made is AdmittedCertificate else parts[1:]
    with pytest.raises(TypeError):
        made(*arguments, Appraisal(), object())
    with pytest.raises((TypeError, ValueError)):
        replace(admitted, der=b"another")  # type: ignore[call-arg]


def test_unknown_claims_are_ignored_and_shown(study: Study) -> None:
    identity = study.identity()
    admitted = study.admitted(identity)
    genuine = ChallengeClaims.parse(
        Evidence.parse(identity.answer_challenge(NONCE, PEER, TASK)).claims
    )
    there = {name: value for name, value in genuine.as_map().items() if value}
    buffer = cbor.encode({"verdict": b"true", **there})
    quote = PlatformAttester(study.world.platform).quote(report_data(buffer))
    raw = Evidence(quote, buffer).encode()
    fresh = appraise_challenge(raw, admitted, CHALLENGE, study.expectation, at=NOW)
    noted = {r.check: r.detail for r in fresh.appraisal.records}["challenge-claims"]
    assert "verdict" in noted
