"""A record: what the holder of a receipt or acknowledgement checked, and when.

It contains the collateral of that day, so that the document can be verified again years later.
The instant is that of the holder's clock, under the holder's signature.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from policy import envelope as dsse
from policy import values
from policy.document import Policy, digest_text
from policy.errors import PartyNotListed, ResultBindingError, ResultSignatureError
from policy.fields import Slug, Strict
from policy.keys import OperationKey
from policy.statement import Blob, Digest, Moment, Statement
from verifier.appraisal import Appraisal

_DETAIL_CAP = 4096  # characters


class RecordedCheck(Strict):
    """One line of the appraisal."""

    check: Annotated[str, Field(max_length=128)]
    outcome: Literal["passed", "failed", "not_reached"]
    detail: Annotated[str, Field(max_length=_DETAIL_CAP)] = ""


class RecordSignatureInvalid(ResultSignatureError):
    """The record was altered after its holder signed it."""

    code = "record-signature-invalid"
    default_fix = "use the file as its holder wrote it"


class RecordScopeDiffers(ResultBindingError):
    """The record is about another document."""

    code = "record-scope-differs"
    default_fix = "name the record that was stored with this document"
    says = "the record is about document {found}, not {expected}"


class Record(Statement):
    """Signed with the holder's operation key."""

    payload_type: ClassVar[str] = dsse.RECORD
    noun: ClassVar[str] = "record"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = RecordSignatureInvalid

    holder: Slug
    document_digest: Digest  # of the payload of the receipt or acknowledgement
    collateral: Blob  #        the bundle, byte for byte
    appraisal: Annotated[tuple[RecordedCheck, ...], Field(strict=False)]
    at: Moment  #              by the holder's clock
    mode: Literal["production", "simulation"]

    @staticmethod
    def checks(appraisal: Appraisal) -> tuple[RecordedCheck, ...]:
        """An appraisal in the form that a record stores."""
        return tuple(
            RecordedCheck.model_validate(entry | {"detail": entry["detail"][:_DETAIL_CAP]})
            for entry in appraisal.as_json()
        )

    @classmethod
    def open(cls, raw: bytes, by: Policy | OperationKey) -> Self:
        """A record that its holder signed: with the key in the policy, or with the given key.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            PartyNotListed, SignerUnknown, RecordSignatureInvalid.
        """
        record, envelope = cls._parse(raw)
        if isinstance(by, Policy):
            party = by.party_by_id(record.holder)
            if party is None:
                raise PartyNotListed(
                    "record: holder", expected="a party of the policy", found=record.holder
                )
            by = party.operation_key
        cls.require_signature(envelope, by)
        return record

    def require_document(self, digest: values.Digest) -> None:
        """Raises: RecordScopeDiffers when the record is about another document."""
        if self.document_digest != digest:
            raise RecordScopeDiffers(
                "record: document_digest",
                expected=digest_text(digest),
                found=digest_text(self.document_digest),
            )
