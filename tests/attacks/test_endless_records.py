"""A peer without any key decides how long a command runs: B23, T21.

Before a TLS handshake ends, some records are skipped by the library. A server that sends nothing
else, as fast as it can, kept `probe` inside the library: `--timeout` was never asked, Ctrl-C and
SIGTERM were not heard. The kind is a wait that only the peer can end: every command that reads
from one must end by its time limit, and by a signal at any moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

import ratls.probe
from provider.mailbox import Inbox
from ratls import errors
from ratls.address import Address
from ratls.call_thread import pause
from ratls.framing import Kind
from ratls.identity import EnclaveIdentity
from ratls.probe import HandshakeOversized, probe, probe_name
from ratls.server_stream import ServerExchange
from scheduler.certificate import own_certificate
from scheduler.client import SchedulerClient
from simulation.serve import Reply
from tests.support.flight_peers import LOOPBACK, NOW, Script, Study, serving
from tests.support.parties import PASSPHRASE
from tests.support.refusal import count_refusal, refused
from tests.support.waiting import HANG_LIMIT
from tests.verifier.pcs_peer import PUBLISHED, TCB, W, drip, fetch, peer
from verifier.errors import Exit
from verifier.pcs import fetch_collateral
from verifier.pcs_requests import PcsTooSlow, Service, tls_trust
from verifier.received import ReceivedQuote

pytestmark = pytest.mark.slow

HELLO_REQUEST = b"\x16\x03\x03\x00\x04" + bytes(4)
MANY_IN_ONE = b"\x16\x03\x03\x40\x00" + bytes(1 << 14)
FLOODS = {"one-a-record": HELLO_REQUEST * 7000, "many-in-one": MANY_IN_ONE * 4}


@contextmanager
def flood(records: bytes, met: Callable[[], None] = lambda: None) -> Iterator[Address]:
    """Sends these records again and again to everybody who connects; `met` is told of each."""
    listener = socket.create_server((LOOPBACK, 0))
    threads, open_ = [], [listener]

    def send(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1)  # the client's hello has begun
            met()
            while records:
                connection.sendall(records)
            while connection.recv(1 << 16):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                open_.append(listener.accept()[0])
                threads.append(threading.Thread(target=send, args=(open_[-1],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield Address(LOOPBACK, listener.getsockname()[1])
    finally:
        for one in open_:
            with contextlib.suppress(OSError):  # closed long ago
                one.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join()


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.create()


# The case: the probe.


@pytest.mark.parametrize("records", FLOODS.values(), ids=FLOODS)
def test_a_flood_before_the_handshake_ends_at_the_cap(records: bytes) -> None:
    with flood(records) as address, refused(HandshakeOversized):
        probe(address, HANG_LIMIT)


@pytest.mark.parametrize("records", FLOODS.values(), ids=FLOODS)
def test_a_flood_before_the_handshake_ends_in_time(
    records: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline is asked on every read, though there is always something to read."""
    monkeypatch.setattr(ratls.probe, "MAX_HANDSHAKE", 1 << 60)
    with flood(records) as address, refused(errors.DeadlineExceeded):
        probe(address, 0.3)


