"""kill -9 at any write of sign, accept, withdraw or distrust leaves the old or the new state.

A child process does the act and kills itself at its n-th change of the file system, for each n up
to the last. What it leaves is read as the next command reads it, and the act is then done again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policy.agreement import Agreement, AgreementIncomplete
from policy.agreement_file import agreement_to_sign, read_agreement, sign_file
from policy.document import digest_text
from policy.errors import AuditError
from policy.state import PolicyNotAccepted, StateCorrupt, StateMissing, StudyState
from policy.withdrawal import PartyWithdrew, Withdrawal
from tests.support.parties import AT, ROOTS, Consortium
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

WORLD = Consortium.create()
STUDY = "breast-cancer-joint-training"
FIRST = WORLD.complete()
TEXT = WORLD.policy_text(version="2", previous=f'"{digest_text(FIRST.digest)}"')
SECOND = WORLD.agreement(TEXT, before=FIRST)
CHANGES = ("write", "fsync", "replace", "rename", "link", "unlink", "ftruncate", "mkdir")


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Do `act` in a child that ends, as by kill -9, in its change `number`; did it get so far?

    Half of what a write should bring is on the disk then.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(int(HANG_LIMIT))
        done = 0

        def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                done += 1
                if done == number:
                    if name == "write":
                        real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, counted(name, getattr(os, name)))
        try:
            act()
        except BaseException:  # noqa: BLE001 - the child ends here, and tells the parent by status
            os._exit(2)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the act itself failed"
    return status != 0


def every_kill(
    folder: Path,
    prepare: Callable[[Path], None],
    act: Callable[[Path], object],
    check: Callable[[Path], None],
) -> int:
    """Each kill in a folder of its own; then the act once more, whole. The number of kills."""
    number = 1
    while True:
        place = folder / str(number)
        place.mkdir()
        prepare(place)
        if not killed_at(number, lambda place=place: act(place)):  # type: ignore[misc]
            return number - 1
        check(place)
        act(place)
        check(place)
        number += 1


def accepted(place: Path, agreement: Agreement = FIRST.agreement) -> StudyState:
    state = StudyState(place / "state", ROOTS)
    state.accept(agreement, WORLD.bob, AT)
    return state


def version_in_force(place: Path) -> int:
    """As the next command sees it; 0: it refuses, and says what to do."""
    try:
        return StudyState(place / "state", ROOTS).current(STUDY, AT).policy.version
    except (StateMissing, StateCorrupt, PolicyNotAccepted, AuditError):
        return 0


def test_accept_the_first_version(tmp_path: Path) -> None:
    kills = every_kill(
        tmp_path,
        lambda place: None,
        accepted,
        lambda place: _one_of(version_in_force(place), 0, 1),
    )
    assert kills > 5


def test_accept_the_next_version(tmp_path: Path) -> None:
    """After the record and before the file, nothing is in force, and `accept` mends it: never is
    the old version in force once the new one was noted."""
    kills = every_kill(
        tmp_path,
        lambda place: accepted(place) and None,
        lambda place: accepted(place, SECOND),
        lambda place: _one_of(version_in_force(place), 0, 1, 2),
    )
    assert kills > 5
    assert version_in_force(tmp_path / str(kills)) == 2


def test_withdraw(tmp_path: Path) -> None:
    raw = Withdrawal.of([v.policy for v in FIRST.agreement.versions], "alice-clinic").signed(
        WORLD.alice.signing
    )

    def check(place: Path) -> None:
        state = StudyState(place / "state", ROOTS)
        assert state.current(STUDY, AT).policy.version == 1
        try:
            state.require_taking_part(FIRST.policy, "train", "carol-lab")
        except PartyWithdrew:
            assert (STUDY, "alice-clinic") in state.standing().withdrawn

    kills = every_kill(
        tmp_path,
        lambda place: accepted(place) and None,
        lambda place: StudyState(place / "state", ROOTS).keep_withdrawal(raw, AT),
        check,
    )
    assert kills > 3
    assert len(StudyState(tmp_path / str(kills) / "state", ROOTS).withdrawals(STUDY)) == 1


def test_distrust(tmp_path: Path) -> None:
    digest = digest_text(FIRST.digest)
    kills = every_kill(
        tmp_path,
        lambda place: accepted(place) and None,
        lambda place: StudyState(place / "state", ROOTS).distrust(digest, AT),
        lambda place: _one_of(len(StudyState(place / "state", ROOTS).standing().distrusted), 0, 1),
    )
    assert kills > 3
    assert StudyState(tmp_path / str(kills) / "state", ROOTS).standing().distrusted == {digest}


@pytest.mark.parametrize("others", [[], ["alice-clinic"]], ids=["first", "second"])
def test_sign(tmp_path: Path, others: list[str]) -> None:
    """The file has the signatures that it had, or one more; it is never half of one."""

    def prepare(place: Path) -> None:
        (place / "study.toml").write_text(WORLD.policy_text(), "utf-8")
        if others:
            (place / "study.agreement.json").write_bytes(WORLD.agreement_bytes(signers=others))

    def act(place: Path) -> None:
        path, agreement = agreement_to_sign(
            place / "study.toml", StudyState(place / "state", ROOTS)
        )
        sign_file(path, agreement, WORLD.bob)

    def check(place: Path) -> None:
        path = place / "study.agreement.json"
        if path.exists():
            signed = read_agreement(path).newest.signed
            assert signed in ((*others,), (*others, "bob-hospital"))
        else:
            assert not others

    assert every_kill(tmp_path, prepare, act, check) > 1


def _one_of(found: int, *allowed: int) -> None:
    assert found in allowed


def test_what_a_kill_leaves_can_be_accepted_by_nobody_else(tmp_path: Path) -> None:
    """The twin: an act that fails for another reason is not taken for a kill."""
    with pytest.raises(AssertionError, match="the act itself failed"):
        killed_at(99, lambda: WORLD.agreement(signers=[]).require_complete())
    with pytest.raises(RatlsError) as caught:
        WORLD.agreement(signers=[]).require_complete()
    assert isinstance(caught.value, AgreementIncomplete)
