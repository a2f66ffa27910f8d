"""MRENCLAVE, recomputed: the signer's own for each vector, and moved by what must move it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import vectors_folder
from tests.gramine.world import elf, loader
from tests.support.refusal import refused
from verifier.gramine.loader import Loader, LoaderMalformed, Segment
from verifier.gramine.measurement import Area, EnclaveTooSmall, measure
from verifier.gramine.signed import (
    LINE_CAP,
    TEXT_CAP,
    ManifestMalformed,
    ManifestSizesInvalid,
    SignedManifest,
    parse_size,
)

# Measured by Gramine 1.9's signer with a loader of 124 bytes (`elf()`).
TEXT = (
    'libos.entrypoint = "/app"\n'
    'loader.entrypoint = { uri = "file:/x", sha256 = "00" }\n'
    'sgx = { enclave_size = "16M", max_threads = 2, edmm_enable = false, isvprodid = 7, isvsvn = 3,'
    ' debug = false, remote_attestation = "dcap" }\n'
)
WITHOUT_EDMM = "30b0ac2699d1ca305ecdad1ce8f86632fd1a840742b7c094c043738138de8586"
WITH_EDMM = "08d934e7b59c67bf80490ba08d9a49fe49e1153a9304b04798978609aa333ada"


def measured(text: str, of: Loader | None = None) -> str:
    return str(measure(SignedManifest.parse(text.encode()), of or loader()).mr_enclave)


def test_the_known_answers() -> None:
    assert len(TEXT) == 221
    assert measured(TEXT) == WITHOUT_EDMM
    assert measured(TEXT.replace("edmm_enable = false", "edmm_enable = true")) == WITH_EDMM


def test_the_areas_are_where_the_loader_puts_them() -> None:
    areas = measure(SignedManifest.parse(TEXT.encode()), loader()).areas
    assert [(area.name, area.start) for area in areas] == [
        ("manifest", 0xFFF000),
        ("ssa", 0xFEF000),
        ("tcs", 0xFED000),
        ("tls", 0xFEB000),
        ("stack", 0xFAB000),
        ("stack", 0xF6B000),
        ("signal stack", 0xF5B000),
        ("signal stack", 0xF4B000),
        ("loader code", 0xF49000),
        ("heap", 0x10000),
    ]
    assert [area.name for area in areas if not area.measured] == ["heap"]


def test_one_page_has_the_records_of_the_manual() -> None:
    """Intel SDM, volume 3D, "EADD" and "EEXTEND", written out once by hand."""
    from verifier.gramine.measurement import _records

    def record(name: bytes, *words: int) -> bytes:
        return (name.ljust(8, b"\0") + b"".join(w.to_bytes(8, "little") for w in words)).ljust(
            64, b"\0"
        )

    page = b"hello".ljust(4096, b"\0")
    expected = record(b"EADD", 0xFFFF000, 0x201)
    for at in range(0, 4096, 256):
        expected += record(b"EEXTEND", 0xFFFF000 + at) + page[at : at + 256]
    area = Area("x", 0xFFFF000, 4096, 0x201, content=b"hello")
    assert b"".join(_records(area)) == expected
    heap = Area("heap", 0x10000, 3 * 4096, 0x207, measured=False)
    assert b"".join(_records(heap)) == b"".join(
        record(b"EADD", at, 0x207) for at in (0x10000, 0x11000, 0x12000)
    )


@given(start=st.integers(0, 300), pages=st.integers(0, 300), content=st.binary(max_size=9000))
def test_pages_in_batches_are_pages_one_by_one(start: int, pages: int, content: bytes) -> None:
    from verifier.gramine.measurement import _records

    content = content[: pages * 4096]
    area = Area("x", start * 4096, pages * 4096, 0x203, content=content)
    whole = hashlib.sha256(b"".join(_records(area))).digest()
    single = hashlib.sha256()
    for at in range(0, pages * 4096, 4096):
        part = content[at : at + 4096]
        for raw in _records(Area("x", start * 4096 + at, 4096, 0x203, content=part)):
            single.update(raw)
    assert whole == single.digest()


def _vectors() -> list[Any]:
    folder = vectors_folder()
    if folder is None or not (folder / "gramine").is_dir():
        return [pytest.param(None, None, id="absent")]
    found = []
    for place in (folder / "gramine", folder / "gramine" / "more"):
        listed = json.loads((place / "vectors.json").read_text("utf-8"))["vectors"]
        found += [pytest.param(place, v, id=v["name"]) for v in listed]
    return found


NAMES = {"sig_stack": "signal stack", "code": "loader code", "data": "loader data", "free": "heap"}


@pytest.mark.parametrize(("folder", "vector"), _vectors())
def test_the_signers_own_values(vectors: Path, folder: Path, vector: dict[str, Any]) -> None:
    """Every vector whose loader is there: page edges, sizes in K, one thread, EDMM, EXINFO."""
    name = vector["libpal"].get("file")
    if name is None:
        return
    of = Loader.parse((vectors / "gramine" / name).read_bytes())
    found = measure(SignedManifest.parse((folder / vector["manifest_sgx"]).read_bytes()), of)
    wanted = vector.get("mr_enclave") or vector["sigstruct_view"]["mr_enclave"]
    assert str(found.mr_enclave) == wanted
    if "measured_layout" in vector:
        assert [(a.name, hex(a.start), hex(a.end), a.measured) for a in found.areas] == [
            (NAMES.get(a["what"], a["what"]), a["start"], a["end"], a["measured"])
            for a in vector["measured_layout"]
        ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("isvsvn = 3", "isvsvn = 4"),
        ("debug = false", "debug = true"),
        ('"16M"', '"32M"'),
        ('"16M"', '"16384K"'),
        ("max_threads = 2", "max_threads = 3"),
        ('"/app"', '"/apq"'),
        ("\n", "\n\n"),
    ],
)
def test_what_changes_in_the_text_changes_the_measurement(old: str, new: str) -> None:
    assert measured(TEXT.replace(old, new, 1)) != WITHOUT_EDMM


def test_what_changes_in_the_loader_changes_the_measurement() -> None:
    """One byte of code; not what lies outside its segments."""
    raw = elf()
    assert measured(TEXT, Loader.parse(raw + b"section headers")) == WITHOUT_EDMM
    assert measured(TEXT, Loader.parse(raw[:-1] + b"\xfb")) != WITHOUT_EDMM
    assert measured(TEXT, Loader.parse(elf(entry=0x79))) != WITHOUT_EDMM


@given(size=st.integers(4070, 4120))
def test_the_text_and_its_end_fill_whole_pages(size: int) -> None:
    """The NUL that Gramine puts behind the text may need a page of its own."""
    text = TEXT + "#" * (size - len(TEXT) - 1) + "\n"
    first = measure(SignedManifest.parse(text.encode()), loader()).areas[0]
    assert first.size == (4096 if size < 4096 else 8192)


@pytest.mark.parametrize(
    "size", ["3M", "1K", "0x3000000", "16g", "16 M", "016M", "-16M", "1e9", "1025G", "64M64"]
)
def test_a_size_that_no_enclave_has(size: str) -> None:
    with refused(ManifestSizesInvalid):
        SignedManifest.parse(TEXT.replace("16M", size).encode()).sizes()


@pytest.mark.parametrize("threads", ["0", "-1", "4097", "true", '"4"', "2.0"])
def test_a_number_of_threads_that_no_enclave_has(threads: str) -> None:
    text = TEXT.replace("max_threads = 2", f"max_threads = {threads}")
    with refused(ManifestSizesInvalid):
        SignedManifest.parse(text.encode()).sizes()


def test_sizes_in_every_form() -> None:
    assert [parse_size(t) for t in ("65536K", "64M", "0x4000000", "67108864", "1G")] == [
        *[64 << 20] * 4,
        1 << 30,
    ]
    assert parse_size(16) is None


def test_the_areas_do_not_fit() -> None:
    with refused(EnclaveTooSmall):
        measured(TEXT.replace("max_threads = 2", "max_threads = 4096"))
    with refused(EnclaveTooSmall):
        measured(TEXT.replace('"16M"', '"512K"'))
    assert measured(TEXT.replace('"16M"', '"1M"').replace("max_threads = 2", "max_threads = 1"))


@pytest.mark.parametrize(
    "raw",
    [
        b"a = ",
        b"a = 1\na = 2",
        b"[a]\n[a]",
        b"\xff",
        b'a = "\0"',
        b"a = 1\r",
        b"a = " + b"[" * 50_000,
        b"a = " + b"[\n" * 20_000,
        b"a = 9223372036854775808",
        b"a = -9223372036854775809",
        b"a = 0x" + b"f" * 4000,
        b"a = " + b"[" * 17 + b"]" * 17,
        b"a = " + b"{b = " * 17 + b"1" + b"}" * 17,
        b"a" + b".a" * 17 + b" = 1",
        b"a = " + b"[\n" * 300 + b"]\n" * 300,
        b"a" + b".a" * 100_000 + b" = 1",
        b'a = "' + b"x" * LINE_CAP + b'"',
        b"#" * 80 + b"\n" + b"#\n" * (TEXT_CAP // 2),
    ],
    ids=lambda raw: f"{raw[:8]!r}-{len(raw)}",
)
def test_no_manifest(raw: bytes) -> None:
    with refused(ManifestMalformed):
        SignedManifest.parse(raw)


def test_what_is_deep_or_large_but_not_too_much() -> None:
    text = "a = " + "[" * 16 + "]" * 16 + "\nb = 9223372036854775807\nc = -9223372036854775808\n"
    assert SignedManifest.parse(text.encode()).document["b"] == 2**63 - 1


# The loader


TWO = ((5, 0, b"", 0x1000), (6, 0x1E00, b"data" * 64, 0x3000))


def test_zeros_stand_where_the_file_has_nothing() -> None:
    """Before a segment's first byte in its page, and after its last one."""
    code, data = Loader.parse(elf(TWO)).segments
    assert (code.start, code.end, data.start, data.end) == (0, 0x1000, 0x1000, 0x5000)
    assert data.pages() == (bytes(0xE00) + b"data" * 64).ljust(0x4000, b"\0")
    assert (data.readable, data.writable, data.executable) == (True, True, False)


