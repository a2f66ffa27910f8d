"""What an operator may see: events, codes, ids. Never rows, keys, nonces, or a peer's text.

One JSON object a line on stderr. Everything that is not ASCII is escaped, so that no name can
forge a line or colour a terminal.
"""

from __future__ import annotations

import sys
import traceback
from typing import TextIO

import structlog

Log = structlog.typing.FilteringBoundLogger


def open_log(stream: TextIO | None = None) -> Log:
    """A logger that writes to `stream`, or to stderr."""
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return log


def place_of(bug: BaseException) -> str:
    """Kind and place of an unexpected exception. Its message may hold cell values."""
    frames = traceback.extract_tb(bug.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(bug).__name__}{where}"
