"""Run the tests of a package against each mutant of it, fast enough to be a part of the suite.

One process collects the tests and runs them once, noting which lines each test runs and where a
refusal passed. Then every mutant gets a fork of that process: all is loaded, one function gets
other code, and the tests that ran the altered lines run, first those that were refused there.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import json
import os
import selectors
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, Generic, TypeAlias, TypeVar

import pytest

from tests.mutants.operators import Mutant, Subject
from tests.support.waiting import HANG_LIMIT

T = TypeVar("T")
_Key: TypeAlias = tuple[str, str, int]  # file, qualified name and first line of a function
_KILLED, _SURVIVED, _BROKEN, _DONE = b"K", b"S", b"B", b"D"
# Without its check a loop may never end. What counts is the processor's time in one test, whatever
# else this machine does: so many seconds, and so many times what the test takes as it is.
_SPIN, _SPIN_FACTOR = 5.0, 20.0
_LIKELIEST, _CONTROLS = 200, 4
_LINES = 1_000_000  # a line of a file is one number: the file's times this, and the line's


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant: killed by a test, or by none."""

    mutant: Mutant
    killed: bool
    by: str  # the test; or why there is no answer


@dataclass(slots=True)
class Run:
    """The whole answer. `trouble` makes it worthless: mend that first."""

    outcomes: list[Outcome] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)  # tests that fail or are skipped as it is
    tests: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Trace:
    """What one test did: seconds, lines that ran, lines through which an exception left."""

    seconds: float
    ran: frozenset[int]
    refused: frozenset[int]


