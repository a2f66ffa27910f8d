"""D14, P21, D06: what counts releases is removed, and its absence must not read as a first use.

Whoever can write a provider's state folder removes one file, or several: the journal, its head,
the accepted agreement, what was kept of a release. With the journal gone, a task that was bound
to a dead instance went to its clone, a released task was released again, and no use was counted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from policy.agreement import Agreement
from policy.document import digest_text
from policy.errors import AuditError, PolicyConflict
from policy.journal import Journal, JournalMissing, has_begun
from policy.journal_chain import JournalCut, JournalHeadLost
from policy.journal_entries import AcceptedEntry, CollectedEntry, PlacedEntry
from policy.state import PolicyRollback, StateCorrupt, StateMissing, StudyState
from policy.task import Task
from provider.budget import UsesExhausted
from provider.errors import TaskBoundToInstance
from provider.release_state import ReleaseStateDamaged, TaskAlreadyReleased
from provider.task_signing import policy_in_force, sign_task
from tests.provider.desk import CANARY, Desk
from tests.provider.test_release import Killed, die, sent, serving
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, rows
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

STUDY = "breast-cancer-joint-training"


def lose_journal(desk: Desk) -> None:
    for name in ("journal.jsonl", "journal.head"):
        (desk.state / name).unlink()


# The seen case.


def test_a_task_of_a_dead_instance_goes_to_a_clone(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """Rows of this task have left to one instance. The next one must not get them too."""
    task = world.task()
    with pytest.raises(Killed):
        alice.push(task, progress=die)
    with serving(world, relay):
        before, leaked = len(relay.connections), sent(relay)
        kept = {p: p.read_bytes() for p in alice.state.glob("journal.*")}
        lose_journal(alice)
        with refused(JournalMissing):
            alice.push(task)
        assert len(relay.connections) == before
        assert sent(relay) == leaked
        for path, content in kept.items():
            path.write_bytes(content)
        with alice.refuses(TaskBoundToInstance):
            alice.push(task)
        assert alice.push(world.task()).commit.rows == 60


def test_a_released_task_is_released_again(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    task = world.task()
    alice.push(task)
    shutil.rmtree(alice.state / "releases")
    lose_journal(alice)
    with serving(world, relay):
        before = len(relay.connections)
        with refused(JournalMissing):
            alice.push(task)
        assert len(relay.connections) == before


def accepted_for_one_use(alice: Desk) -> EnclaveWorld:
    """The world whose policy allows one use; Alice has accepted no other."""
    world = alice.world
    text = world.consortium.policy_text(replace=[("uses = 10", "uses = 1")])
    once = replace(world, complete=world.consortium.complete(text))
    shutil.rmtree(alice.state)
    StudyState(alice.state).accept(once.complete.agreement, alice.party, NOW)
    return once


def test_the_uses_begin_anew(alice: Desk, relay: Relay) -> None:
    once = accepted_for_one_use(alice)
    with once.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        alice.push(once.task())
        with alice.refuses(UsesExhausted):
            alice.push(once.task())
        lose_journal(alice)
        with refused(JournalMissing):
            alice.push(once.task())


@pytest.mark.parametrize("again", [True, False], ids=["the same task", "another task"])
def test_an_older_journal_is_put_back(alice: Desk, relay: Relay, again: bool) -> None:
    """Both of its files as they were before the release: to one that lacks its last lines, what
    they said is as gone as with the files. What was kept of the release still tells."""
    once = accepted_for_one_use(alice)
    older = {p: p.read_bytes() for p in alice.state.glob("journal.*")}
    task = once.task()
    with once.running() as live:
        relay.point_at(("127.0.0.1", live.server.port))
        alice.push(task)
    newer = {p: p.read_bytes() for p in older}
    with once.running() as live:  # another start
        relay.point_at(("127.0.0.1", live.server.port))
        before, leaked = len(relay.connections), sent(relay)
        for path, content in older.items():
            path.write_bytes(content)
        with refused(JournalCut):
            alice.push(task if again else once.task())
        assert (len(relay.connections), sent(relay)) == (before, leaked)
        for path, content in newer.items():
            path.write_bytes(content)
        with alice.refuses(TaskAlreadyReleased if again else UsesExhausted):
            alice.push(task if again else once.task())


# The kind: every file of a state folder, removed in turn.


def remove(pattern: str) -> Callable[[Path], None]:
    def act(state: Path) -> None:
        found = list(state.glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


LOST: list[tuple[str, type[RatlsError]]] = [
    ("journal.jsonl", JournalCut),
    ("journal.head", JournalHeadLost),
    ("journal.*", JournalMissing),
    ("studies/*.agreement.json", StateMissing),
    ("studies", StateMissing),
    ("releases/*/*/attempt.json", ReleaseStateDamaged),
    ("releases", ReleaseStateDamaged),
    ("[js]*", JournalMissing),  # journal and studies: the releases still tell
]


@pytest.mark.parametrize(("pattern", "leaf"), LOST, ids=[p for p, _ in LOST])
def test_one_of_the_files_is_removed(
    world: EnclaveWorld,
    alice: Desk,
    relay: Relay,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    leaf: type[RatlsError],
) -> None:
    """After a commit that was sent and never acknowledged: nobody is connected to again."""
    task = world.task()
    with monkeypatch.context() as patched:
        patched.setattr("provider.release._conclude", lambda *_: die(0, 0))
        with pytest.raises(Killed):
            alice.push(task)
    kept = alice.folder / "kept"
    shutil.copytree(alice.state, kept)
    before, leaked = len(relay.connections), sent(relay)
    remove(pattern)(alice.state)
    with refused(leaf):
        alice.push(task)
    assert (len(relay.connections), sent(relay)) == (before, leaked)
    if issubclass(leaf, AuditError):  # then nothing else is decided here either
        with refused(leaf):
            policy_in_force(alice.party, alice.state, STUDY, at=NOW)
        with refused(leaf):
            StudyState(alice.state).accept(world.complete.agreement, alice.party, NOW)
    # Put back into the same folder, the same task is resumed.
    for path in kept.rglob("*"):
        if path.is_file():
            (alice.state / path.relative_to(kept)).parent.mkdir(parents=True, exist_ok=True)
            (alice.state / path.relative_to(kept)).write_bytes(path.read_bytes())
    if leaf in (StateMissing, ReleaseStateDamaged):
        remove("journal.*")(alice.state)  # a refusal was recorded meanwhile: it is newer
        for name in ("journal.jsonl", "journal.head"):
            (alice.state / name).write_bytes((kept / name).read_bytes())
    assert alice.push(task).resumed


def test_an_empty_journal_is_written_in_its_place(world: EnclaveWorld, alice: Desk) -> None:
    """What a crash of the very first append leaves, in a folder where policies were accepted."""
    (alice.state / "journal.jsonl").write_bytes(b"")
    (alice.state / "journal.head").write_bytes(
        b'{"count":0,"digest":"sha256:' + b"0" * 64 + b'"}\n'
    )
    with refused(JournalMissing):
        alice.push(world.task())
    with refused(JournalMissing):
        StudyState(alice.state).accept(world.complete.agreement, alice.party, NOW)


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.head"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_is_put_in_its_place(
    world: EnclaveWorld, alice: Desk, name: str, make: Callable[[Path], None]
) -> None:
    """A pipe that nobody fills is not waited for."""
    path = alice.state / name
    kept = path.rename(alice.folder / name)
    make(path)
    with refused(JournalHeadLost):
        alice.push(world.task())
    path.rmdir() if make is os.mkdir else path.unlink()
    kept.rename(path)
    assert alice.push(world.task()).commit.rows == 60


# The same for the version of a policy.


def second(world: EnclaveWorld, **overrides: str) -> Agreement:
    text = world.consortium.policy_text(
        version="2", previous=f'"{digest_text(world.complete.digest)}"', **overrides
    )
    return world.consortium.agreement(text, before=world.complete)


def test_an_older_agreement_is_put_back(world: EnclaveWorld, alice: Desk, relay: Relay) -> None:
    """P12, P21: only the file of the study is rolled back; the journal names a newer version."""
    file = next((alice.state / "studies").glob("*.json"))
    older = file.read_bytes()
    state = StudyState(alice.state)
    state.accept(second(world), alice.party, NOW)
    file.write_bytes(older)
    with alice.refuses(StateCorrupt):
        alice.push(world.task())
    assert relay.connections == []
    with refused(PolicyRollback):
        state.accept(world.complete.agreement, alice.party, NOW)
    file.unlink()
    with refused(PolicyRollback):  # nor where the file is gone
        state.accept(world.complete.agreement, alice.party, NOW)
    with refused(PolicyConflict):
        state.accept(
            second(world, expires=f"{NOW + timedelta(9):%Y-%m-%dT%H:%M:%SZ}"), alice.party, NOW
        )
    state.accept(second(world), alice.party, NOW)  # the one that was accepted mends it
    assert state.current(STUDY, NOW).policy.version == 2


def test_an_agreement_that_was_never_accepted_is_put_there(
    world: EnclaveWorld, alice: Desk, relay: Relay
) -> None:
    """Signed by all, newer, and not accepted by this party: no command of its own took it."""
    file = next((alice.state / "studies").glob("*.json"))
    accepted = file.read_bytes()
    file.write_bytes(second(world).encode())
    with alice.refuses(StateCorrupt):
        alice.push(world.task())
    assert relay.connections == []
    file.write_bytes(accepted)
    assert alice.push(world.task()).commit.rows == 60


def test_a_crash_between_the_record_and_the_agreement(
    world: EnclaveWorld, alice: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record comes first: afterwards the state asks for exactly that agreement."""

    def crash(*_: object, **__: object) -> None:
        raise Killed

    state = StudyState(alice.state)
    with monkeypatch.context() as patched:
        patched.setattr("policy.state.write_atomically", crash)
        with pytest.raises(Killed):
            state.accept(second(world), alice.party, NOW)
    with refused(StateCorrupt):
        state.current(STUDY, NOW)
    state.accept(second(world), alice.party, NOW)
    assert state.current(STUDY, NOW).policy.version == 2
    accepted = [e for e in all_entries(alice) if isinstance(e, AcceptedEntry)]
    assert [e.version for e in accepted] == [1, 2]