def test_an_enclave_behind_a_slow_network_is_probed(study: Study) -> None:
    """The honest twin: few bytes at a time, and a handshake that ends."""
    identity, channel = study.identity(), study.channel()
    with (
        serving(Script(identity, channel.spki_sha256), channel) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(ratls.probe, "_PIECE", 7)
        assert probe(server.address, HANG_LIMIT) == identity.certificate_der


def test_a_flood_instead_of_a_collateral_service() -> None:
    """The same records, read by a library that takes them piece by piece and asks its clock."""
    with flood(MANY_IN_ONE * 4) as address, refused(PcsTooSlow):
        fetch_collateral(
            {"q.bin": ReceivedQuote(W.quote())},
            Service.parse(f"https://{address}"),
            roots=W.intel.anchors(),
            trust=tls_trust(),
            clock=lambda: NOW,
            seconds=2.0,
        )


# The kind: a wait that only the peer can end.


def interrupt() -> None:
    """Ctrl-C, at the moment at which the peer has the word."""
    # gRPC connects again after a while: a Ctrl-C that nobody waits for would end the next test.
    if AWAITED.is_set():
        os.kill(os.getpid(), signal.SIGINT)


AWAITED = threading.Event()


@contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C ends the block, which would wait for an hour."""
    count_refusal()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    AWAITED.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        AWAITED.clear()
        signal.signal(signal.SIGINT, before)


Silence = Callable[[ServerExchange], None]


def until(end: threading.Event) -> Silence:
    """An enclave that interrupts us as soon as it has the word, and then says nothing."""

    def silent(_: ServerExchange) -> None:
        interrupt()
        end.wait()

    return silent


@contextmanager
def silent_enclave(study: Study, **when: Silence) -> Iterator[tuple[Address, EnclaveIdentity]]:
    identity, channel = study.identity(), study.channel()
    with serving(Script(identity, channel.spki_sha256, **when), channel) as server:
        yield server.address, identity


@pytest.mark.parametrize("when", ["before_evidence", "after_evidence"])
def test_ctrl_c_while_an_enclave_is_silent(study: Study, when: str) -> None:
    end = threading.Event()
    with silent_enclave(study, **{when: until(end)}) as (address, identity):
        admitted = study.admitted(identity)
        with (
            interrupted(),
            study.exchange(Kind.COLLECT, address, admitted, task=b"t", timeout=3600) as exchange,
        ):
            exchange.collect()
        end.set()


def test_ctrl_c_while_an_enclave_reads_nothing(study: Study) -> None:
    """An upload waits for the enclave to make room, for as long as that likes."""
    end = threading.Event()
    batch = pa.record_batch({"x": np.zeros(1 << 19)})
    with silent_enclave(study, after_evidence=until(end)) as (address, identity):
        admitted = study.admitted(identity)
        with (
            interrupted(),
            study.exchange(Kind.RELEASE, address, admitted, task=b"t", timeout=3600) as exchange,
        ):
            exchange.begin(batch.schema)
            while True:
                exchange.send(batch)
        end.set()


@contextmanager
def unanswered(met: Callable[[], None]) -> Iterator[None]:
    """A resolver that never answers holds the system's look-up, which hears no signal."""
    end = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        met()
        end.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield
    end.set()


def test_ctrl_c_while_a_name_is_looked_up() -> None:
    with unanswered(interrupt), interrupted():
        probe_name(Address.parse("enclave.example:7443"), 3600)


def test_a_name_that_is_looked_up_for_too_long() -> None:
    with unanswered(lambda: None), refused(errors.DeadlineExceeded):
        probe_name(Address.parse("enclave.example:7443"), 0.1)


def test_ctrl_c_while_a_peer_is_probed() -> None:
    with flood(b"", interrupt) as address, interrupted():
        probe(address, 3600)


def test_ctrl_c_while_a_collateral_service_answers_for_ever(tmp_path: Path) -> None:
    def endless(_: Reply) -> Iterator[bytes]:
        interrupt()
        yield from drip(b"H")

    with peer(tmp_path, PUBLISHED, {TCB: endless}) as place, interrupted():
        fetch(place, seconds=3600)


@pytest.mark.parametrize("call", ["list", "watch"])
def test_ctrl_c_while_the_mailbox_is_silent(study: Study, tmp_path: Path, call: str) -> None:
    own = own_certificate(tmp_path, NOW)
    with (
        flood(b"", interrupt) as address,
        SchedulerClient(address, own.cert_pem, study.channel(), timeout=3600) as client,
        interrupted(),
    ):
        list(client.list() if call == "list" else client.watch(seconds=3600))


def elsewhere() -> None:
    """Ctrl-C as the system may hand it to a library's thread, while the main one waits."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


class Nobody:
    """A mailbox that offers nothing, ever; `met` is called once a watch has begun."""

    def __init__(self, met: Callable[[], None]) -> None:
        self._met, self._end = met, threading.Event()

    def watch(self, *_: object, **__: object) -> Iterator[Any]:
        self._met()
        self._end.wait()
        yield from ()

    def close(self) -> None:
        self._end.set()


def offering_nothing(met: Callable[[], None]) -> Inbox:
    return Inbox(cast(SchedulerClient, Nobody(met)), lambda refusal, again: None)


@pytest.mark.parametrize("seconds", [None, 3600])
def test_ctrl_c_that_reaches_another_thread_of_an_agent(seconds: float | None) -> None:
    """Its main thread waited for an offer without end, and did not learn of the signal."""
    with interrupted(), offering_nothing(elsewhere) as inbox:
        inbox.next(seconds)


def test_ctrl_c_that_reaches_another_thread_in_a_pause() -> None:
    with interrupted():
        threading.Timer(0.1, elsewhere).start()
        pause(3600)


@pytest.mark.parametrize("seconds", [0, 0.1, 0.6])
def test_an_offer_is_waited_for_as_long_as_was_asked(seconds: float) -> None:
    """The honest twin: nothing came, and nobody interrupted."""
    before = time.monotonic()
    with offering_nothing(lambda: None) as inbox:
        assert inbox.next(seconds) is None
    assert time.monotonic() - before >= seconds


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, int(Exit.INTERRUPTED)), (signal.SIGTERM, -signal.SIGTERM)],
)
def test_a_command_ends_while_a_peer_is_silent(
    study: Study, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """`ratls verify server`, with an hour of time, and an enclave that never answers."""
    count_refusal()
    asked, end = threading.Event(), threading.Event()

    def silent(_: ServerExchange) -> None:
        asked.set()
        end.wait()

    agreement, collateral = tmp_path / "agreement.json", tmp_path / "collateral.json"
    agreement.write_bytes(study.parties.agreement_bytes(study.policy.raw.decode()))
    collateral.write_bytes(study.expectation.collateral.raw)
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(PASSPHRASE + b"\n")
    with silent_enclave(study, before_evidence=silent) as (address, _):
        command = [
            *(str(Path(sys.executable).with_name("ratls")), "verify", "server", str(address)),
            *("--agreement", str(agreement), "--collateral", str(collateral)),
            *("--party", str(study.parties.alice.folder), "--passphrase-file", str(passphrase)),
            *("--timeout", "3600", "--allow-simulation"),
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
            try:
                assert asked.wait(HANG_LIMIT)
                child.send_signal(number)
                assert child.wait(HANG_LIMIT) == status
            finally:
                child.kill()
                end.set()
