"""Another run goes on with what the enclave kept only if these are the rows of the source (D07)."""

from __future__ import annotations

import pytest

from policy.values import Digest
from provider.sending import KeptRowsDiffer
from ratls.server_stream import ServerExchange
from tests.provider.desk import Desk
from tests.support.enclave import EnclaveWorld, LiveEnclave, rows
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PATIENTS = [f"patient-{i}-{'x' * 3000}" for i in range(3000)]


class Killed(BaseException):
    """Stands for the death of the process: nobody handles it."""


def interrupted(alice: Desk, live: LiveEnclave, task: bytes) -> None:
    """The run dies when the enclave has something of it."""

    def kept() -> int:
        (session,) = live.enclave.sessions._open.values()
        return session.attempts[alice.dataset].chunks

    def die(sent: int, total: int | None) -> None:
        if sent > 1000:
            eventually(kept)
            raise Killed

    alice.write(rows(1, 3000, patient=PATIENTS))
    with pytest.raises(Killed):
        alice.push(task, progress=die)


def test_the_same_source_goes_on(world: EnclaveWorld, alice: Desk, live: LiveEnclave) -> None:
    task = world.task()
    interrupted(alice, live, task)
    done = alice.push(task)
    assert done.commit.rows == 3000
    assert done.sent.kept > 0
    assert done.sent.kept + done.sent.rows == 3000


def test_the_source_changed_between_two_tries(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave
) -> None:
    """What counts is never half of one file and half of another; the try after that sends all."""
    task = world.task()
    interrupted(alice, live, task)
    alice.write(rows(2, 3000, patient=PATIENTS))
    with alice.refuses(KeptRowsDiffer):
        alice.push(task)
    assert "committed" not in [line["event"] for line in live.log]
    done = alice.push(task)
    assert (done.commit.rows, done.sent.kept, done.sent.rows) == (3000, 0, 3000)


def test_the_source_became_shorter(world: EnclaveWorld, alice: Desk, live: LiveEnclave) -> None:
    """Its rows are those that were kept, as far as they go."""
    task = world.task()
    interrupted(alice, live, task)
    alice.write(rows(1, 3000, patient=PATIENTS).slice(0, 10))
    with alice.refuses(KeptRowsDiffer):
        alice.push(task)
    assert alice.push(task).commit.rows == 10


def test_the_enclave_counts_other_rows_than_it_kept(
    world: EnclaveWorld, alice: Desk, live: LiveEnclave, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest and chunks are right. The commit would have a number that the source does not have."""
    task, genuine = world.task(), ServerExchange.ready
    interrupted(alice, live, task)

    def ready(exchange: ServerExchange, chunks: int, rows: int, digest: Digest) -> None:
        genuine(exchange, chunks, rows + 1, digest)

    with monkeypatch.context() as patched:
        patched.setattr(ServerExchange, "ready", ready)
        with alice.refuses(KeptRowsDiffer):
            alice.push(task)
    assert alice.push(task).commit.rows == 3000
