"""F01 to F17: a listed provider sends what its keys allow and the policy does not.

Each sends over the attested, sealed stream of an honest party. The enclave refuses with one code
and says nothing else; the universal oracle judges the rest.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from OpenSSL import SSL

from enclave_app.access import ReleaseNotAuthorized
from enclave_app.intake import RowsNotAsDeclared
from enclave_app.receive import ExchangeTooLong
from enclave_app.server import MethodNotOffered
from ratls.address import Address
from ratls.arrow_header import RowsHeaderMalformed
from ratls.errors import CallFailed
from ratls.flight_server import ExchangesExhausted
from ratls.framing import (
    Kind,
    MessageOversized,
    MessageUnexpected,
    message_frame,
    schema_frame,
)
from ratls.server_stream import SequenceBroken, StreamTruncated
from ratls.tls import Shown
from ratls.turns import BURST, TooManyChallenges
from tests.attacks.conftest import desk_scene
from tests.enclave_app.test_exchanges import hear, opened_stream, sealed_chunk
from tests.enclave_app.test_intake import nested, string_column
from tests.enclave_app.test_server import METHODS, code_told, stock_client
from tests.provider.desk import CANARY, Desk
from tests.support import raw_http2 as http2
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.oracle import Scene, universal_oracle
from tests.support.refusal import count_refusal, refused
from tests.support.relay import Relay
from tests.support.transports import raw_connection
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ONE = "train_party_1"
MANY = 500


@dataclass
class Watched(LiveEnclave):
    """A running enclave that is reached through the recording relay."""

    relay: Relay | None = None

    @property
    def address(self) -> Address:
        assert self.relay is not None
        return Address.parse(self.relay.address)


@pytest.fixture
def watched(live: LiveEnclave, relay: Relay) -> Watched:
    return Watched(live.world, live.enclave, live.server, live.stream, relay=relay)


def good(count: int = 60, **columns: Any) -> pa.Table:
    """Honest rows, all of which have the canary."""
    names = [f"{CANARY}-{n:05d}" for n in range(count)]
    return rows(1, count, **{"patient": names} | columns)


def batch(count: int = MANY, **columns: Any) -> pa.RecordBatch:
    return good(count, **columns).to_batches()[0]


def column(name: str, array: pa.Array) -> pa.Buffer:
    made = batch()
    return made.set_column(made.schema.get_field_index(name), name, array).serialize()


def value(name: str, given: Any) -> pa.Buffer:
    """One bad cell among good ones."""
    made = batch()
    kept = made.column(name)
    return column(name, pa.concat_arrays([kept.slice(1), pa.array([given], kept.type)]))


def past_the_end() -> pa.Buffer:
    names = [f"{CANARY}-{n:05d}" for n in range(MANY)]
    size = len(names[0])
    offsets = [n * size for n in range(MANY + 1)]
    made = column("patient", string_column(offsets, "".join(names).encode())).to_pybytes()
    old = struct.pack("<2i", offsets[-2], offsets[-1])
    new = struct.pack("<2i", 1 << 30, offsets[-1])
    assert made.count(old) == 1
    return pa.py_buffer(made.replace(old, new))


def noted(codec: str | None = None, **metadata: str) -> pa.Buffer:
    """The message of honest rows that are packed, or have texts beside them."""
    made = batch(60_000, bmi=[25.0] * 60_000) if codec else batch()
    sink, options = pa.BufferOutputStream(), pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, made.schema, options=options) as writer:
        writer.write_batch(made, custom_metadata=metadata or None)
    _, message = pa.ipc.MessageReader.open_stream(sink.getvalue())
    return message.serialize()


def wide(count: int) -> pa.Buffer:
    made = batch(10)
    arrays = [*made.columns, *[made.column("age")] * count]
    return pa.RecordBatch.from_arrays(arrays, [str(n) for n in range(len(arrays))]).serialize()


def nulls() -> pa.Buffer:
    columns = {name: pa.nulls(100_000_000) for name in rows(1).column_names}
    return pa.RecordBatch.from_pydict(columns).serialize()


LATIN = [f"{CANARY}-{n:05d}".encode()[:-1] + b"\xff" for n in range(MANY)]
UNION = pa.UnionArray.from_sparse(pa.array([0] * MANY, pa.int8()), [pa.array([1] * MANY)])
SENT: dict[str, tuple[Callable[[], pa.Buffer], type[RatlsError]]] = {
    "F01-offsets": (past_the_end, RowsNotAsDeclared),
    "F02-dictionary": (
        lambda: column("patient", pa.array([CANARY] * MANY).dictionary_encode()),
        RowsHeaderMalformed,
    ),
    "F02-union": (lambda: column("age", UNION), RowsHeaderMalformed),
    "F03-text": (
        lambda: column(
            "patient",
            string_column([n * len(LATIN[0]) for n in range(MANY + 1)], b"".join(LATIN)),
        ),
        RowsNotAsDeclared,
    ),
    "F04-zstd": (lambda: noted("zstd"), RowsHeaderMalformed),
    "F04-lz4": (lambda: noted("lz4"), RowsHeaderMalformed),
    "F05-nulls": (nulls, RowsHeaderMalformed),
    "F05-run-ends": (
        lambda: column("age", pa.RunEndEncodedArray.from_arrays([MANY], [50])),
        RowsHeaderMalformed,
    ),
    "F07-missing": (lambda: batch().drop_columns(["age"]).serialize(), RowsHeaderMalformed),
    "F07-extra": (
        lambda: batch().append_column("z", batch().column("age")).serialize(),
        RowsHeaderMalformed,
    ),
    "F07-reordered": (
        lambda: batch().select(["age", "patient", "bmi", "y"]).serialize(),
        RowsHeaderMalformed,
    ),
    "F07-retyped": (
        lambda: column("age", pa.array([50] * MANY, pa.int32())),
        RowsHeaderMalformed,
    ),
    "F07-wide": (lambda: wide(20_000), RowsHeaderMalformed),
    "F07-deep": (lambda: column("age", nested(50)), RowsHeaderMalformed),
    "F08-nan": (lambda: value("bmi", float("nan")), RowsNotAsDeclared),
    "F08-infinite": (lambda: value("bmi", float("inf")), RowsNotAsDeclared),
    "F08-domain": (lambda: value("age", 121), RowsNotAsDeclared),
    "F16-cell": (lambda: value("patient", None), RowsNotAsDeclared),
    "F17-metadata": (lambda: noted(note=CANARY), RowsHeaderMalformed),
}


@pytest.mark.parametrize("row", SENT)
def test_rows_that_are_not_what_was_declared(scene: Scene, watched: Watched, row: str) -> None:
    """F01 to F05, F07, F08, F16, F17: sealed by an honest key, and refused before they are used."""
    make, leaf = SENT[row]
    with (
        universal_oracle(scene, enclave=leaf),
        refused_by_enclave(leaf),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        exchange.send_sealed(make(), MANY, last=True)
        hear(exchange)


class Pickled(pa.ExtensionType):
    """A type whose metadata would be code (CVE-2023-47248)."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "arrow.py_extension_type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"cos\nsystem\n(S'true'\ntR."

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Pickled:
        raise AssertionError("it was read")


