"""A receipt: the enclave's signed statement of what it computed, from what, and for whom.

    document = salted(result, salt)       # in the enclave, before it is sealed
    receipt.require_result(file)          # years later: this file is what was computed

A result is a JSON object. Its digest is that of its compact form, so the layout of the file does
not matter. A salt of 32 random bytes in it prevents guessing the result from the receipt alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from policy import envelope as dsse
from policy import values
from policy.attested import Attested
from policy.document import digest_text
from policy.envelope import EnvelopeMalformed, strict_json
from policy.errors import ReceiptSignatureInvalid, ResultBindingError
from policy.statement import Digest, IdText, Instance, SlugText

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


class ReceiptInput(BaseModel):
    """One input, by its commit; without counts or digests of rows."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dataset: IdText
    commit_digest: Digest


class ResultDiffers(ResultBindingError):
    """The result is not the one that the receipt is about, or it was changed."""

    code = "result-differs"
    default_fix = "use the result as it was collected, and the receipt that came with it"


class Receipt(Attested):
    """Goes with the sealed result. See `Attested.open`."""

    payload_type: ClassVar[str] = dsse.RECEIPT
    noun: ClassVar[str] = "receipt"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = ReceiptSignatureInvalid

    task_digest: Digest
    instance: Instance
    computation: IdText
    run: IdText
    recipient: SlugText
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
