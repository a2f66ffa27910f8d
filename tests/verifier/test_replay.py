"""An event log against registers: which event differs, and what cannot be told."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.event_log import ACTION, CONFIG_FLAGS, EventForm, encode_log, guest_events
from simulation.trust_domain import GuestMeasurement
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import world
from verifier.errors import Exit, RatlsError
from verifier.event_log import NO_ACTION, EventDataAltered, EventLog
from verifier.quote import Quote, QuoteUnsupported
from verifier.replay import (
    EventNotExpected,
    LogReport,
    MeasuredEventDiffers,
    RegisterNotGiven,
    RegisterNotReplayed,
    judge_log,
    registers_of,
)

CODE = bytes(range(32))
EVENTS = guest_events(CODE)
OTHER = b"\x5a" * 48


def parsed(events: Sequence[EventForm]) -> EventLog:
    return EventLog.parse(encode_log(events))


GOOD = parsed(EVENTS)
VALUES = {number: GOOD.replay(number) for number in range(4)}
ACPI = next(i for i, event in enumerate(EVENTS) if event.kind == CONFIG_FLAGS)
CALLING = next(i for i, event in enumerate(EVENTS) if event.kind == ACTION)


def with_event(at: int, **altered: object) -> list[EventForm]:
    """The log of the guest with one event altered."""
    return [*EVENTS[:at], replace(EVENTS[at], **altered), *EVENTS[at + 1 :]]  # type: ignore[arg-type]


def judge(
    events: Sequence[EventForm],
    *,
    expected: Sequence[EventForm] | None = None,
    values: dict[int, bytes] = VALUES,
) -> LogReport:
    known = None if expected is None else parsed(expected)
    return judge_log(parsed(events), values, expected=known, file="log.bin")


def require(report: LogReport) -> None:
    if report.refusal is not None:
        raise report.refusal


def test_the_log_of_the_guest_itself() -> None:
    for expected in (None, EVENTS):
        report = judge(EVENTS, expected=expected)
        require(report)
        assert (report.exit_status, report.difference) == (Exit.YES, None)
        assert [r.word for r in report.registers] == ["equal"] * 4


def test_an_altered_digest_is_named_by_a_log_that_replays() -> None:
    report = judge(with_event(ACPI, digest=OTHER), expected=EVENTS)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.exit_status is Exit.NOT_GENUINE
    difference = report.difference
    assert difference is not None
    assert (difference.register, difference.place, difference.rest_is_equal) == (0, 7, True)
    assert difference.event.number == ACPI + 1
    assert difference.expected_text == f"digest {EVENTS[ACPI].digest.hex()[:16]}…"
    assert [r.word for r in report.registers] == ["DIFFERS", "equal", "equal", "equal"]
    lines = report.people().splitlines()
    assert len(lines) == 13
    assert f'  event {ACPI + 1} EV_PLATFORM_CONFIG_FLAGS "ACPI DATA"' in lines
    assert len(report.people(events=True).splitlines()) == len(lines) + len(EVENTS)
    assert "  nobody signed these" in report.people(remark="nobody signed these").splitlines()


def test_an_altered_digest_without_a_log_to_compare_with() -> None:
    """M14: one value stands for all events: which of them it is cannot be computed."""
    report = judge(with_event(ACPI, digest=OTHER))
    with refused(RegisterNotReplayed):
        require(report)
    assert report.difference is None
    other = judge(with_event(ACPI, digest=OTHER), expected=with_event(ACPI, digest=bytes(48)))
    with refused(RegisterNotReplayed) as caught:
        require(other)
    assert caught.error.fix != RegisterNotReplayed.default_fix


def test_an_altered_digest_whose_data_is_in_the_log_names_itself() -> None:
    with refused(EventDataAltered):
        require(judge(with_event(CALLING, digest=OTHER)))


def test_data_that_was_altered_beside_a_true_digest() -> None:
    """Every register is as quoted, and a person would read another action."""
    digest = hashlib.sha384(EVENTS[CALLING].data).digest()
    said = with_event(CALLING, data=b"Nothing was called from nowhere", digest=digest)
    assert all(parsed(said).replay(n) == VALUES[n] for n in VALUES)
    for expected in (None, EVENTS):
        with refused(EventDataAltered):
            require(judge(said, expected=expected))


@pytest.mark.parametrize("expected", [None, EVENTS], ids=["alone", "beside-the-good-log"])
@pytest.mark.parametrize("at", range(len(EVENTS)))
def test_one_event_too_many_is_told_by_the_register(
    at: int, expected: Sequence[EventForm] | None
) -> None:
    added = EventForm(EVENTS[at].register, CONFIG_FLAGS, b"added", OTHER)
    report = judge([*EVENTS[:at], added, *EVENTS[at:]], expected=expected)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.difference is not None
    assert report.difference.expected is None
    assert report.difference.event.number == at + 1
    assert report.difference.rest_is_equal


@pytest.mark.parametrize(
    ("events", "leaf"), [(2000, MeasuredEventDiffers), (2001, RegisterNotReplayed)]
)
def test_one_event_too_many_is_looked_for_among_so_many(
    events: int, leaf: type[RatlsError]
) -> None:
    """The work grows with the square of the events, and who wrote the log chose their number."""
    true = [EventForm(0, CONFIG_FLAGS, b"", OTHER)] * (events - 1)
    added = EventForm(0, CONFIG_FLAGS, b"added", bytes(48))
    report = judge([added, *true], values=VALUES | {0: parsed(true).replay(0)})
    with refused(leaf):
        require(report)


@pytest.mark.parametrize("expected", [None, EVENTS], ids=["alone", "beside-the-good-log"])
def test_a_register_that_ends_before_the_log(expected: Sequence[EventForm] | None) -> None:
    """The quote is older than the log, or the last events were made up."""
    more = [EventForm(2, CONFIG_FLAGS, b"later", OTHER), EventForm(2, CONFIG_FLAGS, b"more", OTHER)]
    report = judge([*EVENTS, *more], expected=expected)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.difference is not None
    assert report.difference.event.number == len(EVENTS) + 1
    assert not report.difference.rest_is_equal


def test_a_log_that_ends_before_the_register() -> None:
    """Its last two events were taken out, so that nobody reads of them."""
    report = judge(EVENTS[:-2], expected=EVENTS)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.difference is not None
    assert (report.difference.found, report.difference.rest_is_equal) == (None, False)
    assert report.difference.event.number == len(EVENTS) - 1


@pytest.mark.parametrize("at", range(len(EVENTS)))
def test_a_missing_event_is_named_by_a_log_that_has_it(at: int) -> None:
    """What was run is taken out of the log, so that nobody reads of it."""
    without = [*EVENTS[:at], *EVENTS[at + 1 :]]
    with refused(RegisterNotReplayed):
        require(judge(without))
    report = judge(without, expected=EVENTS)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.difference is not None
    assert (report.difference.found, report.difference.rest_is_equal) == (None, True)
    assert report.difference.event.number == at + 1


def test_two_events_in_the_wrong_order() -> None:
    at = CALLING
    swapped = [*EVENTS[:at], EVENTS[at + 1], EVENTS[at], *EVENTS[at + 2 :]]
    report = judge(swapped, expected=EVENTS)
    with refused(MeasuredEventDiffers):
        require(report)
    assert report.difference is not None
    assert not report.difference.rest_is_equal


def test_a_true_log_of_another_code() -> None:
    """It is genuine, and not what was agreed on: the initial file system differs."""
    guest = GuestMeasurement.of(b"\1" * 32)
    values = dict(enumerate(guest.rtmrs))
    report = judge_log(EventLog.parse(guest.log), values, expected=GOOD, file="log.bin")
    with refused(EventNotExpected):
        require(report)
    assert report.exit_status is Exit.NOT_ADMITTED
    assert report.difference is not None
    assert report.difference.event.about == "Linux initrd"
    require(judge_log(EventLog.parse(guest.log), values, expected=None, file="log.bin"))


def test_another_type_for_the_same_digest() -> None:
    """The type is not measured: under another one the data would no longer be held against it."""
    digest = hashlib.sha384(EVENTS[CALLING].data).digest()
    hidden = with_event(CALLING, kind=CONFIG_FLAGS, digest=digest, data=b"all is well")
    require(judge(hidden))
    report = judge(hidden, expected=EVENTS)
    with refused(EventNotExpected):
        require(report)
    assert report.difference is not None
    assert report.difference.found_text == f"event {CALLING + 1} EV_PLATFORM_CONFIG_FLAGS " + (
        '"all is well"'
    )


def test_the_first_difference_in_the_order_of_the_log_is_named() -> None:
    changed = with_event(ACPI, digest=OTHER)
    changed[-1] = replace(changed[-1], data=b"Exit somewhere else, later")
    log = parsed(changed)
    values = {number: log.replay(number) for number in range(4)}
    report = judge_log(log, values, expected=GOOD, file="log.bin")
    with refused(EventNotExpected):
        require(report)
    assert report.difference is not None
    assert report.difference.event.number == ACPI + 1


def test_a_register_whose_value_nobody_gave() -> None:
    """Absence never means `any`; a register without events has nothing to be compared."""
    require(judge(EVENTS, values={n: VALUES[n] for n in (0, 1, 2)}))
    for missing in (0, 1, 2):
        report = judge(EVENTS, values={n: v for n, v in VALUES.items() if n != missing})
        with refused(RegisterNotGiven):
            require(report)
        assert report.exit_status is Exit.UNDECIDED
        assert report.registers[missing].word == "not compared"


def test_a_register_that_was_extended_without_the_log() -> None:
    """What extends RTMR3 at run time is in no firmware's log."""
    with refused(RegisterNotReplayed):
        require(judge(EVENTS, values=VALUES | {3: OTHER}))


