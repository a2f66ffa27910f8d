"""Many quotes: which collateral, in which order, on how many processes, and what if one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.documents import instant
from simulation.intel import new_key
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import AT, World, processor_world, put, world
from verifier.acceptance import StatusNeverAcceptable
from verifier.batch import Answers, WorkerLost, expand, in_order, judging
from verifier.bundles import Bundles, CollateralOfOtherPlatforms
from verifier.collateral import TcbInfoSignatureInvalid
from verifier.forms import find_quote
from verifier.received import ReceivedQuote
from verifier.tcb import TcbInfoMismatch
from verifier.verify import verify_quote

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
FILES = [f"file-{number}" for number in range(200)]

# Order, and how much is under way


@dataclass(eq=False)
class CountingWorker:
    """A worker that finishes when it is told to."""

    begun: list[int]  # by all of them, in this order
    number: int | None = None

    def ask(self, number: int) -> None:
        assert self.number is None, "a second batch before the first was taken"
        self.number = number
        self.begun.append(number)

    def take(self) -> Answers:
        number, self.number = self.number, None
        return Answers.of(str(number), 0)


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 8), st.randoms())
def test_whoever_finishes_first_the_order_is_that_of_the_files(
    total: int, count: int, ahead: int, random: st.DataObject
) -> None:
    begun: list[int] = []
    workers = [CountingWorker(begun) for _ in range(count)]

    def ready(busy: Sequence[CountingWorker]) -> list[CountingWorker]:
        return random.sample(list(busy), random.randint(1, len(busy)))  # type: ignore[attr-defined]

    answers = [a.text for a in in_order(total, workers, ready, ahead=ahead)]
    assert answers == [f"{number}\n" for number in range(total)]
    assert begun == list(range(total))


def test_one_slow_file_does_not_pile_up_the_answers_on_all_that_follow() -> None:
    """Ten million files behind one on a stuck disk would otherwise fill the memory."""
    begun: list[int] = []
    workers = [CountingWorker(begun) for _ in range(3)]
    seen: list[int] = []

    def all_but_the_first(busy: Sequence[CountingWorker]) -> list[CountingWorker]:
        seen.append(len(begun))
        others = [worker for worker in busy if worker.number != 0]
        return others or list(busy)  # the slow one, when nothing else is left to do

    answers = in_order(1000, workers, all_but_the_first, ahead=8)
    assert next(answers).text == "0\n"
    assert max(seen) == 8


def test_nothing_more_is_begun_while_nobody_reads() -> None:
    begun: list[int] = []
    workers = [CountingWorker(begun) for _ in range(2)]
    answers = in_order(1000, workers, list, ahead=6)
    for number in range(100):
        assert next(answers).text == f"{number}\n"
        assert len(begun) <= number + 6


# Processes


def upper(file: str) -> Answers:
    return Answers.of(file.upper(), len(file) % 7)


def told(workers: int, judge: object = upper, files: Sequence[str] = FILES) -> tuple[str, bytes]:
    assert callable(judge)
    with judging(files, judge, workers=workers) as answers:
        found = list(answers)
    return "".join(a.text for a in found), b"".join(a.statuses for a in found)


@pytest.mark.parametrize(
    ("workers", "files"),
    [(2, FILES), (3, FILES), (500, FILES[:20])],
    ids=["two", "three", "more-than-files"],
)
def test_number_of_workers_changes_nothing_but_the_time(workers: int, files: list[str]) -> None:
    assert told(workers, files=files) == told(1, files=files)
    assert multiprocessing.active_children() == []


def test_few_files_are_spread_too_and_none_needs_no_worker() -> None:
    def process(file: str) -> Answers:
        return Answers.of(str(os.getpid()), 0)

    with judging(FILES[:2], process, workers=2) as answers:
        assert len({a.text for a in answers} - {f"{os.getpid()}\n"}) == 2
    with judging([], process, workers=2) as answers:
        assert list(answers) == []
    with judging(FILES, process, workers=1) as answers:
        assert {a.text for a in answers} == {f"{os.getpid()}\n"}


@dataclass
class Deadly:
    """A judge whose process is killed at one file, as by a system without memory."""

    victim: str
    here: int = field(default_factory=os.getpid)

    def __call__(self, file: str) -> Answers:
        if file == self.victim and os.getpid() != self.here:
            os.kill(os.getpid(), signal.SIGKILL)
        return upper(file)


def test_killed_worker_never_becomes_a_missing_answer() -> None:
    """Whoever counts refusals would otherwise see none."""
    count_refusal()
    found: list[str] = []

    def read(answers: Iterable[Answers]) -> None:
        for answer in answers:
            found.extend(answer.text.split())

    with (
        judging(FILES, Deadly("file-120"), workers=2) as answers,
        pytest.raises(WorkerLost, match=r"\(-9\).*file-1"),
    ):
        read(answers)
    assert found == [file.upper() for file in FILES[: len(found)]]
    assert len(found) <= 120
    assert multiprocessing.active_children() == []


def test_worker_killed_while_it_waits_is_noticed_when_it_is_needed() -> None:
    count_refusal()
    with judging(FILES, upper, workers=2) as answers:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(WorkerLost):
            list(answers)


def test_bug_in_a_worker_ends_the_command_and_leaves_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def buggy(file: str) -> Answers:
        raise ZeroDivisionError(file)

    count_refusal()
    with pytest.raises(WorkerLost, match=r"\(1\)"):
        told(2, buggy)
    assert "ZeroDivisionError: file-" in capfd.readouterr().err


def test_unusable_input_stops_the_command_as_it_would_without_workers() -> None:
    def strict(file: str) -> Answers:
        raise StatusNeverAcceptable("statuses", expected="others", found="Revoked")

    for workers in (1, 2):
        with refused(StatusNeverAcceptable):
            told(workers, strict)
    assert multiprocessing.active_children() == []


def test_who_stops_reading_leaves_no_process_behind() -> None:
    with judging(FILES, upper, workers=2) as answers:
        assert next(answers).text.startswith("FILE-0\n")
        assert len(multiprocessing.active_children()) == 2
    assert multiprocessing.active_children() == []


def test_ctrl_c_is_left_to_this_process_alone() -> None:
    """A terminal sends it to the whole group; each worker would print a traceback of its own."""

    def interrupted(file: str) -> Answers:
        os.kill(os.getpid(), signal.SIGINT)
        return upper(file)

    assert told(2, interrupted) == told(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


# Folders


def test_folder_stands_for_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b", "a", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")  # to open one would wait for ever
    single, missing, empty = tmp_path / "c" / "d", tmp_path / "no", tmp_path / "empty"
    assert list(expand([single, tmp_path, missing, empty])) == [
        str(single),
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        str(missing),
        str(empty),  # to be refused, since no answer looks like a good one
    ]


# Which collateral


def bundles_of(folder: Path, *given: bytes, at: timedelta = timedelta(0)) -> Bundles:
    paths = []
    for number, bundle in enumerate(given):
        paths.append(folder / f"{number}.json")
        paths[-1].write_bytes(bundle)
    return Bundles.read(paths, world().intel.anchors(), AT + at)


def same_intel(processor: bool = False, fmspc: bytes | None = None) -> World:
    """Another platform under the root of `world()`."""
    return world().with_platform(processor=processor, **({"fmspc": fmspc} if fmspc else {}))


def choose(given: Bundles, quote: bytes) -> bytes:
    return given.collateral_for(find_quote(quote).received()).raw


def test_each_quote_has_the_bundle_of_its_family_technology_and_authority(tmp_path: Path) -> None:
    other, processor = same_intel(fmspc=b"\1\2\3\4\5\6"), same_intel(processor=True)
    w = world()
    trust_domains = w.intel.collateral(w.platform, tdx=True)
    ours, others, processors = (o.collateral().raw for o in (w, other, processor))
    given = bundles_of(tmp_path, trust_domains, others, processors, ours)
    assert choose(given, w.quote()) == ours
    assert choose(given, w.quote() + bytes(100)) == ours  # as drivers pad it
    assert choose(given, other.quote()) == others
    assert choose(given, processor.quote()) == processors
    assert choose(given, w.platform.td_quote(bytes(64))) == trust_domains


def test_no_bundle_for_this_platform_is_no_verdict_on_it(tmp_path: Path) -> None:
    """Held against another family's levels, a genuine quote would look forged."""
    w, other = world(), same_intel(fmspc=b"\1\2\3\4\5\6")
    trust_domains = w.intel.collateral(w.platform, tdx=True)
    given = bundles_of(tmp_path, w.collateral().raw, trust_domains)
    with refused(CollateralOfOtherPlatforms) as seen:
        choose(given, other.quote())
    assert "010203040506" in seen.error.expected
    assert "010203040506" in seen.error.fix
    assert choose(given, w.quote()) == w.collateral().raw


