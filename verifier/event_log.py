"""The event log of a trust domain: what its firmware measured, and what that makes of registers.

    log = EventLog.parse(raw)       # /sys/firmware/acpi/tables/data/CCEL of the guest
    log.replay(1)                   # 48 bytes: RTMR1, if the log is true and complete
    log.of_register(1)[0].name      # EV_EFI_BOOT_SERVICES_APPLICATION

A log (tdx.md 3) is a claim until it replays into registers of a verified quote, and even then only
its digests are true: a register holds neither the type nor the data of an event. Layout:
`TCG_PCClientPCREvent` and `TCG_PCR_EVENT2` of the PC Client Platform Firmware Profile, sections
10.2.1 and 10.2.2; in the place of a PCR stands a measurement register (UEFI 2.10, section 38.4.1):
1 to 4 for RTMR0 to RTMR3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from types import MappingProxyType
from typing import Any, Self

from verifier.errors import EventLogError, EventLogFormatError

MAX_SIZE = 4 * 1024 * 1024
REGISTERS = range(4)
REGISTER_SIZE = 48
EMPTY = bytes(REGISTER_SIZE)
NO_ACTION = 3
SHA384 = 0x0C
_SIZES = {0x04: 20, 0x0B: 32, SHA384: REGISTER_SIZE, 0x0D: 64, 0x12: 32}  # TCG algorithm registry
_FIRST = Struct("<II20sI")  #      register, type, SHA-1 digest, size of the data
_SPEC_ID = Struct("<16sIBBBBI")  # signature, class, minor, major, errata, uintn, algorithms
_ALGORITHM = Struct("<HH")  #      its id, and the size of its digests
_EVENT = Struct("<III")  #         register, type, number of digests
_SHORT = Struct("<H")
_LONG = Struct("<I")
_VARIABLE_HEAD = 32  #             GUID, characters in the name, bytes of data
_ACPI_TABLE = b"CCEL"

# `uefi.h` of the profile, section 10.4.1. The type is not measured: it helps people to read.
NAMES: Mapping[int, str] = MappingProxyType({
    0x00000001: "EV_POST_CODE",
    NO_ACTION: "EV_NO_ACTION",
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x00000007: "EV_S_CRTM_CONTENTS",
    0x00000008: "EV_S_CRTM_VERSION",
    0x00000009: "EV_CPU_MICROCODE",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    0x0000000C: "EV_COMPACT_HASH",
    0x0000000D: "EV_IPL",
    0x0000000E: "EV_IPL_PARTITION_DATA",
    0x00000011: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x00000013: "EV_POST_CODE2",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
})  # fmt: skip
SEPARATOR, TAGGED, EFI_ACTION, VARIABLE_CONFIG = 0x04, 0x06, 0x80000007, 0x80000001
_VARIABLES = frozenset({VARIABLE_CONFIG, 0x80000002, 0x8000000C, 0x800000E0})
# What is hashed is the very data in the log. Of other types it is a file, a table or a part.
_DATA_IS_MEASURED = frozenset(
    {SEPARATOR, VARIABLE_CONFIG, 0x80000006, EFI_ACTION, 0x8000000C, 0x800000E0}
)


class EventLogMalformed(EventLogFormatError):
    """Not the layout of an event log: a length is wrong, something is missing or left over."""

    code = "event-log-malformed"
    default_fix = "copy /sys/firmware/acpi/tables/data/CCEL of the guest again, as it is"


class EventLogUnsupported(EventLogFormatError):
    """An event log of another kind than that of a trust domain."""

    code = "event-log-unsupported"
    default_fix = (
        "name the log of a TDX guest, /sys/firmware/acpi/tables/data/CCEL; not a TPM's log"
    )


class EventDataAltered(EventLogError):
    """An event says other things than what was measured."""

    code = "event-data-altered"
    default_fix = "distrust this log: copy it again from the guest, and ask who changed it"
    says = "{thing}: its data does not have its digest, {expected}, but {found}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. Only its digest is ever measured."""

    number: int  #           from 1; the log's own first entry is not counted
    offset: int  #           in bytes, from the start of the log
    register: int | None  #  0 to 3 for RTMR0 to RTMR3; None: it is not measured at all
    kind: int
    digest: bytes  #         SHA-384
    data: bytes

    @property
    def name(self) -> str:
        """The name of its type in the profile, or the number."""
        return NAMES.get(self.kind, f"type {self.kind:#010x}")

    @property
    def data_is_measured(self) -> bool:
        """Is the digest that of the data? If not, the data is what the log's writer says."""
        return self.kind in _DATA_IS_MEASURED

    @property
    def about(self) -> str:
        """What a person recognises in the data: a variable's name, a text; otherwise nothing."""
        if self.kind in _VARIABLES:
            return _variable_name(self.data)
        if self.kind == TAGGED:  # its tag, its size, and then what it is about
            return _text(self.data[8:])
        return "" if self.kind == SEPARATOR else _text(self.data)

    def __str__(self) -> str:
        about = f' "{self.about}"' if self.about else ""
        return f"event {self.number} {self.name}{about}"

    def require_own_data(self) -> None:
        """Where the type says that its data was hashed, the data has that digest.

        Raises: EventDataAltered.
        """
        if not self.data_is_measured:
            return
        found = hashlib.sha384(self.data).digest()
        if found != self.digest:
            raise EventDataAltered(str(self), expected=short(self.digest), found=short(found))


