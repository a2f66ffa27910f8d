"""Mutants that only whoever holds the keys can make: altered first, signed afterwards.

Raw mutants die at the first signature; these reach what comes behind it. Each builder takes a
`Random` and returns a whole base, made from the same simulated Intel.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from random import Random
from typing import Any

from cryptography import x509

from simulation import der, documents
from simulation.certificates import CertificateForm, CrlForm, Extension, new_key
from simulation.documents import Document
from simulation.intel import (
    COMPONENTS,
    PCE_SVN,
    PCK_CN,
    PLATFORM_CA_CN,
    PROCESSOR_CA_CN,
    ROOT_CN,
    TCB_SIGNER_CN,
    TDX_COMPONENTS,
    Intel,
)
from simulation.pck_extension import PckExtensionForm, element
from simulation.platform import TEE_TCB_SVN, Platform
from simulation.quote import (
    DescriptorForm,
    HeaderForm,
    QuoteForm,
    ReportForm,
    TdReportForm,
)
from tests.differential.mutants import Base
from tests.differential.question import Root

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
NOW = int(AT.timestamp())
STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
ADVISORIES = ("INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003", "INTEL-DOC-10000")
SIXTEEN = range(16)


@cache
def _intel() -> Intel:
    return Intel.create(AT, random=Random("differential").randbytes)  # noqa: S311


class Kind(StrEnum):
    """What is quoted, and in which version of quotes."""

    SGX = "simulated SGX, version 3"
    TDX_4 = "simulated TDX 1.0, version 4"
    TDX_5 = "simulated TDX 1.0, version 5"
    TDX_15 = "simulated TDX 1.5, version 5"


@dataclass(frozen=True, slots=True)
class World:
    """The one Intel, a platform of this mutant's own, and what it quotes."""

    intel: Intel
    platform: Platform
    kind: Kind

    @property
    def tdx(self) -> bool:
        return self.kind is not Kind.SGX

    def quote(self, **altered: Any) -> bytes:
        """Hooks of `Platform.quote` and `td_quote`."""
        if not self.tdx:
            return self.platform.quote(**altered)
        if self.kind is Kind.TDX_15:
            altered = {"tee_tcb_svn_2": TEE_TCB_SVN, **altered}
        version = 4 if self.kind is Kind.TDX_4 else 5
        return self.platform.td_quote(version=version, **altered)

    def bundle(self, **altered: Any) -> bytes:
        """Hooks of `Intel.collateral`."""
        return self.intel.collateral(self.platform, tdx=self.tdx, **altered)

    def base(self, quote: bytes | None = None, bundle: bytes | None = None) -> Base:
        """What is not given is genuine."""
        return Base(
            self.kind,
            self.quote() if quote is None else quote,
            json.loads(self.bundle() if bundle is None else bundle),
            Root(self.intel.anchors(), self.intel.root.der),
            NOW,
        )


def _world(rng: Random, *, tdx: bool | None = None, **platform: Any) -> World:
    intel = replace(_intel(), random=rng.randbytes)
    kinds = [kind for kind in Kind if tdx is None or tdx == (kind is not Kind.SGX)]
    kind = rng.choice([Kind.SGX] * 3 * (not tdx) + kinds)
    return World(intel, intel.platform(processor=rng.random() < 0.3, **platform), kind)


def unaltered(rng: Random) -> Base:
    """What all others start from: it must be accepted."""
    return _world(rng).base()


# TCB levels: which one is reached, and what comes of it.


def _near(rng: Random, value: int, high: int = 255) -> int:
    return min(high, max(0, value + rng.choice([-1, 0, 0, 0, 0, 0, 0, 0, 0, 1])))


