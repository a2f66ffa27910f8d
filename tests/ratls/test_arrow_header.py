"""Headers of rows: written by a provider, judged before anything follows their numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.rows import _TYPES
from ratls.arrow_header import (
    MAX_HEADER,
    RowsHeaderMalformed,
    is_schema,
    read_batch,
    read_rows,
    read_schema,
)
from tests.support.arrow_ipc import Ipc
from tests.support.refusal import refused

pytestmark = pytest.mark.slow

MOST = 1 << 24
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "string": st.text(max_size=9),
    "date32": st.dates(date(1900, 1, 1), date(2100, 1, 1)),
    "timestamp[us, UTC]": st.integers(-(2**52), 2**52),
}
assert VALUES.keys() == _TYPES.keys(), "every type of a policy"


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Some columns of the types that a policy can declare; slices, nulls, a single row."""
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    count = draw(st.integers(1, 70))
    columns = []
    for type_ in types:
        cell = VALUES[type_]
        if draw(st.booleans()):
            cell = st.one_of(st.none(), cell)
        cells = draw(st.lists(cell, min_size=count, max_size=count))
        columns.append(pa.array(cells, _TYPES[type_]))
    whole = pa.RecordBatch.from_arrays(columns, names=[f"c{i}" for i in range(len(types))])
    start = draw(st.integers(0, count - 1))
    return whole.slice(start, draw(st.integers(1, count - start)))


def same(found: pa.RecordBatch, sent: pa.RecordBatch) -> bool:
    """Equal in bytes: a NaN is one here."""
    return found.schema == sent.schema and bytes(found.serialize()) == bytes(sent.serialize())


@given(batches())
def test_rows_that_pyarrow_writes_are_read_back(batch: pa.RecordBatch) -> None:
    message = batch.serialize()
    found = read_batch(message, batch.schema, most_rows=batch.num_rows)
    found.validate(full=True)
    assert same(found, batch)
    assert same(pa.ipc.read_record_batch(message, batch.schema), found)


def test_rows_are_views_of_what_was_received() -> None:
    """F19: the enclave holds one copy, and counts that one."""
    batch = pa.record_batch({"x": np.arange(1000.0), "t": ["text"] * 1000})
    message = batch.serialize()
    before = pa.total_allocated_bytes()
    found = read_batch(message, batch.schema, most_rows=MOST)
    assert pa.total_allocated_bytes() == before
    for column in found.columns:
        for buffer in filter(None, column.buffers()):
            assert message.address <= buffer.address < message.address + message.size


@settings(max_examples=300)
@given(batches(), st.data())
def test_any_damage_is_a_refusal_or_sound_rows(batch: pa.RecordBatch, data: st.DataObject) -> None:
    """F01, F05: no number of a header makes the reader look outside, or take memory."""
    raw = bytearray(batch.serialize().to_pybytes())
    header = 8 + int.from_bytes(raw[4:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, (header if data.draw(st.booleans()) else len(raw)) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, len(raw) - 8, header]))]
    before = pa.total_allocated_bytes()
    with suppress(RowsHeaderMalformed, pa.ArrowInvalid):
        found = read_batch(pa.py_buffer(bytes(raw)), batch.schema, most_rows=MOST)
        assert pa.total_allocated_bytes() == before
        found.validate(full=True)
        assert found.schema == batch.schema
        # Whoever copies them takes no more than what came, and the padding of each buffer.
        assert found.serialize().size <= len(raw) + found.num_columns * 3 * 64 + 256


@settings(max_examples=300)
@given(st.binary(max_size=400), st.binary(max_size=64))
def test_any_bytes_for_a_header(header: bytes, body: bytes) -> None:
    schema = pa.schema([("x", pa.int64())])
    with suppress(RowsHeaderMalformed):
        read_rows(memoryview(header), pa.py_buffer(body), schema, most_rows=MOST)
    with suppress(RowsHeaderMalformed):
        read_batch(pa.py_buffer(header), schema, most_rows=MOST)
    with suppress(RowsHeaderMalformed):
        if is_schema(memoryview(header)):
            read_schema(memoryview(header))


