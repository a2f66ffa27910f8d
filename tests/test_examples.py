"""What a refusal or the README tells people to type is typed here, as it stands."""

from __future__ import annotations

import ast
import re
import shlex
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import typer
from sqlalchemy import make_url
from typer.testing import CliRunner

from policy.row_texts import PersonSpelledInCapitals, PersonSpelledInParts, PersonSpelledWithBlanks
from policy.text import is_composed, is_folded
from provider.errors import SourceTableMalformed
from provider.sources import parse_source, source_at
from provider.sources.opened import ObjectUri
from provider.sources.spec import _FIELDS, ParquetFile
from provider.sources.sql import SourceUrlUnfit
from provider.task_signing import (
    DurationMalformed,
    ParameterMalformed,
    parse_duration,
    parse_parameters,
)
from ratls.address import Address, AddressMalformed
from ratls.cli import build
from scheduler.database import DatabaseUrlUnusable
from tests.provider.test_sources import dataset
from tests.support.error_page import PACKAGES, ROOT, leaves
from tests.support.refusal import refused
from verifier.errors import RatlsError

APP = build()


# Every remedy in the sources, whether a class has it or one place that refuses.


def remedies() -> Iterator[tuple[str, str]]:
    """Place and text of each `default_fix` and each `fix=`; what is filled in later is X."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                for value in _texts(node):
                    text = "".join(
                        str(part.value) if isinstance(part, ast.Constant) else "X"
                        for part in (value.values if isinstance(value, ast.JoinedStr) else [value])
                    )
                    yield f"{path.relative_to(ROOT)}:{value.lineno}", text


def _texts(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        named = any(isinstance(t, ast.Name) and t.id == "default_fix" for t in node.targets)
        return [node.value] if named else []
    if isinstance(node, ast.Call):
        return [k.value for k in node.keywords if k.arg == "fix"]
    return []


REMEDIES = list(remedies())


def commands() -> dict[tuple[str, ...], Any]:
    """The whole tree: every command and group by its words."""
    found: dict[tuple[str, ...], Any] = {}
    todo: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(APP))]
    while todo:
        words, command = todo.pop()
        found[words] = command
        todo += [((*words, name), c) for name, c in getattr(command, "commands", {}).items()]
    return found


COMMANDS = commands()
OPTIONS = {o for c in COMMANDS.values() for p in c.params for o in p.opts + p.secondary_opts}


def unfit(text: str) -> str | None:
    """Why this command line, `ratls …`, could not be typed; None if it could."""
    words = shlex.split(text)[1:]
    known = [w for w in (tuple(words[:n]) for n in range(len(words) + 1)) if w in COMMANDS]
    command, rest = COMMANDS[known[-1]], words[len(known[-1]) :]
    if hasattr(command, "commands"):
        return "no command"
    for option in (word for word in rest if word.startswith("-")):
        if option not in {o for p in command.params for o in p.opts + p.secondary_opts}:
            return f"no option {option}"
    if CliRunner().invoke(APP, [*known[-1], "--help"]).exit_code != 0:
        return "no help"
    return None


LINES = [(place, line) for place, t in REMEDIES for line in re.findall(r"`(ratls [^`]+)`", t)]


@pytest.mark.parametrize(("place", "line"), LINES, ids=[p for p, _ in LINES])
def test_a_command_of_a_remedy_exists(place: str, line: str) -> None:
    assert unfit(line) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ratls policy sing", "no command"),
        ("ratls policy", "no command"),
        ("ratls policy sign --party-folder DIR", "no option --party-folder"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, reason: str) -> None:
    assert unfit(line) == reason


def test_an_option_of_a_remedy_exists() -> None:
    named = {
        (place, option)
        for place, text in REMEDIES
        if "curl" not in text
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
    }
    assert len(named) > 20
    assert {(place, option) for place, option in named if option not in OPTIONS} == set()


# TOML: `name = value`, or a table in braces.

_VALUE = r"""(?:\{[^{}]*\}|\[[^\[\]]*\]|"(?:[^"\\]|\\.)*"|'[^']*'|\d+|true|false)"""
_TOML = re.compile(rf"\{{ [a-z_]+ = .*? \}}|(?<![\w.])[a-z_.]+ = {_VALUE}")
SNIPPETS = [(place, s) for place, text in REMEDIES for s in _TOML.findall(text)]


@pytest.mark.parametrize(("place", "snippet"), SNIPPETS, ids=[p for p, _ in SNIPPETS])
def test_a_table_or_field_of_a_remedy_reads(place: str, snippet: str) -> None:
    """A field of a source table is also put into one, of some kind that has it."""
    table = tomllib.loads(f"source = {snippet}" if snippet.startswith("{") else snippet)
    if isinstance(table.get("source"), dict):
        parse_source(table["source"], Path())
    for name, value in table.items():
        kinds = [kind for kind, fields in _FIELDS.items() if name in fields]
        outcomes = [_reads({"kind": kind} | _least(kind) | {name: value}) for kind in kinds]
        assert not kinds or any(outcomes)


