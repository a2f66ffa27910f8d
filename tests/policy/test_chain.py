"""P23: keys over the whole history. No threshold replaces a party's own old signing key."""

from __future__ import annotations

import pytest

from policy.agreement import Agreement, AgreementIncomplete, CompleteAgreement
from policy.chain import ChainBroken, KeyChangeUnsigned
from policy.document import digest_text
from policy.party import LocalParty
from policy.references import PolicyKeysShared
from policy.signing import add_signature
from tests.support.parties import ROOTS, Consortium, local_party
from tests.support.refusal import refused

WORLD = Consortium.create()
TWO = "[agreement]\nthreshold = 2\n\n"  # the owners, Alice and Bob, suffice
OWNERS = ("alice-clinic", "bob-hospital")
FIRST = WORLD.complete(WORLD.policy_text(agreement=TWO), signers=OWNERS)
OTHER = local_party("carol-lab", copy=1)
PURPOSES = ("signing_key", "operation_key", "channel_certificate", "encryption_key")
DORA = local_party("dora-clinic")


def text(before: CompleteAgreement, *swaps: tuple[str, str]) -> str:
    """The version after `before`."""
    return WORLD.policy_text(
        list(swaps),
        agreement=TWO,
        version=str(before.policy.version + 1),
        previous=f'"{digest_text(before.digest)}"',
    )


def signed(raw: str, before: CompleteAgreement, *more: LocalParty) -> Agreement:
    """By the owners, whose votes suffice, and `more`, whoever the policy lists."""
    draft = Agreement.draft(raw.encode(), ROOTS, before)
    for party in (WORLD.alice, WORLD.bob, *more):
        draft = add_signature(draft, party.signing)
    return Agreement.parse(draft.encode(), ROOTS)


def swap(
    purpose: str, mine: LocalParty = WORLD.carol, other: LocalParty = OTHER
) -> tuple[str, str]:
    return getattr(mine.public, purpose).pem, getattr(other.public, purpose).pem


@pytest.mark.parametrize("purpose", PURPOSES)
def test_another_key_of_a_party_without_its_old_signing_key(purpose: str) -> None:
    """P23: the owners alone give Carol's tasks, channel or results to somebody else."""
    changed = text(FIRST, swap(purpose))
    with refused(KeyChangeUnsigned):
        signed(changed, FIRST).require_complete()
    signed(changed, FIRST, WORLD.carol).require_complete()


def test_no_key_changed_needs_no_further_signature() -> None:
    signed(text(FIRST), FIRST).require_complete()


def test_the_new_key_vouches_for_itself() -> None:
    """P17: the key that somebody put there signs; Carol's own has not."""
    changed = text(FIRST, swap("signing_key"))
    with refused(KeyChangeUnsigned):
        signed(changed, FIRST, OTHER).require_complete()
    signed(changed, FIRST, OTHER, WORLD.carol).require_complete()


@pytest.fixture(scope="module")
def without_carol() -> CompleteAgreement:
    """Version 2 does not list Carol; with the threshold of two, nobody asked her."""
    gone = WORLD.policy_text(
        agreement=TWO, version="2", previous=f'"{digest_text(FIRST.digest)}"'
    ).replace((WORLD.carol.folder / "party.toml").read_text("utf-8"), party_block(DORA))
    return signed(gone.replace("carol-lab", "dora-clinic"), FIRST).require_complete()


def party_block(party: LocalParty) -> str:
    block = (party.folder / "party.toml").read_text("utf-8")
    key = local_party("carol-lab", copy=2).public.encryption_key
    assert key is not None
    return (
        block.replace('["provider"]', '["recipient", "submitter"]')
        + f'encryption_key = """{key.pem}"""\n'
    )


@pytest.mark.parametrize("copy", [0, 1], ids=["her own keys", "others"])
def test_party_is_removed_and_added_again_without_its_old_key(
    without_carol: CompleteAgreement, copy: int
) -> None:
    """P23: in the last version alone nobody of her name is to be seen."""
    keys = [] if copy == 0 else [swap(purpose) for purpose in PURPOSES]
    back = text(without_carol, *keys)
    with refused(KeyChangeUnsigned):
        signed(back, without_carol, *([OTHER] if copy else [])).require_complete()
    signed(back, without_carol, WORLD.carol, *([OTHER] if copy else [])).require_complete()


@pytest.mark.parametrize("purpose", ["signing_key", "operation_key", "channel_certificate"])
def test_retired_key_of_one_party_returns_as_anothers(purpose: str) -> None:
    """P23: two versions later it would sign for both, and the version before does not have it."""
    renewed = text(FIRST, swap(purpose))
    second = signed(renewed, FIRST, WORLD.carol).require_complete()
    old, new = getattr(WORLD.carol.public, purpose).pem, getattr(OTHER.public, purpose).pem
    third = text(second, swap(purpose))
    signed(third, second).require_complete()
    if purpose == "channel_certificate":
        return  # a certificate names its party, so the key alone would have to be moved
    bobs = getattr(WORLD.bob.public, purpose).pem
    with refused(PolicyKeysShared):
        signed(third.replace(bobs, old), second)
    assert new in third


def test_key_gets_another_purpose() -> None:
    """An operation key that lies with the agent would sign policies from version 3 on."""
    renewed = text(FIRST, swap("operation_key"))
    second = signed(renewed, FIRST, WORLD.carol).require_complete()
    retired = WORLD.carol.public.operation_key.pem
    third = text(second, swap("operation_key"))
    moved = third.replace(WORLD.carol.public.signing_key.pem, retired)
    with refused(PolicyKeysShared):
        signed(moved, second)
    # Her own old key for the same purpose may come back, with her signature.
    signed(text(second), second, WORLD.carol).require_complete()


def test_earlier_version_without_its_signatures_is_not_read_over() -> None:
    """What follows it is not even parsed: reading costs, and nobody signed for it (P24)."""
    second = signed(text(FIRST), FIRST)
    envelopes = [v.envelope for v in second.versions]
    bare = type(envelopes[0])(envelopes[0].payload_type, envelopes[0].payload, ())
    with refused(AgreementIncomplete):
        Agreement.from_envelopes([bare, envelopes[1]], ROOTS)
    Agreement.from_envelopes(envelopes, ROOTS)


def test_versions_in_another_order() -> None:
    second = signed(text(FIRST), FIRST)
    with refused(ChainBroken):
        Agreement.from_envelopes([v.envelope for v in reversed(second.versions)], ROOTS)
