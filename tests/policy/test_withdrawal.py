"""A party leaves: who may say so, what it ends, and what the others need to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policy.agreement import Agreement, AgreementIncomplete, CompleteAgreement
from policy.chain import PredecessorNotConsenting
from policy.document import digest_text
from policy.envelope import Envelope, EnvelopeTypeDiffers, SignerUnknown
from policy.errors import PartyNotListed
from policy.signing import add_signature, sign
from policy.standing import Distrusted
from policy.state import StateMissing, StudyState
from policy.statement import DocumentMalformed, PolicyDigestDiffers, StudyDiffers
from policy.withdrawal import PartyWithdrew, Withdrawal, WithdrawalSignatureInvalid, needed
from tests.support.parties import AT, ROOTS, Consortium, TaskWorld, local_party
from tests.support.refusal import refused

WORLD = Consortium.create()
STUDY = "breast-cancer-joint-training"
FIRST = WORLD.complete()
SECOND = WORLD.complete(
    WORLD.policy_text(version="2", previous=f'"{digest_text(FIRST.digest)}"'), before=FIRST
)
DORA = local_party("dora-clinic")


def withdrawal(who: str = "alice-clinic", of: CompleteAgreement = FIRST, **fields: Any) -> bytes:
    """Signed by that party; `fields` replace those of the document."""
    document = Withdrawal.of([v.policy for v in of.agreement.versions], who)
    made = Withdrawal(**{n: getattr(document, n) for n in Withdrawal.model_fields} | fields)
    return made.signed(WORLD.parties[who].signing)


def opened(raw: bytes, *known: CompleteAgreement) -> Withdrawal:
    return Withdrawal.open(raw, [k.policy for k in known or (FIRST,)])


def test_a_withdrawal_is_read_by_whoever_has_one_of_its_versions() -> None:
    """It names all that it covers: an agent that is one version behind obeys, too."""
    assert opened(withdrawal()).version == 1
    assert opened(withdrawal(of=SECOND)).version == 2
    assert opened(withdrawal(of=SECOND), FIRST, SECOND).party == "alice-clinic"
    assert opened(withdrawal(), FIRST, SECOND).version == 1


def test_somebody_else_withdraws_for_a_party() -> None:
    forged = Withdrawal.of([v.policy for v in FIRST.agreement.versions], "alice-clinic").signed(
        WORLD.bob.signing
    )
    with refused(SignerUnknown):
        opened(forged)


def test_the_agents_key_does_not_withdraw() -> None:
    """The operation key is online; leaving is said with the key that agreed."""
    forged = Withdrawal.of([v.policy for v in FIRST.agreement.versions], "alice-clinic").seal(
        WORLD.alice.operation
    )
    with refused(SignerUnknown):
        opened(forged)


def test_signature_of_another_withdrawal() -> None:
    mine, bobs = (
        Envelope.parse(withdrawal()),
        Withdrawal.of([v.policy for v in FIRST.agreement.versions], "bob-hospital"),
    )
    moved = Envelope(mine.payload_type, bobs.payload, mine.signatures)
    with refused(SignerUnknown):
        opened(moved.encode())
    other = Envelope(
        mine.payload_type, Envelope.parse(withdrawal(of=SECOND)).payload, mine.signatures
    )
    with refused(WithdrawalSignatureInvalid):
        opened(other.encode())


def test_signed_task_is_offered_as_a_withdrawal() -> None:
    """P07."""
    with refused(EnvelopeTypeDiffers):
        opened(TaskWorld(WORLD).signed())


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"study": "another-study"}, StudyDiffers),  # P18
        ({"policy_digest": bytes(32)}, PolicyDigestDiffers),
        ({"earlier": (bytes(32),)}, PolicyDigestDiffers),
        ({"party": "dora-clinic"}, PartyNotListed),
    ],
)
def test_withdrawal_from_something_else(fields: dict[str, Any], leaf: type[Any]) -> None:
    with refused(leaf):
        opened(withdrawal(**fields))


def test_withdrawal_that_names_more_versions_than_there_can_be() -> None:
    """P24."""
    document = Withdrawal.of([v.policy for v in FIRST.agreement.versions], "alice-clinic")
    raw = document.payload.replace(
        b'"earlier":[]', b'"earlier":[' + b",".join([b'"sha256:' + b"0" * 64 + b'"'] * 64) + b"]"
    )
    envelope = Envelope(Withdrawal.payload_type, raw, ()).signed_by(WORLD.alice.signing)
    with refused(DocumentMalformed):
        opened(envelope.encode())


def test_what_a_withdrawal_ends() -> None:
    """Owners of inputs, recipients, and the submitter; another possible submitter does not."""
    assert needed(FIRST.policy, "train", "carol-lab") == {
        "alice-clinic", "bob-hospital", "carol-lab"
    }  # fmt: skip


# What this party's state keeps of it.


@pytest.fixture
def state(tmp_path: Path) -> StudyState:
    state = StudyState(tmp_path, ROOTS)
    state.accept(FIRST.agreement, WORLD.bob, AT)
    return state


def test_kept_withdrawal_ends_tasks_and_survives_a_restart(state: StudyState) -> None:
    """S14."""
    state.require_taking_part(FIRST.policy, "train", "carol-lab")
    state.keep_withdrawal(withdrawal(), AT)
    for found in (state, StudyState(state.root, ROOTS)):
        with refused(PartyWithdrew):
            found.require_taking_part(FIRST.policy, "train", "carol-lab")
        assert found.current(STUDY, AT).digest == FIRST.digest  # the others' agreement stands
        assert len(found.withdrawals(STUDY)) == 1
    before = (state.root / "journal.jsonl").read_bytes()
    state.keep_withdrawal(withdrawal(), AT)  # once more changes nothing
    assert (state.root / "journal.jsonl").read_bytes() == before


def test_removed_file_of_a_withdrawal_does_not_bring_the_party_back(state: StudyState) -> None:
    """P21: the journal decides."""
    state.keep_withdrawal(withdrawal(), AT)
    state.withdrawal_path(STUDY, "alice-clinic").unlink()
    with refused(PartyWithdrew):
        state.require_taking_part(FIRST.policy, "train", "carol-lab")
    with refused(StateMissing):
        state.withdrawals(STUDY)


def test_withdrawal_of_a_study_that_was_never_accepted(tmp_path: Path) -> None:
    with refused(StateMissing):
        StudyState(tmp_path, ROOTS).keep_withdrawal(withdrawal(), AT)


def test_withdrawal_from_a_version_before_leaves_the_new_one(state: StudyState) -> None:
    """Alice signed version 2: that she had left version 1 does not end it."""
    state.keep_withdrawal(withdrawal(), AT)
    state.accept(SECOND.agreement, WORLD.bob, AT)
    state.require_taking_part(SECOND.policy, "train", "carol-lab")
    state.keep_withdrawal(withdrawal(of=SECOND), AT)
    with refused(PartyWithdrew):
        state.require_taking_part(SECOND.policy, "train", "carol-lab")


def successor(**options: Any) -> str:
    """Version 2 without Alice: Dora's rows take the place of hers."""
    names = {"dora-clinic": DORA, "bob-hospital": WORLD.bob, "carol-lab": WORLD.carol}
    world = Consortium(names, WORLD.at, WORLD.root, WORLD.mr_enclave, WORLD.machines)
    text = world.policy_text(version="2", previous=f'"{digest_text(FIRST.digest)}"', **options)
    return text.replace('owner = "alice-clinic"', 'owner = "dora-clinic"')


