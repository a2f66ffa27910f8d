"""Rows that are in memory already: the rules are those of files."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from policy.rows import ColumnMissing, ColumnTypeDiffers, RowsMalformed, ValueOutsideDomain
from provider.errors import SourceFormatUnknown
from provider.release import release
from provider.sources import of_table
from provider.sources.base import SourceEmpty, SourceTooLong
from provider.sources.memory import SourceReadOnce
from tests.provider.desk import Desk
from tests.provider.formats import read, scan
from tests.provider.test_sources import dataset, replaced, rows
from tests.support.enclave import EnclaveWorld
from tests.support.refusal import refused

import pyarrow.parquet as pq  # isort: skip


def frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas()


def polars(table: pa.Table) -> object:
    return pl.from_arrow(table)


def reader(table: pa.Table) -> pa.RecordBatchReader:
    return table.to_reader(max_chunksize=3)


class Stream:
    """What any library gives that can be read again."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self._table.num_rows


FORMS = [lambda table: table, reader, frame, polars, Stream, lambda t: t.to_batches()[0]]
NAMES = ["table", "reader", "pandas", "polars", "stream", "batch"]


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_what_is_in_memory_is_a_source(form: object) -> None:
    table = rows().append_column("diagnosis", pa.array(["CANARY"] * 10))
    spec = of_table(form(table))  # type: ignore[operator]
    with spec.open(dataset()) as source:
        found = pa.Table.from_batches(list(source.batches()))
    assert found.to_pydict() == rows().to_pydict()


@pytest.mark.parametrize("form", FORMS, ids=NAMES)
def test_one_bad_value(form: object) -> None:
    ages = pa.array([*rows()["age"].to_pylist()[:-1], 121])
    with refused(ValueOutsideDomain):
        scan(of_table(form(replaced(rows(), "age", ages))), dataset())  # type: ignore[operator]


def test_it_reaches_the_enclave(world: EnclaveWorld, alice: Desk) -> None:
    table = pq.read_table(alice.path)
    done = release(alice.request(world.task()), alice.dataset, of_table(reader(table)))
    assert done.commit.rows == table.num_rows
    done = release(alice.request(world.task()), alice.dataset, of_table(polars(table)))
    assert done.commit.rows == table.num_rows


class Unmeasured:
    """A stream of another library: it may be read once."""

    def __init__(self, table: pa.Table) -> None:
        self._reader = table.to_reader()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._reader.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("form", [reader, Unmeasured], ids=["reader", "stream"])
def test_a_reader_gives_its_rows_once(form: Callable[[pa.Table], object]) -> None:
    """F14: the rest of a reader that was begun must not look like all of it."""
    with refused(SourceReadOnce), of_table(form(rows())).open(dataset()) as source:
        assert source.scan() == 10
        list(source.batches())
    spec = of_table(form(rows()))
    with spec.open(dataset()) as source:
        next(source.batches())
    with refused(SourceReadOnce):
        scan(spec, dataset())
    again = of_table(rows())
    assert read(again, dataset()).num_rows == read(again, dataset()).num_rows == 10


def test_a_table_has_the_rules_of_a_file() -> None:
    with refused(ColumnMissing):
        scan(of_table(rows().drop_columns(["y"])), dataset())
    with refused(ColumnTypeDiffers):
        scan(of_table(replaced(rows(), "age", rows()["age"].cast(pa.int32()))), dataset())
    with refused(SourceTooLong):
        scan(of_table(rows()), dataset(max_rows=9))
    with refused(SourceEmpty):
        scan(of_table(rows().slice(0, 0)), dataset())
    renamed = rows().rename_columns(["patient", "Alter", "bmi", "y"])
    assert scan(of_table(renamed, rename={"Alter": "age"}), dataset()) == 10


def test_offsets_out_of_their_buffer() -> None:
    """F01: another library may have made the arrays."""
    offsets = pa.py_buffer(b"\0\0\0\0\2\0\0\0\1\0\0\0")
    wrong = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"ab")])
    with refused(RowsMalformed):
        scan(of_table(replaced(rows(2), "patient", wrong)), dataset())


@pytest.mark.parametrize("other", [{"age": [1]}, [1, 2], None, "rows.parquet"])
def test_what_gives_no_arrow_stream(other: object) -> None:
    with refused(SourceFormatUnknown):
        of_table(other)
