"""P13, D04: a window that is asked at the entry only.

A task, or the policy, ends while rows are on their way, while a computation waits or runs, or
while a result is fetched. What was asked once was true once: 75,424 of 100,000 rows came in after
the end, were committed, and were computed with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from enclave_app import application
from enclave_app.application import ComputationTooLong
from enclave_app.computations import summary_statistics
from enclave_app.compute import compute
from enclave_app.errors import AttemptClosed
from enclave_app.intake import Intake
from enclave_app.limits import Limits
from enclave_app.session import Denied
from policy.agreement import PolicyExpired
from policy.task import TaskExpired
from ratls.client_stream import Result
from ratls.framing import Kind
from ratls.identity import Identities
from ratls.peer_refusal import PeerRefused
from ratls.server_stream import ServerExchange
from tests.enclave_app.agreed import Agreed, computation
from tests.support.enclave import NOW, EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.parties import TaskWorld
from tests.support.refusal import count_refusal
from tests.support.waiting import eventually
from verifier.errors import RatlsError

pytestmark = pytest.mark.slow

ONE, TWO = "train_party_1", "train_party_2"
SECTION = computation("summary_statistics", 'columns = ["age", "bmi"]', ["statistics"])


class Clock:
    """The enclave's idea of now."""

    now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def study() -> EnclaveWorld:
    return EnclaveWorld.create(computation=SECTION)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def live(
    study: EnclaveWorld, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LiveEnclave]:
    # TLS looks at the machine's clock: a certificate of that of the enclave would be of the future.
    monkeypatch.setattr(Identities, "renew", lambda *_: None)
    with study.running(clock=clock) as running:
        running.compute_at_once()
        yield running


def ending(live: LiveEnclave, what: type[RatlsError]) -> tuple[bytes, datetime]:
    """A task, and the first instant at which it does not hold: by itself, or by the policy."""
    policy = live.world.policy
    end = NOW + timedelta(minutes=10) if what is TaskExpired else policy.expires
    fields: dict[str, Any] = {"issued_at": NOW, "expires": NOW + timedelta(minutes=10)}
    if what is PolicyExpired:  # signed to hold longer than the policy
        fields["expires"] = policy.expires + timedelta(days=1)
    signed = TaskWorld(live.world.consortium, policy).signed(parameters={}, **fields)
    return signed, end


ENDS = pytest.mark.parametrize("what", [TaskExpired, PolicyExpired])


@contextmanager
def held(live: LiveEnclave) -> Iterator[None]:
    """Whatever came in is forgotten afterwards."""
    yield
    live.enclave.sweep()
    assert live.enclave.budgets.memory.free == live.enclave.limits.held_bytes