def test_single_bundle_is_for_every_quote(tmp_path: Path) -> None:
    """Then it is the verifier that says what does not fit."""
    other = same_intel(fmspc=b"\1\2\3\4\5\6")
    given = bundles_of(tmp_path, world().collateral().raw)
    collateral = given.collateral_for(ReceivedQuote(other.quote()))
    with refused(TcbInfoMismatch):
        verify_quote(other.quote(), collateral, roots=given.roots, at=AT)


def test_quote_that_cannot_be_read_or_believed_needs_no_choice(tmp_path: Path) -> None:
    """`verify_quote` refuses it before it looks at any collateral."""
    first = world().collateral().raw
    given = bundles_of(tmp_path, first, same_intel(processor=True).collateral().raw)
    for quote in (b"", world().quote()[:-1], processor_world().quote()):
        assert choose(given, quote) == first


def test_of_two_bundles_for_one_platform_the_newest_counts(tmp_path: Path) -> None:
    """The older one may lack what was revoked since, and whoever names it first gains nothing."""
    w = world()
    old, new = w.collateral(at=AT - 10 * DAY).raw, w.collateral(at=AT - DAY).raw
    assert choose(bundles_of(tmp_path, old, new), w.quote()) == new
    assert choose(bundles_of(tmp_path, new, old), w.quote()) == new


def test_bundle_that_covers_the_instant_comes_before_a_newer_one(tmp_path: Path) -> None:
    w = world()
    old, new = w.collateral(at=AT).raw, w.collateral(at=AT + 20 * DAY).raw
    assert choose(bundles_of(tmp_path, new, old, at=DAY), w.quote()) == old
    # Covered by neither: the newest, whose window then says that nothing was decided.
    assert choose(bundles_of(tmp_path, old, new, at=400 * DAY), w.quote()) == new


def test_forged_bundle_cannot_take_the_place_of_a_genuine_one(tmp_path: Path) -> None:
    """Its own word would choose it: newest, and for any platform that it likes."""
    w = world()
    genuine = w.collateral().raw
    later = put(issueDate=instant(AT + DAY))
    forged = w.collateral(tcb_info=later, tcb_info_key=new_key()).raw
    with refused(TcbInfoSignatureInvalid) as seen:
        bundles_of(tmp_path, genuine, forged)
    assert "1.json" in seen.error.thing
    assert choose(bundles_of(tmp_path, genuine, genuine), w.quote()) == genuine
