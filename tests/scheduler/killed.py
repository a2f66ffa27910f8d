"""A scheduler's writes, killed with SIGKILL at the n-th point: run by `test_killed.py`.

    python -m tests.scheduler.killed sqlite:////tmp/queue-NUMBER.sqlite

For each n = 1, 2, … a child makes a queue and writes to it, until it is killed before or after
its n-th write or commit; the first child that lives through all of them ends the series.
One JSON line each: {"n": 7, "answered": ["add 1", …], "killed": true}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import sqlalchemy
from sqlalchemy import event

from scheduler import store as store_module
from scheduler.queued_task import State
from scheduler.store import Store
from tests.scheduler.test_store import HOUR, anything, task
from tests.support.scheduler import NOW

WRITES = {"CREATE", "INSERT", "UPDATE", "DELETE"}


class Points:
    """Counts the places at which a process may die, and dies at one."""

    def __init__(self, last: int) -> None:
        self.left = last

    def statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(None, 1)[0] in WRITES:
            self.pass_one()

    def pass_one(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, engine: sqlalchemy.Engine) -> None:
        event.listen(engine, "before_cursor_execute", self.statement)
        event.listen(engine, "after_cursor_execute", self.statement)
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            self.pass_one()
            commit(connection)
            self.pass_one()  # committed, but the answer is not out yet

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign,assignment]


def work(url: sqlalchemy.URL, points: Points, answers: int) -> None:
    """What a scheduler does in its life. Each answer goes out at once, as to a client."""
    plain = store_module.open_engine

    def watched(url: sqlalchemy.URL) -> sqlalchemy.Engine:
        engine = plain(url)
        points.watch(engine)
        return engine

    store_module.open_engine = watched
    store = Store.open(url)

    def answer(text: str) -> None:
        os.write(answers, f"{text}\n".encode())

    for number in (1, 2):
        store.add(task(number), NOW, anything)
        answer(f"add {number}")
    store.report(task(1).digest, "train_party_1", State.RELEASED, "", NOW, cap=9)
    answer("report 1")
    store.add(task(3, expires=HOUR / 60), NOW - HOUR, anything)
    store.purge(NOW + HOUR / 2)
    answer("purge 3")
    store.add(task(4), NOW, anything)
    answer("add 4")


def main(template: str) -> None:
    sqlalchemy.create_engine(template)  # loads the driver, once for all children
    number, killed = 0, True
    while killed:
        number += 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            work(
                sqlalchemy.make_url(template.replace("NUMBER", str(number))), Points(number), writer
            )
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answers:
            lines = answers.read().splitlines()
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert killed or os.WEXITSTATUS(status) == 0
        sys.stdout.write(json.dumps({"n": number, "answered": lines, "killed": killed}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
