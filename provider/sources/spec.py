"""Where rows are, before anything is opened: `parse_source` for a table, `source_at` for a path.

    { kind = "parquet", path = "rows.parquet" }
    { kind = "arrow", path = "rows.arrow" }
    { kind = "csv", path = "rows.csv" }                       # delimiter = ";" or "\\t"
    { kind = "sql", url_file = "url", query = "select …" }    # the URL never stands here

Relative paths are relative to the file that holds the table.
"""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provider.errors import SourceTableMalformed, SourceUnreadable
from provider.sources.arrow import ArrowSource
from provider.sources.csv import DELIMITERS, CsvSource
from provider.sources.parquet import ParquetSource
from verifier.errors import placed
from verifier.files import parse_file

if TYPE_CHECKING:
    from policy.document import Dataset
    from provider.sources.base import Source

_SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
}
_FIELDS: dict[str, tuple[str, ...]] = {
    "parquet": ("path",),
    "arrow": ("path",),
    "csv": ("path", "delimiter"),
    "sql": ("url_file", "query"),
}
_MOST_TABLE = 1 << 16  # bytes of a file that holds one table


class SourceSpec(ABC):
    """Where the rows of one dataset are. Nothing is opened yet."""

    @abstractmethod
    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        """Open it, for both passes.

        Raises:
            SourceError: It is missing, or not what it should be.
            SourceUnavailable: The database is away.
            SchemaError: A declared column is missing, there twice, or has another type.
        """


@dataclass(frozen=True, slots=True)
class ParquetFile(SourceSpec):
    """A Parquet file."""

    path: Path

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        return ParquetSource.open(self.path, dataset)


@dataclass(frozen=True, slots=True)
class ArrowFile(SourceSpec):
    """An Arrow IPC file or stream."""

    path: Path

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        return ArrowSource.open(self.path, dataset)


@dataclass(frozen=True, slots=True)
class CsvFile(SourceSpec):
    """A CSV file with a header."""

    path: Path
    delimiter: str = ","

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        return CsvSource.open(self.path, dataset, delimiter=self.delimiter)


@dataclass(frozen=True, slots=True)
class SqlQuery(SourceSpec):
    """The answer to a query; the database's URL is in a file of its own."""

    url_file: Path
    query: str

    @contextmanager
    def open(self, dataset: Dataset) -> Iterator[Source]:
        # Only who has rows in a database waits for this import.
        from provider.sources.sql import SqlSource

        with SqlSource.open(self.url_file, self.query, dataset) as source:
            yield source


def parse_source(table: Mapping[str, Any], base: Path) -> SourceSpec:
    """Read one table strictly.

    Args:
        table: `kind` and exactly the fields of that kind.
        base: Folder that relative paths start from.

    Raises:
        SourceTableMalformed: An unknown kind or field, a missing one, or another value.
    """
    kind = _text(table, "kind")
    if kind not in _FIELDS:
        raise SourceTableMalformed("kind", expected=" or ".join(_FIELDS), found=ascii(kind)[:80])
    for name in table:
        if name != "kind" and name not in _FIELDS[kind]:
            raise SourceTableMalformed(
                ascii(name)[:80],
                expected=f"only kind, {', '.join(_FIELDS[kind])} for kind {kind!r}",
                found="an unknown field",
            )
    if kind == "sql":
        return SqlQuery(_path(table, "url_file", base), _text(table, "query"))
    path = _path(table, "path", base)
    if kind == "csv":
        return CsvFile(path, _delimiter(table))
    return ParquetFile(path) if kind == "parquet" else ArrowFile(path)


def source_at(path: Path) -> SourceSpec:
    """By the end of its name: a file of rows, or (`.toml`) a file that holds one table.

    Raises:
        SourceUnreadable: A name that ends in none of these.
        SourceTableMalformed, FileUnreadable: The table does not read.
    """
    suffix = path.suffix.lower()
    if suffix == ".toml":
        table = parse_file(path, _parse_toml, cap=_MOST_TABLE)
        with placed(str(path)):
            return parse_source(table, path.parent)
    if suffix not in _SUFFIXES:
        raise SourceUnreadable(
            str(path), expected=f"a name that ends in {', '.join(_SUFFIXES)} or .toml", found=suffix
        )
    return parse_source({"kind": _SUFFIXES[suffix], "path": str(path)}, Path())


def _parse_toml(raw: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib's own error is a ValueError
        raise SourceTableMalformed("source", expected="TOML", found="another text") from error


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        found = "none" if value is None else f"a {type(value).__name__} that is none"
        raise SourceTableMalformed(name, expected="a text", found=found)
    return value


def _path(table: Mapping[str, Any], name: str, base: Path) -> Path:
    return base / _text(table, name)


def _delimiter(table: Mapping[str, Any]) -> str:
    value = table.get("delimiter", ",")
    if value not in DELIMITERS:
        raise SourceTableMalformed(
            "delimiter", expected=" or ".join(map(repr, DELIMITERS)), found=ascii(value)[:80]
        )
    return str(value)
