"""Who signed: distinct parties with distinct keys, owners always, each version after the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from policy import envelope as dsse
from policy.agreement import (
    Agreement,
    AgreementIncomplete,
    CompleteAgreement,
    SignatureInvalid,
)
from policy.chain import ChainBroken, KeyChangeUnsigned, PredecessorNotConsenting
from policy.document import PolicyInvalid, digest_text
from policy.envelope import (
    Envelope,
    EnvelopeMalformed,
    EnvelopeTypeDiffers,
    SignatureRepeated,
    SignerUnknown,
)
from policy.errors import PartyNotListed
from policy.references import PolicyKeysShared
from policy.signing import (
    AnchorDiffers,
    OwnSignatureMissing,
    add_signature,
    key_changes,
    require_own_signature,
    sign,
)
from policy.syntax import PolicyTooLarge
from tests.support.parties import ROOTS, Consortium, local_party
from tests.support.refusal import refused
from verifier.errors import RatlsError

WORLD = Consortium.create(operator=True)
ALL = ("alice-clinic", "bob-hospital", "carol-lab")
COMPLETE = WORLD.complete()


def parse(raw: bytes) -> Agreement:
    return Agreement.parse(raw, ROOTS)


def next_version(world: Consortium = WORLD, **overrides: Any) -> str:
    """Version 2, which names version 1."""
    return world.policy_text(version="2", previous=f'"{digest_text(COMPLETE.digest)}"', **overrides)


def test_all_signed() -> None:
    agreement = parse(COMPLETE.agreement.encode())
    assert agreement.newest.votes_by(agreement.policy) == ALL
    assert agreement.missing == ()
    complete = agreement.require_complete()
    for party in (WORLD.alice, WORLD.bob, WORLD.carol):
        require_own_signature(complete, party)


@pytest.mark.parametrize("absent", ALL)
def test_one_party_has_not_signed(absent: str) -> None:
    """P01: each signature in turn."""
    agreement = WORLD.agreement(signers=[p for p in ALL if p != absent])
    assert agreement.missing == (absent,)
    with refused(AgreementIncomplete):
        parse(agreement.encode()).require_complete()


def test_nobody_signed() -> None:
    with refused(AgreementIncomplete):
        WORLD.agreement(signers=[]).require_complete()


def test_operator_signs_in_place_of_a_party() -> None:
    """Whoever runs the machines has no vote."""
    agreement = WORLD.agreement(signers=["alice-clinic", "bob-hospital", "olga-cloud"])
    assert agreement.newest.votes_by(agreement.policy) == ("alice-clinic", "bob-hospital")
    with refused(AgreementIncomplete):
        agreement.require_complete()


def test_threshold_met_without_the_owner_of_a_dataset() -> None:
    """S12: two of three are enough, but nobody agrees for Bob on Bob's rows."""
    text = WORLD.policy_text(agreement="[agreement]\nthreshold = 2\n")
    with refused(AgreementIncomplete):
        WORLD.agreement(text, signers=["alice-clinic", "carol-lab"]).require_complete()
    WORLD.agreement(text, signers=["alice-clinic", "bob-hospital"]).require_complete()


def test_one_party_signs_twice() -> None:
    """P02: the copy would stand for the missing party (CVE-2020-6174)."""
    document = json.loads(WORLD.agreement_bytes(signers=["alice-clinic"]))
    signatures = document["versions"][0]["signatures"]
    document["versions"][0]["signatures"] = signatures * 3
    with refused(SignatureRepeated):
        parse(json.dumps(document).encode())


def test_stranger_signs() -> None:
    stranger = local_party("bob-hospital", copy=1)
    envelope = COMPLETE.agreement.newest.envelope.signed_by(stranger.signing)
    with refused(SignerUnknown):
        Agreement.from_envelopes([envelope], ROOTS)


def test_operation_key_signs_a_policy() -> None:
    """The key that lives with the agent, online, must not be able to agree to anything."""
    envelope = WORLD.agreement(signers=[]).newest.envelope.signed_by(WORLD.alice.operation)
    with refused(SignerUnknown):
        Agreement.from_envelopes([envelope], ROOTS)


