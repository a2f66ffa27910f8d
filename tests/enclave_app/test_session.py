"""What counts, once: the plain states behind every release and every result."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from enclave_app.errors import AttemptClosed
from enclave_app.limits import Limits, MemoryBudget, MemoryExhausted
from enclave_app.session import (
    AnotherCommitCounts,
    NoOutcomeYet,
    Released,
    Sessions,
    TasksExhausted,
    Ticket,
)
from ratls.flight_server import ExchangesExhausted, Slots
from tests.support.refusal import refused

NOW = datetime(2026, 11, 25, tzinfo=UTC)
TICKET = Ticket(
    b"t" * 32,
    ("one", "two"),
    "carol-lab",
    NOW + timedelta(hours=1),
    frozenset({"alice-clinic", "bob-hospital", "carol-lab"}),
)
SEALED = Released({"carol-lab": b"sealed"})


class Rows:
    closed = False

    def __init__(self, release: bytes = b"", chunks: int = 0) -> None:
        self.release = release or os.urandom(16)
        self.chunks, self.connections, self.until = chunks, 0, 3600.0

    def close(self) -> None:
        self.closed = True


def sessions(limits: Limits | None = None) -> Sessions[Rows]:
    return Sessions(limits or Limits())


def begun(table: Sessions[Rows], dataset: str, ticket: Ticket = TICKET) -> Rows:
    rows = Rows()
    table.begin(ticket, dataset, rows, NOW)
    return rows


def commit(table: Sessions[Rows], dataset: str, rows: Rows, digest: bytes = b"c") -> bytes:
    return table.commit(TICKET, dataset, rows, digest, lambda: b"ack " + digest)


def complete(table: Sessions[Rows]) -> None:
    for dataset in ("two", "one"):
        commit(table, dataset, begun(table, dataset))


def test_a_task_completes_in_the_policys_order() -> None:
    table = sessions()
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(("one", "two"))
    two = begun(table, "two")
    commit(table, "two", two)
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(("one",))
    assert table.take_complete(TICKET) is None
    one = begun(table, "one")
    commit(table, "one", one)
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(())
    assert table.take_complete(TICKET) == (one, two)
    assert table.take_complete(TICKET) is None, "computed once"
    table.finish(TICKET, SEALED, due=1.0)
    assert table.outcome(TICKET, 0.9) == NoOutcomeYet(()), "its bucket has not ended"
    outcome = table.outcome(TICKET, 1.0)
    assert outcome == replace(SEALED, commits={"one": b"c", "two": b"c"})
    assert isinstance(outcome, Released)
    assert list(outcome.commits) == ["one", "two"]


def test_one_provider_missing_gives_nothing() -> None:
    """D08, S18: no partial result, whatever happens to the other stream."""
    table = sessions()
    commit(table, "one", begun(table, "one"))
    table.end(TICKET, "two", begun(table, "two"))
    assert table.take_complete(TICKET) is None
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(("two",))


def test_the_same_commit_again_gets_the_same_acknowledgement() -> None:
    """The answer may have been lost: the provider must be able to ask again."""
    table = sessions()
    rows = begun(table, "one")
    first = table.commit(TICKET, "one", rows, b"c", lambda: b"first")
    assert table.commit(TICKET, "one", rows, b"c", lambda: b"second") == first == b"first"
    assert table.known(TICKET, "one", b"c") == b"first"


def test_another_commit_of_a_dataset_that_counts() -> None:
    """I08, D03: rows could be exchanged after they were acknowledged."""
    table = sessions()
    rows = begun(table, "one")
    commit(table, "one", rows)
    with refused(AnotherCommitCounts):
        commit(table, "one", rows, b"other")
    with refused(AnotherCommitCounts):
        table.known(TICKET, "one", b"other")
    late = begun(table, "one")
    with refused(AnotherCommitCounts):
        table.require_open(TICKET, "one", late)


def test_an_unknown_commit_is_absent() -> None:
    table = sessions()
    assert table.known(TICKET, "one", b"c") is None
    begun(table, "one")
    assert table.known(TICKET, "one", b"c") is None


def test_a_later_attempt_closes_the_one_before() -> None:
    """A cut-off stream lingers in the server; its rows must neither count nor hold memory."""
    table = sessions()
    lingering, retry = begun(table, "one"), begun(table, "one")
    assert lingering.closed
    table.require_open(TICKET, "one", retry)
    with refused(AttemptClosed):
        table.require_open(TICKET, "one", lingering)
    with refused(AttemptClosed):
        commit(table, "one", lingering)
    commit(table, "one", retry)
    table.end(TICKET, "one", lingering)
    table.end(TICKET, "one", retry)
    assert not retry.closed


def test_a_refused_attempt_is_never_acknowledged() -> None:
    """A signed acknowledgement of what does not count would be evidence of a lie."""
    table, signed = sessions(), []
    lingering = begun(table, "one")
    begun(table, "one")
    with refused(AttemptClosed):
        table.commit(TICKET, "one", lingering, b"c", lambda: signed.append(1) or b"ack")  # type: ignore[func-returns-value]
    assert signed == []


def test_a_stream_that_ends_is_no_commit() -> None:
    """F14: the server's loop ends alike for a complete upload and for a dead client."""
    table = sessions()
    rows = begun(table, "one")
    table.end(TICKET, "one", rows)
    assert rows.closed
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(("one", "two"))
    with refused(AttemptClosed):
        commit(table, "one", rows)
    commit(table, "one", begun(table, "one"))


