"""T09, T22: what is kept on disk between fetches, what is made of it, and what it never does."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.intel import DAY
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from tests.verifier.pcs_peer import ONCE, PUBLISHED, ROOTS, TCB, Alter, Peer, W, body, peer, says
from tests.verifier.world import AT, World, put
from verifier import Collateral
from verifier import errors as e
from verifier.cache import MAX_BUNDLES, Cache, CollateralNotCached, obtain
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.contents import Contents
from verifier.crl import CertificateRevoked
from verifier.document import CollateralMalformed
from verifier.files import FileNotWritten, locked
from verifier.kind import PlatformKind
from verifier.marks import CollateralMarksCorrupt, Mark, Marks, Subject
from verifier.pcs import Fetched
from verifier.pcs_requests import PcsUnreachable, Service, tls_trust
from verifier.qe import QuoteSignatureInvalid
from verifier.quote import Tee
from verifier.received import ReceivedQuote

pytestmark = pytest.mark.slow

TDX = W.collateral(tdx=True)


@dataclass
class Disk:
    """A user's cache and state, and what was said aloud."""

    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache", self.said.append)

    @property
    def marks(self) -> Marks:
        return Marks(self.folder / "state")

    def bundles(self) -> list[Path]:
        return sorted((self.folder / "cache").rglob("*.json"))

    def notes(self) -> list[Path]:
        return sorted((self.folder / "state").rglob("*.json"))

    def obtain(
        self,
        *places: Peer,
        w: World = W,
        at: datetime = AT,
        quotes: dict[str, bytes] | None = None,
        cache: bool = True,
        **options: Any,
    ) -> Fetched:
        services = [Service.parse(p.origin, tls_trust(p.certificate)) for p in places]
        given = {"q.bin": w.quote()} if quotes is None else quotes
        return obtain(
            {name: ReceivedQuote(raw) for name, raw in given.items()},
            *services,
            roots=w.intel.anchors(),
            trust=tls_trust(),
            clock=lambda: at,
            marks=self.marks,
            cache=self.cache if cache else None,
            **{"seconds": HANG_LIMIT, "retries": ONCE, **options},
        )


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@contextmanager
def serving(
    disk: Disk,
    published: Collateral = PUBLISHED,
    altered: dict[str, Alter] | None = None,
    tdx: Collateral | None = None,
) -> Iterator[Peer]:
    with peer(disk.folder, published, altered, tdx=tdx) as place:
        yield place


def gone(disk: Disk) -> Peer:
    with serving(disk) as place:
        return place


def filled(disk: Disk, published: Collateral = PUBLISHED, **options: Any) -> Fetched:
    with serving(disk, published) as place:
        return disk.obtain(place, **options)


# The cache


def test_what_was_verified_is_kept_by_its_digest(disk: Disk) -> None:
    found = filled(disk)
    (file,) = disk.bundles()
    assert file.read_bytes() == found.collateral.raw
    assert file.name == f"{hashlib.sha256(found.collateral.raw).hexdigest()}.json"
    assert disk.said == []


def test_it_is_the_owners_alone(disk: Disk) -> None:
    filled(disk)
    for file in (*disk.bundles(), *disk.notes()):
        assert file.stat().st_mode & 0o777 == 0o600
    for folder in (disk.folder / "cache/collateral", *(f.parent for f in disk.notes())):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_it_serves_where_no_service_gives(disk: Disk) -> None:
    kept = filled(disk)
    found = disk.obtain(gone(disk))
    assert found.collateral.raw == kept.collateral.raw
    assert found.source == "cache"
    assert [type(p.refusal) for p in found.passed_over] == [PcsUnreachable]
    assert found.verified[0].tcb.status == "UpToDate"


def test_it_serves_where_nobody_is_asked(disk: Disk) -> None:
    kept = filled(disk)
    found = disk.obtain()
    assert (found.collateral, found.source, found.passed_over) == (kept.collateral, "cache", ())