def test_signature_on_other_bytes() -> None:
    """One changed byte of the text under the signatures of everybody."""
    text = WORLD.policy_text().replace("uses = 10", "uses = 99")
    old = COMPLETE.agreement.newest.envelope
    with refused(SignatureInvalid):
        Agreement.from_envelopes([Envelope(dsse.POLICY, text.encode(), old.signatures)], ROOTS)


def test_signed_task_is_offered_as_a_policy() -> None:
    """P07."""
    raw = WORLD.policy_text().encode()
    envelope = Envelope(dsse.TASK, raw, ()).signed_by(WORLD.alice.signing)
    with refused(EnvelopeTypeDiffers):
        Agreement.from_envelopes([envelope], ROOTS)


def test_policy_lists_another_key_under_my_name() -> None:
    """P06: a self-consistent agreement in which an attacker plays me; my file is the anchor."""
    impostor = local_party("alice-clinic", copy=1)
    parties = WORLD.parties | {"alice-clinic": impostor}
    evil = Consortium(parties, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    complete = evil.complete()
    with refused(AnchorDiffers):
        require_own_signature(complete, WORLD.alice)
    with refused(AnchorDiffers):
        sign(complete.agreement, WORLD.alice)
    require_own_signature(complete, impostor)


@pytest.mark.parametrize("purpose", ["operation_key", "channel_certificate"])
def test_policy_lists_one_foreign_key_of_mine(purpose: str) -> None:
    """The signing key is mine, so the signature would hold; the other key would speak for me."""
    other = getattr(local_party("alice-clinic", copy=1).public, purpose).pem
    text = WORLD.policy_text([(getattr(WORLD.alice.public, purpose).pem, other)])
    agreement = Agreement.draft(text.encode(), ROOTS)
    with refused(AnchorDiffers):
        sign(agreement, WORLD.alice)
    sign(agreement, WORLD.bob)


def test_party_that_is_not_in_the_policy() -> None:
    with refused(PartyNotListed):
        require_own_signature(COMPLETE, local_party("dora-clinic"))


def test_complete_without_my_signature() -> None:
    """Below "all" an agreement can be complete without me; it is not mine then."""
    text = WORLD.policy_text(agreement="[agreement]\nthreshold = 2\n")
    complete = WORLD.complete(text, signers=["alice-clinic", "bob-hospital"])
    with refused(OwnSignatureMissing):
        require_own_signature(complete, WORLD.carol)
    require_own_signature(complete, WORLD.alice)


def test_a_complete_agreement_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        CompleteAgreement(WORLD.agreement(signers=[]), object())


def test_next_version_follows() -> None:
    second = WORLD.complete(next_version(), before=COMPLETE)
    again = parse(second.agreement.encode()).require_complete()
    assert again.policy.version == 2
    assert again.agreement.versions[0].policy.digest == COMPLETE.digest


def test_next_version_that_only_its_own_signers_want() -> None:
    """P17: a new set of parties alone must not replace the old one."""
    names = ["bob-hospital", "carol-lab", "dora-clinic"]
    parties = {name: local_party(name) for name in names}
    world = Consortium(parties, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    text = next_version(world).replace('owner = "alice-clinic"', 'owner = "dora-clinic"')
    draft = Agreement.draft(text.encode(), ROOTS, COMPLETE)
    for party in parties.values():
        draft = sign(draft, party)
    with refused(PredecessorNotConsenting):
        draft.require_complete()
    # Alice leaves with her consent: her key of version 1 signs version 2.
    add_signature(draft, WORLD.alice.signing).require_complete()


def test_new_signing_key_without_a_signature_of_the_old_one() -> None:
    """P17: whoever adds a key under my name needs my present one."""
    text = WORLD.policy_text(agreement="[agreement]\nthreshold = 2\n")
    first = WORLD.complete(text)
    renewed = local_party("carol-lab", copy=1)
    parties = WORLD.parties | {"carol-lab": renewed}
    world = Consortium(parties, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    second = world.policy_text(version="2", previous=f'"{digest_text(first.digest)}"')
    draft = Agreement.draft(second.encode(), ROOTS, first)
    for party in world.parties.values():
        draft = sign(draft, party)
    with refused(KeyChangeUnsigned):
        draft.require_complete()
    complete = add_signature(draft, WORLD.carol.signing).require_complete()
    changes = key_changes(complete.policy, first.policy)
    assert {c.party_id for c in changes if c.status == "changed"} == {"carol-lab"}
    assert {c.status for c in changes if c.party_id == "bob-hospital"} == {"unchanged"}
    assert {c.status for c in key_changes(first.policy, None)} == {"new"}


def test_key_changes_hands_between_versions() -> None:
    """P03 over versions: Alice's old key as Dora's would let one signature vote for both."""
    alice, dora = local_party("alice-clinic", copy=1), local_party("dora-clinic")
    parties = {"alice-clinic": alice, "bob-hospital": WORLD.bob, "carol-lab": WORLD.carol}
    world = Consortium(
        parties | {"dora-clinic": dora}, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines
    )
    old = WORLD.alice.public.signing_key.pem
    text = next_version(world)
    Agreement.draft(text.encode(), ROOTS, COMPLETE)
    with refused(PolicyKeysShared):
        moved = text.replace(dora.public.signing_key.pem, old)
        Agreement.draft(moved.encode(), ROOTS, COMPLETE)


def version(number: int, **overrides: Any) -> str:
    return WORLD.policy_text(
        version=str(number), previous=f'"{digest_text(COMPLETE.digest)}"', **overrides
    )


@pytest.mark.parametrize(
    "text",
    [
        lambda: version(3),
        lambda: version(2).replace(digest_text(COMPLETE.digest), "sha256:" + "0" * 64),
        lambda: version(2, study='"another-study"'),
        WORLD.policy_text,
    ],
    ids=["gap", "another history", "another study", "version 1 again"],
)
def test_chain_that_does_not_hold(text: Callable[[], str]) -> None:
    """P16, P18: versions are contiguous, of one study, each naming the one before."""
    with refused(ChainBroken):
        Agreement.draft(text().encode(), ROOTS, COMPLETE)


def test_chain_that_begins_in_the_middle() -> None:
    """The rule of version 1 could then not be asked."""
    with refused(ChainBroken):
        Agreement.draft(next_version().encode(), ROOTS)


GOOD = COMPLETE.agreement.encode()


@pytest.mark.parametrize(
    "raw",
    [
        b'{"versions": []}',
        GOOD.replace(b"ratls-agreement/0", b"ratls-agreement/1"),
        GOOD.replace(b'"schema"', b'"x": 1, "schema"', 1),
        b'{"schema": "ratls-agreement/0", "versions": []}',
        b'{"schema": "ratls-agreement/0", "versions": {}}',
        GOOD + b"x",
    ],
)
def test_agreement_file_in_another_form(raw: bytes) -> None:
    """P08, P10."""
    with refused(EnvelopeMalformed):
        parse(raw)


def test_agreement_file_without_end() -> None:
    """P20."""
    with refused(PolicyTooLarge):
        parse(b" " * (17 << 20))


def test_signed_nonsense_stays_nonsense() -> None:
    """Signatures do not repair a document (P05, P10, P19)."""
    envelope = Envelope(dsse.POLICY, b'schema = "ratls-policy/0"\n', ())
    with refused(PolicyInvalid):
        Agreement.from_envelopes([envelope.signed_by(WORLD.alice.signing)], ROOTS)


@pytest.mark.parametrize("step", [997])
def test_every_prefix_is_refused(step: int) -> None:
    for end in range(0, len(GOOD) - 2, step):
        with pytest.raises(RatlsError) as caught:
            parse(GOOD[:end])
        assert caught.value.code


def test_a_policy_is_offered_as_its_agreement() -> None:
    """Most often the file beside it is meant: the refusal names it."""
    with refused(EnvelopeMalformed) as seen:
        parse(WORLD.policy_text().encode())
    assert ".agreement.json" in seen.error.fix