def test_concurrent_commits_of_one_dataset() -> None:
    """D03 in parallel: exactly one of the two counts."""
    for _ in range(20):
        table = sessions()
        outcomes: list[str] = []
        barrier = threading.Barrier(2)
        rows = begun(table, "one")

        def race(
            digest: bytes,
            table: Sessions[Rows] = table,
            rows: Rows = rows,
            barrier: threading.Barrier = barrier,
            outcomes: list[str] = outcomes,
        ) -> None:
            barrier.wait()
            try:
                outcomes.append(commit(table, "one", rows, digest).decode())
            except AnotherCommitCounts:
                outcomes.append("refused")

        threads = [threading.Thread(target=race, args=(d,)) for d in (b"x", b"y")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes)[1] == "refused"
        assert sorted(outcomes)[0] in {"ack x", "ack y"}


def test_tasks_have_a_cap_per_submitter_and_in_all() -> None:
    """D11: ten thousand signed tasks must not fill the enclave, nor one submitter all of it."""
    table = sessions(Limits(tasks=3, tasks_per_submitter=2))
    tickets = [replace(TICKET, digest=bytes([i]) * 32) for i in range(4)]
    begun(table, "one", tickets[0])
    begun(table, "one", tickets[1])
    with refused(TasksExhausted):
        begun(table, "one", tickets[2])
    begun(table, "one", replace(tickets[2], submitter="dora-lab"))
    with refused(TasksExhausted):
        begun(table, "one", replace(tickets[3], submitter="erna-lab"))
    begun(table, "two", tickets[0])  # an open task goes on


def test_a_task_of_which_nothing_came_takes_no_place() -> None:
    """D11: whoever only says hello must not use up the tasks of others."""
    table = sessions(Limits(tasks=1))
    table.end(TICKET, "one", begun(table, "one"))
    begun(table, "one", replace(TICKET, digest=b"l" * 32))
    with refused(TasksExhausted):
        begun(table, "one")


def test_expired_tasks_make_room_and_their_streams_end() -> None:
    table = sessions(Limits(tasks=1))
    old = begun(table, "one")
    later = replace(TICKET, digest=b"l" * 32)
    table.begin(later, "one", Rows(), TICKET.expires)
    assert old.closed
    with refused(AttemptClosed):
        commit(table, "one", old)
    assert table.outcome(TICKET, 0.0) == NoOutcomeYet(("one", "two"))


