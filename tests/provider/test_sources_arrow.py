"""Arrow IPC is memory as it lies: what its lengths and indices say is checked before it is used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from policy.rows import ColumnTypeDiffers, RowsMalformed
from provider.errors import SourceUnreadable
from provider.sources import SourceSpec, parse_source
from provider.sources.base import SourceTooLong
from provider.sources.opened import MOST_READ_AT_ONCE, SourceBatchTooLarge
from tests.provider.formats import arrow_file, arrow_stream, read, scan
from tests.provider.test_sources import dataset, replaced, rows
from tests.support.refusal import refused

pytestmark = pytest.mark.slow

FORMS = pytest.mark.parametrize("form", [arrow_file, arrow_stream])


def path_in(folder: Path) -> Path:
    return next(folder.glob("rows.*"))


@FORMS
@pytest.mark.parametrize(
    "spelling",
    [
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
        pa.string_view(),
    ],
    ids=str,
)
def test_the_spellings_of_a_string_are_read_as_string(
    form: object, tmp_path: Path, spelling: pa.DataType
) -> None:
    assert callable(form)
    table = replaced(rows(), "patient", rows()["patient"].cast(spelling))
    got = read(form(tmp_path, table, rows=3), dataset())
    assert got.to_pydict() == rows().to_pydict()
    assert got.schema.field("patient").type == pa.string()


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches(tmp_path: Path, compression: str) -> None:
    options = ipc.IpcWriteOptions(compression=compression)
    with ipc.new_file(tmp_path / "rows.arrow", rows().schema, options=options) as file:
        file.write_table(rows())
    spec = parse_source({"kind": "arrow", "path": "rows.arrow"}, tmp_path)
    assert read(spec, dataset()).to_pydict() == rows().to_pydict()


@FORMS
@pytest.mark.parametrize(
    ("column", "type_"),
    [
        ("age", pa.int32()),
        ("age", pa.uint64()),
        ("bmi", pa.float32()),
        ("patient", pa.binary()),
        ("patient", pa.binary_view()),
        ("patient", pa.dictionary(pa.int32(), pa.binary())),
    ],
    ids=str,
)
def test_a_column_of_another_type(
    form: object, tmp_path: Path, column: str, type_: pa.DataType
) -> None:
    assert callable(form)
    values = pa.array(rows()[column].to_pylist()).cast(
        type_ if not pa.types.is_dictionary(type_) else pa.binary()
    )
    if pa.types.is_dictionary(type_):
        values = values.dictionary_encode()
    with refused(ColumnTypeDiffers):
        scan(form(tmp_path, replaced(rows(), column, values)), dataset())


@pytest.mark.parametrize("cut", [8, 9, 400], ids=["end-mark", "inside", "a-whole-batch"])
def test_a_stream_that_was_cut(tmp_path: Path, cut: int) -> None:
    """Arrow takes the end of the file for the end of the stream: rows would be missing, unseen."""
    spec = arrow_stream(tmp_path, rows(), rows=5)
    assert scan(spec, dataset()) == 10
    raw = path_in(tmp_path).read_bytes()
    path_in(tmp_path).write_bytes(raw[:-cut])
    with refused(SourceUnreadable):
        scan(spec, dataset())


@pytest.mark.parametrize("more", [b"\n", b"\xff\xff\xff\xff\0\0\0\0"])
def test_a_stream_with_more_behind_its_end(tmp_path: Path, more: bytes) -> None:
    """Two exports in one file: only the first would be read."""
    spec = arrow_stream(tmp_path, rows())
    with path_in(tmp_path).open("ab") as file:
        file.write(more)
    with refused(SourceUnreadable):
        scan(spec, dataset())


@FORMS
def test_an_index_points_outside_its_dictionary(form: object, tmp_path: Path) -> None:
    """F02. A cast that followed it would read other memory of this process, and send it."""
    assert callable(form)
    coded = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 7, 0, 0, 0, 0, 0, 0, 0], pa.int32()), pa.array(["a", "b"]), safe=False
    )
    with refused(RowsMalformed):
        scan(form(tmp_path, replaced(rows(), "patient", coded)), dataset())


def wide(folder: Path, form: object, size: int) -> SourceSpec:
    """Two batches' worth of rows, one batch: 8 bytes in each."""
    assert callable(form)
    table = pa.table({"x": pa.array(range(1)).take(pa.array([0] * (size // 8)))})
    return form(folder, table, rows=size)  # type: ignore[no-any-return]


@FORMS
def test_a_whole_table_written_as_one_batch(form: object, tmp_path: Path) -> None:
    """A batch is the least that can be read: memory would grow with the file."""
    of = dataset(10**9, x="int64")
    assert scan(wide(tmp_path, form, MOST_READ_AT_ONCE // 8), of) == MOST_READ_AT_ONCE // 64
    with refused(SourceBatchTooLarge):
        scan(wide(tmp_path, form, MOST_READ_AT_ONCE + 64), of)


def test_a_file_tells_its_rows_and_a_stream_does_not(tmp_path: Path) -> None:
    """For progress, and to refuse too many before one is read."""
    with arrow_file(tmp_path, rows(), rows=3).open(dataset()) as source:
        assert source.expected_rows() == 10
    with arrow_stream(tmp_path, rows(), rows=3).open(dataset()) as source:
        assert source.expected_rows() is None
        assert source.scan() == source.expected_rows() == 10
    with (
        refused(SourceTooLong),
        arrow_file(tmp_path, rows()).open(dataset(max_rows=9)) as source,
    ):
        source.expected_rows()