def all_entries(desk: Desk) -> list[object]:
    with Journal.open(desk.state) as journal:
        return [record.entry for record in journal.records]


# Those who never release work as before, and by the same rule.


def test_submitter_and_recipient(
    world: EnclaveWorld, carol: Desk, alice: Desk, bob: Desk, live: LiveEnclave
) -> None:
    """Carol's journal begins with what she accepted; without it she neither asks nor collects."""
    assert [type(e) for e in all_entries(carol)] == [PlacedEntry, AcceptedEntry]
    policy = policy_in_force(carol.party, carol.state, STUDY, at=NOW)
    task = sign_task(carol.party, policy, "train", {"max_iter": 500}, timedelta(hours=1), at=NOW)[1]
    for desk in (alice, bob):
        desk.push(task)
    kept = {p: p.read_bytes() for p in carol.state.glob("journal.*")}
    lose_journal(carol)
    with refused(JournalMissing):
        policy_in_force(carol.party, carol.state, STUDY, at=NOW)
    with refused(JournalMissing):
        carol.fetch(task, wait=HANG_LIMIT)
    assert not carol.outputs.result.exists()
    for path, content in kept.items():
        path.write_bytes(content)
    assert carol.fetch(task, wait=HANG_LIMIT).size > 0
    assert isinstance(carol.journal[-1], CollectedEntry)


def test_a_folder_in_which_nothing_was_accepted(world: EnclaveWorld, carol: Desk) -> None:
    """It has no journal to lose: the refusal names the act that is missing, and nothing is made."""
    carol.state.rename(carol.folder / "elsewhere")
    with refused(StateMissing):
        carol.fetch(world.task())
    assert not has_begun(carol.state)


def test_no_row_stands_in_the_journal(world: EnclaveWorld, alice: Desk) -> None:
    """L01, with the new records in it."""
    task = world.task()
    alice.write(rows(1))
    alice.push(task)
    raw = (alice.state / "journal.jsonl").read_bytes()
    assert CANARY.encode() not in raw
    assert Task.read(task).digest.hex().encode() in raw
