"""A commit: the provider's signed statement of which rows it sent, and to which enclave."""

from __future__ import annotations

from typing import ClassVar, Self

from policy import envelope as dsse
from policy.document import Policy
from policy.errors import TicketScopeError, TicketSignatureError
from policy.fields import Identifier, Slug
from policy.statement import Count, Digest, Instance, Nonce, PolicyStatement, require_policy


class CommitSignatureInvalid(TicketSignatureError):
    """The commit is not signed by the operation key of the provider that it names."""

    code = "commit-signature-invalid"
    default_fix = "compare the provider's operation key with the one in the policy"


class CommitScopeDiffers(TicketScopeError):
    """The commit's provider does not own its dataset."""

    code = "commit-scope-differs"
    default_fix = "have the owner of the dataset release it"


class Commit(PolicyStatement):
    """Signed with the provider's operation key once all rows are sent."""

    payload_type: ClassVar[str] = dsse.COMMIT
    noun: ClassVar[str] = "commit"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = CommitSignatureInvalid

    task_digest: Digest
    instance: Instance  #      16 bytes: the start of the enclave that the rows went to
    nonce: Nonce  #            32 bytes: of the challenge in the same stream
    dataset: Identifier
    provider: Slug
    schema_digest: Digest
    rows: Count
    batches: Count
    tags_digest: Digest  #     of the sealed chunks, in order: the enclave compares it
    salted_digest: Digest  #   of the rows, with 32 bytes that the provider keeps: only it can check
    journal_head: Digest  #    of the provider's journal before this release

    @classmethod
    def open(cls, raw: bytes, policy: Policy) -> Self:
        """A commit by the owner of its dataset.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            PolicyDigestDiffers, CommitScopeDiffers, SignerUnknown, CommitSignatureInvalid.
        """
        commit, envelope = cls._parse(raw)
        require_policy(cls.noun, commit.policy_digest, policy)
        dataset = policy.dataset_by_id(commit.dataset)
        owner = None if dataset is None else policy.party_by_id(dataset.owner)
        # I08: a provider commits only its own datasets.
        if owner is None or owner.id != commit.provider:
            raise CommitScopeDiffers(
                "commit: dataset", expected=f"a dataset of {commit.provider}", found=commit.dataset
            )
        cls.require_signature(envelope, owner.operation_key)
        return commit
