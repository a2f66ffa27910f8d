"""The operator's log: events, codes, ids. Never rows, keys, nonces, or a peer's text.

    log = open_log()
    with bound(party="alice-clinic"):
        bind(task_digest=…)                 # from here on, in every line of this thread's call
        log.info("committed")

One JSON object a line on stderr, always with `party` and `task_digest`: null where the line is
about none. What is not ASCII is escaped (RFC 8259, section 7): so that no name can forge a line or
colour a terminal. A line that cannot be written is dropped and counted (`dropped`): it never
raises (L08).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, merge_contextvars

from verifier.output import Lines

Log = structlog.typing.FilteringBoundLogger

_ALWAYS = {"party": None, "task_digest": None}  # fields of every line


class _Sink:
    """Structlog's last step: the fields become a line."""

    def __init__(self, stream: TextIO) -> None:
        self._lines = Lines(stream)

    def msg(self, **fields: Any) -> None:
        def line(lost: int) -> str:
            dropped = {"dropped": lost} if lost else {}
            return json.dumps(_ALWAYS | fields | dropped, sort_keys=True, default=_kind)

        self._lines.put(line)

    debug = info = warning = error = critical = msg


def _kind(value: object) -> str:
    return type(value).__name__  # never what it holds


def open_log(stream: TextIO | None = None) -> Log:
    """A logger that writes to `stream`, or to stderr. It never raises."""
    log: Log = structlog.wrap_logger(
        _Sink(stream or sys.stderr),
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return log


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Every line of this thread has these fields, and those of `bind`, until the block ends."""
    clear_contextvars()  # servers reuse threads
    bind_contextvars(**fields)
    try:
        yield
    finally:
        clear_contextvars()


bind = bind_contextvars


def place_of(bug: BaseException) -> str:
    """Kind and place of an unexpected exception. Its message may hold cell values."""
    frames = [(frame.f_code.co_filename, n) for frame, n in traceback.walk_tb(bug.__traceback__)]
    where = f" at {frames[-1][0]}:{frames[-1][1]}" if frames else ""
    return f"{type(bug).__name__}{where}"