def test_a_type_with_code_of_its_own(scene: Scene, watched: Watched) -> None:
    """F06: a schema never travels; one that does is not read."""
    made = pa.schema([pa.field("age", Pickled()), pa.field(CANARY, pa.string())])
    with (
        universal_oracle(scene, enclave=MessageUnexpected),
        refused_by_enclave(MessageUnexpected),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        exchange._call.send(schema_frame(made))
        hear(exchange)


def test_another_layout_in_mid_stream(scene: Scene, watched: Watched) -> None:
    """F07: the first rows were right."""
    with (
        universal_oracle(scene, enclave=RowsHeaderMalformed),
        refused_by_enclave(RowsHeaderMalformed),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        exchange.send_sealed(batch().serialize(), MANY, last=False)
        exchange.send_sealed(batch().drop_columns(["bmi"]).serialize(), MANY, last=True)
        hear(exchange)


def test_a_message_that_is_too_large(scene: Scene, watched: Watched) -> None:
    """F09: by its size, before it is read."""
    with (
        universal_oracle(scene, enclave=MessageOversized),
        refused_by_enclave(MessageOversized),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        exchange._call.send(message_frame(CANARY.encode() * 30_000))
        hear(exchange)


def test_a_stream_that_drips(world: EnclaveWorld, looked_at: Scene, tmp_path: Path) -> None:
    """F10: each message comes just in time, and the whole ends at its limit."""
    passed, passes = 0.0, 3000.0

    def seconds() -> float:
        nonlocal passed
        if not threading.current_thread().name.startswith("exchange"):
            return 0.0  # for whoever looks whether a peer is silent, it never is
        passed += passes
        return passed

    with (
        world.running(seconds=seconds) as live,
        Relay(("127.0.0.1", live.server.port)) as relay,
    ):
        alice = Desk.of("alice", world, tmp_path, Address.parse(relay.address))
        slow = Watched(world, live.enclave, live.server, live.stream, relay=relay)
        with universal_oracle(desk_scene(looked_at, alice, live, relay), enclave=ExchangeTooLong):
            with refused_by_enclave(ExchangeTooLong):
                slow.release(world.consortium.alice, ONE, good(), world.task())
            passes = 0.0


FLOODS = {
    "reset": lambda n: (
        http2.call(b"/arrow.flight.protocol.FlightService/DoExchange", n)
        + http2.frame(http2.RST_STREAM, 0, n, bytes(4))
    ),
    "ping": lambda n: http2.frame(http2.PING, 0, 0, bytes(8)),
    "headers": lambda n: http2.frame(http2.HEADERS, 0, n, http2.field(b"x", b"y" * 120) * 100),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames(scene: Scene, watched: Watched, kind: str) -> None:
    """F11: thousands of them, below any library (CVE-2023-44487); honest calls go on meanwhile."""
    count_refusal()
    shown = Shown.of(watched.world.channel(watched.world.consortium.bob))
    place = Address("127.0.0.1", watched.server.port)
    # gRPC lets some of the calls through; each is recorded as what it is.
    of_calls = {StreamTruncated.code, ExchangesExhausted.code} if kind == "reset" else set()
    scene.records["enclave"] = lambda: [c for c in watched.stream.codes if c not in of_calls]
    with raw_connection(place, shown, b"h2") as tls, universal_oracle(scene):
        flood = b"".join(FLOODS[kind](2 * n + 1) for n in range(5000))
        with suppress(SSL.Error):  # it was cut off already
            tls.sendall(http2.BEGIN)
            tls.sendall(flood)


def test_challenges_without_end(
    world: EnclaveWorld, looked_at: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11: each costs the machine a quote, for which the others wait. Time stands still, until an
    honest request comes a minute later."""
    monkeypatch.setattr("ratls.turns._WAIT_SECONDS", 0.0)
    time = [0.0]
    with (
        world.running(seconds=lambda: time[0]) as live,
        Relay(("127.0.0.1", live.server.port)) as relay,
    ):
        alice = Desk.of("alice", world, tmp_path, Address.parse(relay.address))
        watched = Watched(world, live.enclave, live.server, live.stream, relay=relay)
        scene = desk_scene(looked_at, alice, live, relay)
        with universal_oracle(scene, enclave=TooManyChallenges):
            with (
                refused_by_enclave(TooManyChallenges),
                opened_stream(watched, world.task()) as exchange,
            ):
                for _ in range(BURST + 1):
                    exchange.challenge_again()
            time[0] += 60.0


@pytest.mark.parametrize("method", METHODS)
def test_other_methods(scene: Scene, watched: Watched, method: str) -> None:
    """F12: one answer for names that exist and names that do not."""
    told = []
    with universal_oracle(scene, enclave=(MethodNotOffered, MethodNotOffered)):
        for name in (ONE, "no-such-name"):
            with (
                stock_client(watched, watched.world.consortium.alice) as client,
                pytest.raises((flight.FlightUnauthorizedError, OSError)) as seen,
            ):
                METHODS[method](client, name)
            told.append(code_told(seen.value))
            assert name not in str(seen.value)
    count_refusal()
    assert told == [MethodNotOffered.code] * 2


@pytest.mark.parametrize(
    "name", ["../" + ONE, "/etc/passwd", "http://127.0.0.1/x", ONE + "\0", CANARY * 1000]
)
def test_names_that_would_lead_elsewhere(scene: Scene, watched: Watched, name: str) -> None:
    """F13: compared, never interpreted, and not written either."""
    alice, task = watched.world.consortium.alice, watched.world.task()
    with (
        universal_oracle(scene, enclave=ReleaseNotAuthorized),
        refused_by_enclave(ReleaseNotAuthorized),
        watched.exchange(Kind.RELEASE, alice, task=task, dataset=name),
    ):
        pass


def test_a_stream_that_is_cut_before_its_commit(scene: Scene, watched: Watched) -> None:
    """F14: after the first chunk of two the connection is gone: nothing counts."""
    with (
        universal_oracle(scene, enclave=StreamTruncated),
        refused(CallFailed),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        exchange.send_sealed(batch().serialize(), MANY, last=False)
        exchange.sealed()
        assert watched.relay is not None
        watched.relay.cut()
        hear(exchange)
    committed = [line for line in watched.log if line["event"] == "committed"]
    assert len(committed) == 1  # the honest one's


@pytest.mark.parametrize("numbers", [(0, 0), (0, 2), (1, 0)], ids=["doubled", "lost", "moved"])
def test_chunks_in_another_order(scene: Scene, watched: Watched, numbers: tuple[int, ...]) -> None:
    """F15: each is sealed for its place."""
    with (
        universal_oracle(scene, enclave=SequenceBroken),
        refused_by_enclave(SequenceBroken),
        opened_stream(watched, watched.world.task()) as exchange,
    ):
        for number in numbers:
            exchange._call.send(sealed_chunk(exchange, batch(), number))
        hear(exchange)


def test_every_row_is_staged() -> None:
    text = Path(__file__).read_text("utf-8").split('"""', 2)[2]
    assert not [n for n in range(1, 18) if f"F{n:02d}" not in text]
