"""Judge receipts and acknowledgements without the enclave, also years later.

    receipt = verify_document(raw, expectation, at=instant)
    receipt, record = verify_with_record(raw, record, policy, roots)

The document's signature leads to the receipt key inside it, the evidence inside it names that
key, and the quote leads to the root: the same checks as on the day, at an instant that
the caller names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime
from enum import StrEnum

from policy import envelope as dsse
from policy.agreement import CompleteAgreement
from policy.document import Policy
from policy.errors import PartyNotListed, ResultBindingError
from policy.receipt import Acknowledgement, Receipt
from policy.record import Record
from policy.round_receipt import RoundReceipt, require_chain, require_participants
from policy.rounds import rests_on
from policy.statement import require_policy
from ratls.appraise import Expectation, FreshEvidence, appraise_fresh, preceded_by
from ratls.claims import ChallengeClaims, ModeClaimMismatch
from verifier.anchors import TrustAnchors
from verifier.appraisal import Appraisal
from verifier.appraisal_log import AppraisalLog
from verifier.collateral import Collateral


class ResultCheck(StrEnum):
    """The first check, where there is a result: everything else is about its receipt."""

    RESULT = "result"


class DocumentCheck(StrEnum):
    """Checks on the document before its evidence is looked at."""

    SIGNATURE = "document-signature"
    POLICY = "document-policy"
    PARTY = "document-party"
    MODE = "document-mode"


Document = Receipt | Acknowledgement | RoundReceipt
_SEAL = object()


@dataclass(frozen=True, slots=True)
class VerifiedDocument:
    """A document of an enclave that the policy admits: only `verify_document` makes one."""

    document: Document
    evidence: FreshEvidence
    appraisal: Appraisal  # everything that was checked
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedDocument is made by verify_document alone")


def verify_document(
    raw: bytes, expectation: Expectation, *, at: datetime, result: bytes | None = None
) -> VerifiedDocument:
    """Decide whether the agreed enclave signed this receipt or acknowledgement.

    Args:
        raw: The envelope as it was received.
        expectation: The verifier's own policy, collateral and roots.
        at: Moment of judgement; everything must have been valid then.
        result: The file that the receipt is about, if that is to be checked too.

    Raises:
        RatlsError: The leaf of the first check that failed, with the record of all.
    """
    before = Appraisal() if result is None else _verify_result(raw, result)
    with preceded_by(before):
        document, evidence, appraisal = _verify_document(raw, expectation, at)
    return VerifiedDocument(document, evidence, before + appraisal, _SEAL)


def _verify_result(raw: bytes, result: bytes) -> Appraisal:
    log = AppraisalLog(ResultCheck)
    with log.check(ResultCheck.RESULT):
        Receipt.open(raw).require_result(result)
    return log.close()


def _verify_document(
    raw: bytes, expectation: Expectation, at: datetime
) -> tuple[Document, FreshEvidence, Appraisal]:
    log = AppraisalLog(DocumentCheck)
    with log.check(DocumentCheck.SIGNATURE):
        document = _open(raw)
    with log.check(DocumentCheck.POLICY):
        require_policy(document.noun, document.policy_digest, expectation.policy)
    with log.check(DocumentCheck.PARTY):
        peer = _party_key(document, expectation.policy)
    with log.check(DocumentCheck.MODE):
        if not isinstance(document, Acknowledgement):
            _require_mode(document.mode, expectation.roots)
    before = log.close()
    own = expectation.claims(ChallengeClaims.CONTEXT) | {
        "instance": document.instance,
        "receipt-key-hash": hashlib.sha256(document.receipt_key).digest(),
        "peer-hash": peer,
        "task-hash": document.task_digest,
        "nonce": document.nonce,
        "binder": b"",
        "sealing-key-hash": b"" if isinstance(document, Receipt) else document.sealing_key_hash,
    }
    with preceded_by(before):
        evidence = appraise_fresh(document.evidence, own, document.tls_spki, expectation, at=at)
    return document, evidence, before + evidence.appraisal


def verify_with_record(
    raw: bytes, record: bytes, policy: Policy, roots: TrustAnchors, result: bytes | None = None
) -> tuple[VerifiedDocument, Record]:
    """Judge a document at the instant, and with the collateral, that its holder recorded.

    The instant comes from the holder's clock, under the holder's signature: tell the user so.

    Raises:
        RatlsError: The record is not about this document, not signed by a party of the policy,
            or what `verify_document` says.
    """
    seen = Record.open(record, policy)
    _require_mode(seen.mode, roots)
    expectation = Expectation(policy, Collateral.parse(seen.collateral), roots)
    verified = verify_document(raw, expectation, at=seen.at, result=result)
    seen.require_document(verified.document.digest)
    return verified, seen


def verify_rounds(
    files: Sequence[tuple[bytes, bytes]], policy: Policy, roots: TrustAnchors
) -> list[tuple[VerifiedDocument, Record]]:
    """Judge the receipts of all rounds of one series, with their records, and that they are a
    chain: each round goes on from the model of the one before, with enough of the agreed parties.

    Raises:
        RatlsError: What `verify_with_record` says of one, or `require_chain` of all of them.
    """
    judged = [verify_with_record(raw, record, policy, roots) for raw, record in files]
    receipts = [d.document for d, _ in judged if isinstance(d.document, RoundReceipt)]
    if len(receipts) < len(judged):
        raise _outside("rounds", "another document")
    require_chain(receipts, policy)
    return judged


def policy_named_by(raw: bytes, agreement: CompleteAgreement) -> Policy:
    """The version of the policy that a document names, or the newest, which then refuses it.

    The document is not trusted for that: it is checked against the version found.

    Raises:
        RatlsError: The document cannot be read.
    """
    named = _open(raw).policy_digest
    versions = [signed.policy for signed in agreement.agreement.versions]
    return next((p for p in versions if p.digest == named), agreement.policy)


def _open(raw: bytes) -> Document:
    kind = dsse.Envelope.parse(raw).payload_type
    if kind == dsse.ROUND:
        return RoundReceipt.open(raw)
    return Acknowledgement.open(raw) if kind == dsse.ACKNOWLEDGEMENT else Receipt.open(raw)


def _party_key(document: Document, policy: Policy) -> bytes:
    """SHA-256 of the channel key of the party to whom the document was given."""
    name = document.provider if isinstance(document, Acknowledgement) else document.recipient
    party = policy.party_by_id(name)
    if party is None:
        raise PartyNotListed(document.noun, expected="a party of the policy", found=name)
    if isinstance(document, Receipt):
        _require_computation(document, policy)
    elif isinstance(document, RoundReceipt):
        require_participants(document, policy)
        agreed = policy.computation_by_id(document.computation)
        owners = [d.owner for d in policy.dataset if agreed and d.id in agreed.inputs]
        if name not in owners:
            raise _outside(document.noun, f"{name}, who owns no input of {document.computation}")
    else:
        dataset = policy.dataset_by_id(document.dataset)
        if dataset is None or dataset.owner != name:
            raise _outside(document.noun, f"{name} as owner of {document.dataset}")
    return party.channel_certificate.spki_sha256


def _require_computation(receipt: Receipt, policy: Policy) -> None:
    agreed = policy.computation_by_id(receipt.computation)
    if (
        agreed is None
        or agreed.run != receipt.run
        or receipt.recipient not in agreed.recipients
        or not rests_on(agreed, tuple(i.dataset for i in receipt.inputs))
    ):
        raise _outside("receipt", f"{receipt.computation} for {receipt.recipient}")


class ReceiptOutsidePolicy(ResultBindingError):
    """The document's parties, datasets and computation do not go together in the policy."""

    code = "receipt-outside-policy"
    default_fix = "use the agreement under which the document was made"


def _outside(noun: str, found: str) -> ReceiptOutsidePolicy:
    return ReceiptOutsidePolicy(noun, expected="what the policy lists", found=found)


def _require_mode(mode: str, roots: TrustAnchors) -> None:
    if mode != roots.mode.value:
        raise ModeClaimMismatch("mode", expected=roots.mode.value, found=mode)
