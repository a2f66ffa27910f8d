"""MRENCLAVE of an enclave under Gramine 1.9, from the signed manifest and the loader alone.

    found = measure(manifest, loader)
    found.mr_enclave, found.areas

SHA-256 over the records ECREATE, EADD and EEXTEND (Intel SDM, volume 3D, "ECREATE", "EADD" and
"EEXTEND"), in the order in which Gramine's loader adds its pages; docs/gramine.md 4. The trusted
files are measured through their hashes in the text, and Gramine's library OS through its own.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import pack_into

from verifier.gramine.errors import MeasuredFormatError
from verifier.gramine.loader import Loader, pages_up
from verifier.gramine.signed import PAGE, SignedManifest, Sizes
from verifier.quote import MrEnclave

SSA_FRAME, SSA_FRAMES = 4 * PAGE, 2
STACK, SIGNAL_STACK = 256 << 10, 64 << 10
LOWEST = 0x10000  # of the heap
_CANARY = 0xBADBADBADBAD
_REGISTERS = 184  # the part of an SSA frame that holds them, at its end
READ, WRITE, EXECUTE, TCS, REGULAR = 1, 2, 4, 0x100, 0x200
_CHUNK, _CHUNKS = 256, PAGE // 256
# Words of eight bytes: one EADD record; with it the 16 EEXTEND records and the chunks themselves.
_ADD, _PAGE_WORDS = 8, 8 + _CHUNKS * (8 + _CHUNK // 8)
_BATCH = 1 << 12  # pages


class EnclaveTooSmall(MeasuredFormatError):
    """The sizes in a manifest leave no room for what the loader puts into the enclave."""

    code = "enclave-too-small"
    default_fix = "raise sgx.enclave_size or lower sgx.max_threads, and sign again"


@dataclass(frozen=True, slots=True)
class Area:
    """Pages that follow each other and are alike."""

    name: str
    start: int
    size: int
    flags: int
    measured: bool = True  # added without content otherwise
    content: bytes = field(default=b"", repr=False)  # zeros follow

    @property
    def end(self) -> int:
        return self.start + self.size

    @property
    def access(self) -> str:
        """As `ls` would say it: `r-x`."""
        if self.flags & TCS:
            return "tcs"
        return "".join(
            letter if self.flags & flag else "-"
            for letter, flag in zip("rwx", (READ, WRITE, EXECUTE), strict=True)
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """The value, and what it was computed over, in this order."""

    mr_enclave: MrEnclave
    sizes: Sizes
    areas: tuple[Area, ...]


def measure(manifest: SignedManifest, loader: Loader) -> Measurement:
    """Raises: ManifestSizesInvalid, EnclaveTooSmall."""
    sizes = manifest.sizes()
    areas = tuple(_areas(manifest.raw, sizes, loader))
    digest = hashlib.sha256(b"ECREATE\0")
    digest.update((SSA_FRAME // PAGE).to_bytes(4, "little"))
    digest.update(sizes.enclave.to_bytes(8, "little") + bytes(44))
    for area in areas:
        for record in _records(area):
            digest.update(record)
    return Measurement(MrEnclave(digest.digest()), sizes, areas)


def least_size(manifest: SignedManifest, sizes: Sizes) -> int:
    """Bytes that the areas need which do not depend on the loader."""
    return _least(manifest.raw, sizes)


def _least(text: bytes, sizes: Sizes) -> int:
    return LOWEST + sum(size for _, size, _ in _plan(text + b"\0", sizes.threads))


def _plan(text: bytes, threads: int) -> list[tuple[str, int, int]]:
    """Name, size and flags of each area above the loader, from the enclave's end downwards."""
    data = READ | WRITE | REGULAR
    return [
        ("manifest", pages_up(len(text)), READ | REGULAR),
        ("ssa", threads * SSA_FRAMES * SSA_FRAME, data),
        ("tcs", threads * PAGE, TCS),
        ("tls", threads * PAGE, data),
        *[("stack", STACK, data)] * threads,
        *[("signal stack", SIGNAL_STACK, data)] * threads,
    ]


