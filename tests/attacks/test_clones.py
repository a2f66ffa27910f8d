"""D06, D14: two copies of one state folder, and one task for two instances of the enclave.

A copy has the same journal, so each copy finds a task that was never released: restored from a
snapshot, synchronised to a second host, or kept as a "backup" in which an agent is started.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from policy.cli_policy import policy
from policy.document import digest_text
from policy.journal import Journal, Reading, StateCopied, place_of
from policy.journal_chain import Head, JournalCut
from policy.journal_entries import AcceptedEntry, Entry, NotedEntry, PlacedEntry
from policy.state import StateCorrupt, StudyState
from provider.agent_config import AgentConfig
from provider.agent_tasks import TaskReleaser
from provider.release_state import TaskAlreadyReleased
from provider.task_signing import policy_in_force
from ratls.peer_refusal import PeerRefused
from tests.provider.agents import configure
from tests.provider.desk import Desk
from tests.provider.test_cli import require_refused
from tests.provider.test_release import sent, serving
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.refusal import refused
from tests.support.relay import Relay
from tests.support.waiting import HANG_LIMIT

pytestmark = pytest.mark.slow

STUDY = "breast-cancer-joint-training"


def copied(desk: Desk, folder: Path) -> Desk:
    """All that is on the desk, copied with times and modes, as a backup does it."""
    shutil.copytree(desk.folder, folder, symlinks=True)
    return replace(desk, folder=folder)


def head(desk: Desk) -> str:
    return digest_text(Reading.of(desk.state).head.digest)


def test_one_task_goes_to_two_instances(
    world: EnclaveWorld, alice: Desk, relay: Relay, tmp_path: Path
) -> None:
    """The seen case: two agents, two enclaves, one task; each got all rows."""
    task, copy = world.task(), copied(alice, tmp_path / "copy")
    alice.push(task)
    with serving(world, relay):
        before, leaked = len(relay.connections), sent(relay)
        with refused(StateCopied):
            copy.push(task)
        assert (len(relay.connections), sent(relay)) == (before, leaked)
        assert alice.push(world.task()).commit.rows == 60


def task_result(desk: Desk) -> object:
    return desk.fetch(desk.world.task())


def accept(desk: Desk) -> object:
    return StudyState(desk.state).accept(desk.world.complete.agreement, desk.party, NOW)


def task_sign(desk: Desk) -> object:
    return policy_in_force(desk.party, desk.state, STUDY, at=NOW)


def agent(desk: Desk) -> object:
    config = AgentConfig.read(configure(desk))
    with TaskReleaser.open(
        config, allow_simulation=True, timeout=HANG_LIMIT, clock=lambda: NOW
    ) as releaser:
        return releaser.sift(desk.world.task())


@pytest.mark.parametrize("act", [task_result, accept, task_sign, agent])
def test_nothing_is_decided_by_a_copy(
    alice: Desk, tmp_path: Path, act: Callable[[Desk], object]
) -> None:
    """The kind: whoever opens a state folder asks where it is."""
    copy = copied(alice, tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.state.rglob("*") if p.is_file()}
    with refused(StateCopied):
        act(copy)
    assert {p: p.read_bytes() for p in copy.state.rglob("*") if p.is_file()} == before
    if act is not task_result:
        act(alice)


@pytest.mark.parametrize("what", ["machine", "filesystem", "folder"])
def test_the_disk_is_another_or_in_another_machine(
    world: EnclaveWorld, alice: Desk, relay: Relay, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A snapshot that starts on a second host; a share that two hosts mount."""
    here = place_of(alice.state)
    other = {"machine": "sha256:" + "0" * 64, "filesystem": "0", "folder": 1}[what]
    moved = here.model_copy(update={what: other})
    with monkeypatch.context() as patched:
        patched.setattr("policy.journal.place_of", lambda folder: moved)
        with refused(StateCopied):
            alice.push(world.task())
    assert relay.connections == []
    assert alice.push(world.task()).commit.rows == 60


