"""A listed party opens calls and says nothing; strangers open sockets and say nothing: F18, F11.

Three thousand silent calls had three thousand threads at the enclave, whose handler, and with it
every limit, is entered only once a peer has spoken; at the mailbox a few hundred took every
thread there was. The kind is a limit that counts only where the peer cooperates first.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

import ratls.serving
from enclave_app.limits import ExchangesExhausted, Limits, Slots
from policy.party import LocalParty
from ratls.address import Address
from ratls.certificate import ENCLAVE_NAME
from ratls.client_call import PeerRefused
from ratls.errors import CallFailed
from ratls.framing import Kind
from scheduler.certificate import SCHEDULER_NAME
from scheduler.client import SchedulerBusy
from scheduler.limits import Limits as MailboxLimits
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave
from tests.support.refusal import refused
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT, eventually

EXCHANGE = "/arrow.flight.protocol.FlightService/DoExchange"
MAILBOX = "/ratls.scheduler.v1.TaskService/"


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


class Silent:
    """Calls that were begun, one after another, and say nothing."""

    def __init__(self) -> None:
        self.begun = 0
        self.refused = 0
        self._news = threading.Condition()

    def ended(self, call: grpc.aio.Call) -> None:
        with self._news:
            self.refused += 1
            self._news.notify_all()

    def wait_for_refusals(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.refused >= count, HANG_LIMIT), self.refused


@contextmanager
def silent_calls(
    address: Address, certificate_pem: bytes, name: str, party: LocalParty, *methods: str
) -> Iterator[Silent]:
    """One call of each method, 16 to a connection, until the block ends.

    Asynchronous, since a silent call has no thread there: neither at an attacker.
    """
    credentials = grpc.ssl_channel_credentials(
        certificate_pem, party.channel_key_pem, party.channel_certificate_pem
    )
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    silent, ready, end = Silent(), threading.Event(), threading.Event()

    async def attack() -> None:
        calls, channels = [], []
        for number, method in enumerate(methods):
            if number % 16 == 0:
                channels.append(grpc.aio.secure_channel(str(address), credentials, options))
                await channels[-1].channel_ready()
            call = channels[-1].stream_stream(method)()
            call.add_done_callback(silent.ended)
            calls.append(call)
        silent.begun = len(calls)
        ready.set()
        await asyncio.to_thread(end.wait)
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()

    thread = threading.Thread(target=asyncio.run, args=(attack(),))
    thread.start()
    try:
        assert ready.wait(HANG_LIMIT)
        yield silent
    finally:
        end.set()
        thread.join()


# The enclave


@contextmanager
def silent_at(live: LiveEnclave, count: int) -> Iterator[Silent]:
    alice, pem = live.world.consortium.alice, live.enclave.identity.certificate_pem
    with silent_calls(live.address, pem, ENCLAVE_NAME, alice, *[EXCHANGE] * count) as silent:
        yield silent


def attest_when_there_is_room(live: LiveEnclave) -> None:
    """The server learns of a call's end a moment after its client."""

    def attested() -> bool:
        with live.exchange(Kind.ATTEST, live.world.consortium.bob):
            return True

    eventually(attested, PeerRefused, CallFailed)


def test_silent_calls_are_counted_from_their_start(world: EnclaveWorld) -> None:
    """They fill what is theirs, the process keeps its threads, and the log says why."""
    with world.running(limits=Limits(calls=20)) as live:
        before = threading.active_count()
        with silent_at(live, 300) as silent:
            silent.wait_for_refusals(280)
            assert (silent.begun, silent.refused) == (300, 280)
            with (
                refused_by_enclave(ExchangesExhausted),
                live.exchange(Kind.ATTEST, world.consortium.bob),
            ):
                pass
        attest_when_there_is_room(live)
        codes = [line.get("code") for line in live.log if line["event"] == "refused"]
        assert threading.active_count() <= before + 2
    assert codes.count(ExchangesExhausted.code) >= 281
    assert set(codes) == {ExchangesExhausted.code}


def test_silent_calls_below_the_limit_shut_out_nobody(world: EnclaveWorld) -> None:
    """The honest twin: one call fewer, and there is room."""
    with world.running(limits=Limits(calls=20)) as live, silent_at(live, 18):
        attest_when_there_is_room(live)