def test_withdrawal_stands_for_the_consent_to_a_successor_without_the_party() -> None:
    """The others need not find her to go on; without her word they cannot."""
    envelope = Envelope.parse(withdrawal())
    for known, complete in (([], False), ([envelope], True)):
        draft = Agreement.draft(successor().encode(), ROOTS, FIRST, known)
        for party in (DORA, WORLD.bob, WORLD.carol):
            draft = sign(draft, party)
        read = Agreement.parse(draft.encode(), ROOTS)
        if complete:
            assert read.require_complete().agreement.withdrawals[0].document.party == "alice-clinic"
        else:
            with refused(PredecessorNotConsenting):
                read.require_complete()


def test_withdrawal_stands_for_no_consent_to_a_successor_with_the_party() -> None:
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(FIRST.digest)}"')
    draft = Agreement.draft(text.encode(), ROOTS, FIRST, [Envelope.parse(withdrawal("carol-lab"))])
    draft = sign(sign(draft, WORLD.alice), WORLD.bob)
    assert draft.missing == ("carol-lab",)
    with refused(AgreementIncomplete):
        draft.require_complete()
    sign(draft, WORLD.carol).require_complete()


def test_party_that_left_is_listed_again_without_its_signature(tmp_path: Path) -> None:
    """Below "all", nobody would have asked Carol."""
    two = {"agreement": "[agreement]\nthreshold = 2\n\n"}
    first = WORLD.complete(WORLD.policy_text(**two))
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(first.digest)}"', **two)
    owners = WORLD.agreement(text, before=first, signers=["alice-clinic", "bob-hospital"])
    state = StudyState(tmp_path, ROOTS)
    state.accept(first.agreement, WORLD.bob, AT)
    state.keep_withdrawal(withdrawal("carol-lab", first), AT)
    with refused(PartyWithdrew):
        state.accept(owners, WORLD.bob, AT)
    state.accept(sign(owners, WORLD.carol), WORLD.bob, AT)
    state.require_taking_part(owners.policy, "train", "carol-lab")


