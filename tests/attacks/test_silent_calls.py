"""A listed party opens calls and says nothing; strangers open sockets and say nothing: F18, F11.

A limit that counts only where the peer cooperates first counts nothing: a call that never speaks
must take a place in its party's share before anything is read from it, both at the enclave and at
the mailbox.
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
from enclave_app.limits import Limits
from policy.party import LocalParty
from ratls.address import Address
from ratls.certificate import ENCLAVE_NAME
from ratls.errors import CallFailed
from ratls.flight_server import ExchangesExhausted, Slots
from ratls.framing import Kind
from ratls.peer_refusal import PeerRefused
from ratls.turns import TooManyChallenges
from scheduler.certificate import SCHEDULER_NAME
from scheduler.client import SchedulerBusy
from scheduler.limits import Limits as MailboxLimits
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import refused
from tests.support.scheduler import LiveScheduler, running_scheduler
from tests.support.waiting import HANG_LIMIT, eventually

pytestmark = pytest.mark.slow

ONE = "train_party_1"
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
    """One call of each method, 32 to a connection, until the block ends.

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
            if number % 32 == 0:
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
        # Else an honest call could take the place of one that is still on its way.
        running = live.server._guard.slots._running
        held = min(count, live.enclave.limits.exchanges_per_party)
        eventually(lambda: running[alice.party_id] + silent.refused >= held)
        yield silent


def attest(live: LiveEnclave, party: LocalParty) -> None:
    with live.exchange(Kind.ATTEST, party) as exchange:
        assert exchange.fresh


def attest_when_there_is_room(live: LiveEnclave, party: LocalParty) -> None:
    """The server learns of a call's end a moment after its client."""

    def attested() -> bool:
        attest(live, party)
        return True

    eventually(attested, PeerRefused)


def test_thousands_of_silent_calls_are_their_partys_own(world: EnclaveWorld) -> None:
    """Each is counted for who began it before it has said a word: the others are served at once,
    the process keeps its threads, and the log says why."""
    alice, bob, limits = world.consortium.alice, world.consortium.bob, Limits()
    before = threading.active_count()
    with world.running() as live:
        with silent_at(live, 3000) as silent:
            silent.wait_for_refusals(3000 - limits.exchanges_per_party)
            for _ in range(5):
                attest(live, bob)
            with refused_by_enclave(ExchangesExhausted):
                attest(live, alice)
            assert (silent.begun, silent.refused) == (3000, 3000 - limits.exchanges_per_party)
            assert threading.active_count() - before < 2 * limits.calls
            refusals = [line for line in live.log if line["event"] == "refused"]
            assert {line["code"] for line in refusals} == {ExchangesExhausted.code}
            assert {line["party"] for line in refusals} == {"alice-clinic"}
        attest_when_there_is_room(live, alice)


def test_a_party_with_one_silent_call_fewer_than_its_share(world: EnclaveWorld) -> None:
    """The honest twin: it still has room for itself."""
    with world.running() as live, silent_at(live, Limits().exchanges_per_party - 1) as silent:
        attest(live, world.consortium.alice)
        assert silent.refused == 0