ROWS = pa.record_batch(
    {"name": ["a", "bc", "def"] * 10, "x": np.arange(30.0), "y": pa.array([1, None, 3] * 10)}
)
SCHEMA = ROWS.schema
# Buffers: 0 validity, 1 offsets, 2 texts of `name`; 3 validity, 4 values of `x`; 5, 6 of `y`.


def read(forged: Ipc) -> pa.RecordBatch:
    return read_batch(forged.message(), SCHEMA, most_rows=MOST)


def test_a_header_that_is_set_to_what_it_says() -> None:
    """The twin of all that follows."""
    forged = Ipc.of(ROWS)
    for number, (offset, size) in enumerate(forged.buffers()):
        forged.set_buffer(number, offset=offset, size=size)
    forged.set_node(0, 30, 0).set_node(2, 30, 10).set_rows(30).set_body(forged.body)
    assert same(read(forged), ROWS)


OFFSETS = dict(enumerate(Ipc.of(ROWS).buffers()))
BODY = len(Ipc.of(ROWS).body)
FORGED: dict[str, Callable[[Ipc], object]] = {
    "no rows": lambda m: m.set_rows(0),
    "fewer than none": lambda m: m.set_rows(-1),
    "one row more": lambda m: m.set_rows(31),
    "one row more in each column": lambda m: [
        m.set_rows(31),
        m.set_node(0, 31, 0),
        m.set_node(1, 31, 0),
        m.set_node(2, 31, 10),
    ],
    "2^40 rows": lambda m: [m.set_rows(1 << 40), *(m.set_node(i, 1 << 40, 0) for i in range(3))],
    "2^62 rows": lambda m: [m.set_rows(1 << 62), *(m.set_node(i, 1 << 62, 0) for i in range(3))],
    "a column of other length": lambda m: m.set_node(1, 29, 0),
    "more nulls than rows": lambda m: m.set_node(2, 30, 31),
    "fewer nulls than none": lambda m: m.set_node(2, 30, -1),
    "nulls without a bitmap": lambda m: m.set_node(1, 30, 1),
    "values on the offsets": lambda m: m.set_buffer(4, offset=OFFSETS[1][0]),
    "all on one buffer": lambda m: m.set_buffer(6, offset=OFFSETS[4][0]),
    "buffers in another order": lambda m: [
        m.set_buffer(4, offset=OFFSETS[6][0]),
        m.set_buffer(6, offset=OFFSETS[4][0]),
    ],
    "before the body": lambda m: m.set_buffer(0, offset=-8),
    "beyond the end": lambda m: m.set_buffer(6, offset=BODY - 8),
    "far beyond the end": lambda m: m.set_buffer(6, offset=(1 << 63) - 1),
    "one byte short": lambda m: m.set_buffer(4, size=OFFSETS[4][1] - 1),
    "much too long": lambda m: m.set_buffer(4, size=OFFSETS[4][1] + 65),
    "of negative size": lambda m: m.set_buffer(2, size=-1),
    "texts longer than the body": lambda m: m.set_buffer(2, size=1 << 40),
    "not aligned": lambda m: m.set_buffer(6, offset=OFFSETS[6][0] + 1).set_body(m.body + b"1"),
    "a body of another size": lambda m: setattr(m, "body", m.body + bytes(8)),
    "a body that was cut": lambda m: setattr(m, "body", m.body[:-8]),
    "bytes after the last column": lambda m: m.set_body(m.body + bytes(72)),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_header_that_lies(forge: Callable[[Ipc], object]) -> None:
    """F01, F05, F19: each number alone, everything else genuine."""
    forged = Ipc.of(ROWS)
    forge(forged)
    with refused(RowsHeaderMalformed):
        read(forged)


@pytest.mark.parametrize(("gap", "taken"), [(0, True), (56, True), (72, False), (1 << 16, False)])
def test_bytes_hidden_between_two_buffers(gap: int, taken: bool) -> None:
    """F19: they would be kept with the rows, and no check would ever look at them."""
    forged = Ipc.of(ROWS)
    start = OFFSETS[4][0]
    for number in (4, 5, 6):
        forged.set_buffer(number, offset=OFFSETS[number][0] + gap)
    forged.set_body(forged.body[:start] + b"h" * gap + forged.body[start:])
    if taken:
        assert same(read(forged), ROWS)
    else:
        with refused(RowsHeaderMalformed):
            read(forged)


@pytest.mark.parametrize("first", [True, False])
def test_texts_hidden_beside_those_of_the_rows(first: bool) -> None:
    """F19: between two offsets, or behind the last."""
    texts = pa.record_batch({"name": pa.array(["hidden" * 20, "shown", "hidden" * 20])})
    plain = texts.slice(1, 1)
    validity, offsets, letters = texts.column(0).buffers()
    assert validity is None
    # Arrow's writer leaves the neighbours of a slice out; this one does not.
    numbers = np.frombuffer(offsets, np.int32)[1:3] if first else np.array([0, 5], np.int32)
    data = letters.to_pybytes() if first else b"shown" + b"hidden" * 20
    values = numbers.tobytes().ljust(64, b"\0") + data.ljust(-(-len(data) // 64) * 64, b"\0")
    forged = Ipc.of(plain).set_body(values)
    forged.set_buffer(0, offset=0, size=0).set_buffer(1, offset=0, size=8)
    forged.set_buffer(2, offset=64, size=len(data))
    with refused(RowsHeaderMalformed):
        read_batch(forged.message(), texts.schema, most_rows=MOST)
    assert same(read_batch(plain.serialize(), texts.schema, most_rows=MOST), plain)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_rows_are_not_unpacked(compression: str) -> None:
    """F04: 5 KB of zstd become 160 MB."""
    packed = pa.record_batch({"x": np.zeros(1 << 20)})
    with refused(RowsHeaderMalformed):
        read_batch(Ipc.of(packed, compression).message(), packed.schema, most_rows=MOST)
    assert read_batch(Ipc.of(packed).message(), packed.schema, most_rows=MOST).num_rows == 1 << 20


def test_columns_and_dictionaries_in_mid_stream() -> None:
    """F02, F07: they would replace what was agreed on."""
    encoded = pa.table({"x": pa.array(["a", "b", "a"]).dictionary_encode()})
    columns, dictionary, rows = Ipc.messages(encoded)
    for message in (columns, dictionary, rows):
        with refused(RowsHeaderMalformed):
            read_batch(message.message(), pa.schema([("x", pa.string())]), most_rows=MOST)


@pytest.mark.parametrize("deltas", [True, False], ids=["delta", "replacement"])
def test_dictionaries_that_grow_or_are_replaced(deltas: bool) -> None:
    """F02, F07: the rows before would mean something else, and a dictionary is nobody's rows."""
    words = pa.array(["a", "b", "c", "d"])
    parts = [
        pa.record_batch({"x": pa.DictionaryArray.from_arrays([0, 1], words.slice(at, size))})
        for at, size in ((0, 2), (0 if deltas else 2, 4 if deltas else 2))
    ]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)
    with pa.ipc.new_stream(sink, parts[0].schema, options=options) as writer:
        for part in parts:
            writer.write_batch(part)
        stats = writer.stats
    assert (stats.num_dictionary_deltas, stats.num_replaced_dictionaries) == (deltas, not deltas)
    sent = list(pa.ipc.MessageReader.open_stream(sink.getvalue()))
    assert [message.type for message in sent].count("dictionary") == 2
    for message in sent:
        with refused(RowsHeaderMalformed):
            read_batch(message.serialize(), pa.schema([("x", pa.string())]), most_rows=MOST)


def test_metadata_in_the_header_of_a_batch() -> None:
    """F17."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(ROWS, custom_metadata={"canary": "c4n4ry"})
    *_, message = pa.ipc.MessageReader.open_stream(sink.getvalue())
    marked = Ipc(bytearray(message.metadata.to_pybytes()), message.body.to_pybytes())
    with refused(RowsHeaderMalformed):
        read(marked)


def test_rows_that_have_no_bytes() -> None:
    """F05: two billion nulls in 224 bytes."""
    nulls = pa.record_batch({"x": pa.nulls(1 << 28)})
    with refused(RowsHeaderMalformed):
        read_batch(nulls.serialize(), pa.schema([("x", pa.int64())]), most_rows=1 << 40)


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([*SCHEMA, ("more", pa.int64())]),
        pa.schema(list(SCHEMA)[:2]),
        pa.schema([]),
        pa.schema([("name", pa.float64()), ("x", pa.float64()), ("y", pa.int64())]),
        pa.schema([("name", pa.string()), ("x", pa.float32()), ("y", pa.int64())]),
        pa.schema([("name", pa.string()), ("x", pa.bool_()), ("y", pa.int64())]),
    ],
)
def test_rows_of_other_columns(schema: pa.Schema) -> None:
    """F07: the agreed columns decide how many buffers there are, and how large."""
    with refused(RowsHeaderMalformed):
        read_batch(ROWS.serialize(), schema, most_rows=MOST)


@pytest.mark.parametrize("most", [29, 30])
def test_more_rows_than_a_batch_may_have(most: int) -> None:
    if most == 30:
        assert read_batch(ROWS.serialize(), SCHEMA, most_rows=most).num_rows == 30
        return
    with refused(RowsHeaderMalformed):
        read_batch(ROWS.serialize(), SCHEMA, most_rows=most)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00" + bytes(60),
        b"\xff\xff\xff\xff" + (1 << 31).to_bytes(4, "little") + bytes(60),
        b"\xff\xff\xff\xff" + (60).to_bytes(4, "little") + bytes(60),  # not padded to eight
        b"\xff\xff\xff\xff" + bytes(4),  #                                the end of a stream
    ],
)
def test_a_message_that_begins_otherwise(start: bytes) -> None:
    with refused(RowsHeaderMalformed):
        read_batch(pa.py_buffer(start), SCHEMA, most_rows=MOST)


def test_a_header_of_more_than_a_mebibyte() -> None:
    """F05: a million columns are read before they are counted."""
    for reader in (lambda raw: read_rows(raw, ROWS.serialize(), SCHEMA, most_rows=1), read_schema):
        with refused(RowsHeaderMalformed):
            reader(memoryview(bytes(MAX_HEADER + 1)))


def test_four_thousand_columns() -> None:
    wide = pa.record_batch({f"c{i}": [i] for i in range(4096)})
    assert same(read_batch(wide.serialize(), wide.schema, most_rows=1), wide)


# The columns that a stream announces.


def announced(schema: pa.Schema) -> memoryview:
    return memoryview(schema.serialize()).cast("B")[8:]


def test_columns_are_read_back() -> None:
    schema = pa.schema([pa.field(name, type_) for name, type_ in _TYPES.items()])
    assert is_schema(announced(schema))
    assert read_schema(announced(schema)) == schema
    assert not is_schema(memoryview(bytes(Ipc.of(ROWS).header)))


@pytest.mark.parametrize(
    "type_",
    [
        pa.null(),
        pa.binary(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.list_(pa.int64()),
        pa.struct([("a", pa.int64())]),
        pa.map_(pa.string(), pa.int64()),
        pa.dense_union([pa.field("a", pa.int64())]),
        pa.run_end_encoded(pa.int32(), pa.int64()),
        pa.uuid(),
    ],
)
def test_columns_whose_buffers_are_others(type_: pa.DataType) -> None:
    """F02, F06: nested, shared, and with code of their own."""
    with refused(RowsHeaderMalformed):
        read_schema(announced(pa.schema([("x", type_)])))


@pytest.mark.parametrize("raw", [b"", b"x", bytes(8), bytes(200)])
def test_bytes_that_announce_nothing(raw: bytes) -> None:
    with refused(RowsHeaderMalformed):
        read_schema(memoryview(raw))


@given(st.data())
def test_columns_that_were_damaged(data: st.DataObject) -> None:
    raw = bytearray(announced(pa.schema(list(itertools.islice(SCHEMA, 2)))))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RowsHeaderMalformed):
        if is_schema(memoryview(raw)):
            read_schema(memoryview(bytes(raw)))