def _levels(rng: Random, world: World) -> list[Document]:
    """One to five levels around what the platform has, in any order."""

    def svns(having: Sequence[int]) -> list[int]:
        return [_near(rng, c) if rng.random() < 0.3 else rng.choice([c, c // 2]) for c in having]

    return [
        documents.tcb_level(
            svns(COMPONENTS),
            _near(rng, PCE_SVN, 65535),
            date=AT - timedelta(days=rng.randrange(1000)),
            status=rng.choice(STATUSES),
            advisories=rng.sample(ADVISORIES, rng.randrange(3)),
            tdx=svns(TDX_COMPONENTS) if world.tdx else None,
        )
        for _ in range(rng.randint(1, 5))
    ]


def _qe_levels(rng: Random) -> list[Document]:
    return [
        documents.qe_level(
            svn,
            date=AT - timedelta(days=rng.randrange(1000)),
            status=rng.choice(("UpToDate", "OutOfDate", "Revoked", *STATUSES)),
            advisories=rng.sample(ADVISORIES, rng.randrange(3)),
        )
        for svn in rng.sample(range(5, 12), rng.randint(1, 4))
    ]


def tcb_levels(rng: Random) -> Base:
    """Levels of the platform and of the quoting enclave, both at random."""
    world = _world(rng)
    quote = world.quote(qe_report=lambda r: replace(r, isv_svn=rng.randint(4, 12)))
    return world.base(
        quote,
        world.bundle(
            tcb_info=lambda d: {**d, "tcbLevels": _levels(rng, world)},
            qe_identity=lambda d: {**d, "tcbLevels": _qe_levels(rng)},
        ),
    )


def statuses(rng: Random) -> Base:
    """The platform's level is reached for certain: each status of it with each of the QE's."""
    world = _world(rng)

    def status(document: Document) -> Document:
        document = copy.deepcopy(document)
        document["tcbLevels"][0]["tcbStatus"] = rng.choice(STATUSES)
        document["tcbLevels"][0]["advisoryIDs"] = rng.sample(ADVISORIES, rng.randrange(3))
        return document

    bundle = world.bundle(tcb_info=status, qe_identity=status)
    return world.base(bundle=bundle)


def platform_svns(rng: Random) -> Base:
    """The PCK certificate's components move instead of the levels."""
    components = [_near(rng, c) if rng.random() < 0.5 else c for c in COMPONENTS]
    world = _world(rng, components=components, pce_svn=_near(rng, PCE_SVN))
    bundle = world.bundle(tcb_info=lambda d: {**d, "tcbLevels": _levels(rng, world)})
    return world.base(bundle=bundle)


def cpu_svn_unlike_the_components(rng: Random) -> Base:
    """The octets of CPUSVN and the component SVNs say different things."""
    octets = bytes(_near(rng, c) for c in COMPONENTS)
    world = _world(rng, sgx=lambda e: replace(e, cpu_svn=octets).encode())
    bundle = world.bundle(tcb_info=lambda d: {**d, "tcbLevels": _levels(rng, world)})
    return world.base(bundle=bundle)


# Documents.

_DATES = ("issueDate", "nextUpdate", "tcbDate")


def _other_value(rng: Random, name: str, value: object) -> object:
    """Something else of the same type, mostly; now and then of another."""
    if rng.random() < 0.15:
        return rng.choice([None, True, "", 0, -1, 1.5, [], {}, "x", 2**40])
    if name in _DATES:
        at = AT + rng.choice([-1, 1]) * timedelta(seconds=rng.choice([0, 1, 299, 300, 301, 86400]))
        text = documents.instant(at)
        return rng.choice([text, text, text, text[:-1], text[:-1] + "+00:00", text[:10], "soon"])
    if isinstance(value, bool) or value is None:
        return rng.choice([True, False, None])
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, 0, 255, 256, 65535, 65536, 2**31, 2**32])
    if isinstance(value, str):
        return rng.choice(
            [
                value.lower(),
                value.upper(),
                value[:-2],
                value + "00",
                value[::-1],
                "0" * len(value),
                "F" * len(value),
                *("TDX", "TD_QE", "QVE", "Unknown", *STATUSES[:2]),
            ]
        )
    if isinstance(value, list) and value:
        return rng.choice([value[1:], value[:-1], [*value, value[-1]], value[::-1], value[:1]])
    return {}


def _edited(rng: Random, document: Document) -> Document:
    """One member, at any depth, given another value, left out, or a new one beside it."""
    document = copy.deepcopy(document)
    node: Any = document
    while True:
        key: Any = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        child = node[key]
        if isinstance(child, (dict, list)) and child and rng.random() < 0.75:
            node = child
            continue
        break
    roll = rng.random()
    if roll < 0.12 and isinstance(node, dict):
        del node[key]
    elif roll < 0.2 and isinstance(node, dict):
        node[rng.choice(["later", "tcbTypes", "Version"])] = rng.choice([0, "x", [], {}])
    else:
        node[key] = _other_value(rng, str(key), child)
    return document


def tcb_info_member(rng: Random) -> Base:
    world = _world(rng)
    bundle = world.bundle(tcb_info=lambda d: _edited(rng, d))
    return world.base(bundle=bundle)


def qe_identity_member(rng: Random) -> Base:
    world = _world(rng)
    bundle = world.bundle(qe_identity=lambda d: _edited(rng, d))
    return world.base(bundle=bundle)


def signed_text(rng: Random) -> Base:
    """Signed, but not the compact JSON of one object: white space, doubles, what follows."""
    world = _world(rng)

    def edit(text: str) -> str:
        member = rng.choice(['"version":2', '"version":3', '"id":"SGX"', '"tcbType":0'])
        return rng.choice(
            [
                text.replace(",", ", "),
                text + " ",
                text + "{}",
                text + "\0",
                "\ufeff" + text,
                "{" + member + "," + text[1:],
                text[:-1] + "," + member + "}",
                text.replace(":0,", ":0.0,", 1),
                text.replace(":0,", ":-0,", 1),
                text.replace(":0,", ":00,", 1),
                text.replace(":1", ":1e0", 1),
                text.replace("00Z", "00.000Z"),
                "[" * rng.choice([40, 2000]) + text + "]" * 40,
                text.replace('"UpToDate"', '"Up\\u0054oDate"'),
                text.replace('"category"', '"svn":1,"category"', 1),
                text.replace("BIOS", "\\ud800"),
            ]
        )

    slot = rng.choice(["tcb_info_text", "qe_identity_text"])
    return world.base(bundle=world.bundle(**{slot: edit}))


def wrong_signer(rng: Random) -> Base:
    """Well made, by somebody else of the same hierarchy, or by a twin of it."""
    world = _world(rng)
    key = rng.choice(
        [world.intel.root, world.intel.processor_ca, world.intel.platform_ca, world.platform.pck]
    ).ec_key
    altered: dict[str, Any] = {}
    quote: dict[str, Any] = {}
    match rng.randrange(6):
        case 0:
            altered["tcb_info_key"] = key
        case 1:
            altered["qe_identity_key"] = key
        case 2:
            quote["qe_key"] = rng.choice([key, world.platform.attestation_key])
        case 3:
            quote["form"] = lambda f: f.signed_by(rng.choice([key, new_key(rng.randbytes)]))
        case 4:
            altered["pck_crl"] = lambda c: replace(c, signer=key)
        case _:
            altered["root_crl"] = lambda c: replace(c, signer=key)
    return world.base(world.quote(**quote), world.bundle(**altered))


def another_signer_certificate(rng: Random) -> Base:
    """An end entity of the same hierarchy that is no TCB signer stands and signs in its place."""
    world = _world(rng)
    chain = world.platform.pck.pem + world.platform.ca.pem + world.intel.root.pem
    slot = rng.choice(["tcb_info", "qe_identity"])
    bundle = world.bundle(
        **{f"{slot}_key": world.platform.pck.ec_key},
        bundle=lambda d: {**d, f"{slot}_issuer_chain": chain},
    )
    return world.base(bundle=bundle)


# Quotes.


def _other_number(rng: Random, value: int, width: int) -> int:
    bit = 1 << rng.randrange(width)
    return rng.choice((value ^ bit, 0, 2**width - 1, (value + 1) % 2**width))


_NUMBERS = {
    "flags": 64,
    "xfrm": 64,
    "misc_select": 32,
    **dict.fromkeys(("isv_prod_id", "isv_svn", "config_svn"), 16),
}
_OCTETS = (
    *("cpu_svn", "mr_enclave", "mr_signer", "report_data", "config_id", "isv_ext_prod_id"),
    *("reserved1", "reserved2", "reserved3", "reserved4"),
)


def _altered_report(rng: Random, report: ReportForm) -> ReportForm:
    name = rng.choice([*_NUMBERS, *_NUMBERS, *_OCTETS])
    value: Any = getattr(report, name)
    if name in _NUMBERS:
        value = _other_number(rng, value, _NUMBERS[name])
    else:
        value = bytearray(value)
        value[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    altered: dict[str, Any] = {name: bytes(value) if name in _OCTETS else value}
    return replace(report, **altered)


def enclave_report(rng: Random) -> Base:
    world = _world(rng, tdx=False)
    raw = _altered_report(rng, ReportForm(cpu_svn=world.platform.tcb.cpu_svn))
    enclave = world.platform.quoting_enclave()
    return world.base(enclave.quote(raw).encode())


def qe_report(rng: Random) -> Base:
    world = _world(rng)
    quote = world.quote(qe_report=lambda r: _altered_report(rng, r))
    return world.base(quote)


def qe_report_data_tail(rng: Random) -> Base:
    """The second half of the QE's report_data, which Intel's quoting enclave leaves zero."""
    world = _world(rng)
    quote = world.quote(
        qe_report=lambda r: replace(r, report_data=r.report_data[:32] + rng.randbytes(32))
    )
    return world.base(quote)


def header(rng: Random) -> Base:
    world = _world(rng)

    def alter(form: HeaderForm) -> HeaderForm:
        name = rng.choice(["version", "attestation_key_type", "tee_type", "qe_svn", "pce_svn"])
        if rng.random() < 0.2:
            return replace(form, qe_vendor_id=rng.randbytes(16))
        if rng.random() < 0.1:
            return replace(form, user_data=rng.randbytes(20))
        altered: dict[str, Any] = {name: rng.choice([0, 1, 2, 3, 4, 5, 6, 0x81, 0x8000])}
        return replace(form, **altered)

    return world.base(world.quote(header=alter))


def qe_auth_data(rng: Random) -> Base:
    """Any length is signed over; Intel's is 32."""
    world = _world(rng)
    size = rng.choice([0, 1, 31, 32, 33, 64, 255, 256, 1023, 1024, 1025, 4096])
    quote = world.quote(qe_auth_data=rng.randbytes(size))
    return world.base(quote)


def quote_form(rng: Random) -> Base:
    """Lengths, types and what follows, in an otherwise genuine quote."""
    world = _world(rng)

    def alter(form: QuoteForm) -> QuoteForm:
        match rng.randrange(6):
            case 0:
                return replace(form, certification_data_type=rng.choice([0, 1, 2, 3, 4, 6, 7]))
            case 1:
                size = len(form.certification_data) + rng.randint(-2, 2)
                return replace(form, certification_data_len=size)
            case 2:
                return replace(form, qe_auth_data_len=len(form.qe_auth_data) + rng.randint(-2, 2))
            case 3:
                return replace(form, trailing=rng.choice([bytes(9), rng.randbytes(9)]))
            case 4:
                data = form.certification_data.rstrip(b"\0") + bytes(rng.randrange(4))
                return replace(form, certification_data=data)
            case _:
                size = len(form.encode()) - 436 + rng.randint(-2, 2)
                return replace(form, signature_data_len=size)

    return world.base(world.quote(form=alter))


# Certificates and revocation lists.


def pck_extension(rng: Random) -> Base:
    """Values and elements of the SGX extension, each in turn wrong, missing, doubled, moved."""

    def alter(form: PckExtensionForm) -> bytes:
        match rng.randrange(12):
            case 0:
                return replace(form, ppid=rng.randbytes(rng.choice([0, 15, 16, 17]))).encode()
            case 1:
                components = list(form.components)
                components[rng.choice(SIXTEEN)] = rng.choice([127, 128, 255, 256, 300, 65536])
                return replace(form, components=tuple(components)).encode()
            case 2:
                svn = rng.choice([0, 127, 128, 255, 256, 65535, 65536])
                return replace(form, pce_svn=svn).encode()
            case 3:
                return replace(form, pce_id=rng.randbytes(rng.choice([1, 2, 2, 3]))).encode()
            case 4:
                return replace(form, fmspc=rng.randbytes(rng.choice([5, 6, 6, 7]))).encode()
            case 5:
                return replace(form, sgx_type=rng.choice([0, 1, 2, 3, 128])).encode()
            case 6:
                piid = rng.choice([None, rng.randbytes(15), rng.randbytes(16)])
                return replace(form, piid=piid).encode()
            case 7:
                return replace(form, configuration=None).encode()
            case 8:
                return form.encode(top=lambda e: _rearranged(rng, e))
            case 9:
                return form.encode(tcb=lambda e: _rearranged(rng, e))
            case 10:
                return form.encode(configuration=lambda e: _rearranged(rng, e))
            case _:
                return form.encode() + rng.choice([b"\0", b"\x05\0"])

    world = _world(rng, sgx=alter)
    return world.base()


def _rearranged(rng: Random, elements: list[bytes]) -> list[bytes]:
    if not elements:
        return elements
    one = rng.choice(elements)
    match rng.randrange(4):
        case 0:
            return [e for e in elements if e is not one]
        case 1:
            return [*elements, one]
        case 2:
            return rng.sample(elements, len(elements))
        case _:
            return [*elements, element(rng.choice(["8", "2.19", "7.4"]), der.integer(1))]


_COMMON_NAMES = (PCK_CN, PLATFORM_CA_CN, PROCESSOR_CA_CN, ROOT_CN, TCB_SIGNER_CN)
_EXTENSIONS: list[type[x509.ExtensionType]] = [
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.SubjectKeyIdentifier,
    x509.AuthorityKeyIdentifier,
    x509.CRLDistributionPoints,
]


def _altered_certificate(rng: Random, form: CertificateForm) -> CertificateForm:
    second = timedelta(seconds=rng.choice([-1, 0, 1]))
    match rng.randrange(12):
        case 0:
            return replace(form, not_after=AT + second)
        case 1:
            return replace(form, not_before=AT + second)
        case 2:
            return form.named(rng.choice([*_COMMON_NAMES, "Somebody"]))
        case 3:
            return form.without(rng.choice(_EXTENSIONS))
        case 4:
            ca, path = rng.choice([(False, None), (True, None), (True, 0), (True, 5)])
            return form.extended(x509.BasicConstraints(ca, path), critical=rng.random() < 0.8)
        case 5:
            identifier = x509.AuthorityKeyIdentifier(rng.randbytes(20), None, None)
            return form.extended(identifier)
        case 6:
            return form.extended(x509.SubjectKeyIdentifier(rng.randbytes(rng.choice([1, 20]))))
        case 7:
            unknown = Extension("1.2.3.4", b"\x05\0", critical=rng.random() < 0.5)
            return form.extended(unknown)
        case 8:
            oids = [x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1"), x509.ObjectIdentifier("1.2.3")]
            return form.extended(x509.ExtendedKeyUsage([rng.choice(oids)]))
        case 9:
            return replace(form, serial=rng.choice([0, 1, 2**159 - 1, 2**160]))
        case 10:
            return replace(form, version=1)
        case _:
            return replace(form, signer=new_key(rng.randbytes))


def pck_certificate(rng: Random) -> Base:
    world = _world(rng, pck=lambda c: _altered_certificate(rng, c))
    return world.base()


def authority_certificate(rng: Random) -> Base:
    """One of the four certificates above, issued anew with a whole hierarchy."""
    which = rng.choice(["root", "processor_ca", "platform_ca", "tcb_signer"])
    intel = Intel.create(
        AT, random=rng.randbytes, **{which: lambda c: _altered_certificate(rng, c)}
    )
    platform = intel.platform(processor=which == "processor_ca")
    return World(intel, platform, rng.choice(list(Kind))).base()


def another_edition_of_an_authority(rng: Random) -> Base:
    """The same key and name, another certificate, in one of the places where it is shown."""
    world = _world(rng)
    days = timedelta(days=rng.choice([-1, 1, 400]))

    def reissue(form: CertificateForm) -> CertificateForm:
        return replace(form, not_after=AT + days)

    twin = Intel.create(AT, random=Random("differential").randbytes, root=reissue)  # noqa: S311
    slot = rng.choice(["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
    bundle = world.bundle(bundle=lambda d: {**d, slot: world.intel.tcb_signer.pem + twin.root.pem})
    return world.base(bundle=bundle)


def revocation_list(rng: Random) -> Base:
    """Who is listed, since when, until when, by whom, and what else stands in the list."""
    world = _world(rng)
    issuers = [world.intel.root, world.intel.processor_ca, world.intel.platform_ca]
    shown = [*issuers, world.platform.pck, world.intel.tcb_signer]
    listed = [certificate.serial for certificate in shown]

    def alter(form: CrlForm) -> CrlForm:
        second = timedelta(seconds=rng.choice([-301, -300, -1, 0, 1, 300, 301]))
        match rng.randrange(9):
            case 0 | 1:
                return replace(form, revoked=tuple(rng.sample(listed, rng.randint(1, 2))))
            case 2:
                return replace(form, this_update=AT + second)
            case 3:
                return replace(form, next_update=rng.choice([AT + second, None]))
            case 4:
                kinds: list[type[x509.ExtensionType]] = [
                    x509.CRLNumber,
                    x509.AuthorityKeyIdentifier,
                ]
                return form.without(rng.choice(kinds))
            case 5:
                return form.extended(x509.DeltaCRLIndicator(1), critical=rng.random() < 0.5)
            case 6:
                return replace(form, issuer=rng.choice(issuers).subject)
            case 7:
                issuer = rng.choice(issuers)
                return replace(form, issuer=issuer.subject, signer=issuer.key)
            case _:
                unknown = Extension("1.2.3.4", b"\x05\0", critical=rng.random() < 0.5)
                return form.extended(unknown)

    slot = rng.choice(["root_crl", "pck_crl"])
    return world.base(bundle=world.bundle(**{slot: alter}))


def another_platform(rng: Random) -> Base:
    """Collateral of a neighbour: another FMSPC, PCE or authority."""
    world = _world(rng)
    other = world.intel.platform(
        processor=rng.random() < 0.5,
        fmspc=rng.choice([world.platform.tcb.fmspc, rng.randbytes(6)]),
        pce_id=rng.choice([bytes(2), b"\x01\0"]),
    )
    return world.base(bundle=replace(world, platform=other).bundle())


# Trust domains.


def another_technology(rng: Random) -> Base:
    """Collateral of the same platform for its enclaves, or for its trust domains; or half of it."""
    world = _world(rng)
    own = json.loads(world.bundle())
    other = json.loads(world.intel.collateral(world.platform, tdx=not world.tdx))
    slot = rng.choice(["tcb_info", "qe_identity", ""])
    taken = {name: value for name, value in other.items() if name.startswith(slot)}
    return world.base(bundle=json.dumps({**own, **taken}).encode())


def _bit(rng: Random, *bits: int) -> int:
    shift: int = rng.choice([*bits, *bits, *range(64)])
    return 1 << shift


def td_report(rng: Random) -> Base:
    """Attributes of the domain and of its module, one at a time or two."""
    world = _world(rng, tdx=True)
    genuine = TdReportForm()
    altered: dict[str, Any] = {}
    for _ in range(rng.choice([1, 1, 1, 2])):
        match rng.randrange(8):
            case 0 | 1:
                attributes = genuine.td_attributes ^ _bit(rng, 0, 4, 16, 27, 28, 29, 30, 31, 62, 63)
                altered["td_attributes"] = attributes
            case 2:
                altered["xfam"] = genuine.xfam ^ _bit(rng, 0, 1, 5, 9, 17, 18)
            case 3:
                altered["seam_attributes"] = _bit(rng, 0, 63).to_bytes(8, "little")
            case 4:
                altered["mr_signer_seam"] = rng.choice([bytes(47) + b"\1", rng.randbytes(48)])
            case 5 if world.kind is Kind.TDX_15:
                altered["mr_service_td"] = rng.choice([bytes(47) + b"\1", rng.randbytes(48)])
            case 6:
                altered["tee_tcb_svn"] = _tee_tcb_svn(rng)
            case _:
                name = rng.choice(["mr_td", "mr_seam", "mr_config_id", "mr_owner", "rtmr3"])
                altered[name] = rng.randbytes(48)
    return world.base(world.quote(**altered))


def _tee_tcb_svn(rng: Random) -> bytes:
    """Module SVN and version, microcode SVN, and a byte that means nothing yet."""
    svns = bytearray(TEE_TCB_SVN)
    svns[0] = rng.choice([0, 1, 2, 3, 4, 5, 6, 7])
    svns[1] = rng.choice([0, 0, 1, 1, 1, 3, 10, 4])
    svns[2] = rng.choice([1, 2, 2, 2, 3])
    svns[rng.randrange(3, 16)] = rng.choice([0, 0, 1])
    return bytes(svns)


def _modules(rng: Random) -> list[Document]:
    """Identities of modules, some of them of versions that run, with levels in any order."""
    module = documents.tdx_module()
    if rng.random() < 0.2:
        name = rng.choice(["mrsigner", "attributes", "attributesMask"])
        module[name] = rng.choice(["F", "0", "1"]) * len(module[name])
    identities = [
        documents.tdx_module_identity(
            version,
            [
                documents.qe_level(
                    svn,
                    date=AT - timedelta(days=rng.randrange(1000)),
                    status=rng.choice(("UpToDate", "UpToDate", "OutOfDate", "Revoked")),
                    advisories=rng.sample(ADVISORIES, rng.randrange(3)),
                )
                for svn in rng.sample(range(1, 8), rng.randint(1, 3))
            ],
            module=module,
        )
        for version in rng.sample([1, 3, 4, 10], rng.randint(1, 4))
    ]
    if rng.random() < 0.05:
        identities[0]["tcbLevels"][0]["tcb"]["isvsvn"] = rng.choice([255, 256, 65535])
    for identity in identities:
        if rng.random() < 0.2:
            identity["id"] = rng.choice([str.lower, str.upper, str.title])(identity["id"])
    return identities


def tdx_modules(rng: Random) -> Base:
    """Module, its levels, the platform's and the QE's, and for TDX 1.5 what runs now: at random."""
    world = _world(rng, tdx=True)
    svns: dict[str, Any] = {"tee_tcb_svn": _tee_tcb_svn(rng)}
    if world.kind is Kind.TDX_15:
        svns["tee_tcb_svn_2"] = rng.choice([svns["tee_tcb_svn"], _tee_tcb_svn(rng), TEE_TCB_SVN])

    def tcb_info(document: Document) -> Document:
        document = {**document, "tdxModuleIdentities": _modules(rng)}
        if rng.random() < 0.1:
            del document["tdxModuleIdentities"]
        if rng.random() < 0.5:
            return {**document, "tcbLevels": _levels(rng, world)}
        document["tcbLevels"][0]["tcbStatus"] = rng.choice(STATUSES)
        return document

    bundle = world.bundle(
        tcb_info=tcb_info,
        qe_identity=lambda d: {**d, "tcbLevels": _qe_levels(rng)} if rng.random() < 0.3 else d,
    )
    return world.base(world.quote(**svns), bundle)


def module_octets(rng: Random) -> Base:
    """Levels that ask more of the module's SVN and version than there is, beside its identity."""
    world = _world(rng, tdx=True)

    def tcb_info(document: Document) -> Document:
        for level in document["tcbLevels"]:
            components = level["tcb"]["tdxtcbcomponents"]
            components[0]["svn"] = rng.choice([0, 5, 6, 255])
            components[1]["svn"] = rng.choice([0, 0, 1, 2])
        return document

    svns = bytes((rng.randint(2, 6), rng.choice([0, 1, 1]), *TEE_TCB_SVN[2:]))
    return world.base(world.quote(tee_tcb_svn=svns), world.bundle(tcb_info=tcb_info))


def td_relaunch(rng: Random) -> Base:
    """Launched under an old module, running over a new one, the platform in each status."""
    intel = replace(_intel(), random=rng.randbytes)
    world = World(intel, intel.platform(), Kind.TDX_15)
    old, new = bytes((2, *TEE_TCB_SVN[1:])), TEE_TCB_SVN

    def tcb_info(document: Document) -> Document:
        document["tcbLevels"][0]["tcbStatus"] = rng.choice(STATUSES)
        module = next(i for i in document["tdxModuleIdentities"] if i["id"] == "TDX_01")
        newest = max(module["tcbLevels"], key=lambda level: level["tcb"]["isvsvn"])
        newest["tcbStatus"] = rng.choice(("UpToDate", "UpToDate", "OutOfDate", "Revoked"))
        return document

    launch, now = rng.choice([(old, new), (old, new), (old, old), (new, old)])
    quote = world.quote(tee_tcb_svn=launch, tee_tcb_svn_2=now)
    return world.base(quote, world.bundle(tcb_info=tcb_info))


def td_quote_form(rng: Random) -> Base:
    """What versions 4 and 5 have and 3 has not: a wrapper, a descriptor, slack in two places."""
    world = _world(rng, tdx=True)

    def describe(form: DescriptorForm) -> DescriptorForm:
        if rng.random() < 0.5:
            return replace(form, body_type=rng.choice([0, 1, 2, 3, 4, 5]))
        return replace(form, body_size=form.body_size + rng.choice([-64, -1, 0, 1, 64]))

    def alter(form: QuoteForm) -> QuoteForm:
        match rng.randrange(4):
            case 0:
                return replace(form, outer_type=rng.choice([0, 1, 5, 6, 7]))
            case 1:
                size = len(form.encode()) - len(form.signed) - 4 - 134
                return replace(form, outer_len=size + rng.choice([-9, -1, 0, 1, 9]))
            case 2:
                return replace(form, inner_slack=bytes(rng.randrange(3)))
            case _:
                return replace(form, slack=bytes(rng.randrange(3)))

    if world.kind is not Kind.TDX_4 and rng.random() < 0.5:
        return world.base(world.quote(descriptor=describe))
    return world.base(world.quote(form=alter))


def newer_sgx(rng: Random) -> Base:
    """Enclaves quoted in versions 4 and 5, which nobody reads unless told to."""
    world = _world(rng, tdx=False)
    return world.base(world.platform.quote(version=rng.choice([4, 5])))


BUILDERS: tuple[Callable[[Random], Base], ...] = (
    tcb_levels,
    tcb_levels,
    statuses,
    platform_svns,
    cpu_svn_unlike_the_components,
    tcb_info_member,
    tcb_info_member,
    qe_identity_member,
    qe_identity_member,
    signed_text,
    wrong_signer,
    another_signer_certificate,
    enclave_report,
    qe_report,
    qe_report_data_tail,
    header,
    qe_auth_data,
    quote_form,
    pck_extension,
    pck_certificate,
    authority_certificate,
    another_edition_of_an_authority,
    revocation_list,
    another_platform,
    another_technology,
    td_report,
    td_report,
    tdx_modules,
    tdx_modules,
    tdx_modules,
    module_octets,
    td_relaunch,
    td_quote_form,
    newer_sgx,
    unaltered,
)
