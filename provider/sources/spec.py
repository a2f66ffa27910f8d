"""Where rows are, before anything is opened: `parse_source` for a table, `source_at` for a path.

    { kind = "parquet", path = "rows.parquet" }               # or a folder of such files
    { kind = "arrow", path = "rows.arrow" }                   # also .arrows, .ipc, .feather
    { kind = "csv", path = "rows.csv" }                       # what else it may say: `dialect`
    { kind = "parquet", path = "export/2026-*.parquet" }      # all that match, by their names
    { kind = "parquet", path = "s3://bucket/rows.parquet" }   # an object (`objects`)
    { kind = "sql", url_file = "url", query = "select …" }    # the URL is never here

Relative paths are relative to the file that holds the table. The `path` of files may be a list:
their rows are one dataset, in this order. `rename = { "Patient ID" = "patient" }` gives columns of
a file their declared names; in a query, `AS` does.

What reads a kind of source is imported where one is opened: a release loads no other.
"""

from __future__ import annotations

import re
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from provider.errors import (
    DatasetNotConfigured,
    SourceError,
    SourceFormatUnknown,
    SourceTableMalformed,
    SourceUnreadable,
)
from provider.sources.base import JoinedSource, SourceChanged
from provider.sources.dialect import DIALECT_FIELDS, RFC_4180, Dialect
from provider.sources.folders import MOST_FILES, matching, parquet_files
from provider.sources.opened import ObjectUri, Place
from verifier.errors import placed
from verifier.files import parse_file

if TYPE_CHECKING:
    from policy.sections import Dataset
    from provider.sources.base import Source

_SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_FIELDS: dict[str, tuple[str, ...]] = {
    "parquet": ("path", "rename"),
    "arrow": ("path", "rename"),
    "csv": ("path", "rename", *DIALECT_FIELDS),
    "sql": ("url_file", "query"),
}
_STORES = ("s3", "gs", "gcs", "abfs", "abfss")
_MOST_TABLE = 1 << 16  # bytes of a file that holds one table, or of a profile


class SourceSpec(ABC):
    """Where the rows of one dataset are. Nothing is opened yet."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The same for the same file or query, whatever the policy calls it; empty in memory."""

    @abstractmethod
    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        """Open it.

        Raises:
            SourceError: It is missing, or not what it should be.
            SourceUnavailable: The database does not answer.
            SchemaError: A declared column is missing, there twice, or has another type.
        """


@dataclass(frozen=True, slots=True)
class ParquetFile(SourceSpec):
    """A Parquet file, or a folder of Parquet files."""

    path: Place
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return _real(self.path)

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        from provider.sources.parquet import ParquetSource

        folder = self.path
        if isinstance(folder, ObjectUri) or not folder.is_dir():
            return ParquetSource.open(folder, dataset, rename=self.rename)
        return _listed(
            lambda: parquet_files(folder),
            lambda path: ParquetFile(path, self.rename),
            dataset,
            str(folder),
        )


@dataclass(frozen=True, slots=True)
class ArrowFile(SourceSpec):
    """An Arrow IPC file or stream."""

    path: Place
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return _real(self.path)

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        from provider.sources.arrow import ArrowSource

        return ArrowSource.open(self.path, dataset, rename=self.rename)


@dataclass(frozen=True, slots=True)
class SeveralFiles(SourceSpec):
    """Files of one kind, one after the other."""

    parts: tuple[SourceSpec, ...]
    name: str

    @property
    def place(self) -> str:
        return "\n".join(sorted(part.place for part in self.parts))

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        return _joined(self.parts, dataset, self.name)


@dataclass(frozen=True, slots=True)
class MatchingFiles(SourceSpec):
    """All files of one kind whose names match a pattern, in the order of their names."""

    pattern: Path
    part: Callable[[Path], SourceSpec] = field(compare=False)

    @property
    def place(self) -> str:
        return _real(self.pattern)

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        return _listed(lambda: matching(self.pattern), self.part, dataset, str(self.pattern))


