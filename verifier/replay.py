"""An event log held against registers, and against a log that is known to be good.

    report = judge_log(log, registers_of(quote), expected=None, file="ccel.bin")
    report.machine["verdict"], report.exit_status

A register is one value over all its events (tdx.md 1): that it differs says nothing about which
event does. Another log that does replay into it says that; without one, only a log that goes on
where the register ends, or that has one event too many, can be told from the register.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from verifier.errors import EventLogError, Exit, RatlsError
from verifier.event_log import EMPTY, REGISTERS, Event, EventLog, replay, short
from verifier.quote import Quote, QuoteUnsupported
from verifier.td import TdReport
from verifier.text import printable

# To find one event too many, all the others are hashed again for each; above this many, not tried.
_FEW = 2000


class RegisterNotReplayed(EventLogError):
    """The events of a log do not make the value of a register."""

    code = "register-not-replayed"
    default_fix = (
        "name a log of the same system that is known to be good with --expected: the event that "
        "differs is then named"
    )
    says = "{thing} is {expected}, and the log makes {found}"


class MeasuredEventDiffers(EventLogError):
    """The event of a log that is not the one measured into its register."""

    code = "measured-event-differs"
    default_fix = "distrust this log: copy it again from the guest, and ask who changed it"


class RegisterNotGiven(EventLogError):
    """The log has events of a register whose value was not given."""

    code = "register-not-given"
    exit_status = Exit.UNDECIDED  # these events may be true
    default_fix = "name a quote, which has all of them, or give the value of this register too"


class EventNotExpected(EventLogError):
    """Something else was measured than in the log that is known to be good."""

    code = "event-not-expected"
    exit_status = Exit.NOT_ADMITTED  # it is true, and not what was agreed on
    default_fix = "find out what changed in that part of the guest, then agree on it anew"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event of a register that is not as expected."""

    register: int
    place: int  #               among the events of that register, from 1
    expected: Event | None  #   None: no event
    found: Event | None
    rest_is_equal: bool  #      nothing else differs in that register

    @property
    def event(self) -> Event:
        """The event to name: the one found or, where it is missing, the one expected."""
        event = self.found or self.expected
        assert event is not None
        return event

    @property
    def expected_text(self) -> str:
        return _told(self.expected, self.found)

    @property
    def found_text(self) -> str:
        return _told(self.found, self.expected)


def _told(event: Event | None, other: Event | None) -> str:
    if event is None:
        return "no event"
    if other is None or event.digest == other.digest:
        return str(event)
    return f"digest {short(event.digest)}"


def first_difference(log: EventLog, expected: EventLog) -> Difference | None:
    """The first event of `log`, in its order, that is not as in `expected`."""
    found = [d for r in REGISTERS if (d := register_difference(log, expected, r)) is not None]
    return min(found, key=lambda d: (d.found is None, d.event.number), default=None)


def register_difference(log: EventLog, expected: EventLog, register: int) -> Difference | None:
    """The first event of one register that is not as in `expected`; None where all are."""
    ours, theirs = log.of_register(register), expected.of_register(register)
    a, b = ([(event.digest, event.kind) for event in events] for events in (ours, theirs))
    if a == b:
        return None
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    if a[at + 1 :] == b[at:]:  # one too many
        return Difference(register, at + 1, None, ours[at], rest_is_equal=True)
    if a[at:] == b[at + 1 :]:  # one is missing
        return Difference(register, at + 1, theirs[at], None, rest_is_equal=True)
    return Difference(
        register,
        at + 1,
        theirs[at] if at < len(b) else None,
        ours[at] if at < len(a) else None,
        rest_is_equal=a[at + 1 :] == b[at + 1 :],
    )


def unmeasured(log: EventLog, register: int, value: bytes) -> Difference | None:
    """The event that is in the log and not in the register, where the register tells it.

    Either the register ends before it, or it alone is one too many.
    """
    events = log.of_register(register)
    digests = [event.digest for event in events]
    before = EMPTY
    for at, event in enumerate(events):
        if before == value:
            return Difference(register, at + 1, None, event, rest_is_equal=at + 1 == len(events))
        if len(events) <= _FEW and replay(digests[at + 1 :], before) == value:
            return Difference(register, at + 1, None, event, rest_is_equal=True)
        before = replay([event.digest], before)
    return None


@dataclass(frozen=True, slots=True)
class RegisterReplay:
    """One register, and what the events of the log make of it."""

    register: int
    events: int
    replayed: bytes
    value: bytes | None  # None: not given

    @property
    def word(self) -> str:
        """equal, DIFFERS, or not compared."""
        if self.value is None:
            return "not compared"
        return "equal" if self.value == self.replayed else "DIFFERS"

    def __str__(self) -> str:
        count = f"{self.events} event{'' if self.events == 1 else 's'}"
        other = "" if self.value is None or self.word == "equal" else f", not {short(self.value)}"
        return f"RTMR{self.register}  {count:<10}  {self.word:<12}  {short(self.replayed)}{other}"