def test_a_task_that_is_being_computed_is_not_forgotten() -> None:
    table = sessions(Limits(tasks=1))
    complete(table)
    assert table.take_complete(TICKET)
    with refused(TasksExhausted):
        table.begin(replace(TICKET, digest=b"l" * 32), "one", Rows(), TICKET.expires)
    table.finish(TICKET, SEALED, due=0.0)
    assert isinstance(table.outcome(TICKET, 0.0), Released)


def test_a_task_is_finished_once() -> None:
    """A second outcome for one task would let a result be computed again on other rows."""
    table = sessions()
    with pytest.raises(AssertionError):
        table.finish(TICKET, SEALED, due=0.0)
    complete(table)
    table.finish(TICKET, SEALED, due=0.0)
    with pytest.raises(AssertionError):
        table.finish(TICKET, Released({}), due=0.0)


def test_exchanges_have_a_cap_per_party_and_in_all() -> None:
    """F10, F11: a party that opens streams and stays silent spends its own share only."""
    slots = Slots(3, 2)
    with slots.hold("alice"), slots.hold("alice"):
        with refused(ExchangesExhausted), slots.hold("alice"):
            pass
        with slots.hold("bob"), refused(ExchangesExhausted), slots.hold("carol"):
            pass
        with slots.hold("carol"):
            pass
    with slots.hold("alice"):
        pass


def test_held_bytes_have_a_cap_per_party_and_in_all() -> None:
    """F10: what one provider keeps open leaves the others their room."""
    budget = MemoryBudget(10, 6)
    alice, bob = budget.of("alice"), budget.of("bob")
    alice.take(6)
    with refused(MemoryExhausted):
        alice.take(1)
    bob.take(4)
    with refused(MemoryExhausted):
        bob.take(1)
    alice.give(6)
    bob.take(1)
    assert budget.free == 5


# A release over several connections, one after another or at once.


def test_the_same_release_goes_on_and_another_begins_anew() -> None:
    table = sessions()
    first = begun(table, "one")
    again = Rows(first.release)
    assert table.begin(TICKET, "one", again, NOW) is first
    assert not first.closed
    assert begun(table, "one") is not first
    assert first.closed


def test_the_same_name_for_another_dataset_is_another_release() -> None:
    table = sessions()
    one = begun(table, "one")
    two = Rows(one.release)
    assert table.begin(TICKET, "two", two, NOW) is two


def test_rows_wait_once_their_last_connection_is_gone() -> None:
    """A lost stream does not lose the others."""
    table = sessions()
    rows = Rows(chunks=1)
    for _ in range(3):
        assert table.begin(TICKET, "one", rows, NOW) is rows
    for _ in range(2):
        table.leave(TICKET, "one", rows, 600.0)
    assert rows.until == 3600.0
    table.leave(TICKET, "one", rows, 600.0)
    assert (rows.until, rows.closed) == (600.0, False)
    table.sweep(NOW, 599.0)
    assert not rows.closed
    table.sweep(NOW, 600.0)
    assert rows.closed


def test_a_release_of_which_nothing_came_waits_for_nobody() -> None:
    """D11: only saying hello takes no place, however many connections say it."""
    table = sessions(Limits(tasks=1))
    rows = Rows()
    for _ in range(2):
        table.begin(TICKET, "one", rows, NOW)
    table.leave(TICKET, "one", rows, 600.0)
    assert not rows.closed, "another connection may be about to bring some"
    table.leave(TICKET, "one", rows, 600.0)
    assert rows.closed
    begun(table, "one", replace(TICKET, digest=b"l" * 32))


def test_leaving_what_counts_or_was_closed_changes_nothing() -> None:
    table = sessions()
    closed, counting = begun(table, "one"), begun(table, "one")
    counting.chunks = 1
    table.leave(TICKET, "one", closed, 1.0)
    commit(table, "one", counting)
    table.leave(TICKET, "one", counting, 1.0)
    assert counting.until == 3600.0
    table.sweep(NOW, 2.0)
    assert not counting.closed
