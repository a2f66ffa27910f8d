"""What acknowledgement and receipt share: they contain the evidence of the enclave that signed.

`open` verifies the signature with the receipt key *inside* the document. Only the evidence shows
that this key belongs to the agreed enclave; `ratls.offline` and `provider.exchange` compare it.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from policy.keys import KeyFileMalformed, KeyTypeUnsupported, PublicKey, ReceiptKey
from policy.problems import Unfit
from policy.statement import Blob, Nonce, PolicyStatement


class Attested(PolicyStatement):
    """The challenge, and its evidence, which contains the hash of the receipt key."""

    nonce: Nonce  #        32 bytes, chosen by the receiver of the document
    evidence: Blob  #      tagged CBOR, as the challenge was answered
    tls_spki: Blob  #      DER, the enclave's TLS key of that connection
    receipt_key: Blob  #   DER SPKI of the key that signs this document

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