@dataclass(frozen=True, slots=True)
class LogReport:
    """The answer on one log."""

    file: str
    log: EventLog
    registers: tuple[RegisterReplay, ...]
    difference: Difference | None
    refusal: RatlsError | None

    @property
    def exit_status(self) -> Exit:
        return Exit.YES if self.refusal is None else self.refusal.exit_status

    @property
    def machine(self) -> dict[str, object]:
        """The line of `ratls verify eventlog --json`; other programs rely on it."""
        return {
            "file": self.file,
            "verdict": self.exit_status.verdict,
            "registers": [
                {
                    "register": f"rtmr{r.register}",
                    "events": r.events,
                    "replayed": r.replayed.hex(),
                    "value": None if r.value is None else r.value.hex(),
                    "equal": None if r.value is None else r.value == r.replayed,
                }
                for r in self.registers
            ],
            "events": [_facts(event) for event in self.log.events],
            "difference": self.difference
            and {
                "register": f"rtmr{self.difference.register}",
                "place": self.difference.place,
                "expected": self.difference.expected and _facts(self.difference.expected),
                "found": self.difference.found and _facts(self.difference.found),
                "rest_is_equal": self.difference.rest_is_equal,
            },
            "error": self.refusal and self.refusal.as_json(),
        }

    def people(self, *, events: bool = False, remark: str = "") -> str:
        """The answer for people, in several lines; with `events` also each event.

        Args:
            remark: What is known of where the registers come from.
        """
        return "\n".join(map(printable, self._lines(events, remark)))

    def _lines(self, events: bool, remark: str) -> Iterator[str]:
        yield f"{self.file}: {self.exit_status.word}"
        own = sum(event.data_is_measured for event in self.log.events)
        total = len(self.log.events)
        yield f"  {total} events in {self.log.size:,} bytes; the data of {own} is measured"
        if remark:
            yield f"  {remark}"
        if events:
            yield from (_line(event) for event in self.log.events)
        yield from (f"  {register}" for register in self.registers)
        if self.difference is not None:
            yield from _difference_lines(self.difference)
        if self.refusal is not None:
            yield f"  {self.exit_status.word} [{self.refusal.code}] {self.refusal}"
            yield f"  to do: {self.refusal.fix}"


def _difference_lines(difference: Difference) -> Iterator[str]:
    yield f"  {difference.event}"
    place = f"event {difference.place} of RTMR{difference.register}"
    yield f"    {place}, at byte {difference.event.offset:,} of its log"
    yield f"    expected  {difference.expected_text}"
    yield f"    found     {difference.found_text}"
    rest = "as expected" if difference.rest_is_equal else "not all as expected either"
    yield f"    the other events of RTMR{difference.register} are {rest}"


def _line(event: Event) -> str:
    where = "     " if event.register is None else f"RTMR{event.register}"
    said = "" if event.data_is_measured else "said: "
    about = f'  {said}"{event.about}"' if event.about else ""
    return f"  {event.number:>4}  {where}  {event.digest.hex()[:16]}…  {event.name}{about}"


def _facts(event: Event) -> dict[str, object]:
    return {
        "number": event.number,
        "offset": event.offset,
        "register": None if event.register is None else f"rtmr{event.register}",
        "type": event.name,
        "digest": event.digest.hex(),
        "about": event.about or None,
        "data_is_measured": event.data_is_measured,
    }


def registers_of(quote: Quote) -> dict[int, bytes]:
    """RTMR0 to RTMR3 of a trust domain's quote. Raises: QuoteUnsupported, for an enclave's."""
    report = quote.report
    if not isinstance(report, TdReport):
        raise QuoteUnsupported(
            "quote",
            expected="a TDX domain's, which has registers",
            found="an SGX enclave's",
            fix="name a quote of the guest whose event log this is",
        )
    return {0: report.rtmr0, 1: report.rtmr1, 2: report.rtmr2, 3: report.rtmr3}


def judge_log(
    log: EventLog, values: Mapping[int, bytes], *, expected: EventLog | None, file: str
) -> LogReport:
    """Hold a log against registers, and against a log that is known to be good.

    Args:
        log: As the guest shows it.
        values: Of the registers, 48 bytes each, by their numbers: of a quote, all four.
        expected: A log of the same system that is known to be good, if there is one.
        file: The log's name, for the answer only.
    """
    registers = tuple(
        RegisterReplay(r, len(log.of_register(r)), log.replay(r), values.get(r)) for r in REGISTERS
    )
    difference, refusal = _find_fault(log, registers, expected)
    return LogReport(file, log, registers, difference, refusal)


def _find_fault(
    log: EventLog, registers: tuple[RegisterReplay, ...], expected: EventLog | None
) -> tuple[Difference | None, RatlsError | None]:
    for register in registers:
        if register.word == "DIFFERS":
            return _not_replayed(log, register, expected)
    try:
        log.require_own_data()
    except EventLogError as refusal:
        return None, refusal
    for register in registers:
        if register.value is None and register.events:
            return None, RegisterNotGiven(
                f"RTMR{register.register}", expected="its value", found="none"
            )
    if expected is None:
        return None, None
    difference = first_difference(log, expected)
    if difference is None:
        return None, None
    return difference, EventNotExpected(
        f"RTMR{difference.register}, {difference.event}",
        expected=difference.expected_text,
        found=difference.found_text,
    )


def _not_replayed(
    log: EventLog, register: RegisterReplay, expected: EventLog | None
) -> tuple[Difference | None, RatlsError]:
    """The register differs: the event, where another log or the register itself tells it."""
    number, value = register.register, register.value
    assert value is not None
    difference = None
    if expected is not None and expected.replay(number) == value:
        difference = register_difference(log, expected, number)
    difference = difference or unmeasured(log, number, value)
    if difference is not None:
        return difference, MeasuredEventDiffers(
            f"RTMR{number}, {difference.event}",
            expected=difference.expected_text,
            found=difference.found_text,
        )
    try:
        log.require_own_data()  # a digest that was altered, and its data that was not
    except EventLogError as altered:
        return None, altered
    fix = None
    if expected is not None:
        fix = f"neither log makes RTMR{number}: name, with --expected, a log of that very system"
    return None, RegisterNotReplayed(
        f"RTMR{number}", expected=short(value), found=short(register.replayed), fix=fix
    )
