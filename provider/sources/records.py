"""Finds where the records of a CSV file end, and refuses the first line that is not RFC 4180.

CSV readers are lenient: they close a quote at the end of the file, join text after a closed quote,
skip blank lines. Each of these can change the table, so the reader gets only records that were
checked here. This module never takes a cell apart.

    records   end with `\\n` or `\\r\\n`, all as the header does; the last one ends too
    cells     are bare, without any quote; or in quotes, where a quote is written twice
    text      is UTF-8 without NUL; a byte order mark may come first

Only where the source table says so: line breaks inside a cell, and quotes written `\\"` (then a
backslash is `\\\\`, both only in quotes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from provider.errors import SourceError
from provider.sources.base import LARGEST, SourceRowTooLarge
from verifier.files import MEBIBYTE

Places = NDArray[np.int64]

_LF, _CR, _QUOTE = b'\n\r"'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Neither occurs in UTF-8: each stands for an escaped character while quotes are counted.
_BACKSLASH, _ESCAPED_QUOTE = b"\xfe", b"\xff"


class _Fault(NamedTuple):
    place: int  # byte of the piece where it shows
    leaf: type[SourceError]
    expected: str
    found: str
    fix: str | None = None
    begun: int | None = None  # byte where the cell begins, if its line is the one to look at


@dataclass(frozen=True)
class Piece:
    """Some whole records."""

    raw: bytes = field(repr=False)
    first_line: int  #                   of the file, from 1 on
    ends: Places = field(repr=False)  #  byte of the line feed that ends each record
    quotes: Places = field(repr=False)
    escape: bool

    @property
    def text(self) -> bytes:
        """The records as RFC 4180 writes them."""
        if not self.escape:
            return self.raw
        return self.raw.replace(_BACKSLASH, b"\\").replace(_ESCAPED_QUOTE, b'""')

    def line(self, record: int) -> int:
        """The line of the file on which a record begins; records count from 0."""
        if not len(self.quotes):  # each record is a line
            return self.first_line + record
        return self.first_line + self.raw.count(b"\n", 0, self._start(record))

    def fields(self, delimiter: str) -> Places:
        """How many cells each record has."""
        delimiters = _places(self.raw, ord(delimiter))
        bare = delimiters[~_within(delimiters, self.quotes)]
        return np.diff(np.searchsorted(bare, self.ends), prepend=0) + 1

    def part(self, first: int, after: int) -> Piece:
        """Records `first` to `after` - 1."""
        start, end = self._start(first), self._start(after)
        low, high = np.searchsorted(self.quotes, (start, end))
        return Piece(
            self.raw[start:end],
            self.line(first),
            self.ends[first:after] - start,
            self.quotes[low:high] - start,
            self.escape,
        )

    def _start(self, record: int) -> int:
        return int(self.ends[record - 1]) + 1 if record else 0


class SourceEncoding(SourceError):
    """A CSV file is not UTF-8 text."""

    code = "source-encoding"
    default_fix = "save the file as UTF-8; NUL bytes often mean a damaged or half-written file"


class SourceQuoteMisplaced(SourceError):
    """A CSV file has a quote where RFC 4180 allows none, or a quote that is not closed."""

    code = "source-quote-misplaced"
    default_fix = (
        "write the file again with a CSV library: it puts cells with a quote, a delimiter or a "
        'line break in quotes, and writes a quote inside as ""; if this file writes \\" instead, '
        "add to the source table: escape = '\\'"
    )


class SourceLineEndMixed(SourceError):
    """Lines of a CSV file end differently, so a line break may be part of a cell."""

    code = "source-line-end-mixed"
    default_fix = "end every line with LF, or every line with CR LF, the header too"


class SourceLineBreakInCell(SourceError):
    """A cell of a CSV file has more line breaks than the source table allows."""

    code = "source-line-break-in-cell"
    default_fix = (
        "close the quote on its line; where cells have line breaks, give the largest number of "
        "them in the source table: line_breaks = 20"
    )


class SourceLineMalformed(SourceError):
    """A line of a CSV file is blank, or has more or fewer cells than the header."""

    code = "source-line-malformed"
    default_fix = "put quotes around cells that contain a delimiter, or name the right delimiter"


class SourceEscapeUnclear(SourceError):
    """In a CSV file with `escape`, a backslash or a doubled quote has more than one meaning."""

    code = "source-escape-unclear"
    default_fix = (
        "write the file again with quotes doubled instead of escaped, and without `escape`"
    )


class SourceCut(SourceError):
    """A file is incomplete: it was cut short, or is still being written."""

    code = "source-cut"
    default_fix = (
        "export or fetch the file again; if its last row is complete, end it with a line break: "
        "echo >> rows.csv"
    )


_PIECE = 4 * MEBIBYTE  # bytes: smaller ones take longer, by what each column of each costs


class Records:
    """The records of one file, in pieces of about four mebibytes."""

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        *,
        delimiter: str,
        line_breaks: int = 0,
        escape: bool = False,
    ) -> None:
        """
        Args:
            read: The next bytes, at most so many; none at the end.
            line_breaks: The most that one cell may have.
            escape: Quotes are written `\\"` in this file.
        """
        self._name, self._read = name, read
        self._delimiter, self._line_breaks, self._escape = ord(delimiter), line_breaks, escape
        self._line = 1  #                     on which the next piece begins
        self._crlf: bool | None = None  #     as the first line ends
        self._held: bytes | None = None  #    a backslash whose next byte is not read yet

    def pieces(self) -> Iterator[Piece]:
        """All records, the header first.

        Raises:
            SourceError: The first line that is not as above, by its number.
        """
        rest = b""
        while True:
            fresh = self._next(rest)
            rest += fresh
            piece = self._checked(rest, at_end=not fresh)
            if len(piece.ends):
                rest = rest[len(piece.raw) :]
                self._line = piece.line(len(piece.ends))
                yield piece
            if not fresh:
                return
            if len(rest) > LARGEST:
                raise SourceRowTooLarge(
                    f"{self._name}, line {self._line}",
                    expected=f"rows of at most {LARGEST} bytes",
                    found="a longer one",
                )

    def _next(self, rest: bytes) -> bytes:
        """More of the file, escapes marked; `rest` is the text before it on its line."""
        read = self._read(_PIECE)
        if self._held is None:
            _require_no_utf_16(read, self._name)
            self._held, read = b"", read.removeprefix(BYTE_ORDER_MARK)
        if not self._escape:
            return read
        fresh, self._held = self._held + read, b""
        if read and (len(fresh) - len(fresh.rstrip(b"\\"))) % 2:
            fresh, self._held = fresh[:-1], b"\\"
            if not fresh:  # only the end is empty
                return self._next(rest)
        for mark in (_BACKSLASH, _ESCAPED_QUOTE):
            if mark in fresh:
                self._refuse(rest + fresh, _not_utf_8(len(rest) + fresh.index(mark)))
        return fresh.replace(b"\\\\", _BACKSLASH).replace(b'\\"', _ESCAPED_QUOTE)

    def _checked(self, raw: bytes, *, at_end: bool) -> Piece:
        """The whole records that `raw` begins with, which begins with a record."""
        quotes, breaks = _places(raw, _QUOTE), _places(raw, _LF)
        ends = breaks[~_within(breaks, quotes)]
        if self._crlf is None and len(ends):
            self._crlf = raw[: ends[0]].endswith(b"\r")
        faults = [
            *self._quote_faults(raw, quotes),
            *self._break_faults(raw, quotes, breaks),
            *self._end_faults(raw, ends),
            *(self._escape_faults(raw, quotes) if self._escape else ()),
        ]
        if b"\0" in raw:
            faults.append(_Fault(raw.index(b"\0"), SourceEncoding, "text", "a NUL byte"))
        end = int(ends[-1]) + 1 if len(ends) else 0
        if at_end and end < len(raw):
            faults.append(self._cut(raw, quotes))
        if faults:
            self._refuse(raw, min(faults, key=lambda fault: fault.place))
        whole = Piece(raw, self._line, ends, quotes, self._escape).part(0, len(ends))
        place = _first_not_utf_8(whole.text)
        if place is not None:
            # Escapes are marked in `raw`, so the place is one in `text`.
            self._refuse(whole.text, _not_utf_8(place))
        return whole

    def _quote_faults(self, raw: bytes, quotes: Places) -> Iterator[_Fault]:
        """A quote opens where a cell begins, and closes where it ends."""
        if not len(quotes):
            return
        data = np.frombuffer(raw, np.uint8)
        opening, doubled = _openings(quotes)
        before = np.where(opening > 0, data[opening - 1], _LF)
        expected = "quotes around whole cells, and each quote within written twice"
        misplaced = opening[~doubled & (before != self._delimiter) & (before != _LF)]
        if len(misplaced):
            yield _Fault(
                int(misplaced[0]),
                SourceQuoteMisplaced,
                expected,
                "a quote in a cell without quotes",
            )
        closing = quotes[1::2]
        closing = closing[closing + 1 < len(raw)]
        after = data[closing + 1]
        ended = (after == self._delimiter) | (after == _LF) | (after == _CR) | (after == _QUOTE)
        if not ended.all():
            yield _Fault(
                int(closing[~ended][0]),
                SourceQuoteMisplaced,
                expected,
                "text after a closing quote",
            )

    def _break_faults(self, raw: bytes, quotes: Places, breaks: Places) -> Iterator[_Fault]:
        """Carriage returns alone end no line; what is inside a cell is counted."""
        if b"\r" in raw:
            returns = _places(raw, _CR)
            returns = returns[returns + 1 < len(raw)]  # what follows the last one is not read yet
            alone = returns[np.frombuffer(raw, np.uint8)[returns + 1] != _LF]
            bare = alone[~_within(alone, quotes)]
            if len(bare):
                yield _Fault(
                    int(bare[0]), SourceLineEndMixed, "lines as the first one ends", "a lone CR"
                )
            breaks = np.sort(np.concatenate((breaks, alone)))
        inside = breaks[_within(breaks, quotes)]
        if not len(inside):
            return
        opening, doubled = _openings(quotes)
        begun = opening[~doubled]
        cells = np.searchsorted(begun, inside) - 1
        over = np.flatnonzero(np.bincount(cells) > self._line_breaks)
        if len(over):
            first = int(np.searchsorted(cells, over[0]))
            yield _Fault(
                int(inside[first + self._line_breaks]),
                SourceLineBreakInCell,
                f"at most {self._line_breaks} line breaks in a cell",
                "more, or an unclosed quote",
                begun=int(begun[over[0]]),
            )

    def _end_faults(self, raw: bytes, ends: Places) -> Iterator[_Fault]:
        data = np.frombuffer(raw, np.uint8)
        crlf = data[np.maximum(ends - 1, 0)] == _CR
        other = ends[crlf != self._crlf]
        if len(other):
            found = "CR LF and LF alone"
            yield _Fault(int(other[0]), SourceLineEndMixed, "lines as the first one ends", found)
        blank = ends[np.diff(ends, prepend=-1) == (2 if self._crlf else 1)]
        if len(blank):
            yield _Fault(
                int(blank[0]),
                SourceLineMalformed,
                "a row on every line",
                "a blank line",
                fix='remove blank lines; in a file of one column, write a missing value as ""'
                " and name it in the source table: null_values = ['\"\"']",
            )

    def _escape_faults(self, raw: bytes, quotes: Places) -> Iterator[_Fault]:
        marks = np.sort(
            np.concatenate([_places(raw, mark[0]) for mark in (_BACKSLASH, _ESCAPED_QUOTE)])
        )
        bare = marks[~_within(marks, quotes)]
        if len(bare):
            yield _Fault(
                int(bare[0]), SourceEscapeUnclear, "escapes only inside quotes", "one outside"
            )
        opening, doubled = _openings(quotes)
        if doubled.any():
            # Where quotes are written \", some readers take "" for one quote and some for two.
            yield _Fault(
                int(opening[doubled][0]),
                SourceEscapeUnclear,
                "every quote in a cell after a backslash",
                "one that is doubled",
            )
        if b"\\" in raw:
            yield _Fault(
                raw.index(b"\\"),
                SourceEscapeUnclear,
                "a backslash before a quote or a backslash",
                "a backslash before something else",
            )

    def _cut(self, raw: bytes, quotes: Places) -> _Fault:
        if len(quotes) % 2:
            opening, doubled = _openings(quotes)
            begun, expected = int(opening[~doubled][-1]), "a closing quote"
            return _Fault(
                len(raw), SourceQuoteMisplaced, expected, "the end of the file", begun=begun
            )
        return _Fault(len(raw), SourceCut, "a line break at the end of the last line", "none")

    def _refuse(self, raw: bytes, fault: _Fault) -> NoReturn:
        place = fault.place if fault.begun is None else fault.begun
        line = self._line + raw.count(b"\n", 0, place)
        raise fault.leaf(
            f"{self._name}, line {line}", expected=fault.expected, found=fault.found, fix=fault.fix
        )


def _places(raw: bytes, byte: int) -> Places:
    if byte not in raw:  # much faster than to compare each byte
        return np.empty(0, np.int64)
    return np.flatnonzero(np.frombuffer(raw, np.uint8) == byte)


def _within(places: Places, quotes: Places) -> NDArray[np.bool_]:
    """Which places stand inside quotes: an odd number of quotes comes before them."""
    odd: NDArray[np.bool_] = np.searchsorted(quotes, places) % 2 == 1
    return odd


def _openings(quotes: Places) -> tuple[Places, NDArray[np.bool_]]:
    """Every other quote opens; those right after a closing one are the second half of a pair."""
    opening = quotes[0::2]
    doubled = np.zeros(len(opening), np.bool_)
    doubled[1:] = opening[1:] == quotes[1::2][: len(opening) - 1] + 1
    return opening, doubled


def _first_not_utf_8(text: bytes) -> int | None:
    if text.isascii():
        return None
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:  # it holds the text: raised from here, it would be printed
        return error.start
    return None


def _not_utf_8(place: int) -> _Fault:
    return _Fault(
        place,
        SourceEncoding,
        "UTF-8",
        "another encoding; older programs on Windows write Windows-1252",
        fix="convert the file: iconv -f WINDOWS-1252 -t UTF-8 rows.csv > converted.csv",
    )


def _require_no_utf_16(start: bytes, name: str) -> None:
    little = start.startswith(b"\xff\xfe") or start[1:4:2] == b"\0\0"
    big = start.startswith((b"\xfe\xff", b"\0\0\xfe\xff")) or start[0:3:2] == b"\0\0"
    if little != big:  # both: NULs alone
        wide = start[2:4] == b"\0\0" or start[:2] == b"\0\0"
        encoding = f"UTF-{32 if wide else 16}{'LE' if little else 'BE'}"
        raise SourceEncoding(
            name,
            expected="UTF-8",
            found=encoding,
            fix=f"convert the file: iconv -f {encoding} -t UTF-8 rows.csv > converted.csv",
        )