def _least(kind: str) -> dict[str, str]:
    return {"url_file": "url", "query": "select 1"} if kind == "sql" else {"path": "rows"}


def _reads(table: dict[str, Any]) -> bool:
    try:
        parse_source(table, Path())
    except SourceTableMalformed:
        return False
    return True


def test_no_assignment_of_a_remedy_was_overlooked() -> None:
    """Whatever else has ` = ` in it would be an example that no test tries."""
    left = [(place, _TOML.sub("", text)) for place, text in REMEDIES]
    assert [(place, text) for place, text in left if " = " in text] == []


# Examples of other kinds: the leaf, what its remedy shows, and what reads it.


def _tokens(pattern: str) -> Callable[[str], list[str]]:
    return lambda text: re.findall(pattern, text)


def _in_pandas(text: str) -> list[str]:
    return re.findall(r"ids\.[^ ;]+", text)


def _evaluated(expression: str) -> str:
    ids = pd.Series(["E\u0301 "])
    return str(eval(expression, {"ids": ids})[0])  # noqa: S307


def _holds(rule: Callable[[str], bool]) -> Callable[[str], None]:
    def check(expression: str) -> None:
        assert rule(_evaluated(expression))

    return check


EXAMPLES: dict[type[RatlsError], tuple[Callable[[str], list[str]], Callable[[str], object]]] = {
    AddressMalformed: (_tokens(r"\S+:\d+"), Address.parse),
    DatabaseUrlUnusable: (_tokens(r"\S+://\S+"), make_url),
    DurationMalformed: (_tokens(r"\d+[a-z]"), parse_duration),
    ParameterMalformed: (
        lambda text: re.findall(r"--set ('[^']*'|\S+)", text),
        lambda shown: parse_parameters(shlex.split(shown)),
    ),
    SourceUrlUnfit: (_tokens(r"\S+://[^, ]+"), make_url),
    PersonSpelledWithBlanks: (_in_pandas, _holds(lambda t: t == t.strip())),
    PersonSpelledInParts: (_in_pandas, _holds(is_composed)),
    PersonSpelledInCapitals: (_in_pandas, _holds(is_folded)),
}


@pytest.mark.parametrize("leaf", EXAMPLES, ids=lambda leaf: leaf.code)
def test_an_example_of_a_remedy_is_accepted(leaf: type[RatlsError]) -> None:
    shown, read = EXAMPLES[leaf]
    found = shown(leaf.default_fix)
    assert found
    for example in found:
        read(example)


def test_every_example_is_tried() -> None:
    """A class whose remedy says `for example` is in the table above, or its example is TOML."""
    toml = {leaf for leaf in leaves() if _TOML.search(leaf.default_fix)}
    shows = {leaf for leaf in leaves() if "for example" in leaf.default_fix}
    assert shows - toml - set(EXAMPLES) == set()


# The README's table of sources.


def readme_sources() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    section = text[text.index("### Where rows come from") :]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    """Every file that the README's lines name."""
    table = pa.table({"patient": ["p1", "p2"], "age": [40, 50]})
    other = table.rename_columns(["patient", "Alter (Jahre)"])
    (tmp_path / "export").mkdir()
    for name in ("a.parquet", "b.parquet", "export/2026-01.parquet", "export/2026-02.parquet"):
        pq.write_table(table, tmp_path / name)
    pq.write_table(table.append_column("Alter (Jahre)", other[1]), tmp_path / "rows.parquet")
    feather.write_feather(table, tmp_path / "rows.arrow")
    with closing(sqlite3.connect(tmp_path / "rows.db")) as database, database:
        database.execute("create table visits (patient, age)")
        database.execute("insert into visits values ('p1', 40)")
    (tmp_path / "database.url").write_text("sqlite:///rows.db\n")
    (tmp_path / "database.url").chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("line", readme_sources())
def test_a_source_of_the_readme(line: str, exports: Path) -> None:
    """As `provider push --source source.toml` reads it: both passes over rows as it names them."""
    table = tomllib.loads(line)["source"]
    if table["kind"] == "csv":
        pc.write_csv(
            pa.table({"patient": ["p1"], "age": [40]}),
            exports / table["path"],
            pc.WriteOptions(delimiter=table.get("delimiter", ",")),
        )
    if "rename" in table:
        old = pq.read_table(exports / "rows.parquet")
        pq.write_table(old.drop_columns(["age"]), exports / "rows.parquet")
    (exports / "source.toml").write_text(line)
    of = dataset(patient="string", age="int64")
    if "://" in str(table.get("path")):  # read in tests/provider/test_sources_objects.py
        assert source_at(exports / "source.toml") == ParquetFile(ObjectUri(table["path"]))
        return
    with source_at(exports / "source.toml").open(of) as source:
        assert source.scan() == sum(batch.num_rows for batch in source.batches()) > 0


def test_a_source_with_a_misspelt_field_is_refused(exports: Path) -> None:
    (exports / "source.toml").write_text('source = { kind = "arrow", paht = "rows.arrow" }')
    with refused(SourceTableMalformed):
        source_at(exports / "source.toml")
