"""An acknowledgement: the enclave's signed statement that a committed dataset arrived complete."""

from __future__ import annotations

from typing import ClassVar

from policy import envelope as dsse
from policy.attested import Attested
from policy.errors import ReceiptSignatureInvalid
from policy.statement import Count, Digest, IdText, Instance, SlugText


class Acknowledgement(Attested):
    """Shown to the provider alone: it holds exact counts. See `Attested.open`."""

    payload_type: ClassVar[str] = dsse.ACKNOWLEDGEMENT
    noun: ClassVar[str] = "acknowledgement"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = ReceiptSignatureInvalid

    task_digest: Digest
    instance: Instance
    dataset: IdText
    provider: SlugText
    commit_digest: Digest  # of the commit's payload
    tags_digest: Digest  #   the commit's: of the sealed chunks that arrived
    rows: Count
    batches: Count
    sealing_key_hash: Digest  # of the key that the chunks were sealed to; the evidence names it
