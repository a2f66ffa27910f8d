"""Receipts and acknowledgements, years later: whole chain or refusal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from policy.admission import MeasurementNotListed
from policy.envelope import EnvelopeMalformed, EnvelopeTypeDiffers, SignerUnknown
from policy.errors import PartyNotListed
from policy.receipt import ReceiptSignatureInvalid
from policy.record import Record, RecordScopeDiffers, RecordSignatureInvalid
from policy.statement import PolicyDigestDiffers
from ratls.claims import (
    InstanceChanged,
    KeyUnbound,
    ModeClaimMismatch,
    NonceMismatch,
    ReceiptKeyUnbound,
    TaskHashMismatch,
)
from ratls.evidence import (
    EvidenceMalformed,
)
from ratls.offline import (
    ReceiptOutsidePolicy,
    VerifiedDocument,
    policy_named_by,
    verify_document,
    verify_with_record,
)
from tests.support.flight_peers import NOW, Study
from tests.support.parties import TaskWorld
from tests.support.refusal import count_refusal, refused
from verifier.appraisal import Appraisal, Outcome
from verifier.errors import RatlsError


def record(study: Study, digest: bytes, **fields: Any) -> Record:
    made: dict[str, Any] = {
        "holder": "carol-lab",
        "document_digest": digest,
        "collateral": study.expectation.collateral.raw,
        "appraisal": Record.checks(Appraisal()),
        "at": NOW,
        "mode": "simulation",
    }
    return Record(**made | fields)


@pytest.mark.parametrize("kind", ["receipt", "acknowledgement"])
def test_a_genuine_document_holds_and_every_check_is_on_record(study: Study, kind: str) -> None:
    identity = study.identity()
    document = getattr(study, kind)(identity)
    seen = verify_document(document.seal(identity.receipt_signer), study.expectation, at=NOW)
    assert seen.document == document
    names = [r.check for r in seen.appraisal.records]
    assert names[0] == "document-signature"
    assert {"challenge-claims", "quote-signature", "measurement"} < set(names)
    assert all(r.outcome is Outcome.PASSED for r in seen.appraisal.records)


def test_nobody_makes_a_verified_document_but_the_verifier(study: Study) -> None:
    count_refusal()
    identity = study.identity()
    raw = study.receipt(identity).seal(identity.receipt_signer)
    seen = verify_document(raw, study.expectation, at=NOW)
    with pytest.raises(TypeError):
        VerifiedDocument(seen.document, seen.evidence, seen.appraisal, object())
    with pytest.raises((TypeError, ValueError)):
        replace(seen, appraisal=Appraisal())


@pytest.mark.parametrize(
    ("fields", "leaf", "check"),
    [
        ({"policy_digest": b"x" * 32}, PolicyDigestDiffers, "document-policy"),
        ({"recipient": "nobody"}, PartyNotListed, "document-party"),
        ({"recipient": "alice-clinic"}, ReceiptOutsidePolicy, "document-party"),
        ({"computation": "other"}, ReceiptOutsidePolicy, "document-party"),
        ({"run": "count"}, ReceiptOutsidePolicy, "document-party"),
        ({"mode": "production"}, ModeClaimMismatch, "document-mode"),
        ({"instance": b"i" * 16}, InstanceChanged, "challenge-claims"),
        ({"nonce": b"m" * 32}, NonceMismatch, "challenge-claims"),
        ({"task_digest": b"u" * 32}, TaskHashMismatch, "challenge-claims"),
        ({"tls_spki": b"another key"}, KeyUnbound, "challenge-claims"),
        ({"evidence": b"verified"}, EvidenceMalformed, "challenge-evidence"),
    ],
)
def test_receipt_signed_by_its_enclave_that_says_another_thing(
    study: Study, fields: dict[str, Any], leaf: type[RatlsError], check: str
) -> None:
    """Its signature holds in each case: only the comparison shows what is wrong."""
    identity = study.identity()
    raw = study.receipt(identity, **fields).seal(identity.receipt_signer)
    with refused(leaf, check=check):
        verify_document(raw, study.expectation, at=NOW)


def test_receipt_under_a_key_that_no_evidence_vouches_for(study: Study) -> None:
    """The forger signs with a key of its own and attaches genuine evidence."""
    genuine, forger = study.identity(), study.identity()
    forged = study.receipt(genuine, receipt_key=forger.receipt_spki).seal(forger.receipt_signer)
    with refused(ReceiptKeyUnbound, check="challenge-claims"):
        verify_document(forged, study.expectation, at=NOW)


def test_receipt_signed_by_another_key_than_it_names(study: Study) -> None:
    genuine, forger = study.identity(), study.identity()
    with refused(SignerUnknown, check="document-signature"):
        verify_document(
            study.receipt(genuine).seal(forger.receipt_signer), study.expectation, at=NOW
        )


def test_receipt_with_one_byte_of_its_signature_changed(study: Study) -> None:
    import base64
    import json

    identity = study.identity()
    envelope = json.loads(study.receipt(identity).seal(identity.receipt_signer))
    signature = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
    signature[-1] ^= 1
    envelope["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    with refused(ReceiptSignatureInvalid, check="document-signature"):
        verify_document(json.dumps(envelope).encode(), study.expectation, at=NOW)


def test_receipt_of_an_enclave_that_runs_other_code(study: Study) -> None:
    identity = study.identity(mr_enclave=b"\xa2" * 32)
    raw = study.receipt(identity).seal(identity.receipt_signer)
    with refused(MeasurementNotListed, check="measurement") as seen:
        verify_document(raw, study.expectation, at=NOW)
    assert seen.error.appraisal is not None
    assert seen.error.appraisal.records[0].check == "document-signature"


def test_acknowledgement_for_a_dataset_of_somebody_else(study: Study) -> None:
    identity = study.identity()
    raw = study.acknowledgement(identity, dataset="train_party_2").seal(identity.receipt_signer)
    with refused(ReceiptOutsidePolicy, check="document-party"):
        verify_document(raw, study.expectation, at=NOW)


def test_another_signed_document_in_place_of_a_receipt(study: Study) -> None:
    """A task is signed too, by a party; its kind is inside what is signed."""
    with refused(EnvelopeTypeDiffers, check="document-signature"):
        verify_document(
            TaskWorld(study.parties).signed(by=study.parties.carol), study.expectation, at=NOW
        )


def test_bytes_that_are_no_document(study: Study) -> None:
    with refused(EnvelopeMalformed, check="document-signature"):
        verify_document(b"{}", study.expectation, at=NOW)


def test_record_brings_collateral_and_instant_of_the_day(study: Study) -> None:
    """Long after the collateral has expired the receipt still holds, at its holder's instant."""
    identity = study.identity()
    document = study.receipt(identity)
    sealed = record(study, document.digest).seal(study.parties.carol.operation)
    raw = document.seal(identity.receipt_signer)
    verified, seen = verify_with_record(raw, sealed, study.policy, study.expectation.roots)
    assert verified.document == document
    assert (seen.holder, seen.at) == ("carol-lab", NOW)
    with pytest.raises(RatlsError):
        verify_document(raw, study.expectation, at=NOW + timedelta(days=400))


