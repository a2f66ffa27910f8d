"""Batches whose headers lie: a receiver measures them before it follows any number in them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ratls.arrow_header import RowsHeaderMalformed
from ratls.framing import (
    MessageOversized,
    message_frame,
    rows_frame,
    schema_frame,
    write_message,
)
from ratls.plain_rows import Caps, PlainExchange
from ratls.server_stream import StreamOversized
from tests.support.arrow_ipc import Ipc
from tests.support.refusal import refused

CAPS = Caps(rows=1 << 40, bytes=1 << 20, batch_rows=1 << 40, batch_bytes=1 << 16)
NAMES = pa.record_batch({"patient": ["a patient"] * 11})


def receiving(schema: pa.Schema, *frames: bytes) -> PlainExchange:
    """The enclave's end of a stream that carries these frames, then a commit."""
    commit = message_frame(write_message("commit", commit=b"c"))
    return PlainExchange(iter([schema_frame(schema), *frames, commit]), lambda frame: None)


def lying(rows: int) -> bytes:
    """Eleven strings whose message claims `rows` rows: reading the offsets of so many runs past
    the end of the buffers and ends the process."""
    forged = Ipc.of(NAMES).set_rows(rows).set_node(0, rows, 0)
    return forged.frame(write_message("batch", seq=0))


@pytest.mark.parametrize("rows", [12, 500_000_000])
def test_a_batch_claims_more_rows_than_it_has(rows: int) -> None:
    """F01, F05: 12 kB that claim 500 million rows end a receiver that trusts the claim."""
    with refused(RowsHeaderMalformed):
        list(receiving(NAMES.schema, lying(rows)).batches(CAPS))
    received = list(receiving(NAMES.schema, lying(11)).batches(CAPS))
    assert [(seq, batch.num_rows) for seq, batch in received] == [(0, 11)]


@pytest.mark.parametrize(
    ("size", "leaf"), [(1 << 17, MessageOversized), (1 << 15, StreamOversized)]
)
def test_a_provider_sends_more_bytes_than_the_caps(size: int, leaf: type) -> None:
    """F09: one message too large, then many of a permitted size."""
    batch = pa.record_batch({"x": ["x" * size]})
    frames = [rows_frame(batch, seq) for seq in range(64)]
    with refused(leaf):
        list(receiving(batch.schema, *frames).batches(CAPS))
    assert len(list(receiving(batch.schema, *frames[:1]).batches(Caps(9, 1 << 18)))) == 1