def run(
    modules: Sequence[str],
    tests: Sequence[str],
    *,
    ignored: Sequence[str] = (),
    known: Collection[tuple[str, str, str]] = (),
    part: tuple[int, int] = (1, 1),
    traces: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Run:
    """Make the mutants of `modules` and see whether one of `tests` notices.

    Args:
        ignored: Tests in files that match one of these are not asked.
        known: Mutants that are equivalent: not shown to every test, only to the likeliest.
        part: (1, 4) for the first of four parts: every fourth mutant.
        traces: Where parts that run at once share what the tests do on the unaltered modules:
            the first part writes it, the others wait for that.

    It alters this process for good (a hypothesis profile, the tests' modules): call it once, in a
    process of its own, without threads.
    """
    started = time.monotonic()
    subjects = [Subject.read(module) for module in modules]
    with tempfile.TemporaryDirectory() as folder:
        shared = traces or Path(folder) / "traces"
        plugin = _Plugin(subjects, set(known), part, shared, progress)
        tempfile.tempdir = folder
        status = pytest.main(
            [
                *tests,
                "--override-ini=addopts=",
                "--override-ini=faulthandler_timeout=0",  # its thread would be lost in a fork
                "--capture=no",
                *(f"--ignore-glob={pattern}" for pattern in ignored),
                *(f"-pno:{name}" for name in ("terminal", "cacheprovider", "xdist")),
            ],
            plugins=[plugin],
        )
    if status not in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        plugin.run.trouble.append(f"pytest itself ended with {status!r}")
    plugin.run.seconds = time.monotonic() - started
    return plugin.run


class _Plugin:
    """Takes the place of pytest's loop over the collected tests."""

    def __init__(
        self,
        subjects: list[Subject],
        known: set[tuple[str, str, str]],
        part: tuple[int, int],
        shared: Path,
        progress: Callable[[str], None],
    ) -> None:
        self.run = Run()
        self._subjects, self._known, self._progress = subjects, known, progress
        self._part, self._shared = part, shared
        self._numbers = {subject.path: n * _LINES for n, subject in enumerate(subjects)}
        self._caches: list[Any] = []
        self._functions: dict[_Key, list[FunctionType]] = {}
        self._failed = self._passed = False
        self._why = ""
        self._traces: dict[str, _Trace] = {}
        self._items: dict[str, pytest.Item] = {}

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings  # pytest wants to load it first

        # Shrinking a counterexample would take minutes; that there is one is enough.
        settings.register_profile(
            "mutants",
            phases=(Phase.explicit, Phase.generate),
            derandomize=True,
            database=None,
        )
        settings.load_profile("mutants")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.run.trouble.append(f"not collected: {report.nodeid}\n{report.longreprtext}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed, self._why = True, report.longreprtext[-1500:]
        self._passed |= report.passed and report.when == "call"

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not self.run.trouble:
            for subject in self._subjects:
                import_module(subject.module)  # if no test did
            self._caches = _caches({subject.module.split(".")[0] for subject in self._subjects})
            self._functions = _functions(set(self._numbers))
            self._trace_all(session.items)
            gc.collect()
            gc.freeze()  # so that a collection in a fork does not touch, and copy, every page
            self._try_all()
            self._try_unaltered()
        return True

    # The unaltered run

    def _trace_all(self, items: list[pytest.Item]) -> None:
        self._items = {item.nodeid: item for item in items}
        with self._shared.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            rows = json.loads(text) if text else self._trace_in_forks(items)
            if not text and not self.run.trouble:
                json.dump(rows, file)
        for name, seconds, passed, ran, refused in rows:
            if not passed:
                self.run.excluded.append(name)
            elif ran:
                self._traces[name] = _Trace(seconds, frozenset(ran), frozenset(refused))
        self.run.tests = len(self._traces)
        total = sum(trace.seconds for trace in self._traces.values())
        self._progress(f"{self.run.tests} tests run these modules, in {total:.1f} s")

    def _trace_in_forks(self, items: list[pytest.Item]) -> list[Any]:
        rows: list[Any] = []
        size = max(1, min(50, len(items) // 16))
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        tasks = [(part, functools.partial(self._trace, part)) for part in parts]
        for part, answer in _in_forks(tasks):
            if answer[:1] == _DONE:
                rows += json.loads(answer[1:])
            else:
                self.run.trouble.append(f"tests from {part[0].nodeid} on: {answer.decode()}")
        return rows

    def _trace(self, items: list[pytest.Item]) -> bytes:
        """What each test does, as JSON: name, seconds, passed, lines, lines of refusals."""
        answer = []
        for item, following in _with_next(items):
            for cache in self._caches:
                cache.cache_clear()  # or what another test made known would hide who needs it
            ran: set[int] = set()
            refused: set[int] = set()
            started = time.perf_counter()
            sys.settrace(_tracer(self._numbers, ran, refused))
            try:
                passed = self._passes(item, following)
            finally:
                sys.settrace(None)
            seconds = time.perf_counter() - started
            answer.append((item.nodeid, seconds, passed, list(ran), list(refused)))
        return _DONE + json.dumps(answer).encode()

    def _passes(self, item: pytest.Item, following: pytest.Item | None) -> bool:
        self._failed = self._passed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
        return self._passed and not self._failed

    def _order(self, subject: Subject, mutant: Mutant) -> list[str]:
        """The tests that run the altered lines; refused there first, then the quickest."""
        start = self._numbers[subject.path]
        lines = {start + line for line in mutant.lines}
        near = lines | {max(lines) + 1, max(lines) + 2}  # the refusal stands below its condition
        covering = [name for name, trace in self._traces.items() if trace.ran & lines]

        def rank(name: str) -> tuple[bool, float]:
            trace = self._traces[name]
            return not trace.refused & near, trace.seconds

        covering.sort(key=rank)
        return covering[:_LIKELIEST] if mutant.key in self._known else covering

    # The mutants

    def _try_all(self) -> None:
        todo: list[tuple[Mutant, Callable[[], bytes]]] = []
        number, parts = self._part
        every = [(subject, mutant) for subject in self._subjects for mutant in subject.mutants]
        for subject, mutant in every[number - 1 :: parts]:
            live = self._functions.get((subject.path, *mutant.function))
            if live is None:
                self.run.trouble.append(f"nothing live to alter for {mutant}")
                continue
            order = self._order(subject, mutant)
            todo.append((mutant, functools.partial(self._altered, subject, mutant, live, order)))
        for mutant, answer in _in_forks(todo):
            kind, text = answer[:1], answer[1:].decode()
            if kind not in (_KILLED, _SURVIVED):
                self.run.trouble.append(f"no answer for {mutant}: {text}")
                continue
            self.run.outcomes.append(Outcome(mutant, kind == _KILLED, text))
            self._progress(f"{'killed  ' if kind == _KILLED else 'SURVIVED'} {mutant}")
        self.run.outcomes.sort(key=lambda o: (o.mutant.module, o.mutant.line))

    def _altered(
        self, subject: Subject, mutant: Mutant, live: list[FunctionType], order: list[str]
    ) -> bytes:
        mutant.edit()
        code = subject.code(mutant.function)
        for function in live:
            function.__code__ = code
        return self._first_failure(order)

    def _try_unaltered(self) -> None:
        """The control: every test that killed passes where nothing is altered."""
        names = sorted({o.by for o in self.run.outcomes if o.killed and o.by in self._traces})
        parts = [names[n::_CONTROLS] for n in range(_CONTROLS)]
        for part, answer in _in_forks([(p, functools.partial(self._unaltered, p)) for p in parts]):
            if answer[:1] != _SURVIVED:
                text = answer[1:].decode()
                self.run.trouble.append(f"in a fork, among {len(part)}, fails unaltered: {text}")
        self._progress(f"{len(names)} tests killed, and were tried on the unaltered modules")

    def _unaltered(self, names: list[str]) -> bytes:
        """New code for every function, from the source as it is."""
        for subject in self._subjects:
            for function in {mutant.function for mutant in subject.mutants}:
                code = subject.code(function)
                for live in self._functions[subject.path, *function]:
                    live.__code__ = code
        answer = self._first_failure(names)
        return answer + b"\n" + self._why.encode() if answer[:1] == _KILLED else answer

    def _first_failure(self, order: list[str]) -> bytes:
        for cache in self._caches:
            cache.cache_clear()
        for name, following in _with_next(order):
            signal.setitimer(signal.ITIMER_PROF, _SPIN + _SPIN_FACTOR * self._traces[name].seconds)
            after = None if following is None else self._items[following]
            if not self._passes(self._items[name], after):
                return _KILLED + name.encode()
        return _SURVIVED + f"{len(order)} tests".encode()


def _with_next(items: Sequence[T]) -> Iterator[tuple[T, T | None]]:
    yield from zip(items, [*items[1:], None], strict=False)


def _caches(packages: set[str]) -> list[Any]:
    """Every `lru_cache` of these packages."""
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, functools._lru_cache_wrapper)
        and str(getattr(found, "__module__", "")).split(".")[0] in packages
    ]


def _functions(paths: set[str]) -> dict[_Key, list[FunctionType]]:
    """Every function from these files that exists, whatever wraps it or holds it."""
    found: dict[_Key, list[FunctionType]] = {}
    for function in gc.get_objects():
        if isinstance(function, FunctionType) and function.__code__.co_filename in paths:
            code = function.__code__
            key = (code.co_filename, code.co_qualname, code.co_firstlineno)
            found.setdefault(key, []).append(function)
    return found


def _tracer(
    numbers: dict[str, int], ran: set[int], refused: set[int]
) -> Callable[[FrameType, str, Any], Any]:
    def entered(frame: FrameType, event: str, _: Any) -> Any:
        start = numbers.get(frame.f_code.co_filename)
        if start is None:
            return None

        def local(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                ran.add(start + frame.f_lineno)
            elif event == "exception":
                refused.add(start + frame.f_lineno)
            return local

        return local

    return entered


@dataclass(slots=True)
class _Child(Generic[T]):
    pid: int
    subject: T
    ends: float
    answer: bytes = b""


def _in_forks(tasks: Sequence[tuple[T, Callable[[], bytes]]]) -> Iterator[tuple[T, bytes]]:
    """Each task in a fork of this process, as many at once as there are processors."""
    waiting, selector = list(reversed(tasks)), selectors.DefaultSelector()
    while waiting or selector.get_map():
        while waiting and len(selector.get_map()) < (os.cpu_count() or 1):
            subject, work = waiting.pop()
            pid, reading = _fork(work)
            started = _Child(pid, subject, time.monotonic() + HANG_LIMIT)
            selector.register(reading, selectors.EVENT_READ, started)
        ready = {key.fd for key, _ in selector.select(timeout=1.0)}
        for fd, key in list(selector.get_map().items()):
            child: _Child[T] = key.data
            if fd in ready:
                part = os.read(fd, 65536)
                child.answer += part
                if part:
                    continue
            elif time.monotonic() > child.ends:
                os.kill(child.pid, signal.SIGKILL)
                child.answer = _BROKEN + b"time limit"
            else:
                continue
            selector.unregister(key.fd)
            os.close(key.fd)
            _, status = os.waitpid(child.pid, 0)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
                child.answer = _KILLED + b"a loop without end"
            yield child.subject, child.answer or _BROKEN + b"the process died"


def _fork(work: Callable[[], bytes]) -> tuple[int, int]:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that tests left behind
        pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        # Of its own: pytest empties the folder that it begins with.
        os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp()
        with Path(os.devnull).open("r+b") as nothing:
            for stream in (0, 1, 2):
                os.dup2(nothing.fileno(), stream)
        _write(writing, work())
    except BaseException as error:  # noqa: BLE001
        _write(writing, _BROKEN + repr(error).encode()[:2000])
    finally:
        os._exit(0)


def _write(writing: int, answer: bytes) -> None:
    while answer:
        answer = answer[os.write(writing, answer) :]