def test_what_is_taken_from_it_stays_as_it_is(disk: Disk) -> None:
    """A fallback is no fetch: it makes nothing look newer."""
    filled(disk)
    (file,) = disk.bundles()
    os.utime(file, (1, 1))
    disk.obtain(gone(disk))
    assert file.stat().st_mtime == 1


def test_of_two_the_newer_is_looked_at_first(disk: Disk) -> None:
    """Of two writers of which one died before it had cleared away; nothing is wrong, or said."""
    filled(disk, W.collateral(at=AT - DAY))
    (old,) = disk.bundles()
    raw = old.read_bytes()
    filled(disk)
    old.write_bytes(raw)
    os.utime(old, (1, 1))
    assert disk.obtain().collateral == PUBLISHED
    assert disk.said == []


def test_a_service_that_gives_comes_first(disk: Disk) -> None:
    filled(disk, W.collateral(at=AT - DAY))
    found = filled(disk)
    assert found.collateral == PUBLISHED
    assert [file.read_bytes() for file in disk.bundles()] == [found.collateral.raw]


def test_nothing_is_cached(disk: Disk) -> None:
    with refused(CollateralNotCached):
        disk.obtain()


def test_a_service_gives_nothing_and_nothing_is_cached(disk: Disk) -> None:
    """Then it is the service's refusal that says what to do."""
    with refused(PcsUnreachable):
        disk.obtain(gone(disk))


def test_no_cache_is_neither_read_nor_written(disk: Disk) -> None:
    filled(disk, cache=False)
    assert disk.bundles() == []
    filled(disk)
    with refused(PcsUnreachable):
        disk.obtain(gone(disk), cache=False)


@pytest.mark.parametrize("days", [30, 400])
def test_it_never_serves_past_its_end(disk: Disk, days: int) -> None:
    """T08: not for a second, and not as a last resort."""
    filled(disk)
    assert disk.obtain(at=AT + 30 * DAY - datetime.resolution).source == "cache"
    with refused(CollateralNotCached):
        disk.obtain(at=AT + days * DAY)
    with refused(PcsUnreachable):
        disk.obtain(gone(disk), at=AT + days * DAY)
    assert len(disk.said) == 2


POISONED = body(lambda raw: raw.replace(b"OutOfDate", b"UpToDate"))


def test_a_forgery_is_never_kept_and_never_made_up_for(disk: Disk) -> None:
    """T22: whoever forges is not rewarded with silence, though a good bundle is at hand."""
    filled(disk)
    before = [file.read_bytes() for file in (*disk.bundles(), *disk.notes())]
    with serving(disk, altered={TCB: POISONED}) as place, refused(TcbInfoSignatureInvalid):
        disk.obtain(place)
    assert [file.read_bytes() for file in (*disk.bundles(), *disk.notes())] == before


def test_a_first_forgery_is_not_kept(disk: Disk) -> None:
    with serving(disk, altered={TCB: POISONED}) as place, refused(TcbInfoSignatureInvalid):
        disk.obtain(place)
    assert disk.bundles() == disk.notes() == []


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def poison(file: Path) -> None:
    """By somebody who knows how entries are named."""
    raw = file.read_bytes().replace(b"OutOfDate", b"UpToDate")
    file.unlink()
    (file.parent / f"{hashlib.sha256(raw).hexdigest()}.json").write_bytes(raw)


def flip(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"OutOfDate", b"UpToDate"))


def rename(file: Path) -> None:
    file.rename(file.with_name("0" * 64 + ".json"))


def of_another_world(file: Path) -> None:
    """Signed from end to end, by another Intel."""
    twin = W.intel.twin()
    raw = twin.collateral(twin.platform())
    file.unlink()
    (file.parent / f"{hashlib.sha256(raw).hexdigest()}.json").write_bytes(raw)


def of_another_platform(file: Path) -> None:
    raw = W.with_platform(fmspc=bytes(6)).collateral().raw
    file.unlink()
    (file.parent / f"{hashlib.sha256(raw).hexdigest()}.json").write_bytes(raw)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def huge(file: Path) -> None:
    os.truncate(file, 1 << 30)