@pytest.mark.parametrize(
    ("fields", "signer", "leaf"),
    [
        ({"document_digest": b"x" * 32}, "carol-lab", RecordScopeDiffers),
        ({"mode": "production"}, "carol-lab", ModeClaimMismatch),
        ({"holder": "nobody"}, "carol-lab", PartyNotListed),
        ({}, "bob-hospital", SignerUnknown),
    ],
)
def test_record_that_is_not_about_this_receipt_or_not_its_holders(
    study: Study, fields: dict[str, Any], signer: str, leaf: type[RatlsError]
) -> None:
    """Whoever may choose the instant may choose one before the platform was revoked."""
    identity = study.identity()
    document = study.receipt(identity)
    key = study.parties.parties[signer].operation
    sealed = record(study, fields.pop("document_digest", document.digest), **fields).seal(key)
    with refused(leaf):
        verify_with_record(
            document.seal(identity.receipt_signer), sealed, study.policy, study.expectation.roots
        )


def test_record_whose_signature_is_another_documents(study: Study) -> None:
    import json

    identity = study.identity()
    document = study.receipt(identity)
    key = study.parties.carol.operation
    envelopes = [
        json.loads(record(study, document.digest, at=at).seal(key))
        for at in (NOW, NOW - timedelta(hours=1))
    ]
    forged = json.dumps(envelopes[0] | {"signatures": envelopes[1]["signatures"]}).encode()
    with refused(RecordSignatureInvalid):
        verify_with_record(
            document.seal(identity.receipt_signer), forged, study.policy, study.expectation.roots
        )


def test_policy_is_the_version_that_the_document_names(study: Study) -> None:
    identity = study.identity()
    agreement = study.parties.complete(study.policy.raw.decode())
    raw = study.receipt(identity).seal(identity.receipt_signer)
    assert policy_named_by(raw, agreement).digest == study.policy.digest
    other = study.parties.complete(study.parties.policy_text(study='"another-study"'))
    found = policy_named_by(raw, other)
    with refused(PolicyDigestDiffers, check="document-policy"):
        verify_document(raw, replace(study.expectation, policy=found), at=NOW)
