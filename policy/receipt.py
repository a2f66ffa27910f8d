"""What the enclave signs: that rows arrived, what it computed, that a withdrawal was obeyed.

    document = salted(result, salt)       # in the enclave, before it is sealed
    receipt.require_result(file)          # years later: this file is what was computed

All contain the evidence of the enclave that signed. `open` verifies the signature with the receipt
key *inside* the document. Only the evidence shows that this key belongs to the agreed enclave;
`ratls.offline` and `provider.exchange` compare it.

A result is a JSON object. Its digest is that of its compact form, so the layout of the file does
not matter. A salt of 32 random bytes in it prevents guessing the result from the receipt alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from policy import envelope as dsse
from policy import values
from policy.document import digest_text
from policy.envelope import EnvelopeMalformed, strict_json
from policy.errors import ResultBindingError, ResultSignatureError
from policy.fields import Identifier, Slug, Strict
from policy.keys import KeyFileMalformed, KeyTypeUnsupported, PublicKey, ReceiptKey
from policy.problems import Unfit
from policy.statement import Blob, Count, Digest, Instance, Nonce, PolicyStatement

RESULT_CAP = 256 << 20  # bytes of a file: a result has at most 32 MiB, and more when indented
_SALT, SALT_SIZE = "salt", 32
SALT_LENGTH = len(f',"{_SALT}":""') + 2 * SALT_SIZE  # bytes that `salted` adds


def salted(result: bytes, salt: bytes) -> bytes:
    """A result in its compact form, with `salt` (32 bytes) as one more member, in hex."""
    return _compact(json.loads(result) | {_SALT: salt.hex()})


def result_digest(result: bytes) -> values.Digest:
    """SHA-256 of the compact form: members sorted, no blanks, UTF-8. Raises: EnvelopeMalformed."""
    return values.Digest(hashlib.sha256(_compact(strict_json(result, "result"))).digest())


def indented(result: bytes) -> bytes:
    """The same result for people to read. Raises: EnvelopeMalformed."""
    text = json.dumps(strict_json(result, "result"), indent=2, ensure_ascii=False)
    return f"{text}\n".encode()


def is_document(raw: bytes) -> bool:
    """Does the file look like a signed document, and not like a result? Verifies nothing."""
    try:
        value = strict_json(raw, "file")
    except EnvelopeMalformed:
        return b'"payloadType"' in raw  # reading it as a document says what is wrong with it
    return isinstance(value, dict) and "payloadType" in value


def _compact(value: Any) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


class ReceiptSignatureInvalid(ResultSignatureError):
    """The receipt or acknowledgement was altered after the enclave signed it."""

    code = "receipt-signature-invalid"
    default_fix = "use the file as the enclave sent it"


class Attested(PolicyStatement):
    """The challenge, and its evidence, which contains the hash of the receipt key."""

    signature_leaf: ClassVar[dsse.SignatureLeaf] = ReceiptSignatureInvalid

    nonce: Nonce  #        32 bytes, chosen by the receiver of the document
    evidence: Blob  #      tagged CBOR, as the challenge was answered
    tls_spki: Blob  #      DER, the enclave's TLS key of that connection
    receipt_key: Blob  #   DER SPKI of the key that signs this document
    task_digest: Digest
    instance: Instance

    @model_validator(mode="after")
    def _readable_key(self) -> Self:
        try:
            PublicKey.from_spki(self.receipt_key)
        except (KeyFileMalformed, KeyTypeUnsupported) as refusal:
            raise Unfit(refusal.expected, refusal.found, field="receipt_key") from refusal
        return self

    @classmethod
    def open(cls, raw: bytes) -> Self:
        """Signed by the receipt key inside it. Which enclave has that key is not checked here.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            SignerUnknown, ReceiptSignatureInvalid.
        """
        document, envelope = cls._parse(raw)
        key = ReceiptKey(PublicKey.from_spki(document.receipt_key))
        cls.require_signature(envelope, key)
        return document


class Acknowledgement(Attested):
    """A committed dataset arrived complete. Shown to the provider alone: it holds exact counts."""

    payload_type: ClassVar[str] = dsse.ACKNOWLEDGEMENT
    noun: ClassVar[str] = "acknowledgement"

    dataset: Identifier
    provider: Slug
    commit_digest: Digest  # of the commit's payload
    tags_digest: Digest  #   the commit's: of the sealed chunks that arrived
    rows: Count
    batches: Count
    sealing_key_hash: Digest  # of the key that the chunks were sealed to; the evidence names it


class Ended(Attested):
    """A withdrawal has arrived, and what it ends has ended: rows dropped, tasks closed.

    `task_digest` is that of the withdrawal, as in the evidence.
    """

    payload_type: ClassVar[str] = dsse.ENDED
    noun: ClassVar[str] = "end"

    party: Slug  # that withdrew


class ReceiptInput(Strict):
    """One input, by its commit; without counts or digests of rows."""

    dataset: Identifier
    commit_digest: Digest


class ResultDiffers(ResultBindingError):
    """The result is not the one that the receipt is about, or it was changed."""

    code = "result-differs"
    default_fix = "use the result as it was collected, and the receipt that came with it"


class Receipt(Attested):
    """What was computed, from what, and for whom. Goes with the sealed result."""

    payload_type: ClassVar[str] = dsse.RECEIPT
    noun: ClassVar[str] = "receipt"

    computation: Identifier
    run: Identifier
    recipient: Slug
    inputs: Annotated[tuple[ReceiptInput, ...], Field(strict=False, min_length=1)]
    result_digest: Digest  # of the plaintext, see `result_digest`
    mode: Literal["production", "simulation"]

    def require_result(self, result: bytes) -> None:
        """R13: this is the result that was computed. Raises: EnvelopeMalformed, ResultDiffers."""
        found = result_digest(result)
        if found != self.result_digest:
            raise ResultDiffers(
                "result", expected=digest_text(self.result_digest), found=digest_text(found)
            )