DAMAGES = [cut, empty, poison, flip, rename, of_another_world, of_another_platform, folder, huge]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_a_miss_that_is_said_aloud(
    disk: Disk, damage: Callable[[Path], None]
) -> None:
    """T22: and the next fetch mends it."""
    filled(disk)
    damage(disk.bundles()[0])
    with refused(CollateralNotCached):
        disk.obtain()
    assert len(disk.said) == 1
    if damage is not folder:
        filled(disk)
        assert disk.obtain().source == "cache"


def test_a_quote_that_is_forged_is_no_miss(disk: Disk) -> None:
    """Genuine collateral is at hand: the answer is `not genuine`, not `could not look`."""
    filled(disk)
    forged = W.quote(form=lambda f: replace(f, signature=bytes(64)))
    with refused(QuoteSignatureInvalid):
        disk.obtain(quotes={"q.bin": forged})


def test_a_platform_that_was_revoked_is_no_miss(disk: Disk) -> None:
    sister = W.with_platform()
    revoking = sister.collateral(pck_crl=lambda c: replace(c, revoked=(W.platform.pck.serial,)))
    filled(disk, revoking, quotes={"q.bin": sister.quote()})
    with refused(CertificateRevoked):
        disk.obtain()


def test_simulation_and_another_root_never_mix(disk: Disk) -> None:
    """X01: the same names and dates under another root find nothing here."""
    filled(disk)
    intel = W.intel.twin()
    twin = World(intel, intel.platform())
    with refused(CollateralNotCached):
        disk.obtain(w=twin)
    filled(disk, twin.collateral(), w=twin)
    assert len({file.parent.parent for file in disk.bundles()}) == 2
    assert disk.obtain().collateral == PUBLISHED
    assert disk.obtain(w=twin).collateral == twin.collateral()


def test_each_technology_and_edition_has_its_own(disk: Disk) -> None:
    td = {"td.bin": W.platform.td_quote()}
    filled(disk)
    with refused(CollateralNotCached):
        disk.obtain(quotes=td)
    with refused(CollateralNotCached):
        disk.obtain(early=True)
    with serving(disk, tdx=TDX) as place:
        disk.obtain(place, quotes=td)
        disk.obtain(place, early=True)
    assert disk.obtain(quotes=td).collateral == TDX
    assert disk.obtain(early=True).collateral == PUBLISHED
    assert len(disk.bundles()) == 3


def test_it_does_not_grow_without_bound(disk: Disk) -> None:
    """The one that was written first goes, and never the newest."""
    filled(disk)
    (kept,) = disk.bundles()
    for number in range(MAX_BUNDLES):
        place = kept.parent.parent / f"sgx-{number:012x}-platform-standard"
        place.mkdir()
        (place / kept.name).write_bytes(b"{}")
        os.utime(place / kept.name, (number, number))
    found = filled(disk)
    assert len(disk.bundles()) == MAX_BUNDLES
    assert found.collateral.raw in [file.read_bytes() for file in disk.bundles()]
    assert not (kept.parent.parent / f"sgx-{0:012x}-platform-standard" / kept.name).exists()