def test_newcomer_learns_of_withdrawals_from_the_agreement(tmp_path: Path) -> None:
    """Who was not there when they were sent gets them with the versions."""
    draft = Agreement.draft(successor().encode(), ROOTS, FIRST, [Envelope.parse(withdrawal())])
    for party in (DORA, WORLD.bob, WORLD.carol):
        draft = sign(draft, party)
    state = StudyState(tmp_path, ROOTS)
    state.accept(draft, DORA, AT)
    assert state.standing().withdrawn[STUDY, "alice-clinic"].version == 1
    assert state.withdrawals(STUDY) == [Envelope.parse(withdrawal())]


# P22: what this party distrusts.


def named(what: str) -> str:
    alice = WORLD.alice.public
    found = {
        "policy": digest_text(FIRST.digest),
        "signing key": f"sha256:{alice.signing_key.keyid}",
        "operation key": f"sha256:{alice.operation_key.keyid}",
        "channel key": f"sha256:{alice.channel_certificate.key.keyid}",
        "certificate": f"sha256:{alice.channel_certificate.fingerprint}",
    }
    return found[what]


@pytest.mark.parametrize(
    "what", ["policy", "signing key", "operation key", "channel key", "certificate"]
)
def test_distrusted_key_or_policy_ends_what_was_accepted(state: StudyState, what: str) -> None:
    """P22: revoked here, at once, and after a restart; lifted, all is as before."""
    state.distrust(named(what), AT)
    again = StudyState(state.root, ROOTS)
    with refused(Distrusted):
        again.current(STUDY, AT)
    with refused(Distrusted):
        again.find_by_policy_digest(FIRST.digest, AT)
    with refused(Distrusted):
        again.accept(FIRST.agreement, WORLD.bob, AT)
    again.distrust(named(what), AT, lifted=True)
    again.current(STUDY, AT)


def test_new_version_without_the_distrusted_key_is_accepted(state: StudyState) -> None:
    renewed = local_party("alice-clinic", copy=1)
    state.distrust(named("operation key"), AT)
    swap = (WORLD.alice.public.operation_key.pem, renewed.public.operation_key.pem)
    text = WORLD.policy_text([swap], version="2", previous=f'"{digest_text(FIRST.digest)}"')
    draft = Agreement.draft(text.encode(), ROOTS, FIRST)
    for party in (WORLD.bob, WORLD.carol):
        draft = sign(draft, party)
    state.accept(add_signature(draft, WORLD.alice.signing), WORLD.bob, AT)
    assert state.current(STUDY, AT).policy.version == 2