def test_an_owner_that_asks_for_evidence_without_end(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11: a quote costs the machine time. Alice's are counted over all her calls and connections,
    and within a release; Bob is served meanwhile, and Alice again when time has passed."""
    monkeypatch.setattr("ratls.turns.BURST", 8)
    monkeypatch.setattr("ratls.turns._WAIT_SECONDS", 0.0)
    alice, bob, time, task = world.consortium.alice, world.consortium.bob, [0.0], world.task()
    with world.running(seconds=lambda: time[0]) as live:
        for _ in range(6):
            attest(live, alice)
        with (
            refused_by_enclave(TooManyChallenges),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
        ):
            live.open(exchange, alice, ONE, task)
            for _ in range(2):
                exchange.challenge_again()
        with refused_by_enclave(TooManyChallenges):
            attest(live, alice)
        attest(live, bob)
        time[0] += 1.0
        attest(live, alice)
        refusals = [line for line in live.log if line["event"] == "refused"]
        assert [(r["code"], r["party"]) for r in refusals] == [
            (TooManyChallenges.code, "alice-clinic")
        ] * 2
        assert all(len(line["id"]) == 16 for line in refusals)


def test_silence_ends_when_nobody_has_said_hello_in_time(world: EnclaveWorld) -> None:
    """F10: a call that never speaks is over after `hello_seconds`, and its share is free."""
    alice, time, limits = world.consortium.alice, [0.0], Limits()
    with (
        world.running(seconds=lambda: time[0]) as live,
        silent_at(live, limits.exchanges_per_party) as silent,
    ):

        def exhausted() -> bool:
            with refused_by_enclave(ExchangesExhausted):
                attest(live, alice)
            return True

        eventually(exhausted, AssertionError, pytest.fail.Exception)
        time[0] = limits.hello_seconds - 0.1
        live.server.cut_silent()
        assert exhausted()
        assert silent.refused == 0
        time[0] = limits.hello_seconds
        live.server.cut_silent()
        silent.wait_for_refusals(limits.exchanges_per_party)
        attest_when_there_is_room(live, alice)


def test_silence_ends_in_the_middle_of_rows(world: EnclaveWorld) -> None:
    """F10: each message buys `silent_seconds`, and no more; what came is kept for a while."""
    alice, time, limits = world.consortium.alice, [0.0], Limits()
    table, task = rows(1), world.task()
    with (
        world.running(seconds=lambda: time[0]) as live,
        refused(CallFailed),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        first, second = table.to_batches(max_chunksize=30)
        live.open(exchange, alice, ONE, task)
        for number, part in enumerate((first, second)):
            time[0] += limits.silent_seconds - 0.1
            live.server.cut_silent()
            exchange.send_sealed(part.serialize(), part.num_rows, last=number == 1)
            arrived = (number + 1) * first.num_rows
            eventually(lambda arrived=arrived: held_rows(live) == arrived)
        time[0] += limits.silent_seconds
        live.server.cut_silent()
        assert exchange._call.hear() is None
    assert held_rows(live) == table.num_rows


def held_rows(live: LiveEnclave) -> int:
    """Of releases without a commit."""
    sessions = live.enclave.sessions._open.values()
    return sum(intake.rows for session in sessions for intake in session.attempts.values())


def test_a_call_that_is_over_is_counted_no_more(world: EnclaveWorld) -> None:
    """However it ended: answered, refused in its handler, given up in silence."""
    alice = world.consortium.alice
    with world.running(limits=Limits(exchanges_per_party=1)) as live:
        for _ in range(3):
            attest_when_there_is_room(live, alice)
            with (
                contextlib.suppress(PeerRefused),
                live.exchange(Kind.RELEASE, alice, task=b"no task", dataset="d"),
            ):
                pass
            with silent_at(live, 1):
                pass
        attest_when_there_is_room(live, alice)


def test_one_exchange_too_many() -> None:
    """F18: of a party, and in all."""
    slots = Slots(2, 1)
    with slots.hold("alice"):
        with refused(ExchangesExhausted), slots.hold("alice"):
            pass
        with slots.hold("bob"), refused(ExchangesExhausted), slots.hold("carol"):
            pass
    with slots.hold("alice"):
        pass


def test_there_are_threads_for_all_who_may_be_told(world: EnclaveWorld) -> None:
    """The kind: a call that finds no thread cannot even be refused by its code."""
    limits = Limits()
    assert limits.calls > limits.exchanges
    assert limits.exchanges_per_party * len(world.policy.voters) < limits.calls


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


@pytest.mark.slow
def test_a_stranger_that_says_nothing_is_sent_away(world: EnclaveWorld) -> None:
    """F18: its connection does not stay until the process has no file left."""
    with world.running() as live:
        address = (live.address.host, live.address.port)
        with socket.create_connection(address, HANG_LIMIT) as silent:
            while silent.recv(4096):
                pass  # what the server says of HTTP/2 before it goes
        attest(live, world.consortium.alice)


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
