"""The event log of a trust domain: read strictly, and replayed as the TDX module extends."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.event_log import (
    ACTION,
    CONFIG_FLAGS,
    SEPARATOR,
    TAGGED,
    VARIABLE,
    EventForm,
    FirstForm,
    encode_log,
    guest_events,
    guest_log,
)
from tests.support.refusal import count_refusal, refused
from verifier.errors import RatlsError
from verifier.event_log import (
    MAX_SIZE,
    EventDataAltered,
    EventLog,
    EventLogMalformed,
    EventLogUnsupported,
    replay,
)

CODE = bytes(range(32))
FIRST = FirstForm()
ONE = EventForm(0, SEPARATOR, bytes(4))
TEXT = EventForm(0, ACTION, b"text")
SHA256 = (0x0B, 32)


def log_of(*events: EventForm, first: FirstForm = FIRST, filling: bytes = b"") -> EventLog:
    return EventLog.parse(encode_log(events, first, filling=filling))


def test_a_genuine_log_of_a_guest(vectors: Path) -> None:
    """Of Linux behind a unified kernel image, in an area of 64 KiB that firmware filled."""
    raw = (vectors / "field" / "no-quotes" / "ccel.bin").read_bytes()
    log = EventLog.parse(raw)
    log.require_own_data()
    assert (len(log.events), log.size, len(raw)) == (20, 2120, 65536)
    assert [len(log.of_register(number)) for number in range(4)] == [13, 5, 2, 0]
    assert log.replay(0).hex().startswith("5aca07b1e885e17d1aeaf9d94edb2674")
    assert log.replay(1).hex().startswith("7fc19ed7b5726f078d331c4125a5d466")
    assert log.replay(2).hex().startswith("4070333e094dec303a5034cc332c9697")
    assert log.replay(3) == bytes(48)
    names = [(event.number, event.name, event.about) for event in log.events]
    assert names[2] == (3, "EV_EFI_VARIABLE_DRIVER_CONFIG", "SecureBoot")
    assert names[13] == (14, "EV_EFI_VARIABLE_BOOT", "Boot0000")
    assert names[17] == (18, "EV_EVENT_TAG", "Linux initrd")
    assert str(log.events[14]) == (
        'event 15 EV_EFI_ACTION "Calling EFI Application from Boot Option"'
    )


def test_a_register_is_the_chain_of_its_digests_alone() -> None:
    log = log_of(ONE, EventForm(2, ACTION, b"a"), EventForm(0, ACTION, b"b"))
    first = hashlib.sha384(bytes(48) + hashlib.sha384(bytes(4)).digest()).digest()
    second = hashlib.sha384(first + hashlib.sha384(b"b").digest()).digest()
    assert log.replay(0) == second == replay([e.digest for e in log.of_register(0)])
    assert log.replay(1) == bytes(48)
    assert [event.offset for event in log.events] == [65, 65 + 70, 65 + 137]


def test_an_event_without_action_is_in_no_register() -> None:
    """It is a remark: anyone may add one, so it must not count."""
    remark = EventForm(0, 3, b"StartupLocality\0\0", bytes(48))
    log = log_of(ONE, remark)
    assert log.replay(0) == log_of(ONE).replay(0)
    assert (log.events[1].register, log.events[1].data_is_measured) == (None, False)


@pytest.mark.parametrize("filling", [b"", b"\xff" * 12, b"\0" * 12, b"\xff", bytes(5000)])
def test_the_area_behind_the_log_is_filled_by_firmware(filling: bytes) -> None:
    log = log_of(ONE, filling=filling)
    assert (len(log.events), log.size) == (1, 135)
    assert log_of(filling=filling).events == ()


@pytest.mark.parametrize(
    "filling", [b"\xff" * 12 + b"\0", b"\0" * 70 + b"\1", b"\xff\xfe", b"\1", b"\2" * 200]
)
def test_anything_else_behind_the_log_is_refused(filling: bytes) -> None:
    """Events that this reader passes over might be read by the next one."""
    with refused(EventLogMalformed):
        log_of(ONE, filling=filling)


def test_other_algorithms_beside_sha_384() -> None:
    first = replace(FIRST, algorithms=(SHA256, (0x0C, 48)))
    both = struct.pack("<III", 1, SEPARATOR, 2) + b"\x0b\0" + bytes(32)
    both += b"\x0c\0" + hashlib.sha384(bytes(4)).digest() + b"\4\0\0\0" + bytes(4)
    log = EventLog.parse(first.encode() + both)
    assert log.replay(0) == log_of(ONE).replay(0)
    assert log_of(ONE, first=replace(FIRST, vendor=b"firmware")).replay(0) == log.replay(0)


@pytest.mark.parametrize(("algorithm", "size"), [(0x04, 20), SHA256, (0x0D, 64), (0x12, 32)])
def test_each_algorithm_of_the_registry(algorithm: int, size: int) -> None:
    """Its digest is passed over, whatever it is: only SHA-384 extends these registers."""
    first = replace(FIRST, algorithms=((0x0C, 48), (algorithm, size)))
    event = struct.pack("<III", 1, SEPARATOR, 2)
    event += b"\x0c\0" + hashlib.sha384(bytes(4)).digest()
    event += struct.pack("<H", algorithm) + b"\x77" * size + b"\4\0\0\0" + bytes(4)
    assert EventLog.parse(first.encode() + event).replay(0) == log_of(ONE).replay(0)
    with refused(EventLogUnsupported):
        log_of(first=replace(FIRST, algorithms=((0x0C, 48), (algorithm, size + 1))))


@pytest.mark.parametrize(
    "first",
    [
        replace(FIRST, signature=b"Spec ID Event00\0"),
        replace(FIRST, signature=b"Spec ID Event03 "),
        replace(FIRST, kind=4),
        replace(FIRST, digest=bytes(19) + b"\1"),
        replace(FIRST, version=(1, 2)),
        replace(FIRST, version=(0, 1)),
        replace(FIRST, algorithms=()),
        replace(FIRST, algorithms=(SHA256,)),  # a TPM's
        replace(FIRST, algorithms=((0x0C, 32),)),
        replace(FIRST, algorithms=((0x0C, 48), (0x0C, 48))),
        replace(FIRST, algorithms=((0x0C, 48), (0x99, 48))),
    ],
)
def test_a_log_of_another_kind(first: FirstForm) -> None:
    with refused(EventLogUnsupported):
        log_of(ONE, first=first)


@pytest.mark.parametrize("size", [1, 255])
def test_the_first_event_ends_where_it_says(size: int) -> None:
    with refused(EventLogMalformed):
        log_of(ONE, first=replace(FIRST, vendor_size=size))
    with refused(EventLogMalformed):
        log_of(first=replace(FIRST, vendor_size=size))


def test_the_table_that_says_where_the_log_is_is_not_the_log() -> None:
    with refused(EventLogUnsupported) as caught:
        EventLog.parse(b"CCEL" + bytes(52))
    assert "tables/data/CCEL" in caught.error.fix


@pytest.mark.parametrize(
    "event",
    [
        replace(TEXT, register=-1),  # MRTD, which no event extends
        replace(TEXT, register=4),
        replace(TEXT, register=23),  # a PCR of a TPM
        replace(TEXT, count=0),
        replace(TEXT, count=2),
        replace(TEXT, algorithm=0x0B),
        replace(TEXT, algorithm=0),
        replace(TEXT, digest=bytes(47)),
        replace(TEXT, size=5),
        replace(TEXT, size=3),
        replace(TEXT, size=2**32 - 1),
    ],
)
def test_an_event_that_is_none(event: EventForm) -> None:
    with refused(EventLogMalformed):
        log_of(event)


def test_an_event_without_a_digest_of_each_algorithm() -> None:
    """A register of the other algorithm would not know of this event."""
    with refused(EventLogMalformed):
        log_of(ONE, first=replace(FIRST, algorithms=(SHA256, (0x0C, 48))))


def test_a_digest_of_one_algorithm_given_twice() -> None:
    first = replace(FIRST, algorithms=(SHA256, (0x0C, 48)))
    twice = struct.pack("<III", 1, SEPARATOR, 2) + 2 * (b"\x0c\0" + bytes(48)) + bytes(8)
    with refused(EventLogMalformed):
        EventLog.parse(first.encode() + twice)


def test_every_length_of_a_cut_log_is_refused_or_ends_with_an_event() -> None:
    count_refusal()
    raw = encode_log(guest_events(CODE), replace(FIRST, vendor=b"firmware"))
    whole = EventLog.parse(raw)
    ends = {event.offset for event in whole.events} | {whole.size}
    for size in range(len(raw)):
        try:
            EventLog.parse(raw[:size])
        except RatlsError:
            assert size not in ends
        else:
            assert size in ends


def test_a_log_that_is_too_large() -> None:
    filled = encode_log([ONE]).ljust(MAX_SIZE, b"\xff")
    assert EventLog.parse(filled).size == 135
    with refused(EventLogMalformed):
        EventLog.parse(filled + b"\xff")


# What an event says


def test_data_that_was_measured_must_be_that_data() -> None:
    """M15: the digest replays, and what people read beside it is another thing."""
    events = guest_events(CODE)
    EventLog.parse(encode_log(events)).require_own_data()
    for number, event in enumerate(events):
        if event.digest is not None or event.kind == SEPARATOR:
            continue
        digest = hashlib.sha384(event.data).digest()
        said = replace(event, data=event.data[:-1] + b"X", digest=digest)
        log = EventLog.parse(encode_log([*events[:number], said, *events[number + 1 :]]))
        assert log.replay(event.register) == EventLog.parse(guest_log(CODE)).replay(event.register)
        with refused(EventDataAltered):
            log.require_own_data()


@pytest.mark.parametrize(
    "kind", [SEPARATOR, VARIABLE, ACTION, 0x80000006, 0x8000000C, 0x800000E0], ids=hex
)
def test_each_type_whose_data_is_hashed(kind: int) -> None:
    """M15: separators, variables, actions and the partition table stand in the log as measured."""
    log_of(EventForm(0, kind, b"as measured")).require_own_data()
    log = log_of(EventForm(0, kind, b"as altered", hashlib.sha384(b"as measured").digest()))
    with refused(EventDataAltered):
        log.require_own_data()


@pytest.mark.parametrize("kind", [VARIABLE, 0x80000002, 0x8000000C, 0x800000E0], ids=hex)
def test_a_variable_is_called_by_its_name(kind: int) -> None:
    data = bytes(16) + struct.pack("<QQ", 2, 1) + "db".encode("utf-16-le") + b"\1"
    assert log_of(EventForm(0, kind, data)).events[0].about == "db"


def test_data_that_was_not_measured_is_only_said() -> None:
    """A file's digest stands beside its name: nobody can tell from the log whether they fit."""
    log = log_of(EventForm(2, TAGGED, bytes(8) + b"Linux initrd\0", bytes(48)))
    log.require_own_data()
    assert not log.events[0].data_is_measured
    assert log.events[0].about == "Linux initrd"


