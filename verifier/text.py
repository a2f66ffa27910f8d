"""Texts: what others chose, made safe to show; digests and instants in their one form."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)

# Nothing agreed on lies outside, and within them no sum of an instant and a duration overflows.
YEARS = range(1970, 3000)
_WEST, _EAST = timedelta(hours=-12), timedelta(hours=14)


def printable(text: str) -> str:
    """Escape what could forge a line, move the cursor or colour a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def cause(error: BaseException) -> str:
    """What the operating system said; the name of the exception where it said nothing."""
    return getattr(error, "strerror", None) or type(error).__name__


def digest_text(digest: bytes) -> str:
    """The one text form of a digest: `sha256:<64 lower-case hex>`."""
    return f"sha256:{digest.hex()}"


def instant_text(instant: datetime) -> str:
    """The one text form of an instant: RFC 3339 in UTC, to the second: `2026-11-25T12:00:00Z`."""
    return instant.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def read_instant(text: str) -> datetime:
    """Read what `instant_text` writes: RFC 3339, section 5.6, without fraction or offset.

    Raises: ValueError, for another form and for a day or time that does not exist.
    """
    if not _INSTANT.fullmatch(text):
        raise ValueError("not YYYY-MM-DDTHH:MM:SSZ")
    return datetime.fromisoformat(text)


def instant_fault(value: datetime, years: range = YEARS) -> str | None:
    """What is wrong with an instant that a file or a command line names: what it should be.

    None where it is in order. An instant that does not exist in UTC, or that loses its fraction
    where it is written again, would be shown as another one than was signed.
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
