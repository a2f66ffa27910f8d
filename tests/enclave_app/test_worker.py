"""Threads of the enclave: what goes wrong in a job ends that job, and long jobs leave room."""

from __future__ import annotations

import ast
import threading
from pathlib import Path

import pytest

import enclave_app
from enclave_app.worker import Workers, supervised
from tests.support.waiting import HANG_LIMIT


class Stopped(BaseException):
    """Not an Exception."""


def wait(event: threading.Event) -> None:
    """Generous: only a thread that is dead lets it run out."""
    assert event.wait(HANG_LIMIT)


@pytest.mark.parametrize("bug", [ValueError, MemoryError, SystemExit, KeyboardInterrupt, Stopped])
def test_a_job_that_breaks_ends_no_thread(bug: type[BaseException]) -> None:
    """One such job ended the only computing thread: every later task waited for good."""
    reported: list[tuple[str, type[BaseException]]] = []
    workers = Workers(2, lambda name, error: reported.append((name, type(error))))

    def broken() -> None:
        raise bug

    for _ in range(10):
        workers.submit("alice", broken)
    done = threading.Event()
    workers.submit("alice", done.set)
    wait(done)
    workers.stop()
    assert [error for _, error in reported] == [bug] * 10


def test_a_report_that_breaks_ends_no_thread() -> None:
    """L08: the log's reader is gone."""

    def report(_name: str, _bug: BaseException) -> None:
        raise BrokenPipeError

    steps = iter([ValueError, OSError, None])
    done = threading.Event()

    def step() -> bool:
        bug = next(steps)
        if bug is not None:
            raise bug
        done.set()
        return False

    supervised("thread", step, report)
    wait(done)


def test_two_computations_do_not_wait_for_each_other() -> None:
    workers = Workers(3, lambda *_: None)
    met = threading.Barrier(2, timeout=HANG_LIMIT)
    done = [threading.Event(), threading.Event()]
    for event in done:
        workers.submit("carol", lambda event=event: (met.wait(), event.set())[0])  # type: ignore[misc]
    for event in done:
        wait(event)
    workers.stop()


def test_many_jobs_of_one_owner_leave_a_thread_to_the_others() -> None:
    """D11: a submitter with long trainings keeps nobody else waiting; jobs come in turns."""
    workers = Workers(3, lambda *_: None)
    release, busy = threading.Event(), threading.Semaphore(0)

    def long() -> None:
        busy.release()
        wait(release)

    for _ in range(10):
        workers.submit("carol", long)
    assert busy.acquire(timeout=HANG_LIMIT)
    assert busy.acquire(timeout=HANG_LIMIT)
    done = threading.Event()
    workers.submit("dora", done.set)
    wait(done)
    assert not busy.acquire(blocking=False), "the third thread is not carol's"
    last = threading.Event()
    release.set()
    workers.submit("carol", last.set)
    wait(last)
    workers.stop()


def test_every_thread_of_the_enclave_is_supervised() -> None:
    """The kind: a thread made by hand has nobody who goes on after an error. Those of `room` wait
    for one event and end before the enclave listens.
    """
    made = []
    for path in sorted(Path(enclave_app.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Thread"):
                made.append(f"{path.name}: {ast.unparse(node)[:60]}")
    assert [entry.split(":")[0] for entry in made] == ["room.py", "worker.py"]
