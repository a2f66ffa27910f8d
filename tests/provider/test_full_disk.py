"""The disk of a party fills at any write: nothing counts that was not kept, and the next try works.

Each write of ours ends with a sync, so the n-th one fails, for every n, and all after it until
there is room again.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from policy.journal import Journal, JournalNotWritten
from policy.journal_entries import RefusedEntry, ReleasedEntry
from policy.party import create_party
from policy.task import Task
from provider.release_state import TaskAlreadyReleased
from tests.provider.desk import Desk
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave
from tests.support.parties import PASSPHRASE
from tests.support.refusal import count_refusal, refused
from verifier.files import FileNotWritten, write_new, write_together

pytestmark = pytest.mark.slow

FULL = (FileNotWritten, JournalNotWritten)


def filled_at(number: int, act: Callable[[], object], patched: pytest.MonkeyPatch) -> bool:
    """Do `act` while the disk fills at its n-th write; was there one?"""
    synced, genuine = itertools.count(1), os.fsync

    def sync(handle: int) -> None:
        if next(synced) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(handle)

    with patched.context() as full:
        full.setattr(os, "fsync", sync)
        try:
            act()
        except FULL:
            count_refusal()
    return next(synced) > number


def test_the_providers_disk_fills_during_a_release(
    world: EnclaveWorld, live: LiveEnclave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run acknowledges the same commit, or makes the only one."""
    for number in itertools.count(1):
        (tmp_path / str(number)).mkdir()
        alice, task = Desk.of("alice", world, tmp_path / str(number), live.address), world.task()
        if not filled_at(number, partial(alice.push, task), monkeypatch):
            break
        with suppress(TaskAlreadyReleased):  # only the head of the journal was missing
            assert alice.push(task).commit.rows == 60
        kept = live.enclave.sessions._open[Task.read(task).digest].rows[alice.dataset]
        assert kept.table().to_pydict() == pq.read_table(alice.path).to_pydict()
        with Journal.open(alice.state) as journal:
            assert isinstance(journal.records[-1].entry, ReleasedEntry | RefusedEntry)
    assert number > 8, "reservation, name, commit, acknowledgement, record: two syncs and more"


def test_the_recipients_disk_fills_with_the_result(
    world: EnclaveWorld, alice: Desk, bob: Desk, carol: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a try would refuse the next one, which overwrites nothing."""
    task = world.task()
    alice.push(task)
    bob.push(task)
    written = (carol.outputs.result, carol.outputs.receipt, carol.outputs.record)
    carol.fetch(task, wait=60)
    for number in itertools.count(1):
        for path in written:
            path.unlink()
        if not filled_at(number, lambda: carol.fetch(task), monkeypatch):
            break
        there = [path.exists() for path in written]
        assert all(there) or not any(there)
        if not any(there):
            carol.fetch(task)
    assert number > 6


def test_the_disk_fills_while_keys_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a folder of keys would refuse to be made again."""

    def make(folder: Path) -> None:
        create_party(folder, "dora", PASSPHRASE, NOW, ("provider", "recipient"))

    for number in itertools.count(1):
        folder = tmp_path / str(number)
        if not filled_at(number, partial(make, folder), monkeypatch):
            break
        assert list(folder.iterdir()) == []
        make(folder)
    assert number > 6


def test_a_block_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """Also for another reason than a disk: Ctrl-C, for one. What others made stays."""
    (tmp_path / "theirs").write_bytes(b"years of work")

    def interrupted() -> None:
        with write_together() as write:
            write(tmp_path / "ours", b"half of it")
            raise KeyboardInterrupt

    def over_theirs() -> None:
        with write_together() as write:
            write(tmp_path / "ours", b"half of it")
            write(tmp_path / "theirs", b"over it")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with refused(FileNotWritten):
        over_theirs()
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    assert (tmp_path / "theirs").read_bytes() == b"years of work"
    write_new(tmp_path / "ours", b"all of it")
    assert (tmp_path / "ours").read_bytes() == b"all of it"
