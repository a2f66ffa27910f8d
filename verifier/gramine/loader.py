"""Gramine's loader (`libpal.so`): the segments of the ELF file that become pages of the enclave.

    loader = Loader.parse(raw)
    loader.span, loader.entry

System V gABI, "Program Header"; the x86-64 psABI. Only what the processor would measure is read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from struct import Struct
from typing import Self

from verifier.gramine.errors import MeasuredFormatError
from verifier.gramine.signed import PAGE

FILE_CAP, SPAN_CAP = 64 << 20, 256 << 20
MOST_HEADERS = 64
_FILE = Struct("<16sHHIQQQIHHH")
_HEADER = Struct("<IIQQQQQQ")
_IDENT = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_DYN, _X86_64, _LOAD = 3, 62, 1
_EXECUTE, _WRITE, _READ = 1, 2, 4


class LoaderMalformed(MeasuredFormatError):
    """A file is no ELF file that Gramine's loader could be."""

    code = "loader-malformed"
    default_fix = "name the installed libpal.so of Gramine with --libpal"


@dataclass(frozen=True, slots=True)
class Segment:
    """What one PT_LOAD header puts into memory."""

    address: int  # of its first byte, relative to the loader
    content: bytes
    size: int  #    in memory; zeros follow the content
    readable: bool
    writable: bool
    executable: bool

    @property
    def start(self) -> int:
        """Its first page."""
        return self.address & -PAGE

    @property
    def end(self) -> int:
        """The page after its last."""
        return pages_up(self.address + self.size)

    def pages(self) -> bytes:
        """All its pages: zeros before its first byte and after its last one."""
        before = self.address - self.start
        return (bytes(before) + self.content).ljust(self.end - self.start, b"\0")


@dataclass(frozen=True, slots=True)
class Loader:
    """The loader, as it is laid out from address 0."""

    sha256: bytes
    entry: int
    segments: tuple[Segment, ...]  # in the order of their headers

    @property
    def span(self) -> int:
        """Bytes from address 0 to the end of the last page."""
        return max(segment.end for segment in self.segments)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: LoaderMalformed, with the offset in the file."""
        if len(raw) > FILE_CAP:
            raise _refuse("size", f"at most {FILE_CAP} bytes", str(len(raw)))
        if len(raw) < _FILE.size or not raw.startswith(_IDENT):
            raise _refuse("byte 0", "an ELF file of 64 bits", ascii(raw[:8])[:40])
        _, kind, machine, _, entry, at, _, _, _, size, count = _FILE.unpack_from(raw)
        if (kind, machine) != (_DYN, _X86_64):
            raise _refuse("byte 16", "a shared object for x86-64", f"type {kind} for {machine}")
        if size != _HEADER.size or not 1 <= count <= MOST_HEADERS:
            raise _refuse("byte 54", f"1 to {MOST_HEADERS} headers of 56", f"{count} of {size}")
        if at + count * size > len(raw):
            raise _refuse(f"byte {at}", f"{count} program headers", "the end of the file")
        segments = [
            segment
            for number in range(count)
            if (segment := _segment(raw, at + number * size)) is not None
        ]
        _require_order(segments)
        if not any(s.executable and s.address <= entry < s.address + s.size for s in segments):
            raise _refuse("byte 24", "an entry point in code", f"{entry:#x}")
        return cls(hashlib.sha256(raw).digest(), entry, tuple(segments))


def pages_up(value: int) -> int:
    """The next multiple of the page size."""
    return (value + PAGE - 1) & -PAGE


def _refuse(where: str, expected: str, found: str) -> LoaderMalformed:
    return LoaderMalformed(f"loader, {where}", expected=expected, found=found)


def _segment(raw: bytes, at: int) -> Segment | None:
    kind, flags, offset, address, _, in_file, in_memory, _ = _HEADER.unpack_from(raw, at)
    if kind != _LOAD:
        return None
    if in_file > in_memory or address + in_memory > SPAN_CAP:
        wanted = f"no more bytes in the file than in memory, all below {SPAN_CAP:#x}"
        raise _refuse(f"byte {at}", wanted, f"{in_file} and {in_memory} at {address:#x}")
    if offset + in_file > len(raw):
        raise _refuse(f"byte {at}", "a segment inside the file", f"{in_file} at {offset:#x}")
    if offset % PAGE != address % PAGE:
        # The signer takes the bytes by offset and the page by address: they must agree.
        raise _refuse(f"byte {at}", "offset and address alike in their page", f"{offset:#x}")
    return Segment(
        address,
        raw[offset : offset + in_file],
        in_memory,
        bool(flags & _READ),
        bool(flags & _WRITE),
        bool(flags & _EXECUTE),
    )


def _require_order(segments: list[Segment]) -> None:
    """From address 0 upwards, no page twice: the processor adds each page once."""
    end = 0
    for number, segment in enumerate(segments):
        if segment.start < end or (number == 0 and segment.start):
            raise _refuse("segments", f"address {end:#x} or later", f"{segment.start:#x}")
        end = segment.end
    if not end:
        raise _refuse("segments", "at least one page to load", "none")
