"""Another user of the machine puts links where our files will be, or is let in by the umask.

Where a folder can be written by others, a link in the place of one of our files or folders would
lead what we create, empty or delete to files of the victim's. Nothing of ours is created or
deleted through a link; what we make is 0600 or 0700 whatever the umask is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from policy.errors import KeyPermissions
from policy.journal import Journal, JournalNotWritten
from policy.journal_entries import CollectedEntry
from policy.party import create_party
from policy.state import StudyState
from provider.release_state import Attempt, ReleaseFolder
from scheduler.certificate import own_certificate
from scheduler.database import StoreUnavailable, queue_file
from scheduler.store import Store
from simulation.intel import DAY
from tests.support.parties import AT as POLICY_AT
from tests.support.parties import PASSPHRASE, Consortium
from tests.support.refusal import count_refusal, refused
from tests.verifier.pcs_peer import ROOTS, W
from tests.verifier.world import AT
from verifier.cache import Cache
from verifier.contents import Contents
from verifier.errors import RatlsError
from verifier.files import FileNotWritten, locked, make_folder, read_secret, write_atomically
from verifier.kind import PlatformKind
from verifier.marks import Marks, Subject
from verifier.quote import Tee

SUBJECT = Subject(ROOTS, PlatformKind(Tee.SGX, W.platform.tcb.fmspc, "platform"), early=False)
OLD, NEW = W.collateral(at=AT - DAY), W.collateral(at=AT)
CONTENTS = Contents.authenticate(NEW, ROOTS)
TASK, DATASET = bytes(32), "rows"
RELEASE = Path("releases", TASK.hex(), DATASET)
RECORD = CollectedEntry(
    task=f"sha256:{'0' * 64}",
    instance="0" * 32,
    receipt=f"sha256:{'0' * 64}",
    mode="simulation",
)


# What this project writes into its folders


def keep(folder: Path) -> None:
    said: list[str] = []
    Cache(folder, said.append).keep(SUBJECT, NEW)
    if said:  # a cache that is not written is told of, and no refusal
        raise FileNotWritten("cache", expected="kept", found=said[0])


def mark(folder: Path) -> None:
    Marks(folder).advance(SUBJECT, CONTENTS)


def accept(folder: Path) -> None:
    world = Consortium.create()
    StudyState(folder).accept(world.agreement(), world.alice, POLICY_AT)


def record(folder: Path) -> None:
    with Journal.begin(folder, POLICY_AT) as journal:
        journal.append(RECORD, POLICY_AT)


def release(folder: Path) -> None:
    with ReleaseFolder.open(folder, TASK, DATASET) as kept:
        kept.keep_attempt(Attempt(b"commit", bytes(32), b"evidence"))
        kept.keep_proof(b"acknowledgement", b"record")


def certify(folder: Path) -> None:
    own_certificate(folder, POLICY_AT)


def queue(folder: Path) -> None:
    make_folder(folder)
    Store.open(queue_file(folder / "queue.sqlite")).close()


def enrol(folder: Path) -> None:
    create_party(folder, "dora", PASSPHRASE, POLICY_AT, ("provider", "recipient"))


ALL: list[Callable[[Path], None]] = [
    keep,
    mark,
    accept,
    record,
    release,
    certify,
    queue,
    enrol,
]
PUBLIC = {"scheduler.crt", "channel.crt", "party.toml"}


@dataclass
class Victim:
    """Files that none of our commands has any business with."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Victim:
        folder.mkdir()
        (folder / "thesis.txt").write_bytes(b"years of work")
        (folder / f"{'0' * 64}.json").write_bytes(b"another cache")
        return cls(folder)

    def require_untouched(self) -> None:
        found = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        wanted = {"thesis.txt": b"years of work", f"{'0' * 64}.json": b"another cache"}
        assert found == wanted


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim.at(tmp_path / "victim")


def plant(place: Path, target: Path) -> None:
    make_folder(place.parent)
    place.symlink_to(target)


ROOT = SUBJECT.place.parent


