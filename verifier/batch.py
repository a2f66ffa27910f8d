"""Many quote files, judged on several cores: one answer each, in the order given.

    with judging(files, judge, workers=2) as answers:
        for text, statuses in answers:   # of some files at a time, as they come
            …

Memory does not grow with the number of files: few batches are under way at any time, also where
one worker is far behind. A worker that ends early ends the command, which says so: no answer is
missing silently.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeAlias, TypeVar

from verifier.appraisal import Appraisal
from verifier.bundles import Bundles, CollateralOfOtherPlatforms
from verifier.errors import QuoteFormatError, RatlsError
from verifier.files import FileUnreadable
from verifier.forms import Steps
from verifier.quote import Quote
from verifier.quote_files import read_quote_file
from verifier.report import QuoteReport, report_quote
from verifier.verify import VerifiedQuote

MAX_BATCH = 32  #     files; some 20 ms of work, so that answers come steadily
BATCHES_AHEAD = 4  #  for each worker, begun and not yet handed on


class Answers(NamedTuple):
    """The answers on some files, ready to be written."""

    text: str  #       whole lines
    statuses: bytes  # one exit status for each file

    @classmethod
    def of(cls, text: str, status: int) -> Self:
        """The answer on one file."""
        return cls(text + "\n", bytes((status,)))


# The answer on one file


@dataclass(frozen=True, slots=True)
class Judge:
    """Everything that an answer depends on, except the file."""

    bundles: Bundles
    acceptance: Callable[[VerifiedQuote], Appraisal]
    newer_sgx: bool
    json_output: bool
    json_path: Steps | None = None  # where in JSON the quote is
    stdin: bytes | None = None  #     for the file `-`: workers have no standard input

    def __call__(self, file: str) -> Answers:
        """The answer on one file; one that cannot be read is an answer too.

        Raises:
            ConfigError: Something other than the file is unusable; that is no verdict.
        """
        try:
            received = read_quote_file(
                file, self.json_path, newer_sgx=self.newer_sgx, stdin=self.stdin
            )
        except (FileUnreadable, QuoteFormatError) as refusal:
            return self._written(self._unjudged(file, None, refusal))
        try:
            collateral = self.bundles.collateral_for(received)
        except CollateralOfOtherPlatforms as refusal:
            return self._written(self._unjudged(file, received.quote, refusal, received.form))
        report = report_quote(
            received,
            collateral,
            file=file,
            roots=self.bundles.roots,
            at=self.bundles.at,
            acceptance=self.acceptance,
        )
        return self._written(report)

    def _unjudged(
        self, file: str, quote: Quote | None, refusal: RatlsError, form: str | None = None
    ) -> QuoteReport:
        """No check was begun: nothing is known but what the parsed quote shows."""
        return QuoteReport(file, self.bundles.roots.mode, quote, None, Appraisal(), refusal, form)

    def _written(self, report: QuoteReport) -> Answers:
        text = json.dumps(report.machine) if self.json_output else report.people
        return Answers.of(text, int(report.exit_status))


def expand(arguments: Iterable[Path]) -> Iterator[str]:
    """The files named: a folder is replaced by the files directly in it, in the order of names.

    An empty folder stays, and is refused: an empty answer would look like a good one.
    """
    for path in arguments:
        try:
            with os.scandir(path) as entries:
                inside = sorted(str(path / entry.name) for entry in entries if entry.is_file())
        except OSError:
            inside = []
        yield from inside or [str(path)]


# Several processes


class WorkerLost(Exception):
    """A worker process ended before its answers came: killed, out of memory, or a bug."""


class Worker(Protocol):
    """A child process that judges one batch at a time."""

    def ask(self, number: int) -> None:
        """Begin the batch with this number."""

    def take(self) -> Answers:
        """Its answers."""


W = TypeVar("W", bound=Worker)


def in_order(
    total: int, workers: Sequence[W], ready: Callable[[Sequence[W]], Iterable[W]], *, ahead: int
) -> Iterator[Answers]:
    """The answers of batches 0 to `total` - 1, in this order, though they finish in any order.

    Args:
        total: How many batches there are.
        workers: They judge the batches, each one at a time.
        ready: Waits, and returns those of the workers given that have finished. At least one.
        ahead: How many batches are begun and not yet handed on, at most.
    """
    idle, busy, finished = list(workers), dict[W, int](), dict[int, Answers]()
    begun = handed_on = 0
    while handed_on < total:
        while idle and begun < min(total, handed_on + ahead):
            worker = idle.pop()
            worker.ask(begun)
            busy[worker] = begun
            begun += 1
        for worker in ready(list(busy)):
            finished[busy.pop(worker)] = worker.take()
            idle.append(worker)
        while handed_on in finished:
            yield finished.pop(handed_on)
            handed_on += 1


@contextmanager
def judging(
    files: Sequence[str], judge: Callable[[str], Answers], *, workers: int
) -> Iterator[Iterator[Answers]]:
    """Judge these files with `workers` processes; 1 is this process itself.

    Workers are forked here, before the block is entered, and inherit `judge` with what it holds.
    Start threads, such as those of a progress bar, inside the block only.

    Raises:
        WorkerLost: From the iterator: an answer is missing.
        RatlsError: From the iterator: what `judge` raises.
    """
    # Few files are spread too; wherever there is more, every worker has several batches.
    size = max(1, min(MAX_BATCH, len(files) // (4 * workers)))
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    if workers == 1 or len(batches) < 2:
        yield map(judge, files)
        return
    started: list[_WorkerProcess] = []
    # Ctrl-C reaches the whole group: the workers never see it, and this process ends them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        try:
            for _ in range(min(workers, len(batches))):
                started.append(_WorkerProcess(batches, judge, started))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield in_order(len(batches), started, _ready, ahead=BATCHES_AHEAD * len(started))
    finally:
        for worker in started:
            worker.end()


Batches: TypeAlias = Sequence[Sequence[str]]


class _WorkerProcess:
    """A forked process, and the pipe to it. Numbers go in, answers come out."""

    def __init__(
        self, batches: Batches, judge: Callable[[str], Answers], older: Iterable[_WorkerProcess]
    ) -> None:
        # Wherever this project runs there is fork: its files are locked with `fcntl`.
        context = get_context("fork")
        self.batches, self.judge, self.number = batches, judge, 0
        self.pipe, theirs = context.Pipe()
        foreign = [self.pipe, *(worker.pipe for worker in older)]
        self.process = context.Process(
            target=_work, args=(theirs, foreign, batches, judge), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its end is noticed

    def ask(self, number: int) -> None:
        self.number = number
        try:
            self.pipe.send_bytes(number.to_bytes(8, "big"))
        except OSError as error:
            raise self._lost() from error

    def take(self) -> Answers:
        try:
            statuses, text = self.pipe.recv_bytes(), self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if statuses:
            return Answers(text.decode(), statuses)
        # Something stopped the worker; it stops this process too, where the command can say so.
        return _judge_batch(self.judge, self.batches[self.number])

    def _lost(self) -> WorkerLost:
        self.process.join(10)
        return WorkerLost(
            f"a worker process ended ({self.process.exitcode}): no answer on "
            f"{self.batches[self.number][0]} and the files after it"
        )

    def end(self) -> None:
        self.pipe.close()
        self.process.kill()  # it writes nothing, so there is nothing to finish
        self.process.join()


def _ready(workers: Sequence[_WorkerProcess]) -> Iterable[_WorkerProcess]:
    done = set(wait([worker.pipe for worker in workers]))
    return [worker for worker in workers if worker.pipe in done]


def _work(
    pipe: Connection,
    foreign: Iterable[Connection],
    batches: Batches,
    judge: Callable[[str], Answers],
) -> None:
    """Judge batches until the other end of the pipe is closed, also by the parent's death."""
    gc.freeze()  # what the parent left is not ours to end: its threads are not here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for other in foreign:
        other.close()  # a pipe that another worker holds open would never end
    with suppress(EOFError, ConnectionError):
        while True:
            number = int.from_bytes(pipe.recv_bytes(8), "big")
            try:
                answers = _judge_batch(judge, batches[number])
            except RatlsError:
                answers = Answers("", b"")
            pipe.send_bytes(answers.statuses)
            pipe.send_bytes(answers.text.encode())


def _judge_batch(judge: Callable[[str], Answers], files: Sequence[str]) -> Answers:
    found = [judge(file) for file in files]
    return Answers("".join(a.text for a in found), b"".join(a.statuses for a in found))
