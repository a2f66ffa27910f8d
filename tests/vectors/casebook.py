"""What the cases of dcap.md section 5 are made of: one world from fixed bytes, and a book of cases.

    book = Book("5.3")
    book.line("N047")
    book.refuses("attestation-key-unbound", "does …", quote=scene().quote(…))

Every key, serial and signature follows from a name, so that writing the book twice gives the same
bytes. What is not given to a case is genuine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from simulation.certificates import CertificateForm, Issued, new_key
from simulation.intel import Intel
from simulation.platform import Platform
from tests.support.error_page import leaves
from tests.vectors.reference import LINES
from verifier.errors import Exit

AT = datetime(2030, 1, 1, 12, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
DATE = AT - 60 * DAY  # of the levels that cases write
GOOD = "UpToDate"
REPORT_DATA = bytes(range(64))
SGX, TDX = "sgx", "tdx"
MEMBERS = [
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
]
Members = dict[str, bytes]
Hook = Callable[[Any], Any]
CODES = json.loads((Path(__file__).parent / "codes.json").read_text("utf-8"))
_EXITS = {leaf.code: leaf.exit_status for leaf in leaves("verifier")}


class Stream:
    """Bytes that follow from a name; stands in for the system's random source."""

    def __init__(self, name: str) -> None:
        self._name, self._count = name.encode(), 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        seed = self._name + b"\0" + self._count.to_bytes(8, "big")
        return hashlib.shake_256(seed).digest(size)


def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of this name."""
    return new_key(Stream(f"key {name}"))


def other_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    """A key on another curve."""
    return ec.derive_private_key(int.from_bytes(Stream(curve.name)(30), "big"), curve)


class RsaModulus:
    """An RSA key of which only the public half exists: enough to be certified."""

    def public_key(self) -> rsa.RSAPublicKey:
        modulus = int.from_bytes(Stream("RSA")(256), "big") | 1 << 2047 | 1
        return rsa.RSAPublicNumbers(65537, modulus).public_key()


@dataclass(frozen=True, slots=True)
class Scene:
    """An Intel, a platform of it, and what both say around `AT`."""

    intel: Intel
    platform: Platform

    def quote(self, report_data: bytes = REPORT_DATA, **altered: Any) -> bytes:
        """An SGX quote of version 3; hooks of `Platform.quote`."""
        return self.platform.quote(report_data, **altered)

    def td_quote(self, report_data: bytes = REPORT_DATA, **altered: Any) -> bytes:
        """A TDX quote; hooks of `Platform.td_quote`."""
        return self.platform.td_quote(report_data, **altered)

    def collateral(self, **altered: Any) -> Members:
        """The members of a bundle; hooks of `Intel.collateral`."""
        text = self.intel.collateral(self.platform, **altered)
        return {name: value.encode() for name, value in json.loads(text).items()}

    @property
    def chain(self) -> tuple[str, str, str]:
        """PEM: leaf, authority, root."""
        return self.platform.pck.pem, self.platform.ca.pem, self.platform.root.pem

    def another(self, name: str, **altered: Any) -> Platform:
        """One more platform of the same Intel."""
        return replace(self.intel, random=Stream(name)).platform(**altered)


_AUTHORITIES = ("root", "processor_ca", "platform_ca", "tcb_signer")


def scene(name: str = "cases", /, **altered: Any) -> Scene:
    """The world of this name; hooks of `Intel.create` and `Intel.platform` alter it.

    Keys, serials and names depend on the name alone: an altered world differs in what was
    altered and what had to be signed again.
    """
    if not altered:
        return _genuine(name)
    authorities = {k: altered.pop(k) for k in _AUTHORITIES if k in altered}
    intel = Intel.create(AT, random=Stream(name), **authorities)
    return Scene(intel, intel.platform(**altered))


@cache
def _genuine(name: str) -> Scene:
    intel = Intel.create(AT, random=Stream(name))
    return Scene(intel, intel.platform())


@cache
def processor_scene() -> Scene:
    """The same Intel, with a platform of the Processor CA."""
    return scene(processor=True)


def form_of(place: str) -> CertificateForm:
    """The form from which the genuine certificate of this place was issued."""
    forms: list[CertificateForm] = []

    def keep(form: CertificateForm) -> CertificateForm:
        forms.append(form)
        return form

    scene(**{place: keep})
    return forms[0]


def chain_of(*certificates: Issued) -> bytes:
    return "".join(c.pem for c in certificates).encode()


def set_(**fields: Any) -> Hook:
    """A hook that sets fields of a form."""
    return lambda form: replace(form, **fields)


def drop(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A hook that removes one member of a document."""
    return lambda document: {k: v for k, v in document.items() if k != name}


