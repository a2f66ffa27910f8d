"""The event log of a simulated guest: what its firmware, kernel and loader would have measured.

    log = guest_log(measure())
    EventLog.parse(log).replay(2)          # RTMR2: command line and code of the enclave
    encode_log([EventForm(0, 4, bytes(4))])

In a true guest the measured packages are in the initial file system, so here they stand for it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

SHA384 = 0x0C
AREA = 4096  # bytes; firmware fills what is left with ones
SEPARATOR, TAGGED, CONFIG_FLAGS = 0x04, 0x06, 0x0A
VARIABLE, APPLICATION, ACTION = 0x80000001, 0x80000003, 0x80000007
BLOB, TABLES = 0x8000000A, 0x8000000B
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE
# Tags with which Linux measures what it is started with: `include/linux/efi.h`.
INITRD, LOAD_OPTIONS = 0x8F3B22EC, 0x8F3B22ED
COMMAND_LINE = "ro console=hvc0 ratls"


@dataclass(frozen=True, slots=True)
class EventForm:
    """One event. A digest of None is that of the data; a count of None is right."""

    register: int  # 0 to 3
    kind: int
    data: bytes
    digest: bytes | None = None
    algorithm: int = SHA384
    count: int = 1
    size: int | None = None

    def encode(self) -> bytes:
        digest = hashlib.sha384(self.data).digest() if self.digest is None else self.digest
        size = len(self.data) if self.size is None else self.size
        head = struct.pack("<IIIH", self.register + 1, self.kind, self.count, self.algorithm)
        return head + digest + struct.pack("<I", size) + self.data


@dataclass(frozen=True, slots=True)
class FirstForm:
    """What a log starts with: its version, and the algorithms of all its digests."""

    signature: bytes = b"Spec ID Event03\0"
    kind: int = 3
    digest: bytes = bytes(20)
    version: tuple[int, int] = (0, 2)  # minor, major
    algorithms: tuple[tuple[int, int], ...] = ((SHA384, 48),)
    vendor: bytes = b""
    vendor_size: int | None = None

    def encode(self) -> bytes:
        data = self.signature + struct.pack("<IBBBBI", 0, *self.version, 0, 2, len(self.algorithms))
        data += b"".join(struct.pack("<HH", *algorithm) for algorithm in self.algorithms)
        size = len(self.vendor) if self.vendor_size is None else self.vendor_size
        data += bytes((size,)) + self.vendor
        return struct.pack("<II20sI", 1, self.kind, self.digest, len(data)) + data


def encode_log(
    events: Iterable[EventForm], first: FirstForm | None = None, *, filling: bytes = b""
) -> bytes:
    """The bytes of a log; `filling` stands behind its last event."""
    return (first or FirstForm()).encode() + b"".join(e.encode() for e in events) + filling


def guest_events(code: bytes) -> list[EventForm]:
    """What a guest measures while it starts.

    Args:
        code: What the initial file system would hold: the measurement of the packages.
    """

    def action(text: str) -> EventForm:
        return EventForm(1, ACTION, text.encode())

    def loaded(tag: int, about: str, content: bytes) -> EventForm:
        text = about.encode() + b"\0"
        data = struct.pack("<II", tag, len(text)) + text
        return EventForm(2, TAGGED, data, hashlib.sha384(content).digest())

    def stands_for(register: int, kind: int, data: bytes) -> EventForm:
        """Of these the digest is of a file or a table: here, of its name."""
        content = hashlib.sha384(b"ratls simulation " + data).digest()
        return EventForm(register, kind, data, content)

    return [
        stands_for(0, TABLES, b"\x09TdxTable\0"),
        stands_for(0, BLOB, b"\x0fFirmware volume\0"),
        *(EventForm(0, VARIABLE, _variable(name)) for name in ("SecureBoot", "PK", "KEK")),
        EventForm(0, SEPARATOR, bytes(4)),
        stands_for(0, CONFIG_FLAGS, b"ACPI DATA"),
        stands_for(1, APPLICATION, b"kernel\0"),
        action("Calling EFI Application from Boot Option"),
        EventForm(1, SEPARATOR, bytes(4)),
        loaded(LOAD_OPTIONS, "LOADED_IMAGE::LoadOptions", COMMAND_LINE.encode("utf-16-le")),
        loaded(INITRD, "Linux initrd", code),
        action("Exit Boot Services Invocation"),
        action("Exit Boot Services Returned with Success"),
    ]


def guest_log(code: bytes) -> bytes:
    """The whole log, in its area, of a guest with this code."""
    log = encode_log(guest_events(code))
    return log.ljust(AREA, b"\xff")


def _variable(name: str) -> bytes:
    return GLOBAL + struct.pack("<QQ", len(name), 0) + name.encode("utf-16-le")