def _real(place: Place) -> str:
    return str(place) if isinstance(place, ObjectUri) else realpath(place)


def _listed(
    look: Callable[[], list[Path]],
    part: Callable[[Path], SourceSpec],
    dataset: Dataset,
    name: str,
) -> AbstractContextManager[Source]:
    """The files that `look` finds, one after the other; at the end they are still the same."""
    listed = look()

    def require_unchanged() -> None:
        if look() != listed:
            raise SourceChanged(name, expected="the files that it had", found="others")

    return _joined([part(path) for path in listed], dataset, name, require_unchanged)


@contextmanager
def _joined(
    parts: Sequence[SourceSpec],
    dataset: Dataset,
    name: str,
    require_unchanged: Callable[[], None] = lambda: None,
) -> Iterator[Source]:
    _require_each_once(parts, name)
    with ExitStack() as files:
        sources = [files.enter_context(part.open(dataset)) for part in parts]
        yield JoinedSource(sources, dataset, name, require_unchanged)


class SourceFileTwice(SourceError):
    """One file stands in a folder or list under two names: its rows would be read twice."""

    code = "source-file-twice"
    default_fix = "remove one of the two names: they are links to one file"


def _require_each_once(parts: Sequence[SourceSpec], name: str) -> None:
    """Raises: SourceFileTwice."""
    seen: dict[tuple[int, int], Path] = {}
    for path in (
        part.path for part in parts if isinstance(part, ParquetFile | ArrowFile | CsvFile)
    ):
        if isinstance(path, ObjectUri):
            continue
        try:
            found = path.stat()
        except OSError:
            continue  # refused when it is opened
        other = seen.setdefault((found.st_dev, found.st_ino), path)
        if other is not path:
            twice = f"{other.name!a} and {path.name!a}"
            raise SourceFileTwice(name, expected="each file once", found=twice[:120])


@dataclass(frozen=True, slots=True)
class CsvFile(SourceSpec):
    """A CSV file with a header, perhaps packed with gzip."""

    path: Place
    dialect: Dialect = RFC_4180
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return _real(self.path)

    def open(self, dataset: Dataset) -> AbstractContextManager[Source]:
        from provider.sources.csv import CsvSource

        return CsvSource.open(self.path, dataset, self.dialect, rename=self.rename)


@dataclass(frozen=True, slots=True)
class SqlQuery(SourceSpec):
    """The answer to a query; the database's URL is in a file of its own."""

    url_file: Path
    query: str

    @property
    def place(self) -> str:
        return f"{_real(self.url_file)}\n{' '.join(self.query.split()).casefold()}"

    @contextmanager
    def open(self, dataset: Dataset) -> Iterator[Source]:
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
    if isinstance(table.get("path"), list):
        return _several(table, base)
    path, rename = _place(table, base), _rename(table)
    if kind == "csv":
        dialect = Dialect.parse(table, path.name)

        def part(path: Place) -> SourceSpec:
            return CsvFile(path, dialect, rename)
    else:

        def part(path: Place) -> SourceSpec:
            return (ParquetFile if kind == "parquet" else ArrowFile)(path, rename)

    if isinstance(path, Path) and {"*", "?"} & set(path.name) and not path.exists():
        return MatchingFiles(path, part)
    return part(path)


