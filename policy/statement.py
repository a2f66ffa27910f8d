"""What task, commit, acknowledgement, receipt and record have in common.

A statement is a strict, frozen set of fields; its payload is compact JSON with sorted names,
its digest is SHA-256 of exactly the payload that was signed. In Python digests are 32 bytes,
blobs bytes, instants aware datetimes; in JSON `sha256:<hex>`, base64, `2026-11-01T00:00:00Z`.

A received document has two types. `read` gives an `Unverified`, which says only which policy the
document belongs to; `open` checks the signature and gives the document itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
)

from policy import values
from policy.document import Policy, digest_text
from policy.envelope import (
    Envelope,
    EnvelopeMalformed,
    SignatureLeaf,
    base64_text,
    strict_base64,
    strict_json,
)
from policy.errors import PolicyConflictError, TicketFormatError
from policy.fields import Strict
from policy.keys import (
    OperationKey,
    OperationSigner,
    ReceiptKey,
    ReceiptSigner,
)
from policy.problems import Unfit, from_pydantic
from verifier.errors import RatlsError
from verifier.text import instant_fault, read_instant
from verifier.text import instant_text as instant_text

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
BLOB_CAP = 1 << 20


def _read_digest(value: Any) -> Any:
    if isinstance(value, str):
        if not _DIGEST.fullmatch(value):
            raise Unfit("sha256: and 64 lower-case hex digits", "something else")
        return bytes.fromhex(value[7:])
    return value


def _read_blob(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return strict_base64(value, "blob", cap=BLOB_CAP)
        except RatlsError as refusal:
            raise Unfit(refusal.expected, refusal.found) from refusal
    return value


def _read_instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            read = read_instant(value)
        except ValueError as error:
            raise Unfit(
                "an instant that exists, like 2026-11-01T00:00:00Z", "another text"
            ) from error
        if wanted := instant_fault(read):
            raise Unfit(wanted, value)
        return read
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise Unfit("an aware instant", "a naive one")
        return value.astimezone(UTC).replace(microsecond=0)
    return value


def _size(size: int) -> AfterValidator:
    def check(value: bytes) -> bytes:
        if len(value) != size:
            raise Unfit(f"{size} bytes", str(len(value)))
        return value

    return AfterValidator(check)


Digest = Annotated[
    values.Digest, BeforeValidator(_read_digest), _size(32), PlainSerializer(digest_text)
]
Blob = Annotated[bytes, BeforeValidator(_read_blob), PlainSerializer(base64_text)]
Nonce = Annotated[
    values.Nonce, BeforeValidator(_read_blob), _size(32), PlainSerializer(base64_text)
]
Instance = Annotated[
    values.Instance, BeforeValidator(_read_blob), _size(16), PlainSerializer(base64_text)
]
Moment = Annotated[datetime, BeforeValidator(_read_instant), PlainSerializer(instant_text)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class DocumentMalformed(TicketFormatError):
    """The payload of a signed document does not have exactly its fields."""

    code = "document-malformed"
    default_fix = "ask its sender for the file again; both sides need the same ratls version"


class Statement(Strict):
    """Base of every signed document that is not a policy."""

    payload_type: ClassVar[str]
    noun: ClassVar[str]
    signature_leaf: ClassVar[SignatureLeaf]
    _payload: bytes = PrivateAttr(default=b"")

    def model_post_init(self, _: Any) -> None:
        self._payload = json.dumps(
            self.model_dump(mode="python"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        ).encode("ascii")

    @property
    def payload(self) -> bytes:
        """The bytes that are signed."""
        return self._payload

    @property
    def digest(self) -> values.Digest:
        """SHA-256 of the payload, 32 bytes; never of the envelope."""
        return values.Digest(hashlib.sha256(self._payload).digest())

    def seal(self, signer: OperationSigner | ReceiptSigner) -> bytes:
        """The signed envelope, ready to send or store."""
        return Envelope(self.payload_type, self._payload, ()).signed_by(signer).encode()

    @classmethod
    def _parse(cls, raw: bytes) -> tuple[Self, Envelope]:
        """The fields, and the envelope whose one signature is still to be checked.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed.
        """
        envelope = Envelope.parse(raw)
        return cls._read(envelope), envelope

    @classmethod
    def _read(cls, envelope: Envelope) -> Self:
        """Raises: EnvelopeMalformed, EnvelopeTypeDiffers, DocumentMalformed."""
        envelope.require_type(cls.payload_type)
        if len(envelope.signatures) != 1:
            raise EnvelopeMalformed(
                "envelope.signatures", expected="exactly one", found=str(len(envelope.signatures))
            )
        try:
            statement = cls.model_validate(strict_json(envelope.payload, cls.noun))
        except ValidationError as error:
            problem = from_pydantic(error, cls, "")[0]
            raise DocumentMalformed(
                f"{cls.noun}: {problem.path}", expected=problem.expected, found=problem.found
            ) from error
        # One statement, one form: otherwise one task would have two digests.
        if statement.payload != envelope.payload:
            raise DocumentMalformed(
                cls.noun, expected="compact JSON with sorted names", found="another layout"
            )
        return statement

    @classmethod
    def require_signature(cls, envelope: Envelope, key: OperationKey | ReceiptKey) -> None:
        """Raises: SignerUnknown, or the `signature_leaf` of this kind of document."""
        envelope.signers((key,), cls.signature_leaf)


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a document says of itself, its signature unchecked: enough to find its policy."""

    digest: values.Digest  #         of its payload
    policy_digest: values.Digest  #  of the policy that it names
    study: str | None  #             that it names; None: documents of this kind name none


class PolicyStatement(Statement):
    """A statement that belongs to one policy, byte for byte."""

    policy_digest: Digest

    @classmethod
    def read(cls, raw: bytes) -> Unverified:
        """Parse a document without checking its signature.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed.
        """
        return cls._parse(raw)[0]._unverified()

    def _unverified(self) -> Unverified:
        return Unverified(self.digest, self.policy_digest, getattr(self, "study", None))


class PolicyDigestDiffers(PolicyConflictError):
    """A signed document belongs to another policy than the one in force."""

    code = "policy-digest-differs"
    default_fix = "have it made again under the policy that is in force"
    says = "{thing} belongs to policy {found}, not {expected}"


def require_policy(thing: str, named: values.Digest, policy: Policy) -> None:
    """P15: a document belongs to one policy, byte for byte. Raises: PolicyDigestDiffers."""
    if named != policy.digest:
        raise PolicyDigestDiffers(
            f"the {thing}", expected=digest_text(policy.digest), found=digest_text(named)
        )


class StudyDiffers(PolicyConflictError):
    """A signed document names another study than its policy."""

    code = "study-differs"
    default_fix = "have it made again for this study"
    says = "{thing} belongs to study {found}, not {expected}"


def require_study(thing: str, named: str, policy: Policy) -> None:
    """P18. Raises: StudyDiffers."""
    if named != policy.study:
        raise StudyDiffers(f"the {thing}", expected=policy.study, found=named)