def test_a_call_that_is_over_is_counted_no_more(world: EnclaveWorld) -> None:
    """However it ended: answered, refused in its handler, given up in silence."""
    with world.running(limits=Limits(calls=2)) as live:
        for _ in range(3):
            attest_when_there_is_room(live)
            with (
                contextlib.suppress(PeerRefused),
                live.exchange(Kind.RELEASE, world.consortium.alice, task=b"no task", dataset="d"),
            ):
                pass
            with silent_at(live, 1):
                pass
        attest_when_there_is_room(live)


def test_one_call_too_many() -> None:
    slots = Slots(Limits(calls=2))
    slots.start()
    slots.start()
    with refused(ExchangesExhausted):
        slots.start()
    slots.end()
    slots.start()


# The mailbox, whose server enters a handler at the start of a call


@contextmanager
def mailbox(folder: Path, world: EnclaveWorld, **limits: int) -> Iterator[LiveScheduler]:
    agreed = [world.complete]
    with running_scheduler(folder, agreed, limits=MailboxLimits(**limits)) as live:
        yield live


@pytest.mark.parametrize("method", ["Submit", "List", "Watch", "Report"])
def test_silence_at_the_mailbox_counts_in_its_partys_share(
    tmp_path: Path, world: EnclaveWorld, method: str
) -> None:
    """As many calls as there are threads, and more: others are answered all the while."""
    with mailbox(tmp_path, world, calls=16, calls_per_party=3, watches_per_party=3) as live:
        alice, pem = world.consortium.alice, live.certificate.cert_pem
        calls = [MAILBOX + method] * 40
        with silent_calls(live.address, pem, SCHEDULER_NAME, alice, *calls) as silent:
            silent.wait_for_refusals(37)
            for _ in range(5):
                assert live.client(world.consortium.bob).list() == ()
            with refused(SchedulerBusy):
                live.client(alice).list()
            assert silent.refused == 37
        assert "calls-exhausted" in live.log


def test_a_party_that_speaks_has_its_share(tmp_path: Path, world: EnclaveWorld) -> None:
    """The honest twin: one silent call fewer."""
    with mailbox(tmp_path, world, calls=16, calls_per_party=3) as live:
        alice, pem = world.consortium.alice, live.certificate.cert_pem
        calls = [MAILBOX + "List"] * 2
        with silent_calls(live.address, pem, SCHEDULER_NAME, alice, *calls):
            assert live.client(alice).list() == ()


def test_a_call_with_two_requests(tmp_path: Path, world: EnclaveWorld) -> None:
    """A handler that takes a stream must not take two: the second would go unseen."""
    with mailbox(tmp_path, world) as live:
        alice = world.consortium.alice
        credentials = grpc.ssl_channel_credentials(
            live.certificate.cert_pem, alice.channel_key_pem, alice.channel_certificate_pem
        )
        name = [("grpc.ssl_target_name_override", SCHEDULER_NAME)]
        with grpc.secure_channel(str(live.address), credentials, options=name) as opened:
            call: Callable[..., bytes] = opened.stream_unary(MAILBOX + "List")
            assert call(iter([b""]), timeout=HANG_LIMIT) == b""
            for requests in ([b"", b""], []):
                with pytest.raises(grpc.RpcError) as refusal:
                    call(iter(requests), timeout=HANG_LIMIT)
                assert str(refusal.value.details()).startswith("refused: request-malformed (")


# Strangers: sockets on which nobody ever says anything


@contextmanager
def idle_sockets(address: Address, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(socket.create_connection((address.host, address.port), HANG_LIMIT))
        yield


@contextmanager
def few_files() -> Iterator[None]:
    """The limit that a shell gives to a process, small enough to be reached here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (400, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_sockets_do_not_shut_the_parties_out_of_the_enclave(world: EnclaveWorld) -> None:
    with (
        few_files(),
        world.running() as live,
        idle_sockets(live.address, 500),
        live.exchange(Kind.ATTEST, world.consortium.alice) as exchange,
    ):
        assert exchange.fresh


def test_idle_sockets_do_not_shut_the_parties_out_of_the_mailbox(
    tmp_path: Path, world: EnclaveWorld
) -> None:
    with few_files(), mailbox(tmp_path, world) as live, idle_sockets(live.address, 500):
        assert live.client(world.consortium.alice).list() == ()


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, 1 << 16),
        (1024, resource.RLIM_INFINITY, 1 << 16),
        (1 << 20, 1 << 20, 1 << 20),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_as_many_connections_as_the_machine_permits(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, then: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    ratls.serving.open_many_files()
    assert limits[-1] == (then, hard)