def source_at(path: Path, dataset: str | None = None) -> SourceSpec:
    """By the end of its name: a file of rows, or (`.toml`) a file that holds one table.

    The table's fields, or `source = { … }` as in a profile; or a whole profile, in which the
    source of the dataset is looked up. A folder is one of Parquet files.

    Args:
        dataset: Its id in the policy, for a profile.

    Raises:
        DatasetNotConfigured: The profile does not list it.
        ProfileMalformed: The file lists datasets, and is no profile.
        SourceFormatUnknown: A name that ends in none of these.
        SourceUnreadable: Nothing is there.
        SourceTableMalformed, FileUnreadable: The table is not valid.
    """
    text, named = str(path), PurePath(path)
    scheme, separator, rest = text.partition(":/")
    is_object = bool(separator) and scheme in _STORES and not path.exists()
    if is_object:
        text = f"{scheme}://{rest.lstrip('/')}"  # a path has single slashes
        named = PurePath(rest.partition("?")[0])
    suffix = named.suffix.lower()
    if suffix == ".toml":
        table = parse_file(path, _parse_toml, cap=_MOST_TABLE)
        if "dataset" in table:
            return _source_in(path, dataset)
        if list(table) == ["source"] and isinstance(table["source"], dict):
            table = table["source"]
        with placed(str(path)):
            return parse_source(table, path.parent)
    if path.is_dir():
        return ParquetFile(path)
    if suffix == ".gz":
        suffix = named.with_suffix("").suffix.lower() + suffix
    if suffix not in _SUFFIXES and not is_object and not path.exists():
        raise SourceUnreadable(str(path), expected="a file of rows", found="no such file")
    if suffix not in _SUFFIXES:
        raise SourceFormatUnknown(
            str(path),
            expected=f"a name that ends in {', '.join(_SUFFIXES)} or .toml",
            found=ascii(suffix) if suffix else "none of them",
        )
    return parse_source({"kind": _SUFFIXES[suffix], "path": text}, Path())


def _source_in(path: Path, dataset: str | None) -> SourceSpec:
    from ratls.profile import Profile

    listed = Profile.read(path).datasets
    if dataset is None or dataset not in listed:
        raise DatasetNotConfigured(
            f"dataset {dataset or '(none named)'}", expected=", ".join(listed), found="no source"
        )
    with placed(str(path)):
        return parse_source(listed[dataset], path.parent)


def _parse_toml(raw: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # tomllib's own error is a ValueError
        raise SourceTableMalformed(
            "source table", expected="TOML", found="something else"
        ) from error


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        found = "none" if value is None else f"a {type(value).__name__}, or an empty text"
        raise SourceTableMalformed(name, expected="a text", found=found)
    return value


def _path(table: Mapping[str, Any], name: str, base: Path) -> Path:
    return base / _text(table, name)


def _place(table: Mapping[str, Any], base: Path) -> Place:
    """A path, or the address of an object."""
    text = _text(table, "path")
    return _object(text) or base / text


def _object(text: str) -> ObjectUri | None:
    """An address like s3://bucket/rows.parquet; None for a path.

    Raises: SourceTableMalformed for an address with a key in it.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in _STORES:
        return None
    if "@" in rest.partition("/")[0] or re.search("[?&](access|secret)_key", rest):
        raise SourceTableMalformed(
            "path",
            expected="an address without keys",
            found="one with a key",
            fix="let the environment or the store's own files hold the keys: AWS_PROFILE, ~/.aws",
        )
    return ObjectUri(text)


def _several(table: Mapping[str, Any], base: Path) -> SeveralFiles:
    paths = table["path"]
    if 1 <= len(paths) <= MOST_FILES and all(isinstance(path, str) for path in paths):
        parts = tuple(parse_source({**table, "path": path}, base) for path in paths)
        places = {_object(path) or Path(realpath(base / path)) for path in paths}
        local = [place for place in places if isinstance(place, Path)]
        # A file listed twice, or in a listed folder, would be read twice.
        apart = not any(above in places for place in local for above in place.parents)
        if apart and len(places) == len(paths):
            return SeveralFiles(parts, f"{len(parts)} files from {base / paths[0]}")
    raise SourceTableMalformed(
        "path", expected=f"1 to {MOST_FILES} paths, each once", found="another list"
    )


def _rename(table: Mapping[str, Any]) -> Mapping[str, str]:
    names = table.get("rename", {})
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise SourceTableMalformed(
            "rename", expected='a table like { "Patient ID" = "patient" }', found="another value"
        )
    return names
