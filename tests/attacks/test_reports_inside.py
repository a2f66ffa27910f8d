"""L08: the reader of the enclave's log is gone, and what the log should have said is not done.

Both commits were acknowledged, the line about the second one could not be written, and the
computation was never queued: two parties had released rows for a result that could not come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from enclave_app import application
from enclave_app.intake import Intake
from policy.receipt import Acknowledgement
from ratls.client_stream import Pending, Result
from ratls.flight_server import ServerFailed
from ratls.framing import Kind
from ratls.peer_refusal import PeerRefused
from tests.support.enclave import EnclaveWorld, LiveEnclave, refused_by_enclave, rows
from tests.support.refusal import count_refusal
from tests.support.waiting import eventually

ONE, TWO = "train_party_1", "train_party_2"


@pytest.fixture(scope="module")
def world() -> EnclaveWorld:
    return EnclaveWorld.create()


@pytest.fixture(params=[BrokenPipeError, OSError, ValueError])
def live(world: EnclaveWorld, request: pytest.FixtureRequest) -> Iterator[LiveEnclave]:
    """From now on every write to the log fails: no reader, a full disk, a closed file."""
    with world.running() as running:

        def write(_text: str) -> int:
            raise request.param("no reader")

        running.stream.write = write  # type: ignore[method-assign,assignment]
        yield running


def test_a_log_that_cannot_be_written_changes_nothing(live: LiveEnclave) -> None:
    """Acknowledged, computed and collected as ever."""
    people, task = live.world.consortium, live.world.task()
    with suppress(PeerRefused):  # after the acknowledgement at most
        live.release(people.bob, TWO, rows(2), task)
    with suppress(PeerRefused):
        live.release(people.alice, ONE, rows(1), task)
    assert outcome(live, task)


def outcome(live: LiveEnclave, task: bytes) -> Result:
    def ask() -> Result | None:
        with live.exchange(Kind.COLLECT, live.world.consortium.carol, task=task) as exchange:
            answer = exchange.collect()
        return answer if isinstance(answer, Result) else None

    return eventually(ask)


def test_a_refusal_is_told_though_it_cannot_be_logged(
    live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: the log's own error, raised while a bug was handled, carried the bug's text to the
    peer: a cell."""

    def broken(*_: Any) -> Any:
        raise ValueError("CANARY: patient 17 has it")

    with monkeypatch.context() as patched:
        patched.setattr(Intake, "add", broken)
        with refused_by_enclave(ServerFailed):
            live.release(live.world.consortium.alice, ONE, rows(1), live.world.task())


def test_a_resumed_commit_queues_the_computation(
    world: EnclaveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kind: whatever kept the enclave from going on after a commit that counts (here, memory
    for one more job). The provider asks again, as it must, and the enclave goes on."""
    count_refusal()
    people, task, table = world.consortium, world.task(), rows(1)

    def exhausted(*_: Any) -> None:
        raise MemoryError

    with world.running() as live:
        live.release(people.bob, TWO, rows(2), task)
        with (
            monkeypatch.context() as patched,
            suppress(PeerRefused),
            live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as exchange,
        ):
            patched.setattr(application, "partial", exhausted)
            sent = live.send(exchange, people.alice, ONE, table.to_batches(), task)
            envelope = live.commit(exchange, people.alice, ONE, sent, task)
            exchange.commit(envelope)
        assert live.collect(people.carol, task) == Pending(())
        with live.exchange(Kind.RELEASE, people.alice, task=task, dataset=ONE) as again:
            acknowledged = again.resume(envelope)
        assert acknowledged is not None
        assert Acknowledgement.open(acknowledged).dataset == ONE
        assert isinstance(live.wait(people.carol, task), Result)
