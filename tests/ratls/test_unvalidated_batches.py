"""Batches whose offsets lie: a receiver measures them before anybody has validated them."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pyarrow as pa
import pytest

from ratls.framing import MessageOversized, write_message
from ratls.server_stream import Caps, ServerExchange, StreamOversized
from tests.support.refusal import refused

CAPS = Caps(rows=1 << 40, bytes=1 << 20, batch_rows=1 << 40, batch_bytes=1 << 16)


def lying(rows: int) -> pa.RecordBatch:
    """Eleven strings whose IPC message claims `rows` rows: reading the offsets of so many, as
    `nbytes` does, runs past the end of the buffers and ends the process."""
    honest = pa.record_batch({"patient": ["a patient"] * 11})
    raw = honest.serialize().to_pybytes()
    forged = raw.replace(struct.pack("<q", 11), struct.pack("<q", rows))
    return pa.ipc.read_record_batch(pa.py_buffer(forged), honest.schema)


def receiving(batch: pa.RecordBatch, count: int = 1) -> ServerExchange:
    """The enclave's end of a stream that carries this batch, then a commit."""
    messages = [(batch, write_message("batch", seq=seq)) for seq in range(count)] + [
        (None, write_message("commit", commit=b"c", salt=bytes(32)))
    ]
    chunks = iter(SimpleNamespace(data=b, app_metadata=pa.py_buffer(m)) for b, m in messages)
    return ServerExchange(SimpleNamespace(read_chunk=lambda: next(chunks)), None, None)


@pytest.mark.parametrize("rows", [11, 500_000_000])
def test_a_batch_is_measured_without_following_its_offsets(rows: int) -> None:
    """F01, F05: 12 kB that claim 500 million rows end a receiver that trusts the claim."""
    received = list(receiving(lying(rows)).batches(CAPS))
    assert [(seq, batch.num_rows) for seq, batch in received] == [(0, rows)]


def test_a_provider_claims_more_rows_than_a_batch_may_have() -> None:
    caps = Caps(rows=1 << 40, bytes=1 << 20)
    with refused(MessageOversized):
        list(receiving(lying(500_000_000)).batches(caps))


@pytest.mark.parametrize(
    ("size", "leaf"), [(1 << 17, MessageOversized), (1 << 15, StreamOversized)]
)
def test_a_provider_sends_more_bytes_than_the_caps(size: int, leaf: type) -> None:
    """F09: one message too large, then many of a permitted size."""
    batch = pa.record_batch({"x": pa.array([bytes(size)])})
    with refused(leaf):
        list(receiving(batch, count=64).batches(CAPS))
    assert len(list(receiving(pa.record_batch({"x": [1]}), count=3).batches(CAPS))) == 3