def test_a_segment_of_no_bytes_has_no_page() -> None:
    assert Segment(0x4000, b"", 0, True, False, False).pages() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        elf()[:63],
        elf()[:100],
        elf()[:122],
        b"\x7fELF\1" + elf()[5:],
        elf(kind=2),
        elf(machine=3),
        elf(entry=0x1800),
        elf(((6, 0, b"", 0x1800),)),
        elf(((5, 0x1000, b"code", 0x1000),), entry=0x1000),
        elf(((5, 0, b"", 0x1800), (6, 0x1E00, b"data", 0x10))),  # two on one page
        elf(((5, 0, b"", 0x10),)),
        elf(((5, 0, b"", 1 << 40),)),
        elf()[:54] + b"\x20" + elf()[55:],
        elf()[:56] + b"\xff\xff" + elf()[58:],
        elf()[:32] + b"\xff" * 8 + elf()[40:],
        elf()[:64] + b"\2" + elf()[65:],
        elf()[:72] + b"\1" + elf()[73:],
    ],
)
def test_no_loader(raw: bytes) -> None:
    with refused(LoaderMalformed):
        Loader.parse(raw)


@given(raw=st.binary(max_size=300), at=st.integers(0, 123), byte=st.integers(0, 255))
def test_a_loader_or_a_refusal(raw: bytes, at: int, byte: int) -> None:
    """Any bytes, and a genuine file with one byte altered: what is read can be measured."""
    genuine = elf()
    for data in (raw, genuine[:at] + bytes((byte,)) + genuine[at + 1 :]):
        try:
            read = Loader.parse(data)
        except LoaderMalformed:
            continue
        assert 0 < read.span <= 256 << 20