@ENDS
def test_rows_after_the_end(live: LiveEnclave, clock: Clock, what: type[RatlsError]) -> None:
    """Each batch is asked for: the one after the end is refused, and none of them counts."""
    alice, (task, end) = live.world.consortium.alice, ending(live, what)
    first, second = rows(1).to_batches(max_chunksize=30)
    with (
        held(live),
        refused_by_enclave(what),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        live.open(exchange, alice, ONE, task)
        exchange.send_sealed(first.serialize(), first.num_rows, last=False)
        eventually(lambda: live.enclave.budgets.memory.free < live.enclave.limits.held_bytes)
        clock.now = end
        exchange.send_sealed(second.serialize(), second.num_rows, last=True)
        exchange._call.hear()
    assert [e["step"] for e in live.log if e["event"] == "stopped"] == ["rows"]


@ENDS
def test_commit_after_the_end(live: LiveEnclave, clock: Clock, what: type[RatlsError]) -> None:
    alice, (task, end) = live.world.consortium.alice, ending(live, what)
    batch = rows(1).to_batches()[0]
    with (
        held(live),
        refused_by_enclave(what),
        live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
    ):
        sent = live.send(exchange, alice, ONE, [batch], task)
        eventually(lambda: live.enclave.budgets.memory.free < live.enclave.limits.held_bytes)
        clock.now = end
        exchange.commit(live.commit(exchange, alice, ONE, sent, task))
    assert [e["step"] for e in live.log if e["event"] == "stopped"] == ["commit"]


@ENDS
def test_computing_after_the_end(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch, what: type[RatlsError]
) -> None:
    """Both commits count, the computation waits for its turn, and its turn comes too late."""
    count_refusal()
    task, end = ending(live, what)
    queued: list[Callable[[], None]] = []
    monkeypatch.setattr(live.enclave._workers, "submit", lambda owner, job: queued.append(job))
    monkeypatch.setattr(application, "compute", lambda *_: pytest.fail("computed"))
    with held(live):
        released(live, task)
        clock.now = end
        queued.pop()()
    assert [e["step"] for e in live.log if e["event"] == "stopped"] == ["computation"]
    with refused_by_enclave(what):
        live.collect(live.world.consortium.carol, task)


def released(live: LiveEnclave, task: bytes) -> None:
    people = live.world.consortium
    live.release(people.bob, TWO, rows(2), task)
    live.release(people.alice, ONE, rows(1), task)


def test_computing_past_the_end(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was begun in time, and is asked between its columns."""
    count_refusal()
    task, end = ending(live, TaskExpired)
    described = []

    def describe(values: Any, quantiles: Any) -> Any:
        described.append(len(values))
        clock.now = end
        return honest(values, quantiles)

    honest = summary_statistics.describe
    monkeypatch.setattr(summary_statistics, "describe", describe)
    with held(live):
        released(live, task)
    assert described == [120], "one of two columns"


@ENDS
def test_result_after_the_end(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch, what: type[RatlsError]
) -> None:
    """The recipient asked in time, and its evidence took until the end."""
    task, end = ending(live, what)
    released(live, task)
    evidence = live.enclave.evidence

    def slow(*arguments: Any) -> bytes:
        made = evidence(*arguments)
        clock.now = end
        return made

    monkeypatch.setattr(live.enclave, "evidence", slow)
    live.enclave.seconds = lambda: math.inf
    with refused_by_enclave(what):
        live.collect(live.world.consortium.carol, task)
    assert [e["step"] for e in live.log if e["event"] == "stopped"] == ["hand-out"]


def test_all_of_it_a_second_before_the_end(live: LiveEnclave, clock: Clock) -> None:
    task, end = ending(live, TaskExpired)
    clock.now = end - timedelta(seconds=1)
    released(live, task)
    assert isinstance(live.wait(live.world.consortium.carol, task), Result)


def test_after_whichever_message_the_end_comes(
    live: LiveEnclave, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind: after the end no row is taken in, nothing is acknowledged, computed or handed out.

    An honest run counts the messages that the enclave reads and writes; then the end comes after
    each of them in turn.
    """
    count_refusal()
    live.enclave.seconds = itertools.count().__next__  # every bucket has ended when it is asked
    messages, last, end, handed_out = 0, 0, NOW, 0
    late: list[str] = []

    def counted(method: Any, names: str | None) -> Any:
        def call(*arguments: Any, **members: Any) -> Any:
            nonlocal messages, handed_out
            name = names or arguments[1]
            if name == "result":  # from here on it is handed out: its parts follow
                handed_out = messages
            if clock.now == end and name in {"result", "acknowledgement", "rows", "compute"}:
                late.append(name)
            done = method(*arguments, **members)
            if names is None or names == "message":
                messages += 1
                if messages == last:
                    clock.now = end
            return done

        return call

    monkeypatch.setattr(ServerExchange, "_say", counted(ServerExchange._say, None))
    monkeypatch.setattr(ServerExchange, "_next", counted(ServerExchange._next, "message"))
    monkeypatch.setattr(Intake, "add", counted(Intake.add, "rows"))
    monkeypatch.setattr(application, "compute", counted(compute, "compute"))

    def job() -> Any:
        nonlocal messages, end
        messages, clock.now, end = 0, NOW, NOW + timedelta(minutes=10)
        task = live.world.task(parameters={}, lifetime=timedelta(minutes=10))
        with suppress(PeerRefused):
            released(live, task)
            return live.collect(live.world.consortium.carol, task)

    assert isinstance(job(), Result)
    assert messages > handed_out > 15
    for last in range(1, handed_out + 1):
        assert not isinstance(job(), Result), last
        assert late == [], last


# Time that ends without the task: a computation, and a release that nobody hears of any more.


LONG = {
    "statistics": ("summary_statistics", 'columns = ["age", "bmi"]', ["statistics"]),
    "a model": (
        "logistic_regression",
        'features = ["age", "bmi"], label = "y", max_iter = 500',
        ["model_weights"],
    ),
    "ids": ("private_set_intersection", 'key = "patient"', ["intersection_ids"]),
}


@pytest.mark.parametrize("name", LONG)
def test_a_computation_has_a_deadline(name: str) -> None:
    """One that never ended would hold its thread, and the rows of both, for good. Each is asked
    again and again, and ends at whichever question the answer is no."""
    count_refusal()
    agreed = Agreed.on(*LONG[name], minimum=10)
    both = [rows(1), rows(2, patient=rows(1)["patient"])]
    asked: list[int] = []
    whole = compute(agreed.policy, agreed.task, both, lambda: asked.append(1))
    assert not isinstance(whole, Denied)
    assert len(asked) >= 4
    for number in range(1, len(asked) + 1):
        countdown = iter([None] * (number - 1))

        def until_then(countdown: Iterator[None] = countdown) -> None:
            try:
                next(countdown)
            except StopIteration:
                raise ComputationTooLong("computation", expected="its end", found="none") from None

        found = compute(agreed.policy, agreed.task, both, until_then)
        assert found == Denied(ComputationTooLong.code), number


def test_a_silent_release_gives_its_memory_back(study: EnclaveWorld) -> None:
    """F10: Alice says so little that she is not silent. Her share of the budget was kept past the
    hour, so that eight such calls shut out everybody."""
    now = 0.0
    limits = Limits(exchange_seconds=60, held_bytes=1 << 30)
    with study.running(limits=limits, seconds=lambda: now) as live:
        live.enclave.stop()
        alice, task = live.world.consortium.alice, live.world.task(parameters={})
        first, second = rows(1).to_batches(max_chunksize=30)
        with (
            refused_by_enclave(AttemptClosed),
            live.exchange(Kind.RELEASE, alice, task=task, dataset=ONE) as exchange,
        ):
            live.open(exchange, alice, ONE, task)
            exchange.send_sealed(first.serialize(), first.num_rows, last=False)
            eventually(lambda: live.enclave.budgets.memory.free < limits.held_bytes)
            now = 59.0
            live.enclave.sweep()
            assert live.enclave.budgets.memory.free < limits.held_bytes, (
                "within its time it keeps it"
            )
            now = 60.0
            live.enclave.sweep()
            assert live.enclave.budgets.memory.free == limits.held_bytes
            exchange.send_sealed(second.serialize(), second.num_rows, last=True)
            exchange._call.hear()
        live.release(alice, ONE, rows(1), task)
