"""How one CSV file differs from RFC 4180, by its source table; nothing is guessed.

delimiter    = ";"                         # "," unless the name ends in .tsv: then a tab
null_values  = ["NA", '""']                # cells that mean null, as they stand in the file
decimal      = ","                         # of float32 and float64
date_format  = "%d.%m.%Y"                  # of date32; %-d and %-m take one digit or two
rename       = { "Patient ID" = "patient" }  # name in the file = name in the policy
escape       = "\\"                        # quotes in cells are written \\"
line_breaks  = 20                          # the most that one cell may have
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from provider.errors import SourceTableMalformed
from provider.sources.text import ISO, Spelling, date_pattern

DIALECT_FIELDS = ("delimiter", "null_values", "decimal", "date_format", "escape", "line_breaks")
_DELIMITERS = (",", ";", "\t")
_MOST_LINE_BREAKS = 10_000  # a cell that holds more is an open quote


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one CSV file is written. Without arguments: RFC 4180."""

    delimiter: str = ","
    escape: bool = False  #                quotes in cells are written \"
    line_breaks: int = 0  #                the most that one cell may have
    bare_nulls: tuple[str, ...] = ()  #    cells without quotes that mean null, beside empty ones
    quoted_nulls: tuple[str, ...] = ()  #  cells in quotes that do, without the quotes
    spelling: Spelling = ISO

    @classmethod
    def parse(cls, table: Mapping[str, Any], name: str) -> Self:
        """The fields of a source table that `DIALECT_FIELDS` lists; `name` is the file's.

        Raises:
            SourceTableMalformed: A value that has no meaning here.
        """
        tab = name.lower().removesuffix(".gz").endswith(".tsv")
        delimiter = _one_of(table, "delimiter", _DELIMITERS, "\t" if tab else ",")
        spelling = Spelling(
            _one_of(table, "decimal", (".", ","), "."),
            str(table.get("date_format", ISO.date_format)),
        )
        if date_pattern(spelling.date_format) is None:
            _refuse(table, "date_format", 'one of %Y, %m or %-m, %d or %-d each, as in "%d.%m.%Y"')
        breaks = table.get("line_breaks", 0)
        if type(breaks) is not int or not 0 <= breaks <= _MOST_LINE_BREAKS:
            _refuse(table, "line_breaks", f"a whole number from 0 to {_MOST_LINE_BREAKS}")
        bare, quoted = _nulls(table, delimiter)
        return cls(
            delimiter, bool(_one_of(table, "escape", ("\\",), "")), breaks, bare, quoted, spelling
        )


RFC_4180 = Dialect()


def _nulls(table: Mapping[str, Any], delimiter: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = table.get("null_values", [])
    expected = "cells as they stand in the file, as in ['NA', '\"\"']"
    if not isinstance(listed, list):
        _refuse(table, "null_values", expected)
    bare, quoted = [], []
    for cell in listed:
        if not isinstance(cell, str) or not cell or {"\n", "\r", "\0"} & set(cell):
            _refuse(table, "null_values", f"{expected}; nothing between delimiters is null anyway")
        inner = cell[1:-1]
        if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner:
            quoted.append(inner)
        elif '"' in cell or delimiter in cell:
            _refuse(table, "null_values", expected)
        else:
            bare.append(cell)
    for cell in quoted:
        # Once they are read, NA and "NA" are one text: a bare one must not become null unasked.
        if cell and cell not in bare:
            _refuse(table, "null_values", f"{cell!a} without quotes beside the one in quotes")
    return tuple(bare), tuple(quoted)


def _one_of(table: Mapping[str, Any], name: str, known: tuple[str, ...], default: str) -> str:
    value = table.get(name, default)
    if name in table and value not in known:
        _refuse(table, name, " or ".join(map(repr, known)))
    return str(value)


def _refuse(table: Mapping[str, Any], name: str, expected: str) -> NoReturn:
    raise SourceTableMalformed(
        name,
        expected=expected,
        found=ascii(table[name])[:80],
        fix=f"correct {name} in the source table; the README lists the allowed values",
    )
