"""What the operator reads: one escaped record per event, and never a cell value."""

from __future__ import annotations

import io
import json

from ratls.log import open_log, place_of


def test_names_cannot_forge_records() -> None:
    """L04: line ends, colours and quotes in a name stay inside one JSON string."""
    stream = io.StringIO()
    hostile = 'x"}\r\n{"event": "released"}\x1b[31m\u202e'
    open_log(stream).warning("refused", dataset=hostile)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["dataset"] == hostile
    assert line.isascii()
    assert line.isprintable()


def test_an_unexpected_error_is_told_by_kind_and_place() -> None:
    """L01: the text of an exception may be a row."""
    try:
        raise ValueError("CANARY")
    except ValueError as bug:
        place = place_of(bug)
    assert place.startswith("ValueError at ")
    assert "test_log.py:" in place
    assert "CANARY" not in place
