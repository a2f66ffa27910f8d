"""What was accepted: it never goes back, never forks, survives restarts, and is never assumed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policy.agreement import Agreement, AgreementIncomplete, PolicyExpired, PolicyNotYetValid
from policy.document import digest_text
from policy.errors import PolicyConflict
from policy.signing import AnchorDiffers, OwnSignatureMissing
from policy.state import PolicyNotAccepted, PolicyRollback, StateCorrupt, StateMissing, StudyState
from tests.support.parties import AT, ROOTS, Consortium, instant, local_party
from tests.support.refusal import refused

WORLD = Consortium.create()
STUDY = "breast-cancer-joint-training"
DAY = timedelta(days=1)
FIRST = WORLD.complete()


def successor(**overrides: Any) -> Agreement:
    text = WORLD.policy_text(version="2", previous=f'"{digest_text(FIRST.digest)}"', **overrides)
    return WORLD.agreement(text, before=FIRST)


@pytest.fixture
def state(tmp_path: Path) -> StudyState:
    return StudyState(tmp_path, ROOTS)


@pytest.fixture
def accepted(state: StudyState) -> StudyState:
    state.accept(FIRST.agreement, WORLD.alice, AT)
    return state


def test_accepted_agreement_is_found_after_a_restart(accepted: StudyState, tmp_path: Path) -> None:
    again = StudyState(tmp_path, ROOTS)
    assert again.current(STUDY, AT).digest == FIRST.digest
    assert again.find_by_policy_digest(FIRST.digest, AT).digest == FIRST.digest
    assert again.studies() == [STUDY]
    again.accept(FIRST.agreement, WORLD.alice, AT)  # once more changes nothing


def test_nothing_accepted_is_not_a_first_use(state: StudyState) -> None:
    """P21, S13: a host that deletes the folder must not get a fresh start."""
    with refused(StateMissing):
        state.current(STUDY, AT)
    with refused(StateMissing):
        state.find_by_policy_digest(FIRST.digest, AT)


def test_deleted_state_is_missed(accepted: StudyState) -> None:
    next(accepted.folder.glob("*.json")).unlink()
    with refused(StateMissing):
        accepted.current(STUDY, AT)


@pytest.mark.parametrize("study", ["../etc", "another-study", "", "x" * 100])
def test_study_of_another_name(accepted: StudyState, study: str) -> None:
    with refused(StateMissing) as seen:
        accepted.current(study, AT)
    assert STUDY in seen.error.expected  # those that there are


@pytest.mark.parametrize("damage", ["cut", "edit", "swap"])
def test_damaged_state_is_refused(accepted: StudyState, damage: str) -> None:
    """Signatures are verified each time: the disk may belong to somebody else."""
    path = next(accepted.folder.glob("*.json"))
    raw = path.read_bytes()
    if damage == "cut":
        path.write_bytes(raw[:-40])
    elif damage == "edit":
        path.write_bytes(WORLD.agreement_bytes(signers=["alice-clinic"]))
    else:
        path.rename(path.with_name("other.agreement.json"))
    with refused(StateCorrupt):
        accepted.current("other" if damage == "swap" else STUDY, AT)


def test_incomplete_agreement_is_not_accepted(state: StudyState) -> None:
    """P01, and nothing is written."""
    with refused(AgreementIncomplete):
        state.accept(WORLD.agreement(signers=["alice-clinic"]), WORLD.alice, AT)
    assert state.studies() == []


def test_agreement_with_foreign_keys_is_not_accepted(state: StudyState) -> None:
    """P06."""
    with refused(AnchorDiffers):
        state.accept(FIRST.agreement, local_party("alice-clinic", copy=1), AT)


def test_agreement_without_my_signature_is_not_accepted(state: StudyState) -> None:
    text = WORLD.policy_text(agreement="[agreement]\nthreshold = 2\n")
    agreement = WORLD.agreement(text, signers=["alice-clinic", "bob-hospital"])
    with refused(OwnSignatureMissing):
        state.accept(agreement, WORLD.carol, AT)


def test_expired_agreement_is_not_accepted(state: StudyState) -> None:
    """P13."""
    with refused(PolicyExpired):
        state.accept(FIRST.agreement, WORLD.alice, AT + 31 * DAY)


@pytest.mark.parametrize(("days", "leaf"), [(-2, PolicyNotYetValid), (30, PolicyExpired)])
def test_clock_outside_the_window(
    accepted: StudyState, days: int, leaf: type[PolicyExpired] | type[PolicyNotYetValid]
) -> None:
    """P13, S14: before its first and from its last instant on, nothing is released."""
    with refused(leaf):
        accepted.current(STUDY, AT + days * DAY)
    with refused(leaf):
        accepted.find_by_policy_digest(FIRST.digest, AT + days * DAY)
    accepted.current(STUDY, AT + 30 * DAY - timedelta(seconds=1))


def test_attacker_offers_the_old_version_again(accepted: StudyState, tmp_path: Path) -> None:
    """P12: at once, and after a restart."""
    accepted.accept(successor(), WORLD.alice, AT)
    for state in (accepted, StudyState(tmp_path, ROOTS)):
        with refused(PolicyRollback):
            state.accept(FIRST.agreement, WORLD.alice, AT)
        assert state.current(STUDY, AT).policy.version == 2
    with refused(PolicyRollback):
        accepted.find_by_policy_digest(FIRST.digest, AT)


@pytest.mark.parametrize("which", [1, 2])
def test_two_policies_with_one_version_number(accepted: StudyState, which: int) -> None:
    """P16: the parties at threshold signed both; whoever holds one refuses the other."""
    if which == 1:
        other = WORLD.agreement(WORLD.policy_text([("uses = 10", "uses = 11")]))
    else:
        accepted.accept(successor(), WORLD.alice, AT)
        other = successor(replace=[("uses = 10", "uses = 11")])
    with refused(PolicyConflict):
        accepted.accept(other, WORLD.alice, AT)


def test_newcomer_accepts_a_later_version_with_its_chain(state: StudyState) -> None:
    state.accept(successor(), WORLD.bob, AT)
    assert state.current(STUDY, AT).policy.version == 2


def test_version_is_held_until_its_first_instant(accepted: StudyState) -> None:
    """S14: the old version stays in force until then, for tasks too."""
    second = successor(not_before=instant(AT + 5 * DAY))
    accepted.accept(second, WORLD.alice, AT)
    assert accepted.current(STUDY, AT + 4 * DAY).policy.version == 1
    assert accepted.find_by_policy_digest(FIRST.digest, AT + 4 * DAY).policy.version == 1
    assert accepted.current(STUDY, AT + 5 * DAY).policy.version == 2
    with refused(PolicyNotYetValid):
        accepted.find_by_policy_digest(second.digest, AT + 4 * DAY)


def test_document_of_a_policy_that_nobody_here_accepted(accepted: StudyState) -> None:
    """P15: parties hold different versions; seen before any row moves."""
    with refused(PolicyNotAccepted):
        accepted.find_by_policy_digest(bytes(32), AT)