@pytest.mark.parametrize(
    ("act", "place", "leaf"),
    [
        (keep, Path("collateral"), FileNotWritten),
        (keep, ROOT, FileNotWritten),
        (keep, SUBJECT.place, FileNotWritten),
        (mark, Path("collateral"), FileNotWritten),
        (mark, ROOT, FileNotWritten),
        (accept, Path("studies"), FileNotWritten),
        (release, Path("releases"), FileNotWritten),
        (release, RELEASE.parent, FileNotWritten),
        (release, RELEASE, FileNotWritten),
    ],
)
def test_link_in_the_place_of_a_folder(
    tmp_path: Path,
    victim: Victim,
    act: Callable[[Path], None],
    place: Path,
    leaf: type[RatlsError],
) -> None:
    """The cache deleted all that lay behind its entry's folder."""
    plant(tmp_path / "ours" / place, victim.folder)
    with refused(leaf):
        act(tmp_path / "ours")
    victim.require_untouched()
    (tmp_path / "ours" / place).unlink()
    act(tmp_path / "ours")


@pytest.mark.parametrize(
    ("act", "place", "leaf"),
    [
        (keep, Path("collateral", ".lock"), FileNotWritten),
        (mark, ROOT / ".lock", FileNotWritten),
        (record, Path("journal.jsonl"), JournalNotWritten),
        (release, RELEASE / "lock", FileNotWritten),
        (certify, Path(".lock"), FileNotWritten),
        (certify, Path("scheduler.key"), FileNotWritten),
        (queue, Path("queue.sqlite"), StoreUnavailable),
        (enrol, Path("signing.key"), FileNotWritten),
        (enrol, Path("party.toml"), FileNotWritten),
    ],
)
def test_link_in_the_place_of_a_file(
    tmp_path: Path,
    victim: Victim,
    act: Callable[[Path], None],
    place: Path,
    leaf: type[RatlsError],
) -> None:
    """It leads to a file that is not there: whoever creates it writes into another's folder."""
    plant(tmp_path / "ours" / place, victim.folder / "planted")
    with refused(leaf):
        act(tmp_path / "ours")
    victim.require_untouched()
    (tmp_path / "ours" / place).unlink()
    act(tmp_path / "ours")


@pytest.mark.parametrize(
    ("act", "place"),
    [
        (release, RELEASE / "attempt.json"),
        (release, RELEASE / "acknowledgement.json"),
        (release, RELEASE / "record.json"),
    ],
)
def test_link_in_the_place_of_a_file_that_is_replaced(
    tmp_path: Path, victim: Victim, act: Callable[[Path], None], place: Path
) -> None:
    """The link itself gives way to the file, and what it leads to stays as it is."""
    plant(tmp_path / "ours" / place, victim.folder / "thesis.txt")
    act(tmp_path / "ours")
    assert not (tmp_path / "ours" / place).is_symlink()
    victim.require_untouched()


def test_folder_that_its_owner_linked(tmp_path: Path) -> None:
    """`--state` may be a link: whoever gave the option chose it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")
    for act in (mark, accept, record, release):
        act(tmp_path / "state")
    assert (tmp_path / "real" / "journal.jsonl").exists()


def test_too_many_bundles_are_forgotten_without_following_links(
    tmp_path: Path, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest entries go first, and a link to a folder of old files looks like one."""
    count_refusal()
    monkeypatch.setattr("verifier.cache.MAX_BUNDLES", 1)
    for name in ("thesis.txt", f"{'0' * 64}.json"):
        os.utime(victim.folder / name, (0, 0))
    plant(tmp_path / "ours" / ROOT / "linked", victim.folder)
    other = tmp_path / "ours" / ROOT / "real"
    other.mkdir()
    (other / f"{'1' * 64}.json").write_bytes(b"old")
    keep(tmp_path / "ours")
    victim.require_untouched()
    assert list(other.iterdir()) == [], "the twin: one of our own is forgotten"


def test_only_what_is_named_as_ours_is_deleted(tmp_path: Path) -> None:
    """`--cache` may be a folder that has other things in it."""
    count_refusal()
    place = tmp_path / SUBJECT.place
    place.mkdir(parents=True)
    for name in ("notes.txt", "model.json", f"{'0' * 64}.json"):
        (place / name).write_bytes(b"x")
    keep(tmp_path)
    kept = f"{hashlib.sha256(NEW.raw).hexdigest()}.json"
    assert {path.name for path in place.iterdir()} == {"notes.txt", "model.json", kept}