def test_a_writer_that_died_leaves_nothing_for_long(disk: Disk) -> None:
    filled(disk)
    place = disk.bundles()[0].parent
    (place / f".{disk.bundles()[0].name}.x7").write_bytes(b"half")
    assert disk.obtain().source == "cache"
    filled(disk)
    assert len(list(place.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_told_of(disk: Disk) -> None:
    """What was fetched is good all the same."""
    (disk.folder / "cache").write_bytes(b"a file")
    assert filled(disk).collateral == PUBLISHED
    assert len(disk.said) == 1


def test_a_cache_that_cannot_be_read_is_told_of(disk: Disk) -> None:
    filled(disk)
    place = disk.bundles()[0].parent
    disk.bundles()[0].unlink()
    place.rmdir()
    place.write_bytes(b"a file")
    with refused(CollateralNotCached):
        disk.obtain()
    assert len(disk.said) == 1


# The marks


def put_day(days: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return put(issueDate=(AT + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ"))


OLDER: list[Any] = [
    pytest.param({"tcb_info": put_day(-1)}, id="TCB-info"),
    pytest.param({"qe_identity": put_day(-1)}, id="QE-identity"),
    pytest.param({"root_crl": lambda c: replace(c, this_update=AT - DAY)}, id="root-CRL"),
    pytest.param({"pck_crl": lambda c: replace(c, this_update=AT - DAY)}, id="PCK-CRL"),
    pytest.param({"tcb_info": put(tcbEvaluationDataNumber=20)}, id="TCB-evaluation"),
    pytest.param({"qe_identity": put(tcbEvaluationDataNumber=20)}, id="QE-evaluation"),
]


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("deleted", [False, True], ids=["cached", "cache-deleted"])
def test_what_is_older_than_anything_seen(disk: Disk, older: dict[str, Any], deleted: bool) -> None:
    """T09: genuine and unexpired; and deleting the cache does not make it new."""
    filled(disk)
    if deleted:
        disk.bundles()[0].unlink()
    with serving(disk, W.collateral(**older)) as place:
        if deleted:
            with refused(e.CollateralRolledBack):
                disk.obtain(place)
        else:  # what is at hand is newer than what is offered
            count_refusal()
            found = disk.obtain(place)
            assert (found.source, found.collateral) == ("cache", PUBLISHED)
            assert isinstance(found.passed_over[0].refusal, e.CollateralRolledBack)


@pytest.mark.parametrize("older", OLDER)
def test_a_cache_put_back_from_a_backup(disk: Disk, older: dict[str, Any]) -> None:
    """T09: the whole cache of last month; the marks stand elsewhere."""
    filled(disk, W.collateral(**older))
    (old,) = disk.bundles()
    raw = old.read_bytes()
    filled(disk)
    disk.bundles()[0].unlink()
    old.write_bytes(raw)
    with refused(CollateralNotCached):
        disk.obtain()
    assert len(disk.said) == 1


@pytest.mark.parametrize("older", OLDER)
def test_what_is_newer_is_taken_in_any_part(disk: Disk, older: dict[str, Any]) -> None:
    filled(disk, W.collateral(**older))
    assert filled(disk).collateral == PUBLISHED
    assert filled(disk).collateral == PUBLISHED


def test_a_mark_is_given_up_deliberately(disk: Disk) -> None:
    """The fix names the file; without it, what is older is taken again."""
    filled(disk)
    (note,) = disk.notes()
    older = W.collateral(at=AT - DAY)
    with refused(e.CollateralRolledBack) as seen:
        filled(disk, older, cache=False)
    assert str(note) in seen.error.fix
    note.unlink()
    assert filled(disk, older, cache=False).collateral == older


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(W.with_platform(fmspc=bytes(6)), id="FMSPC"),
        pytest.param(W.with_platform(processor=True), id="authority"),
        pytest.param(World.create(), id="root"),
    ],
)
def test_a_mark_is_of_one_subject(disk: Disk, other: World) -> None:
    filled(disk)
    older = other.collateral(at=AT - DAY)
    assert filled(disk, older, w=other).collateral == older
    assert len(disk.notes()) == 2


def test_early_collateral_does_not_shut_the_standard_one_out(disk: Disk) -> None:
    """The early edition has the higher number for months; each has its own order."""
    early = W.collateral(
        tcb_info=put(tcbEvaluationDataNumber=22), qe_identity=put(tcbEvaluationDataNumber=22)
    )
    assert filled(disk, early, early=True).collateral == early
    assert filled(disk).collateral == PUBLISHED
    with refused(e.CollateralRolledBack):
        filled(disk, early=True, cache=False)


EARLY = W.collateral(
    tcb_info=put(tcbEvaluationDataNumber=22), qe_identity=put(tcbEvaluationDataNumber=22)
)


@pytest.mark.parametrize("cache", [True, False], ids=["cached", "no-cache"])
def test_early_documents_come_for_the_standard_edition(disk: Disk, cache: bool) -> None:
    """T09: genuine, so they were noted. The honest answer passes once a person names its number,
    from then on without being named, and no early edition is left in the cache."""
    assert filled(disk, EARLY, cache=cache).collateral == EARLY
    with serving(disk) as place:
        if not cache:
            with refused(e.CollateralRolledBack):
                disk.obtain(place, cache=False)
        for named in (21, None):
            found = disk.obtain(place, accept_evaluation=named, cache=cache)
            assert (found.source, found.collateral) == (place.origin, PUBLISHED)
    if cache:
        assert disk.obtain().collateral == PUBLISHED


@pytest.mark.parametrize("named", [20, 22, 1])
def test_another_number_is_named_than_that_of_the_answer(disk: Disk, named: int) -> None:
    """An option that is left in a script does not take whatever comes."""
    filled(disk, EARLY)
    with serving(disk) as place, refused(e.CollateralRolledBack):
        disk.obtain(place, accept_evaluation=named, cache=False)


@pytest.mark.parametrize("older", OLDER[2:4])
def test_lists_are_never_taken_back(disk: Disk, older: dict[str, Any]) -> None:
    """Both editions have the same revocation lists: an older one hides a revoked certificate."""
    filled(disk, EARLY)
    with serving(disk, W.collateral(**older)) as place, refused(e.CollateralRolledBack):
        disk.obtain(place, accept_evaluation=21, cache=False)


def test_the_accepted_edition_has_dates_of_its_own(disk: Disk) -> None:
    """Issued a day before the early one was: another edition. Its own dates never go back."""
    filled(disk, EARLY)
    day_before = W.collateral(tcb_info=put_day(-1), qe_identity=put_day(-1))
    assert filled(disk, day_before, accept_evaluation=21, cache=False).collateral == day_before
    assert filled(disk, cache=False).collateral == PUBLISHED
    with refused(e.CollateralRolledBack):
        filled(disk, day_before, accept_evaluation=21, cache=False)


def test_a_mark_rises_part_by_part(disk: Disk) -> None:
    """A mixture of an older and a newer part is no way around it."""
    filled(disk, W.collateral(tcb_info=put_day(-1)), cache=False)
    mixed = W.collateral(qe_identity=put_day(-1))
    with refused(e.CollateralRolledBack):
        filled(disk, mixed, cache=False)
    assert filled(disk, cache=False).collateral == PUBLISHED


def test_a_quote_that_is_forged_moves_no_mark(disk: Disk) -> None:
    """Not the collateral of it, however genuine: nothing was verified with it."""
    forged = W.quote(form=lambda f: replace(f, signature=bytes(64)))
    with serving(disk) as place, refused(QuoteSignatureInvalid):
        disk.obtain(place, quotes={"q.bin": forged})
    assert disk.notes() == []


def test_a_bundle_that_would_replace_a_newer_one(disk: Disk) -> None:
    """Of another machine, say: this one has no mark yet."""
    older = W.collateral(at=AT - DAY)
    with serving(disk, older) as place, refused(e.CollateralRolledBack):
        disk.obtain(place, kept=PUBLISHED)
    assert disk.notes() == []
    assert filled(disk, kept=older).collateral == PUBLISHED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"issued": {}, "evaluation_data_number": {}}',
        b"[" * 100_000,
    ],
)
def test_a_mark_that_cannot_be_read(disk: Disk, content: bytes) -> None:
    """It is not taken for no mark at all: damaging it would be a way around it."""
    filled(disk)
    disk.notes()[0].write_bytes(content)
    for places in ([], [gone(disk)]):
        with refused(CollateralMarksCorrupt):
            disk.obtain(*places)
    with refused(CollateralMarksCorrupt):
        filled(disk)