def _areas(text: bytes, sizes: Sizes, loader: Loader) -> Iterator[Area]:
    """From the enclave's end downwards, and at last the heap below them all."""
    needed, top = _least(text, sizes) + loader.span, sizes.enclave
    if needed > sizes.enclave:
        raise EnclaveTooSmall(
            "manifest: sgx.enclave_size", expected=f"at least {needed}", found=str(sizes.enclave)
        )
    text += b"\0"  # as Gramine keeps it in memory
    placed: list[tuple[str, int, int, int]] = []
    for name, size, flags in _plan(text, sizes.threads):
        top -= size
        placed.append((name, top, size, flags))
    starts: dict[str, list[int]] = {}
    for name, start, _, _ in placed:
        starts.setdefault(name, []).append(start)
    base = top - loader.span
    content = {
        "manifest": text,
        "tcs": _thread_pages(starts, sizes, loader, base),
        "tls": _local_pages(starts, sizes, len(text), base),
    }
    for name, start, size, flags in placed:
        yield Area(name, start, size, flags, content=content.get(name, b""))
    for segment in loader.segments:
        access = READ * segment.readable | WRITE * segment.writable | EXECUTE * segment.executable
        yield Area(
            "loader code" if segment.executable else "loader data",
            base + segment.start,
            segment.end - segment.start,
            REGULAR | access,
            content=segment.pages(),
        )
    if not sizes.edmm and base > LOWEST:
        heap = READ | WRITE | EXECUTE | REGULAR
        yield Area("heap", LOWEST, base - LOWEST, heap, measured=False)


def _thread_pages(starts: dict[str, list[int]], sizes: Sizes, loader: Loader, base: int) -> bytes:
    """One thread control structure a page. Intel SDM, volume 3D, "Thread Control Structure"."""
    pages = bytearray(sizes.threads * PAGE)
    (ssa,), (tls,) = starts["ssa"], starts["tls"]
    for thread in range(sizes.threads):
        at = thread * PAGE
        pack_into("<Q", pages, at + 16, ssa + thread * SSA_FRAMES * SSA_FRAME)
        pack_into("<I", pages, at + 28, SSA_FRAMES)
        pack_into("<Q", pages, at + 32, base + loader.entry)
        pack_into("<Q", pages, at + 56, tls + at)
        pack_into("<II", pages, at + 64, 0xFFF, 0xFFF)
    return bytes(pages)


def _local_pages(starts: dict[str, list[int]], sizes: Sizes, text_size: int, base: int) -> bytes:
    """What Gramine's loader finds about each thread through its GS register."""
    pages = bytearray(sizes.threads * PAGE)
    (ssas,), (tcs,), (tls,) = starts["ssa"], starts["tcs"], starts["tls"]
    stacks, signals = starts["stack"], starts["signal stack"]
    for thread in range(sizes.threads):
        at, ssa = thread * PAGE, ssas + thread * SSA_FRAMES * SSA_FRAME
        pack_into("<QQ", pages, at, tls + at, _CANARY)
        pack_into("<QQQ", pages, at + 272, sizes.enclave, tcs + at, stacks[thread] + STACK)
        pack_into("<QQ", pages, at + 304, signals[thread], signals[thread] + SIGNAL_STACK)
        pack_into("<QQ", pages, at + 328, ssa, ssa + SSA_FRAME - _REGISTERS)
        pack_into("<QQQ", pages, at + 416, text_size, LOWEST, base)
    return bytes(pages)


def _records(area: Area) -> Iterator[bytearray]:
    """The records of an area, some thousand pages at a time."""
    words = _PAGE_WORDS if area.measured else _ADD
    page = bytearray(words * 8)
    pack_into("<8sQQ", page, 0, b"EADD", 0, area.flags)
    for chunk in range(_CHUNKS if area.measured else 0):
        pack_into("<8s", page, (_ADD + chunk * 40) * 8, b"EEXTEND")
    most = 128 if area.measured else _BATCH
    for start in range(area.start, area.end, most * PAGE):
        count = min(most, (area.end - start) // PAGE)
        records = page * count
        view = memoryview(records).cast("Q")
        view[1::words] = array("Q", range(start, start + count * PAGE, PAGE))
        for chunk in range(_CHUNKS if area.measured else 0):
            first = start + chunk * _CHUNK
            view[_ADD + chunk * 40 + 1 :: words] = array(
                "Q", range(first, first + count * PAGE, PAGE)
            )
        if area.measured:
            _fill(records, area.content[start - area.start :][: count * PAGE])
        yield records


def _fill(records: bytearray, content: bytes) -> None:
    """Put the bytes of the pages behind their EEXTEND records."""
    for at in range(0, len(content), _CHUNK):
        page, chunk = divmod(at // _CHUNK, _CHUNKS)
        place = (page * _PAGE_WORDS + _ADD + chunk * 40 + 8) * 8
        part = content[at : at + _CHUNK]
        records[place : place + len(part)] = part