@pytest.mark.parametrize(
    ("event", "about"),
    [
        (EventForm(0, ACTION, "déjà".encode()), ""),
        (EventForm(0, ACTION, b"\x1b[31mred"), ""),
        (EventForm(0, ACTION, "wide text".encode("utf-16-le")), "wide text"),
        (EventForm(0, ACTION, b"x" * 90), "x" * 60),
        (EventForm(0, ACTION, b"four"), "four"),
        (EventForm(0, ACTION, b"odd"), ""),  # three bytes look like a text too often
        (EventForm(0, VARIABLE, bytes(31)), ""),
        (EventForm(0, VARIABLE, bytes(16) + struct.pack("<QQ", 2**63, 0) + b"P\0K\0"), "PK"),
        (EventForm(0, VARIABLE, bytes(16) + struct.pack("<QQ", 2, 0) + b"\x1b\0K\0"), ""),
        (EventForm(0, CONFIG_FLAGS, b""), ""),
        (EventForm(0, SEPARATOR, b"text"), ""),
    ],
)
def test_what_a_person_is_shown_forges_no_line(event: EventForm, about: str) -> None:
    assert log_of(event).events[0].about == about


def test_a_type_that_the_profile_does_not_name() -> None:
    assert log_of(EventForm(0, 0xA0000000, b"")).events[0].name == "type 0xa0000000"


@given(st.binary(max_size=400))
def test_garbage_is_refused(raw: bytes) -> None:
    count_refusal()
    for content in (raw, FIRST.encode() + raw, encode_log([ONE]) + raw):
        try:
            log = EventLog.parse(content)
        except (EventLogMalformed, EventLogUnsupported):
            continue
        assert set(content[log.size :]) in (set(), {0}, {0xFF})


@given(
    st.lists(
        st.builds(
            EventForm,
            register=st.integers(0, 3),
            kind=st.sampled_from([SEPARATOR, ACTION, TAGGED, VARIABLE, 0x80000003]),
            data=st.binary(max_size=40),
            digest=st.binary(min_size=48, max_size=48),
        ),
        max_size=20,
    ),
    st.sampled_from([b"", b"\xff" * 9, bytes(80)]),
)
def test_what_was_written_is_read(forms: list[EventForm], filling: bytes) -> None:
    log = log_of(*forms, filling=filling)
    read = [EventForm(e.register or 0, e.kind, e.data, e.digest) for e in log.events]
    assert read == forms
    for number in range(4):
        assert log.replay(number) == replay(
            [f.digest or b"" for f in forms if f.register == number]
        )
        for event in log.events:
            assert event.about.isprintable()