@pytest.mark.parametrize(
    "change",
    [
        put(extra=1),
        put(issued={"TCB info": "2026-11-25T12:00:00Z"}),
        lambda note: {**note, "issued": {**note["issued"], "x": "2026-11-25T12:00:00Z"}},
        put(evaluation_data_number={"TCB info": 1, "QE identity": 1, "x": 1}),
        put(evaluation_data_number={"TCB info": True, "QE identity": 1}),
        put(evaluation_data_number={"TCB info": -1, "QE identity": 1}),
    ],
)
def test_a_mark_that_was_altered(
    disk: Disk, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    filled(disk)
    (note,) = disk.notes()
    note.write_text(json.dumps(change(json.loads(note.read_text("utf-8")))), "utf-8")
    with refused(CollateralMarksCorrupt):
        filled(disk)


def test_a_state_that_cannot_be_written(disk: Disk) -> None:
    """Without a mark the next replay would go unnoticed; nothing is handed out."""
    (disk.folder / "state").write_bytes(b"a file")
    with refused(FileNotWritten):
        filled(disk)
    assert disk.bundles() == []


def test_a_mark_is_written_as_it_is_read() -> None:
    mark = Mark.of(Contents.authenticate(PUBLISHED, ROOTS))
    assert Mark.parse(mark.encode()) == mark


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_no_mark(raw: bytes) -> None:
    with refused(CollateralMalformed):
        Mark.parse(raw)


# Two at once

SUBJECT = Subject(ROOTS, PlatformKind(Tee.SGX, W.platform.tcb.fmspc, "platform"), early=False)
RISING = [
    Contents.authenticate(W.collateral(tcb_info=put(tcbEvaluationDataNumber=number)), ROOTS)
    for number in range(20)
]


def at_once(*actions: Callable[[], None]) -> None:
    """A lock belongs to an opened file: threads exclude each other as processes do."""
    failed: list[BaseException] = []

    def run(action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_two_at_once_never_lower_a_mark(tmp_path: Path) -> None:
    """Each reads and writes under a lock: otherwise the slower one would undo the faster."""

    def advance(numbers: range) -> None:
        for number in numbers:
            try:
                Marks(tmp_path).advance(SUBJECT, RISING[number])
            except e.CollateralRolledBack:
                continue

    at_once(lambda: advance(range(0, 20, 2)), lambda: advance(range(1, 20, 2)))
    with refused(e.CollateralRolledBack):
        Marks(tmp_path).advance(SUBJECT, RISING[18])
    Marks(tmp_path).advance(SUBJECT, RISING[19])


def test_a_mark_is_not_judged_while_another_writes(tmp_path: Path) -> None:
    """The second waits for the first, sees its mark and refuses."""
    place = (tmp_path / SUBJECT.place).parent
    ended, refusals = threading.Event(), []

    def older() -> None:
        try:
            Marks(tmp_path).advance(SUBJECT, RISING[0])
        except e.CollateralRolledBack as refusal:
            refusals.append(refusal)
        ended.set()

    place.mkdir(parents=True)
    with locked(place / ".lock"):
        thread = threading.Thread(target=older)
        thread.start()
        assert not ended.wait(0.3)
        note = place / f"{SUBJECT.place.name}.json"
        note.write_bytes(Mark.of(RISING[1]).encode())
    thread.join()
    count_refusal()
    assert len(refusals) == 1


BUNDLES = [W.collateral(at=AT - day * DAY) for day in range(8)]


def test_two_keep_at_once(tmp_path: Path) -> None:
    """The newest stands there in the end, whole; that an older one was not kept is told."""
    said: list[str] = []

    def keep(days: range) -> None:
        for day in days:
            Cache(tmp_path, said.append).keep(SUBJECT, BUNDLES[day])

    at_once(lambda: keep(range(0, 8, 2)), lambda: keep(range(1, 8, 2)))
    (file,) = tmp_path.rglob("*.json")
    assert file.read_bytes() == BUNDLES[0].raw
    assert all("not cached" in line for line in said)


def test_a_service_that_refuses_and_one_that_is_gone(disk: Disk) -> None:
    """The cache comes after the last of them, and each is named."""
    filled(disk)
    lost = gone(disk)
    (disk.folder / "second").mkdir()
    with peer(disk.folder / "second", PUBLISHED, {TCB: says(461)}) as place:
        found = disk.obtain(lost, place)
    assert found.source == "cache"
    assert [p.source for p in found.passed_over] == [lost.origin, place.origin]
