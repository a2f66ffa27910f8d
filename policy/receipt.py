"""A receipt: the enclave's signed word on what it computed from what, and for whom."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from policy import envelope as dsse
from policy.attested import Attested
from policy.errors import ReceiptSignatureInvalid
from policy.statement import Digest, IdText, Instance, SlugText


class ReceiptInput(BaseModel):
    """One input, by its commit: neither counts nor digests of anybody's rows."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    dataset: IdText
    commit_digest: Digest


class Receipt(Attested):
    """Goes with the sealed result. See `Attested.open`."""

    payload_type: ClassVar[str] = dsse.RECEIPT
    noun: ClassVar[str] = "receipt"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = ReceiptSignatureInvalid

    task_digest: Digest
    policy_digest: Digest
    instance: Instance
    computation: IdText
    run: IdText
    recipient: SlugText
    inputs: Annotated[tuple[ReceiptInput, ...], Field(strict=False, min_length=1)]
    result_digest: Digest  # SHA-256 of the ciphertext as sent
    mode: Literal["production", "simulation"]
