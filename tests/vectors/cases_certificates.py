"""dcap.md 5.4: the PCK chain, the SGX extension of its leaf, and the revocation lists."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from simulation import der
from simulation.certificates import (
    CertificateForm,
    CrlForm,
    Extension,
    Issued,
    intel_name,
    key_usage,
)
from simulation.pck_extension import OID, PckExtensionForm, element
from tests.vectors.casebook import (
    AT,
    SECOND,
    SGX,
    Book,
    Hook,
    Members,
    RsaModulus,
    Scene,
    chain_of,
    key,
    other_key,
    processor_scene,
    scene,
    set_,
)

W = scene()
P = processor_scene()
STRANGER = key("stranger")
SKEW = 300 * SECOND
LEAF, CA, ROOT = "pck", "platform_ca", "root"
PLACES = {LEAF: "PCK certificate", CA: "PCK authority", ROOT: "root"}
UNKNOWN_CRITICAL = Extension("1.2.3.4", b"\x05\x00", critical=True)


def authority_id(identifier: bytes | None) -> x509.AuthorityKeyIdentifier:
    names = None if identifier is not None else [x509.DNSName("intel.invalid")]
    return x509.AuthorityKeyIdentifier(identifier, names, None if names is None else 1)


def chain(does: str, code: str, *pems: str) -> dict[str, Any]:
    """A genuine quote with these certificates for its chain."""
    data = "".join(pems).encode()
    return {"code": code, "does": does, "quote": W.quote(form=set_(certification_data=data))}


def bent(place: str, hook: Hook) -> dict[str, Any]:
    """The world in which the certificate of one place is altered, and all below signed again."""
    world = scene(**{place: hook})
    # Raw signatures are P-256's: a PCK key of another kind signs no QE report.
    pck_key = world.platform.pck.key
    p256 = isinstance(pck_key, ec.EllipticCurvePrivateKey) and pck_key.curve.name == "secp256r1"
    qe_key = None if p256 else STRANGER
    return {"world": world, "quote": world.quote(qe_key=qe_key), "collateral": world.collateral()}


def certificates(book: Book) -> None:
    """N060 to N073."""
    book.share(SGX, W.collateral())
    evil = scene("evil")
    book.line("N060")
    book.refuses(
        "root-untrusted",
        "builds a whole Intel of its own, with the same names",
        quote=evil.quote(),
        collateral=evil.collateral(),
        root=W.intel,
    )
    book.refuses(
        "root-untrusted",
        "sends a quote of its own Intel along with genuine collateral",
        quote=evil.quote(),
        root=W.intel,
    )
    book.line("N061")
    twin = replace(W.intel, random=evil.intel.random).twin()
    copied = Scene(twin, twin.platform())
    book.refuses(
        "root-untrusted",
        "copies names, serials, dates and key identifiers too, all but the root's key",
        quote=copied.quote(),
        collateral=copied.collateral(),
        root=W.intel,
    )
    book.refuses(
        "certificate-not-issued",
        "certifies Intel's own root key anew, with another key",
        **bent(ROOT, set_(signer=STRANGER)),
    )
    positions(book)
    for line, role, does, hook, code in properties():
        book.line(line)
        book.refuses(code, f"{PLACES[role]}: {does}", **bent(role, hook))
    for line, bound, outside in (("N072", "not_after", -SECOND), ("N073", "not_before", SECOND)):
        book.line(line)
        word = "ended" if bound == "not_after" else "will begin"
        for place, title in (PLACES | {"tcb_signer": "TCB signing certificate"}).items():
            book.refuses(
                "certificate-not-current",
                f"judges one second outside: the validity of the {title} {word}",
                **bent(place, set_(**{bound: AT + outside})),
            )
            book.accepts(
                f"judges at the last instant that {bound} of the {title} allows",
                **bent(place, set_(**{bound: AT})),
            )


def positions(book: Book) -> None:
    """N062, N068: genuine certificates where none of them may stand."""
    leaf, ca, root = W.chain
    signer, sister = W.intel.tcb_signer.pem, W.intel.processor_ca.pem
    role = "certificate-role-wrong"
    book.line("N062")
    for case in (
        chain("repeats the authority for the root", role, leaf, ca, ca),
        chain("repeats the leaf for the authority", role, leaf, leaf, root),
        chain("leaves out the leaf and repeats the root", role, ca, root, root),
        chain("sends the root three times", role, root, root, root),
        chain("leaves out the root", "certificate-malformed", leaf, ca),
        chain("leaves out the authority", "certificate-malformed", leaf, root),
        chain("leaves out the leaf", "certificate-malformed", ca, root),
        chain("puts the sister authority in between", "certificate-not-issued", leaf, sister, root),
    ):
        book.refuses(case.pop("code"), case.pop("does"), **case)
    book.line("N068")
    for case in (
        chain("uses the TCB signing certificate for the PCK certificate", role, signer, ca, root),
        chain("uses the TCB signing certificate as authority", role, leaf, signer, root),
    ):
        book.refuses(case.pop("code"), case.pop("does"), **case)

    def below(form: CertificateForm) -> CertificateForm:
        pck = W.platform.pck
        form = form.extended(authority_id(pck.key_identifier))
        return replace(form, issuer=pck.subject, signer=pck.key)

    forged = W.another("forged", pck=below)
    data = (forged.pck.pem + leaf + root).encode()
    book.refuses(
        role,
        "owns one platform's PCK key and certifies another platform with it",
        quote=forged.quote(form=set_(certification_data=data)),
    )


def properties() -> list[tuple[str, str, str, Hook, str]]:
    """N063 to N071: line, place, what is wrong with the certificate there, hook, code."""
    role, link, form = (
        "certificate-role-wrong",
        "certificate-not-issued",
        "certificate-malformed",
    )

    def basic(ca: bool, length: int | None, critical: bool = True) -> Hook:
        return lambda c: c.extended(x509.BasicConstraints(ca, length), critical=critical)

    def usage(signs: bool, critical: bool = True) -> Hook:
        return lambda c: c.extended(key_usage(signs_certificates=signs), critical=critical)

    def named(name: str) -> Hook:
        return lambda c: c.named(name)

    def without(kind: type[x509.ExtensionType]) -> Hook:
        return lambda c: c.without(kind)

    def inner(algorithm: hashes.HashAlgorithm) -> Hook:
        return set_(algorithm=algorithm, outer_algorithm=hashes.SHA256())

    sha1, sha384 = hashes.SHA1(), hashes.SHA384()  # noqa: S303
    wrong_name = intel_name("Intel SGX PCK Processor CA")
    cases: list[tuple[str, str, str, Hook, str]] = [
        ("N065", LEAF, "has another name", named("Intel SGX"), role),
        ("N065", LEAF, "has Intel's name and more", named("Intel SGX PCK Certificate 2"), role),
        ("N065", LEAF, "has more before the name", named("My Intel SGX PCK Certificate"), role),
        ("N065", LEAF, "has the name in lower case", named("intel sgx pck certificate"), role),
        ("N065", LEAF, "has no name", named(" "), role),
        ("N066", CA, "has an unknown name", named("Intel SGX PCK Server CA"), role),
        ("N066", CA, "has one name within another", named("Intel SGX PCK Platform CA 2"), role),
        ("N067", LEAF, "is a CA", basic(True, 0), role),
        ("N067", LEAF, "has a key for certificates", usage(True), role),
        ("N067", CA, "is no CA", basic(False, None), role),
        ("N067", CA, "has a key for data", usage(False), role),
        ("N067", CA, "may have authorities below it", basic(True, 1), role),
        ("N067", CA, "has no limit of path length", basic(True, None), role),
        ("N067", ROOT, "is no CA", basic(False, None), role),
        ("N067", ROOT, "has a key for data", usage(False), role),
        (
            "N067",
            LEAF,
            "has basic constraints that are not critical",
            basic(False, None, False),
            role,
        ),
        ("N067", LEAF, "has a key usage that is not critical", usage(False, False), role),
        ("N069", LEAF, "has an RSA key", set_(key=RsaModulus()), role),
    ]
    for place in (LEAF, CA):
        cases += [
            ("N063", place, "is signed by another key", set_(signer=STRANGER), link),
            ("N064", place, "names another issuer", set_(issuer=wrong_name), link),
            ("N069", place, "is of version 1", set_(version=1), role),
            ("N069", place, "has a P-384 key", set_(key=other_key(ec.SECP384R1())), role),
            ("N069", place, "has a secp256k1 key", set_(key=other_key(ec.SECP256K1())), role),
            ("N069", place, "is signed with SHA-384", set_(algorithm=sha384), form),
            ("N069", place, "is signed with SHA-1", set_(algorithm=sha1), form),
            ("N069", place, "says SHA-384 outside only", set_(outer_algorithm=sha384), form),
            ("N069", place, "says SHA-384 inside only", inner(sha384), role),
            ("N070", place, "has no AKI", without(x509.AuthorityKeyIdentifier), role),
            ("N070", place, "has an empty AKI", lambda c: c.extended(authority_id(b"")), link),
            (
                "N070",
                place,
                "has an AKI without a key identifier",
                lambda c: c.extended(authority_id(None)),
                link,
            ),
            (
                "N070",
                place,
                "has the AKI of another key",
                lambda c: c.extended(authority_id(b"\x01" * 20)),
                link,
            ),
            (
                "N071",
                place,
                "has no CRL distribution point",
                without(x509.CRLDistributionPoints),
                role,
            ),
            ("N071", place, "has no SKI", without(x509.SubjectKeyIdentifier), role),
            ("N071", place, "has no key usage", without(x509.KeyUsage), role),
            ("N071", place, "has no basic constraints", without(x509.BasicConstraints), role),
            (
                "N071",
                place,
                "has an unknown critical extension",
                lambda c: c.extended(UNKNOWN_CRITICAL),
                role,
            ),
            (
                "N071",
                place,
                "has one extension twice",
                lambda c: replace(c, extensions=(*c.extensions, c.extensions[0])),
                form,
            ),
        ]

    def nameless(form: CertificateForm) -> CertificateForm:
        return form.extended(x509.SubjectKeyIdentifier(b""))

    cases += [
        ("N070", CA, "has an empty SKI, and the leaf below it an empty AKI", nameless, link),
        (
            "N070",
            ROOT,
            "has an empty SKI and AKI, and the authority below it an empty AKI",
            lambda c: nameless(c).extended(authority_id(b"")),
            link,
        ),
        (
            "N071",
            ROOT,
            "has an unknown critical extension",
            lambda c: c.extended(UNKNOWN_CRITICAL),
            role,
        ),
    ]
    return sorted(cases, key=lambda case: case[0])


def wrong(suffix: int, value: bytes) -> Hook:
    """The top-level element of this number holds another value."""
    new = element(str(suffix), value)
    return lambda e: e.encode(top=lambda t: [*t[: suffix - 1], new, *t[suffix:]])


def in_tcb(number: int, value: bytes) -> Hook:
    new = element(f"2.{number}", value)
    return lambda e: e.encode(tcb=lambda t: [*t[: number - 1], new, *t[number:]])


def flags(change: Hook) -> Hook:
    return lambda e: e.encode(configuration=change)


def value(**fields: Any) -> Hook:
    return lambda e: replace(e, **fields).encode()


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = der.sequence(content)
    return content


def _seven(e: PckExtensionForm) -> bytes:
    return replace(e, piid=bytes(16), configuration=(True, True, True)).encode()


def _arc(e: PckExtensionForm) -> bytes:
    other = der.sequence(der.oid("1.2.840.113741.1.14.1"), der.octet_string(e.ppid))
    return e.encode(top=lambda t: [other, *t[1:]])


def _no_oid(e: PckExtensionForm) -> bytes:
    other = der.sequence(der.integer(1), der.octet_string(e.ppid))
    return e.encode(top=lambda t: [other, *t[1:]])


EXTENSIONS: dict[str, list[tuple[str, Hook]]] = {
    "N074": [
        ("is an empty SEQUENCE", lambda _: der.sequence()),
        ("is not a SEQUENCE", lambda _: der.octet_string(b"x")),
        ("is empty", lambda _: b""),
    ],
    "N075": [
        ("has 4 elements", lambda e: e.encode(top=lambda t: t[:4])),
        ("has 6 elements", lambda e: e.encode(top=lambda t: t[:6])),
        ("has 8 elements", lambda e: e.encode(top=lambda t: [*t, element("8", der.integer(0))])),
        ("has 5 elements, from the Platform CA", lambda e: e.encode(top=lambda t: t[:5])),
    ],
    "N076": [
        ("has an element of another arc", _arc),
        ("has an element whose OID is a number", _no_oid),
        (
            "has an element in the place of another",
            lambda e: e.encode(top=lambda t: [*t[:6], t[3]]),
        ),
        ("has an element twice", lambda e: e.encode(top=lambda t: [*t, t[3]])),
        (
            "has an element without a value",
            lambda e: e.encode(top=lambda t: [der.sequence(der.oid(f"{OID}.1")), *t[1:]]),
        ),
    ],
    "N077": [
        ("has 17 entries in its TCB", lambda e: e.encode(tcb=lambda t: t[:15] + t[16:])),
        (
            "has 19 entries in its TCB",
            lambda e: e.encode(tcb=lambda t: [*t, element("2.19", der.integer(1))]),
        ),
        (
            "has component 1 also in the place of 16",
            lambda e: e.encode(tcb=lambda t: [*t[:15], t[0], *t[16:]]),
        ),
        ("lacks PCESVN", lambda e: e.encode(tcb=lambda t: t[:16] + t[17:])),
    ],
    "N078": [
        ("has a component of 256", in_tcb(3, der.integer(256))),
        ("has a component of -1", in_tcb(3, der.integer(-1))),
        ("has a component of three bytes", in_tcb(3, der.integer(1 << 16))),
        ("has a component that is not minimal", in_tcb(3, bytes.fromhex("02020001"))),
        ("has an empty component", in_tcb(3, b"\x02\x00")),
        ("has a PCESVN of 65536", value(pce_svn=65536)),
        ("has a PCESVN of -1", value(pce_svn=-1)),
    ],
    "N079": [
        ("has a number for PPID", wrong(1, der.integer(1))),
        ("has octets for the TCB", wrong(2, der.octet_string(b"x"))),
        ("has a number for PCEID", wrong(3, der.integer(0))),
        ("has a number for FMSPC", wrong(4, der.integer(0))),
        ("has an INTEGER for the SGX type", wrong(5, der.integer(0))),
        ("has a number for PIID", wrong(6, der.integer(0))),
        ("has a boolean for the configuration", wrong(7, der.boolean(True))),
        ("has octets for a component", in_tcb(3, der.octet_string(b"\x03"))),
        ("has a number for CPUSVN", in_tcb(18, der.integer(1))),
        (
            "has a number for a flag",
            flags(lambda c: [element("7.1", der.integer(1)), *c[1:]]),
        ),
        (
            "has a flag that is neither 00 nor ff",
            flags(lambda c: [element("7.1", b"\x01\x01\x01"), *c[1:]]),
        ),
    ],
    "N080": [
        ("has a PPID of 15 bytes", value(ppid=bytes(15))),
        ("has a PPID of 17 bytes", value(ppid=bytes(17))),
        ("has a CPUSVN of 15 bytes", value(cpu_svn=bytes(15))),
        ("has a PCEID of 3 bytes", value(pce_id=bytes(3))),
        ("has an FMSPC of 5 bytes", value(fmspc=bytes(5))),
        ("has an FMSPC of 7 bytes", value(fmspc=bytes(7))),
        ("has a PIID of 15 bytes", value(piid=bytes(15))),
    ],
    "N081": [("is of SGX type 3", value(sgx_type=3))],
    "N082": [
        ("has two flags", flags(lambda c: c[:2])),
        ("has four flags", flags(lambda c: [*c, element("7.4", der.boolean(True))])),
        ("has one flag twice", flags(lambda c: [*c[:2], c[0]])),
    ],
    "N083": [
        ("is nested 2000 deep", lambda _: _nested(2_000)),
        ("has an indefinite length", lambda e: b"\x30\x80" + e.encode()[4:] + b"\0\0"),
        ("has a length that is not minimal", lambda e: b"\x30\x83\x00" + e.encode()[2:]),
        ("has a byte behind its end", lambda e: e.encode() + b"\0"),
        ("has a tag of several bytes", lambda e: b"\x3f\x81\x01" + e.encode()[1:]),
    ],
}


def extensions(book: Book) -> None:
    """N074 to N083."""
    for line, cases in EXTENSIONS.items():
        book.line(line)
        for does, hook in cases:
            world = scene(sgx=hook)
            book.refuses(
                "pck-extension-malformed", f"SGX extension {does}", world=world, quote=world.quote()
            )

    def without(form: CertificateForm) -> CertificateForm:
        return replace(form, extensions=tuple(e for e in form.extensions if e.oid != OID))

    book.line("N074")
    world = scene(pck=without)
    book.refuses(
        "pck-extension-malformed",
        "PCK certificate has no SGX extension",
        world=world,
        quote=world.quote(),
    )
    book.line("N075")
    world = scene(processor=True, sgx=_seven)
    book.refuses(
        "pck-extension-malformed",
        "SGX extension has 7 elements, from the Processor CA",
        world=world,
        quote=world.quote(),
        collateral=P.collateral(),
    )
    book.accepts(
        "has a platform of the Processor CA, whose SGX extension has 5 elements",
        quote=P.quote(),
        collateral=P.collateral(),
    )
    book.line("N076")
    world = scene(sgx=lambda e: e.encode(top=lambda t: t[::-1]))
    book.accepts(
        "SGX extension has its elements in the reverse order", world=world, quote=world.quote()
    )
    book.line("N078")
    world = scene(components=(255, 128, *(255,) * 14), pce_svn=65535)
    book.accepts("SGX extension has the largest numbers, of two content bytes", world=world)


def listing(*listed: Issued) -> Hook:
    return set_(revoked=tuple(c.serial for c in listed))


def issued_by(ca: Issued) -> Hook:
    """The whole list as another authority would publish it: genuine, of somebody else."""

    def alter(form: CrlForm) -> CrlForm:
        form = form.extended(authority_id(ca.key_identifier))
        return replace(form, issuer=ca.subject, signer=ca.key)

    return alter


def pem(raw: bytes) -> bytes:
    text = base64.encodebytes(raw)
    return b"-----BEGIN X509 CRL-----\n" + text + b"-----END X509 CRL-----\n"


SLOTS = {"root_crl": "root list", "pck_crl": "PCK list"}


def lists(book: Book) -> None:
    """N084 to N093."""
    book.share("processor", P.collateral())
    book.line("N084")
    book.refuses(
        "certificate-revoked",
        "uses a platform whose PCK certificate is in the PCK list",
        collateral=W.collateral(pck_crl=listing(W.platform.pck)),
    )
    book.refuses(
        "certificate-revoked",
        "uses a platform whose PCK certificate is in the PCK list without a reason",
        collateral=W.collateral(
            pck_crl=set_(revoked=(W.platform.pck.serial,), entry_extensions=())
        ),
    )
    remove = Extension.of(x509.CRLReason(x509.ReasonFlags.remove_from_crl))
    book.refuses(
        "certificate-revoked",
        "uses a platform that is listed with the reason removeFromCRL",
        collateral=W.collateral(
            pck_crl=set_(revoked=(W.platform.pck.serial,), entry_extensions=(remove,))
        ),
    )
    book.accepts(
        "uses a platform that is not among those in the PCK list",
        collateral=W.collateral(pck_crl=listing(W.intel.processor_ca, W.intel.tcb_signer)),
    )
    book.line("N085")
    book.refuses(
        "certificate-revoked",
        "uses a platform whose authority is in the root list",
        collateral=W.collateral(root_crl=listing(W.intel.platform_ca)),
    )
    book.accepts(
        "uses a platform whose sister authority is in the root list",
        collateral=W.collateral(root_crl=listing(W.intel.processor_ca)),
    )
    wrong_issuer, bad = "crl-of-another-issuer", "crl-malformed"
    cases: list[tuple[str, str, Hook, str]] = [
        ("N086", "is signed by another key", set_(signer=STRANGER), "crl-signature-invalid"),
        ("N086", "names another issuer", set_(issuer=W.intel.tcb_signer.subject), wrong_issuer),
        ("N086", "has another AKI", lambda f: f.extended(authority_id(b"\1" * 20)), wrong_issuer),
        ("N086", "has an empty AKI", lambda f: f.extended(authority_id(b"")), wrong_issuer),
        ("N088", "has no cRLNumber", lambda f: f.without(x509.CRLNumber), bad),
        ("N088", "has no AKI", lambda f: f.without(x509.AuthorityKeyIdentifier), bad),
        ("N088", "has no extensions", set_(extensions=()), bad),
        ("N088", "has an unknown critical extension", lambda f: f.extended(UNKNOWN_CRITICAL), bad),
        (
            "N088",
            "is a delta list",
            lambda f: f.extended(x509.DeltaCRLIndicator(1), critical=True),
            bad,
        ),
        (
            "N088",
            "is a delta list, not critical",
            lambda f: f.extended(x509.DeltaCRLIndicator(1)),
            bad,
        ),
        (
            "N088",
            "is for some certificates only",
            lambda f: f.extended(
                x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
                critical=True,
            ),
            bad,
        ),
        (
            "N088",
            "has an entry with an unknown critical extension",
            set_(revoked=(5,), entry_extensions=(UNKNOWN_CRITICAL,)),
            bad,
        ),
        ("N089", "has no nextUpdate", set_(next_update=None), bad),
        ("N089", "ended a second ago", set_(next_update=AT - SECOND), "crl-not-current"),
        ("N089", "ends at this instant", set_(next_update=AT), "crl-not-current"),
        ("N089", "starts in 301 seconds", set_(this_update=AT + SKEW + SECOND), "crl-not-current"),
        ("N090", "is signed with SHA-384", set_(algorithm=hashes.SHA384()), bad),
    ]
    for line, does, hook, code in cases:
        book.line(line)
        for slot, title in SLOTS.items():
            book.refuses(code, f"{title} {does}", collateral=W.collateral(**{slot: hook}))
    book.line("N089")
    for does, hook in (
        ("ends in a second", set_(next_update=AT + SECOND)),
        ("starts in 300 seconds, as a publisher's clock may be ahead", set_(this_update=AT + SKEW)),
    ):
        for slot, title in SLOTS.items():
            book.accepts(f"{title} {does}", collateral=W.collateral(**{slot: hook}))
    book.line("N087")
    for world, sister, name in (
        (W, W.intel.processor_ca, "Platform"),
        (P, P.intel.platform_ca, "Processor"),
    ):
        foreign = world.collateral(pck_crl=issued_by(sister))
        book.refuses(
            wrong_issuer,
            f"gives the sister authority's list for a platform of the {name} CA",
            quote=world.quote(),
            collateral=foreign,
        )
        book.refuses(
            wrong_issuer,
            f"gives the sister authority's list and chain for a platform of the {name} CA",
            quote=world.quote(),
            collateral=foreign | {"pck_crl_issuer_chain": chain_of(sister, world.intel.root)},
        )
        book.refuses(
            wrong_issuer,
            f"gives the sister authority's chain beside the list of the {name} CA",
            quote=world.quote(),
            collateral=world.collateral()
            | {"pck_crl_issuer_chain": chain_of(sister, world.intel.root)},
        )
    encodings(book)


def encodings(book: Book) -> None:
    """N090 to N093: what is written in a slot for a revocation list."""
    genuine = W.collateral()

    def stored(slot: str, content: bytes | None) -> Members:
        rest = {k: v for k, v in genuine.items() if k != slot}
        return rest if content is None else {**rest, slot: content}

    for slot, title in (("root_ca_crl", "root list"), ("pck_crl", "PCK list")):
        raw = bytes.fromhex(genuine[slot].decode())
        text = raw.hex().encode()
        book.line("N090")
        for does, content in (
            ("is a sentence", b"no list"),
            ("lacks its last byte", text[:-2]),
            ("has an odd number of digits", text[:-1]),
            ("has a byte behind its end", text + b"00"),
            ("has a PEM footer that is cut", pem(raw)[:-5]),
            ("has no base64 in its PEM", pem(raw).replace(b"MI", b"M!", 1)),
            ("is there twice, as PEM", pem(raw) * 2),
            ("is DER that lacks its last byte", raw[:-1]),
            ("is DER with a byte behind its end", raw + b"\x01"),
        ):
            book.refuses("crl-malformed", f"{title} {does}", collateral=stored(slot, content))
        book.line("N091")
        nothing: list[tuple[str, bytes | None]] = [
            ("is absent", None),
            ("is empty", b""),
            ("is nothing but white space and NUL", b" \n\0"),
        ]
        for does, instead in nothing:
            book.refuses(
                "crl-missing",
                f"{title} {does}",
                collateral=stored(slot, instead),
                differs="refused as undecided: nobody said that anything is forged "
                "(docs/decisions/0005)",
            )
        book.line("N093")
        for does, content in (
            ("PEM", pem(raw)),
            ("DER", raw),
            ("hexadecimal text", text),
            ("hexadecimal text in upper case", text.upper()),
            ("hexadecimal text among white space and NUL", b" " + text + b"\n\0"),
        ):
            book.accepts(f"{title} comes as {does}", collateral=stored(slot, content))
    book.line("N092")
    book.refuses(
        "crl-of-another-issuer",
        "gives the root list in the place of the PCK list",
        collateral=genuine | {"pck_crl": genuine["root_ca_crl"]},
    )
    book.refuses(
        "crl-of-another-issuer",
        "gives the PCK list in the place of the root list",
        collateral=genuine | {"root_ca_crl": genuine["pck_crl"]},
    )
