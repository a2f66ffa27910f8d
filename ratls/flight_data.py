"""Arrow Flight's messages, as bytes: what gRPC carries in `FlightService.DoExchange`.

    raw = FlightData(command=b"ratls/1 release", metadata=hello).encode()
    FlightData.parse(raw).metadata

The fields are those of Apache Arrow's `Flight.proto`, in the encoding of Protocol Buffers: a
descriptor, the header of an Arrow IPC message, application metadata, the message's body. A parsed
message points into the bytes that were received: nothing is copied, and nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ratls.errors import StreamIntegrityError

SERVICE = "arrow.flight.protocol.FlightService"
DO_EXCHANGE = f"/{SERVICE}/DoExchange"
PIN = "ratls-pin-bin"  # metadata: SHA-256 of the key that a client has pinned (`Identities.of`)

_DESCRIPTOR, _HEADER, _METADATA, _BODY = 1, 2, 3, 1000  # field numbers of FlightData
_COMMAND_TYPE, _COMMAND = 1, 2  # of FlightDescriptor
_CMD = 2  # DescriptorType
_LENGTH_DELIMITED, _VARINT = 2, 0
_MESSAGE = dict.fromkeys((_DESCRIPTOR, _HEADER, _METADATA, _BODY), _LENGTH_DELIMITED)
_NAMED = {_COMMAND_TYPE: _VARINT, _COMMAND: _LENGTH_DELIMITED}
_NOTHING = memoryview(b"")


class FlightDataMalformed(StreamIntegrityError):
    """The bytes are not one Flight message, or one with fields that Flight does not have."""

    code = "flight-data-malformed"
    default_fix = "speak Arrow Flight to this address, with a client of the same version"


@dataclass(frozen=True, slots=True)
class FlightData:
    """One message. Empty means absent, as in Protocol Buffers."""

    command: bytes = b""  # of the descriptor, which the first message of a stream has
    header: memoryview | bytes = b""  # flatbuffer of an Arrow IPC message
    metadata: memoryview | bytes = b""  # application metadata: our messages
    body: memoryview | bytes = b""

    def encode(self) -> bytes:
        """The wire form; copies each part once."""
        parts: list[memoryview | bytes] = []
        if self.command:
            inner = _key(_COMMAND_TYPE, _VARINT) + _varint(_CMD)
            inner += _key(_COMMAND, _LENGTH_DELIMITED) + _varint(len(self.command)) + self.command
            parts += [_key(_DESCRIPTOR, _LENGTH_DELIMITED), _varint(len(inner)), inner]
        fields = ((_HEADER, self.header), (_METADATA, self.metadata), (_BODY, self.body))
        for number, value in fields:
            if len(value):
                parts += [_key(number, _LENGTH_DELIMITED), _varint(len(value)), value]
        return b"".join(parts)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read one message, every field at most once.

        Raises:
            FlightDataMalformed: Another field, one twice, a path, or a length beyond the end.
        """
        fields = _fields(memoryview(raw), _MESSAGE)
        return cls(
            command=_command(fields.get(_DESCRIPTOR)),
            header=fields.get(_HEADER, _NOTHING),
            metadata=fields.get(_METADATA, _NOTHING),
            body=fields.get(_BODY, _NOTHING),
        )


def encode_metadata(*parts: bytes) -> bytes:
    """A message of application metadata alone, in parts: large ones are copied once."""
    size = sum(len(part) for part in parts)
    return b"".join((_key(_METADATA, _LENGTH_DELIMITED), _varint(size), *parts))


def _command(descriptor: memoryview | None) -> bytes:
    """The command of a descriptor; a path is refused."""
    if descriptor is None:
        return b""
    fields = _fields(descriptor, _NAMED)
    if bytes(fields.get(_COMMAND_TYPE, b"")) != _varint(_CMD):
        raise _malformed("a descriptor that is no command")
    return bytes(fields.get(_COMMAND, b""))


def _fields(raw: memoryview, wires: Mapping[int, int]) -> dict[int, memoryview]:
    """Field number to value; a number's value is its own bytes. `wires`: the known fields."""
    found: dict[int, memoryview] = {}
    place = 0
    while place < len(raw):
        key, place = _read_varint(raw, place)
        number, wire = key >> 3, key & 7
        if wires.get(number) != wire or number in found:
            raise _malformed("a field that is unknown, of another type, or there twice")
        size, start = _read_varint(raw, place)
        end = start
        if wire == _LENGTH_DELIMITED:
            place, end = start, start + size
            if end > len(raw):
                raise _malformed("a length beyond the end")
        found[number] = raw[place:end]
        place = end
    return found


def _read_varint(raw: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(5):  # 35 bits: more than any length or field here
        if place >= len(raw):
            raise _malformed("a number beyond the end")
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << (7 * count)
        if not byte & 0x80:
            return value, place
    raise _malformed("a number of more than five bytes")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _malformed(found: str) -> FlightDataMalformed:
    return FlightDataMalformed("message", expected="one Flight message", found=found)