def short(digest: bytes) -> str:
    """The start of a digest, as much as a person compares; JSON has all of it."""
    return f"{digest.hex()[:16]}…"


def _text(data: bytes) -> str:
    """ASCII, or UTF-16 of it, up to the first zero; nothing where it is neither."""
    plain = data.split(b"\0", 1)[0]
    if not any(data[1:8:2]):
        plain = data[: len(data) // 2 * 2].decode("utf-16-le", "replace").split("\0")[0].encode()
    printable = len(plain) > 3 and plain.isascii() and plain.decode().isprintable()
    return plain.decode()[:60] if printable else ""


def _variable_name(data: bytes) -> str:
    characters = int.from_bytes(data[16:24], "little")  # behind a GUID
    name = data[_VARIABLE_HEAD : _VARIABLE_HEAD + 2 * min(characters, 60)]
    text = name.decode("utf-16-le", "replace")
    return text if text.isprintable() else ""


@dataclass(frozen=True, slots=True)
class EventLog:
    """All events of one log, in its order. Parsed, and no register was looked at."""

    events: tuple[Event, ...]
    size: int  # bytes; what fills the rest of the log's area is not counted

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read one log; behind it only the filling of its area, all zero or all ones.

        Raises:
            EventLogMalformed: A length is wrong, bytes are missing or left over.
            EventLogUnsupported: A log of a TPM, of another version, or without SHA-384.
        """
        if raw.startswith(_ACPI_TABLE):
            raise EventLogUnsupported(
                "event log",
                expected="the log itself",
                found="the ACPI table that says where the log is",
                fix="copy /sys/firmware/acpi/tables/data/CCEL, not /sys/firmware/acpi/tables/CCEL",
            )
        if len(raw) > MAX_SIZE:
            raise EventLogMalformed(
                "event log", expected=f"at most {MAX_SIZE} bytes", found=f"{len(raw)} bytes"
            )
        raw = bytes(raw)
        algorithms, at = _read_header(raw)
        events: list[Event] = []
        while at < len(raw) and not _is_filling(raw, at):
            event, at = _read_event(raw, at, len(events) + 1, algorithms)
            events.append(event)
        return cls(tuple(events), at)

    def of_register(self, register: int) -> tuple[Event, ...]:
        """The measured events of RTMR0 to RTMR3, in order."""
        return tuple(event for event in self.events if event.register == register)

    def replay(self, register: int) -> bytes:
        """The value that these events give the register."""
        return replay(event.digest for event in self.of_register(register))

    def require_own_data(self) -> None:
        """Every event whose data was hashed has that data. Raises: EventDataAltered."""
        for event in self.events:
            event.require_own_data()


def replay(digests: Iterable[bytes], value: bytes = EMPTY) -> bytes:
    """A register starts at zero; each event makes it SHA-384(register || digest).

    TDX Module 1.5 ABI, TDG.MR.RTMR.EXTEND.
    """
    for digest in digests:
        value = hashlib.sha384(value + digest).digest()
    return value


def _read_header(raw: bytes) -> tuple[dict[int, int], int]:
    """The algorithms of all later events, and where these start."""
    _, kind, digest, size = _unpack(_FIRST, raw, 0, "first event")
    at, end = _FIRST.size, _FIRST.size + size
    signature, _, minor, major, _, _, count = _unpack(_SPEC_ID, raw, at, "first event")
    if kind != NO_ACTION or any(digest) or signature != b"Spec ID Event03\0":
        raise EventLogUnsupported(
            "event log", expected="Spec ID Event03", found=_text(signature) or "something else"
        )
    if (major, minor) != (2, 0):
        raise EventLogUnsupported("event log", expected="version 2.0", found=f"{major}.{minor}")
    at += _SPEC_ID.size
    algorithms: dict[int, int] = {}
    for _ in range(count):
        algorithm, length = _unpack(_ALGORITHM, raw, at, "digest algorithm")
        at += _ALGORITHM.size
        if algorithm in algorithms or _SIZES.get(algorithm) != length:
            raise EventLogUnsupported(
                "digest algorithm of the event log",
                expected="each known one once, with its size",
                found=f"{algorithm:#06x} of {length} bytes",
            )
        algorithms[algorithm] = length
    if SHA384 not in algorithms:
        raise EventLogUnsupported("event log", expected="SHA-384 digests", found="none of them")
    if at >= len(raw) or at + 1 + raw[at] != end or end > len(raw):
        raise EventLogMalformed(
            "end of the first event", expected=f"byte {end}", found="another one, or none"
        )
    return algorithms, end


def _read_event(
    raw: bytes, start: int, number: int, algorithms: dict[int, int]
) -> tuple[Event, int]:
    thing = f"event {number}"
    register, kind, count = _unpack(_EVENT, raw, start, thing)
    at = start + _EVENT.size
    if not 1 <= register <= 4:
        raise EventLogMalformed(
            f"{thing} at byte {start}", expected="measurement register 1 to 4", found=str(register)
        )
    if count != len(algorithms):
        raise EventLogMalformed(
            f"{thing} at byte {start}", expected=f"{len(algorithms)} digests", found=str(count)
        )
    digests: dict[int, bytes] = {}
    for _ in range(count):
        (algorithm,) = _unpack(_SHORT, raw, at, thing)
        at += _SHORT.size
        if algorithm not in algorithms or algorithm in digests:
            raise EventLogMalformed(
                f"{thing} at byte {start}",
                expected="one digest of each algorithm of the log",
                found=f"another one, {algorithm:#06x}",
            )
        digests[algorithm], at = _cut(raw, at, algorithms[algorithm], thing)
    (size,) = _unpack(_LONG, raw, at, thing)
    data, at = _cut(raw, at + _LONG.size, size, thing)
    measured = None if kind == NO_ACTION else register - 1
    return Event(number, start, measured, kind, digests[SHA384], data), at


def _is_filling(raw: bytes, at: int) -> bool:
    """Firmware fills the area behind the log with one byte; no event starts with 12 such bytes."""
    return raw[at] in (0, 0xFF) and raw.count(raw[at], at) == len(raw) - at


def _unpack(form: Struct, raw: bytes, at: int, thing: str) -> tuple[Any, ...]:
    return form.unpack(_cut(raw, at, form.size, thing)[0])


def _cut(raw: bytes, at: int, size: int, thing: str) -> tuple[bytes, int]:
    """`size` bytes from `at`, all of which must be there, and where they end."""
    if at + size > len(raw):
        raise EventLogMalformed(
            f"{thing}, at byte {at}",
            expected=f"{size} bytes",
            found=f"{max(len(raw) - at, 0)} bytes left",
        )
    return raw[at : at + size], at + size
