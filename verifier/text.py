"""Text that somebody else chose, made harmless for whoever reads it."""

from __future__ import annotations

from datetime import datetime, timedelta

# Nothing agreed on lies outside, and within them no sum of an instant and a duration overflows.
YEARS = range(1970, 3000)
_WEST, _EAST = timedelta(hours=-12), timedelta(hours=14)


def printable(text: str) -> str:
    """Escape what could forge a line, move the cursor or colour a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def instant_fault(value: datetime, years: range = YEARS) -> str | None:
    """What an instant that somebody wrote down should have been; None where it is in order.

    One that does not exist in UTC, or that is cut where it is written anew, would be shown as
    another than was signed.
    """
    offset = value.utcoffset()
    if offset is None:
        return "a date-time with offset, like 2026-11-01T00:00:00Z"
    if not _WEST <= offset <= _EAST:
        return "an offset from -12:00 to +14:00, or Z"
    if value.microsecond:
        return "whole seconds, like 2026-11-01T00:00:00Z"
    if value.year not in years:
        return f"a year from {years[0]} to {years[-1]}"
    return None
