"""Services that answer without end, or with more than anybody needs: T21, F20.

A client asks one question. Whatever comes back, slowly, at full speed, or packed, must cost a
bounded time and a bounded memory, and end in a refusal that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from ratls.address import Address
from ratls.framing import Kind, MessageUnexpected, write_message
from scheduler import task_service_pb2 as pb
from scheduler.certificate import OwnCertificate, own_certificate
from scheduler.client import LISTED_BYTES, SchedulerClient
from scheduler.messages import ENVELOPE_CAP, SchedulerAnswerMalformed
from simulation.serve import Reply
from tests.support.flight_peers import LOOPBACK, NOW, Study
from tests.support.raw_flight import flight_data, raw_enclave
from tests.support.refusal import refused
from tests.support.waiting import HANG_LIMIT
from tests.verifier.pcs_peer import PATHS, PUBLISHED, TCB, Alter, fetch_from, says, wire
from verifier.errors import RatlsError
from verifier.pcs_requests import PcsAnswerTooLarge, PcsTooSlow, PcsUnreachable
from verifier.responses import PcsAnswerMalformed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.create()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnCertificate:
    return own_certificate(tmp_path_factory.mktemp("mailbox"), NOW)


# Collateral services, at full speed: there is always something to read


def forever(piece: bytes, *before: bytes) -> Alter:
    def flood(_: Reply) -> Iterator[bytes]:
        yield from before
        while True:
            yield piece

    return flood


OK = b"HTTP/1.1 200 X\r\n"
FLOODS: list[Any] = [
    pytest.param(forever(b"HTTP/1.1 103 X\r\nA: b\r\n\r\n" * 3000), PcsTooSlow, id="early-hints"),
    pytest.param(forever(b"A: b\r\n" * 3000, OK), PcsUnreachable, id="headers"),
    pytest.param(forever(b"x" * 60_000), PcsUnreachable, id="no-http"),
    pytest.param(
        forever(b"1\r\n1\r\n" * 9000, OK, b"Transfer-Encoding: chunked\r\n\r\n"),
        PcsTooSlow,
        id="chunks",
    ),
    pytest.param(
        forever(b"A: b\r\n" * 3000, OK, b"Transfer-Encoding: chunked\r\n\r\n0\r\n"),
        PcsUnreachable,
        id="trailers",
    ),
]


@pytest.mark.parametrize(("flood", "leaf"), FLOODS)
def test_a_flood_from_a_collateral_service(
    tmp_path: Path, flood: Alter, leaf: type[RatlsError]
) -> None:
    with refused(leaf):
        fetch_from(tmp_path, {TCB: flood}, seconds=1.5)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity"])
def test_an_answer_that_is_packed(tmp_path: Path, coding: str) -> None:
    """Refused by its header: nothing is read, much less unpacked."""
    with refused(PcsAnswerMalformed):
        fetch_from(tmp_path, {TCB: says(200, Content_Encoding=coding)})


@pytest.mark.parametrize("alter", [says(200, Content_Encoding="identity"), says(200)])
def test_an_answer_as_it_is(tmp_path: Path, alter: Alter) -> None:
    assert fetch_from(tmp_path, {TCB: alter}).collateral == PUBLISHED


@pytest.mark.parametrize("path", PATHS)
def test_every_part_is_capped_before_it_is_read(tmp_path: Path, path: str) -> None:
    """A mebibyte, whatever it would be parsed into: here, brackets that nest."""

    def deep(reply: Reply) -> Iterable[bytes]:
        return [wire(replace(reply, body=b"[" * ((1 << 20) + 1)))]

    with refused(PcsAnswerTooLarge):
        fetch_from(tmp_path, {path: deep})


def test_an_answer_that_nests_to_the_cap(tmp_path: Path) -> None:
    with refused(PcsAnswerMalformed):
        fetch_from(tmp_path, {TCB: lambda reply: replace(reply, body=b"[" * (1 << 20))})


# The mailbox


@contextmanager
def mailbox(
    own: OwnCertificate, study: Study, pages: Callable[[int], pb.ListAnswer]
) -> Iterator[SchedulerClient]:
    """Answers each question for a page with the next of these."""
    asked = iter(range(1 << 30))
    server = grpc.server(ThreadPoolExecutor(2))
    serve = grpc.unary_unary_rpc_method_handler(
        lambda request, context: pages(next(asked)),
        response_serializer=pb.ListAnswer.SerializeToString,
    )
    name = "ratls.scheduler.v1.TaskService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"List": serve}),))
    credentials = grpc.ssl_server_credentials([(own.key_pem, own.cert_pem)])
    port = server.add_secure_port(f"{LOOPBACK}:0", credentials)
    server.start()
    address = Address(LOOPBACK, port)
    try:
        with SchedulerClient(address, own.cert_pem, study.channel(), timeout=HANG_LIMIT) as client:
            yield client
    finally:
        server.stop(None).wait()


def page(number: int, *, more: bool) -> pb.ListAnswer:
    """Sixty tasks of the largest size, no two alike: just below what one answer may have."""
    tasks = [
        pb.QueuedTask(
            task_digest=(number * 60 + place).to_bytes(32, "big"),
            envelope=bytes(ENVELOPE_CAP),
            cursor=number.to_bytes(24, "big"),
        )
        for place in range(60)
    ]
    return pb.ListAnswer(tasks=tasks, more=more)


def test_a_list_that_fills_the_memory(own: OwnCertificate, study: Study) -> None:
    """A hundred thousand tasks were permitted: of 64 KiB each they are 6.5 GB."""
    asked = []

    def endless(number: int) -> pb.ListAnswer:
        asked.append(number)
        return page(number, more=True)

    with mailbox(own, study, endless) as client, refused(SchedulerAnswerMalformed):
        client.list()
    assert len(asked) == LISTED_BYTES // (60 * ENVELOPE_CAP) + 1


def test_a_long_list_that_ends(own: OwnCertificate, study: Study) -> None:
    with mailbox(own, study, lambda number: page(number, more=number < 5)) as client:
        assert len(client.list()) == 360


# The enclave


def test_messages_that_nobody_asked_for(study: Study) -> None:
    """The evidence is genuine, and more and more follows: an exchange hears one answer."""

    def chatty(evidence: bytes) -> Iterator[bytes]:
        yield evidence
        while True:
            yield flight_data(metadata=write_message("denied", code="compute-denied"))

    with (
        raw_enclave(study, chatty) as peer,
        refused(MessageUnexpected),
        study.exchange(Kind.COLLECT, peer.address, peer.admitted, task=b"t") as exchange,
    ):
        exchange.collect()