def test_a_folder_that_was_renamed_is_the_same(world: EnclaveWorld, alice: Desk) -> None:
    alice.folder = alice.folder.rename(alice.folder.with_name("renamed"))
    assert alice.push(world.task()).commit.rows == 60


def test_a_copy_can_still_be_read(world: EnclaveWorld, alice: Desk, tmp_path: Path) -> None:
    """An auditor reads what he was given."""
    alice.push(world.task())
    copy = copied(alice, tmp_path / "copy")
    assert Reading.of(copy.state).head == Reading.of(alice.state).head


# The remedy.


def adopt(state: Path, noted: str) -> Result:
    return CliRunner().invoke(
        policy, ["state", "adopt", "--state", str(state), "--head", noted, "--json"]
    )


def test_a_state_is_moved_to_another_machine(
    world: EnclaveWorld, alice: Desk, tmp_path: Path
) -> None:
    """Adopted once, by its owner, with the head that was noted; what was released stays so."""
    task = world.task()
    alice.push(task)
    noted, copy = head(alice), copied(alice, tmp_path / "copy")
    shutil.rmtree(alice.state)
    told = adopt(copy.state, noted)
    assert told.exit_code == 0, told.output
    assert isinstance(all_entries(copy)[-1], PlacedEntry)
    with copy.refuses(TaskAlreadyReleased):
        copy.push(task)
    assert copy.push(world.task()).commit.rows == 60


def test_an_older_copy_is_adopted(world: EnclaveWorld, alice: Desk, tmp_path: Path) -> None:
    """The copy lacks a release. Its own head fits; the one that was noted does not."""
    copy = copied(alice, tmp_path / "copy")
    alice.push(world.task())
    before = (copy.state / "journal.jsonl").read_bytes()
    require_refused(adopt(copy.state, head(alice)), JournalCut.code, 3)
    assert (copy.state / "journal.jsonl").read_bytes() == before
    assert adopt(copy.state, "sha256:none").exit_code == 2


def test_a_state_of_an_older_version(world: EnclaveWorld, alice: Desk) -> None:
    """Its journal names neither a place nor a policy: each is said once, by its owner."""
    task = world.task()
    alice.push(task)
    records = [
        r for r in all_entries(alice) if not isinstance(r, PlacedEntry | AcceptedEntry | NotedEntry)
    ]
    lines, previous = [], "sha256:" + "0" * 64
    for seq, entry in enumerate(records):
        fields = {"at": "2026-11-25T12:00:00Z", "entry": entry.model_dump(mode="json"), "seq": seq}
        fields["previous"] = previous
        lines.append(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
        previous = f"sha256:{hashlib.sha256(lines[-1]).hexdigest()}"
    (alice.state / "journal.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    old = Head(len(lines), bytes.fromhex(previous.removeprefix("sha256:")))
    (alice.state / "journal.head").write_bytes(old.encode())
    with refused(StateCopied):
        alice.push(task)
    assert adopt(alice.state, previous).exit_code == 0
    with alice.refuses(StateCorrupt):
        alice.push(task)
    accept(alice)
    with alice.refuses(TaskAlreadyReleased):
        alice.push(task)
    assert alice.push(world.task()).commit.rows == 60


def test_what_a_disk_cannot_prevent(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave, tmp_path: Path
) -> None:
    """Both copies in use, each adopted by its owner: the same instance still counts one commit,
    and the commit's journal head is in the acknowledgement that an auditor holds."""
    task, copy = world.task(), copied(alice, tmp_path / "copy")
    assert adopt(copy.state, head(copy)).exit_code == 0
    alice.push(task)
    with copy.refuses(PeerRefused) as seen:
        copy.push(task)
    assert isinstance(seen.error, PeerRefused)
    assert seen.error.peer_code == "another-commit-counts"
    assert [line["event"] for line in live.log].count("committed") == 1


def all_entries(desk: Desk) -> list[Entry]:
    with Journal.open(desk.state) as journal:
        return [record.entry for record in journal.records]