def put(**members: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A hook that sets members of a document."""
    return lambda document: {**document, **members}


@dataclass
class Book:
    """The cases of one section, and the bytes that they share."""

    section: str
    cases: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, bytes] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    root_certificates: dict[str, list[str]] = field(default_factory=dict)
    collaterals: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _line: str = ""
    _known: list[tuple[str, Members]] = field(default_factory=list)

    def line(self, line: str) -> None:
        """What follows belongs to this line of the page."""
        if LINES[line].section != self.section:
            raise ValueError(f"{line} is in section {LINES[line].section}")
        self._line = line

    @property
    def classes(self) -> tuple[str, ...]:
        """The failure classes in the column of this line."""
        return LINES[self._line].classes

    def share(self, name: str, collateral: Members) -> None:
        """Keep this collateral under a name; cases then say only what differs from it."""
        self._known.append((name, collateral))
        self.collaterals[name] = {n: self._parts(v) for n, v in collateral.items()}

    def accepts(
        self, does: str, *, status: str = "UpToDate", advisories: Sequence[str] = (), **case: Any
    ) -> None:
        """A genuine case with this TCB status and, by default, nothing to accept explicitly."""
        expected = {"verdict": "accepted", "code": None, "class": None, "tcb_status": status}
        self._add(does, {**expected, "advisory_ids": list(advisories)}, **case)

    def refuses(
        self,
        code: str,
        does: str,
        *,
        status: str | None = None,
        advisories: Sequence[str] | None = None,
        differs: str | None = None,
        **case: Any,
    ) -> None:
        """A case that ends with this code; with a `status` where the quote itself is genuine."""
        exit_status = _EXITS[code]
        expected: dict[str, Any] = {
            "verdict": "undecided" if exit_status is Exit.UNDECIDED else "refused",
            "code": code,
            "class": self._class(code, differs),
            "tcb_status": status,
        }
        if status is not None:
            expected["advisory_ids"] = list(advisories or ())
        self._add(does, expected, differs=differs, **case)

    def ends_with(self, status: str, does: str, **case: Any) -> None:
        """A genuine case with this TCB status, where `UpToDate` alone is accepted."""
        if status == GOOD:
            self.accepts(does, **case)
            return
        code = "tcb-revoked" if status == "Revoked" else "tcb-status-unaccepted"
        differs = None
        if self.classes and status != "Revoked" and "TCB_STATUS" not in self.classes:
            differs = "the line speaks of the status, which is this one; it is accepted if asked"
        self.refuses(code, does, status=status, differs=differs, **case)

    def _class(self, code: str, differs: str | None) -> str:
        """The class of dcap.md 4.11 for this code: one of the line's column, where that has any."""
        fitting = [name for name, codes in CODES["dcap"].items() if code in codes]
        named = [name for name in self.classes if name in fitting]
        if not named and self.classes and differs is None:
            raise ValueError(f"{self._line}: {code} is none of {LINES[self._line].expect}")
        return (named or fitting)[0]

    def _add(
        self,
        does: str,
        expected: dict[str, Any],
        *,
        quote: bytes | None = None,
        collateral: Members | bytes | None = None,
        like: str = SGX,
        world: Scene | None = None,
        root: Intel | None = None,
        at: datetime = AT,
        newer_sgx: bool = False,
        padded_file: bool = False,
        accept_statuses: Sequence[str] = ("UpToDate",),
        accept_advisories: Sequence[str] | None = None,
        accept_out_of_date_since: str | None = None,
        each: str | None = None,
        to: int | None = None,
        differs: str | None = None,
    ) -> None:
        world = world or scene()
        if quote is None:
            quote = world.quote() if like == SGX else world.td_quote()
        if collateral is None:
            collateral = world.collateral() if like == SGX else world.collateral(tdx=True)
        number = sum(case["id"].startswith(self._line + "-") for case in self.cases) + 1
        case: dict[str, Any] = {
            "id": f"{self._line}-{number}",
            "rule": f"dcap.md {self.section} {self._line}",
            "does": does,
            "quote": self._parts(quote),
            "collateral": self._collateral(collateral),
            "root": self._root(root or world.intel),
            "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if each:
            case |= {"each": each, "to": to}
        if newer_sgx:
            case["newer_sgx"] = True
        if padded_file:
            case["padded_file"] = True
        if tuple(accept_statuses) != ("UpToDate",):
            case["accept_statuses"] = list(accept_statuses)
        if accept_advisories is not None:
            case["accept_advisories"] = list(accept_advisories)
        if accept_out_of_date_since is not None:
            case["accept_out_of_date_since"] = accept_out_of_date_since
        case["expected"] = expected
        if differs:
            case["differs"] = differs
        self.cases.append(case)

    def _collateral(self, collateral: Members | bytes) -> Any:
        if isinstance(collateral, bytes):
            return {"bundle": self._parts(collateral)}
        best, shared = min(
            self._known, key=lambda known: len(_differing(known[1], collateral)), default=("", {})
        )
        changed = _differing(shared, collateral)
        if not changed:
            return {"like": best}
        named: dict[str, Any] = {
            name: self._parts(collateral[name]) if name in collateral else None for name in changed
        }
        return {"like": best, **named} if best else named

    def _root(self, intel: Intel) -> str:
        digest = intel.root.spki_sha256.hex()
        for name, known in self.roots.items():
            if known == digest:
                return name
        name = f"root-{len(self.roots) + 1}"
        self.roots[name] = digest
        self.root_certificates[name] = self._parts(intel.root.pem.encode())
        return name

    def _parts(self, content: bytes) -> list[str]:
        """Name the parts of which this is the concatenation; a chain in PEM is one of its own."""
        at = content.find(b"-----BEGIN CERTIFICATE-----")
        pieces = [content[:at], content[at:]] if at > 0 else [content]
        names = []
        for piece in pieces:
            name = hashlib.sha256(piece).hexdigest()[:16]
            if self.parts.setdefault(name, piece) != piece:
                raise ValueError("two parts of one name")
            names.append(name)
        return names

    def encode(self) -> bytes:
        """The file of this section: one case, and one part, a line."""
        head = {
            "format": 1,
            "section": f"dcap.md {self.section}",
            "roots": self.roots,
            "root_certificates": self.root_certificates,
            "collaterals": self.collaterals,
        }
        cases = ",\n".join(f"  {_line(case)}" for case in self.cases)
        parts = ",\n".join(f'  "{name}": "{packed(p)}"' for name, p in sorted(self.parts.items()))
        start = "".join(f' "{name}": {_line(value)},\n' for name, value in head.items())
        text = f'{{\n{start} "cases": [\n{cases}\n ],\n "parts": {{\n{parts}\n }}\n}}\n'
        return text.encode()


class TdBook:
    """The same book, for cases about trust domains unless they say otherwise."""

    def __init__(self, book: Book) -> None:
        self._book, self.line = book, book.line
        book.share(TDX, scene().collateral(tdx=True))

    def refuses(self, code: str, does: str, **case: Any) -> None:
        self._book.refuses(code, f"TDX: {does}", **{"like": TDX, **case})

    def accepts(self, does: str, **case: Any) -> None:
        self._book.accepts(f"TDX: {does}", **{"like": TDX, **case})

    def ends_with(self, status: str, does: str, **case: Any) -> None:
        self._book.ends_with(status, f"TDX: {does}", **{"like": TDX, **case})


def packed(content: bytes) -> str:
    """zlib, then base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode()


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=True)


def _differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return [name for name in MEMBERS if one.get(name) != other.get(name)] + [
        name for name in other if name not in MEMBERS
    ]
