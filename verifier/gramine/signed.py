"""The signed manifest (`.manifest.sgx`): the very bytes that MRENCLAVE covers, read once.

    manifest = SignedManifest.parse(raw)
    manifest.sizes().enclave  # bytes of address space

Gramine reads the text with a C library and cuts strings at NUL; a TOML reader keeps them (M12).
`verifier.gramine.lint` therefore demands printable ASCII and the one form that the signer writes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from verifier.gramine.errors import MeasuredFormatError

TEXT_CAP = 4 << 20
LINE_CAP = 4096
# `tomllib` takes time quadratic in the parts of a dotted key, and recursion for each level.
DOTS_CAP, BRACKETS_CAP = 64, 64
DEPTH_CAP = 16
_INTEGERS = range(-(1 << 63), 1 << 63)  # TOML's; `tomllib` takes any
MOST_THREADS = 4096
PAGE = 4096
# Each page of the heap is a record of its own in the measurement, unless the heap is added later.
LARGEST, LARGEST_WITHOUT_EDMM = 1 << 40, 1 << 39
_SIZE = re.compile(r"(0x[0-9a-fA-F]{1,16}|[1-9][0-9]{0,15})([KMG]?)", re.ASCII)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PLACE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)\Z")


class ManifestMalformed(MeasuredFormatError):
    """A manifest is not TOML, or larger or deeper than any that Gramine's signer writes."""

    code = "manifest-malformed"
    default_fix = "obtain the signed manifest again, byte for byte as the signer wrote it"


class ManifestSizesInvalid(MeasuredFormatError):
    """A manifest gives no size or number of threads with which an enclave can be laid out."""

    code = "manifest-sizes-invalid"
    default_fix = "correct the size in the manifest's template, and sign it again"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The only values of a manifest that its measurement depends on, besides the text itself."""

    enclave: int  # bytes, a power of two
    threads: int
    edmm: bool  #   the heap is added while the enclave runs, and is not measured


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """The bytes, and what a TOML reader sees in them."""

    raw: bytes
    text: str
    document: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises: ManifestMalformed."""
        text = _bounded_text(raw)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            place, message = _PLACE.search(str(error)), str(error)
            where = "end of the text"
            if place and place[1]:
                where = f"line {place[1]}, column {place[2]}"
            found = ascii(_PLACE.sub("", message))[1:-1][:160]
            raise ManifestMalformed(f"manifest, {where}", expected="TOML", found=found) from error
        except (ValueError, RecursionError) as error:
            found = "nesting too deep" if isinstance(error, RecursionError) else str(error)[:80]
            raise ManifestMalformed("manifest", expected="TOML", found=found) from error
        _require_plain(document)
        return cls(raw, text, document)

    def table(self, *names: str) -> Mapping[str, Any]:
        """A table of this path; empty where there is none."""
        found: Any = self.document
        for name in names:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def sizes(self) -> Sizes:
        """Raises: ManifestSizesInvalid."""
        sgx = self.table("sgx")
        threads, edmm = sgx.get("max_threads"), sgx.get("edmm_enable", False)
        if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
            raise _unfit("max_threads", f"a number from 1 to {MOST_THREADS}", threads)
        if type(edmm) is not bool:
            raise _unfit("edmm_enable", "true or false", edmm)
        size = parse_size(sgx.get("enclave_size"))
        most = LARGEST if edmm else LARGEST_WITHOUT_EDMM
        if size is None or size & (size - 1) or not PAGE <= size <= most:
            wanted = f'a power of two up to {most >> 30}G, like "16G"'
            raise _unfit("enclave_size", wanted, sgx.get("enclave_size"))
        return Sizes(size, threads, edmm)

    def strings(self) -> Iterator[tuple[str, str]]:
        """Each key and each string value, with its path; keys as the name of their table has it."""
        todo: list[tuple[str, Any]] = [("", self.document)]
        while todo:
            path, value = todo.pop()
            if isinstance(value, str):
                yield path, value
            elif isinstance(value, dict):
                for name, inner in value.items():
                    inside = f"{path}.{name}" if path else name
                    yield inside, name
                    todo.append((inside, inner))
            elif isinstance(value, list):
                todo += [(f"{path}[{at}]", inner) for at, inner in enumerate(value)]


def parse_size(value: object) -> int | None:
    """Bytes of a size as Gramine writes it: `16G`, `65536K`, `0x2000000`; None for another form."""
    read = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(read[1], 0) * _UNITS[read[2]] if read else None


def _unfit(name: str, expected: str, found: object) -> ManifestSizesInvalid:
    shown = "nothing" if found is None else ascii(found)[:60]
    return ManifestSizesInvalid(f"manifest: sgx.{name}", expected=expected, found=shown)


def _require_plain(document: dict[str, Any]) -> None:
    """No deeper, and no larger a number, than what is shown and written again may be."""
    todo: list[tuple[str, Any, int]] = [(name, value, 1) for name, value in document.items()]
    while todo:
        name, value, depth = todo.pop()
        thing = f"manifest: below {ascii(name)[1:-1][:60]}"
        if depth > DEPTH_CAP:
            raise ManifestMalformed(thing, expected=f"at most {DEPTH_CAP} levels", found="more")
        if isinstance(value, dict):
            todo += [(name, inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            todo += [(name, inner, depth + 1) for inner in value]
        elif type(value) is int and value not in _INTEGERS:
            found = f"one of {value.bit_length()} bits"
            raise ManifestMalformed(thing, expected="integers of 64 bits", found=found)


def _bounded_text(raw: bytes) -> str:
    if len(raw) > TEXT_CAP:
        raise ManifestMalformed(
            "manifest", expected=f"at most {TEXT_CAP} bytes", found=str(len(raw))
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestMalformed(
            f"manifest, byte {error.start}", expected="UTF-8", found=f"{raw[error.start]:#04x}"
        ) from error
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LINE_CAP or line.count(".") > DOTS_CAP or line.count("[") > BRACKETS_CAP:
            wanted = f"at most {LINE_CAP} characters, {DOTS_CAP} dots and {BRACKETS_CAP} brackets"
            raise ManifestMalformed(
                f"manifest, line {number}", expected=wanted, found=f"{len(line)} characters"
            )
    return text