def test_registers_of_a_quote() -> None:
    w = world()
    quote = w.platform.td_quote(rtmr0=b"\1" * 48, rtmr1=b"\2" * 48, rtmr2=b"\3" * 48)
    assert registers_of(Quote.parse(quote)) == {
        **{number: bytes([number + 1]) * 48 for number in range(3)},
        3: bytes(48),
    }
    with refused(QuoteUnsupported):
        registers_of(Quote.parse(w.quote()))


def test_what_programs_are_told() -> None:
    report = judge(with_event(ACPI, digest=OTHER), expected=EVENTS)
    machine = report.machine
    assert machine["verdict"] == "refused"
    assert isinstance(machine["registers"], list)
    assert [r["equal"] for r in machine["registers"]] == [False, True, True, True]
    assert isinstance(machine["events"], list)
    assert len(machine["events"]) == len(EVENTS)
    assert isinstance(machine["difference"], dict)
    assert machine["difference"]["expected"]["digest"] == (EVENTS[ACPI].digest or b"").hex()
    assert [r["value"] for r in machine["registers"]] == [VALUES[n].hex() for n in VALUES]
    good = judge(EVENTS).machine
    assert (good["verdict"], good["difference"], good["error"]) == ("accepted", None, None)


def test_programs_are_told_what_is_absent() -> None:
    """A register that nobody gave is no register of zeros, and a remark is in none."""
    remark = EventForm(0, NO_ACTION, b"StartupLocality\0\0", bytes(48))
    machine = judge([*EVENTS, remark], values={0: VALUES[0]}).machine
    registers, events = machine["registers"], machine["events"]
    assert isinstance(registers, list)
    assert [(r["value"], r["equal"]) for r in registers] == [
        (VALUES[0].hex(), True),
        *[(None, None)] * 3,
    ]
    assert isinstance(events, list)
    assert [e["register"] for e in events] == [*(f"rtmr{e.register}" for e in EVENTS), None]


@given(st.data())
def test_any_alteration_of_digests_is_refused(data: st.DataObject) -> None:
    """With the log of the guest at hand, the first altered event of a register is the one named."""
    count_refusal()
    chosen = data.draw(st.sets(st.integers(0, len(EVENTS) - 1), min_size=1))
    altered = [
        replace(event, digest=OTHER) if at in chosen else event for at, event in enumerate(EVENTS)
    ]
    report = judge(altered, expected=EVENTS)
    assert isinstance(report.refusal, RatlsError)
    assert isinstance(report.refusal, MeasuredEventDiffers)
    assert report.difference is not None
    first = min(at for at in chosen if EVENTS[at].register == report.difference.register)
    assert report.difference.event.number == first + 1
