"""What is signed in a round: a party's update, and the enclave's receipt of the round.

    receipts = [RoundReceipt.open(raw) for raw in files]
    require_chain(receipts, policy)        # all rounds of one series, each from the model before

The receipts of a series are a chain: each names the model that its updates were trained from, the
model that came of them, and whose updates these were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from policy import envelope as dsse
from policy.document import Policy, digest_text
from policy.errors import ResultBindingError, TicketScopeError, TicketSignatureError
from policy.fields import Identifier, Slug, Strict
from policy.receipt import Attested
from policy.rounds import MOST_PARTIES, RUN, Series
from policy.statement import Digest, Instance, Nonce, PolicyStatement, require_policy

Number = Annotated[int, Field(ge=1, le=1000)]


class UpdateSignatureInvalid(TicketSignatureError):
    """The update is not signed by the operation key of the party that it names."""

    code = "update-signature-invalid"
    default_fix = "compare the party's operation key with the one in the policy"


class UpdateScopeDiffers(TicketScopeError):
    """The update's party does not own its dataset."""

    code = "update-scope-differs"
    default_fix = "have the owner of the dataset send it"


class Update(PolicyStatement):
    """A party's word that it sent these numbers for this round: signed with its operation key."""

    payload_type: ClassVar[str] = dsse.UPDATE
    noun: ClassVar[str] = "update"
    signature_leaf: ClassVar[dsse.SignatureLeaf] = UpdateSignatureInvalid

    task_digest: Digest
    instance: Instance
    nonce: Nonce  #         of the challenge in the same exchange
    dataset: Identifier
    provider: Slug
    round: Number
    previous: Digest  #     of the model that was trained from
    tags_digest: Digest  #  of the sealed parts, in order
    journal_head: Digest  # of the party's journal before it

    @classmethod
    def open(cls, raw: bytes, policy: Policy) -> Self:
        """An update by the owner of its dataset.

        Raises: EnvelopeMalformed, EnvelopeTooLarge, EnvelopeTypeDiffers, DocumentMalformed,
            PolicyDigestDiffers, UpdateScopeDiffers, SignerUnknown, UpdateSignatureInvalid.
        """
        update, envelope = cls._parse(raw)
        require_policy(cls.noun, update.policy_digest, policy)
        dataset = policy.dataset_by_id(update.dataset)
        owner = None if dataset is None else policy.party_by_id(dataset.owner)
        if owner is None or owner.id != update.provider:
            raise UpdateScopeDiffers(
                "update: dataset", expected=f"a dataset of {update.provider}", found=update.dataset
            )
        cls.require_signature(envelope, owner.operation_key)
        return update


class Participant(Strict):
    """A party whose update counted in a round, by what it signed."""

    dataset: Identifier
    provider: Slug
    update_digest: Digest


class RoundReceipt(Attested):
    """What one round made of whose updates. Given to each owner of an input, with the model."""

    payload_type: ClassVar[str] = dsse.ROUND
    noun: ClassVar[str] = "round receipt"

    computation: Identifier
    recipient: Slug
    round: Number
    previous: Digest  # of the model before; each model has the salt of its series in it
    model: Digest
    participants: Annotated[
        tuple[Participant, ...], Field(strict=False, min_length=1, max_length=MOST_PARTIES)
    ]
    sealing_key_hash: Digest  # of the key that the exchange was sealed to; the evidence names it
    mode: Literal["production", "simulation"]


class RoundsMissing(ResultBindingError):
    """The receipts are not those of the rounds 1, 2, 3 …, each once."""

    code = "rounds-missing"
    default_fix = "name the folder that `ratls provider train` wrote, with all its receipts"
    says = "the receipts should be those of round {expected}, and the next one is of {found}"


class RoundsOfAnotherSeries(ResultBindingError):
    """Receipts of different tasks, policies, enclaves, computations or recipients are mixed."""

    code = "rounds-of-another-series"
    default_fix = "keep the receipts of each task in a folder of their own"


class RoundChainBroken(ResultBindingError):
    """A round did not begin with the model that the round before it ended with."""

    code = "round-chain-broken"
    default_fix = "do not use the model; ask the operator for the receipts that are missing"


class RoundParticipantsUnfit(ResultBindingError):
    """A round was made of fewer updates than agreed, or of others' than the agreed parties'."""

    code = "round-participants-unfit"
    default_fix = "do not use the model; compare the enclave with the one that was agreed on"


def require_participants(receipt: RoundReceipt, policy: Policy) -> None:
    """The round is one that the policy agrees on, with enough of its parties, each once.

    Raises: RoundParticipantsUnfit.
    """
    agreed = policy.computation_by_id(receipt.computation)
    if agreed is None or agreed.run != RUN:
        raise _unfit("a computation with rounds", receipt.computation)
    series = Series.of(agreed)
    owners = {d.id: d.owner for d in policy.dataset}
    named = [p.dataset for p in receipt.participants]
    if receipt.round > series.rounds:
        raise _unfit(f"one of {series.rounds} rounds", str(receipt.round))
    if named != [i for i in series.inputs if i in named]:
        raise _unfit("agreed inputs, each once, in their order", ", ".join(named))
    for one in receipt.participants:
        if owners[one.dataset] != one.provider:
            raise _unfit(f"{owners[one.dataset]} with {one.dataset}", one.provider)
    if len(named) < series.quorum:
        raise _unfit(f"at least {series.quorum} updates", str(len(named)))


def _unfit(expected: str, found: str) -> RoundParticipantsUnfit:
    return RoundParticipantsUnfit("round receipt", expected=expected, found=found)


_OF_A_SERIES = ("task_digest", "policy_digest", "instance", "receipt_key", "computation")


def require_chain(receipts: Sequence[RoundReceipt], policy: Policy) -> None:
    """These are the rounds 1 to n of one series, and each goes on from the one before.

    Who signed them is not looked at here.

    Raises: RoundsMissing, RoundsOfAnotherSeries, RoundChainBroken, RoundParticipantsUnfit.
    """
    for number, receipt in enumerate(receipts, 1):
        if receipt.round != number:
            raise RoundsMissing("rounds", expected=str(number), found=str(receipt.round))
        require_participants(receipt, policy)
        if number > 1:
            require_next(receipt, receipts[number - 2])
    if not receipts:
        raise RoundsMissing("rounds", expected="1", found="none")


def require_next(receipt: RoundReceipt, before: RoundReceipt) -> None:
    """Raises: RoundsOfAnotherSeries, RoundChainBroken."""
    for name in (*_OF_A_SERIES, "recipient", "mode"):
        if getattr(receipt, name) != getattr(before, name):
            raise RoundsOfAnotherSeries(
                f"round {receipt.round}: {name}", expected="that of the round before", found="other"
            )
    if receipt.previous != before.model:
        raise RoundChainBroken(
            f"round {receipt.round}",
            expected=f"from model {digest_text(before.model)}",
            found=digest_text(receipt.previous),
        )