def test_older_bundle_that_comes_last(tmp_path: Path) -> None:
    """Two fetch at once; the slower one has the older bundle, and verified it honestly."""
    count_refusal()
    said: list[str] = []
    cache = Cache(tmp_path, said.append)
    cache.keep(SUBJECT, NEW)
    cache.keep(SUBJECT, OLD)
    (file,) = (tmp_path / SUBJECT.place).iterdir()
    assert file.read_bytes() == NEW.raw
    assert len(said) == 1


def test_newer_bundle_that_comes_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep(SUBJECT, OLD)
    cache.keep(SUBJECT, NEW)
    (file,) = (tmp_path / SUBJECT.place).iterdir()
    assert file.read_bytes() == NEW.raw


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("value", [0, 0o022])
@pytest.mark.parametrize("act", ALL)
def test_permissions_at_creation(tmp_path: Path, act: Callable[[Path], None], value: int) -> None:
    """Also of the folder itself and of those above it, which `parents=True` leaves to the umask."""
    with umask(value):
        act(tmp_path / "above" / "state")
    for path in (tmp_path / "above", *(tmp_path / "above").rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        wanted = 0o700 if path.is_dir() else 0o644 if path.name in PUBLIC else 0o600
        assert mode == wanted, f"{path}: {mode:o}"


def test_nothing_is_ever_wider_than_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is created for all and narrowed afterwards can be opened in between."""
    seen: list[int] = []
    honest = os.fchmod

    def watched(handle: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        honest(handle, mode)

    monkeypatch.setattr(os, "fchmod", watched)
    with umask(0):
        write_atomically(tmp_path / "public", b"", mode=0o644)
        for act in ALL:
            act(tmp_path / act.__name__)
    assert set(seen) <= {0o600, 0o644}


def test_lock_is_given_back_when_the_block_ends(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", wait=0):
            pass


# Secrets


def looks(monkeypatch: pytest.MonkeyPatch, *, owner: int, read_only: bool) -> None:
    """What the system says of an open file."""
    honest = os.fstat

    def fstat(handle: int) -> os.stat_result:
        fields = list(honest(handle))
        fields[stat.ST_UID] = owner
        return os.stat_result(fields)

    @dataclass
    class Mount:
        f_flag: int = os.ST_RDONLY if read_only else 0

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "fstatvfs", lambda handle: Mount())


@pytest.mark.parametrize(
    ("mode", "owner", "read_only", "accepted"),
    [
        (0o600, 1000, False, True),
        (0o400, 1000, False, True),
        (0o440, 0, True, True),  # a secret as Kubernetes mounts it, with `fsGroup`
        (0o440, 0, False, False),  # on a disk that can be written
        (0o440, 1000, True, False),  # of a user who may change its mode
        (0o444, 0, True, False),  # for everybody
        (0o460, 0, True, False),
        (0o450, 0, True, False),
        (0o640, 1000, False, False),
    ],
)
def test_who_may_read_a_secret(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: int,
    owner: int,
    read_only: bool,
    accepted: bool,
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret")
    path.chmod(mode)
    looks(monkeypatch, owner=owner, read_only=read_only)
    if accepted:
        assert read_secret(path, cap=100, exposed=KeyPermissions) == b"secret"
        return
    with refused(KeyPermissions):
        read_secret(path, cap=100, exposed=KeyPermissions)


def test_secret_whose_name_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was opened is judged and read, whatever its name means a moment later."""
    path, other = tmp_path / "key", tmp_path / "other"
    path.write_bytes(b"exposed")
    path.chmod(0o644)
    other.write_bytes(b"private")
    other.chmod(0o600)
    honest = os.open

    def opened(*arguments: Any, **options: Any) -> int:
        handle = honest(*arguments, **options)
        os.replace(other, path)
        return handle

    monkeypatch.setattr(os, "open", opened)
    with refused(KeyPermissions):
        read_secret(path, cap=100, exposed=KeyPermissions)


def test_secret_behind_a_link(tmp_path: Path) -> None:
    """A container's secrets are links to the version that is mounted; reading follows them."""
    (tmp_path / "..data").mkdir()
    path = tmp_path / "..data" / "key"
    path.write_bytes(b"secret")
    path.chmod(0o400)
    (tmp_path / "key").symlink_to(Path("..data", "key"))
    assert read_secret(tmp_path / "key", cap=100, exposed=KeyPermissions) == b"secret"


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    """The honest use of a lock: both write, one after the other."""
    order: list[str] = []
    began = threading.Event()

    def second() -> None:
        began.set()
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        began.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
