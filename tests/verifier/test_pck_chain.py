"""Q13 to Q17: chains that end elsewhere, certificates in the wrong place, text that is no PEM."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from simulation import der
from simulation.certificates import CertificateForm, Extension, intel_name, key_usage, new_key
from simulation.pck_extension import OID, PckExtensionForm, element
from simulation.quote import QuoteForm
from tests.support.refusal import count_refusal, refused
from tests.verifier.world import World, bites, processor_world, world
from verifier.certificate import (
    ECDSA_SHA256,
    CertificateMalformed,
    CertificateNotIssued,
    CertificateRoleWrong,
    RootUntrusted,
    split_pem,
)
from verifier.errors import CertChainError, RatlsError
from verifier.pck import PckExtension, PckExtensionMalformed

PCK_CHAIN = "pck-chain"
STRANGER = new_key(os.urandom)
CertificateHook = Callable[[CertificateForm], CertificateForm]


@pytest.mark.parametrize("make", [world, processor_world])
def test_genuine_chain_of_either_authority_is_believed(make: Callable[[], World]) -> None:
    verified = make().verify()
    assert verified.platform.ppid == make().platform.tcb.ppid
    assert verified.platform.fmspc == make().platform.tcb.fmspc
    assert verified.platform.piid == make().platform.tcb.piid


def test_attacker_has_a_whole_intel_of_its_own() -> None:
    """N060, Q13: the same names everywhere, another root key."""
    evil = World.create()
    with refused(RootUntrusted, check=PCK_CHAIN):
        evil.verify(roots=world().intel.anchors())
    evil.verify()


def test_attacker_copies_serials_and_key_identifiers_too() -> None:
    """N061: everything that can be copied is; the key cannot be."""
    twin = world().intel.twin()
    evil = World(twin, twin.platform())
    with refused(RootUntrusted, check=PCK_CHAIN):
        evil.verify(roots=world().intel.anchors())


def stray(form: CertificateForm) -> CertificateForm:
    return form.extended(Extension("1.2.3.4", b"\x05\x00", critical=True))


def authority_id(identifier: bytes | None) -> x509.AuthorityKeyIdentifier:
    names = None if identifier is not None else [x509.DNSName("intel.invalid")]
    return x509.AuthorityKeyIdentifier(identifier, names, None if names is None else 1)


# What may go wrong with any certificate; each is tried as leaf and as authority.
ANY_ROLE: dict[str, tuple[CertificateHook, type[RatlsError]]] = {
    "N063-other-signer": (lambda c: replace(c, signer=STRANGER), CertificateNotIssued),
    "N064-issuer-name": (
        lambda c: replace(c, issuer=intel_name("Intel SGX PCK Processor CA")),
        CertificateNotIssued,
    ),
    "N065-N066-name": (lambda c: c.named("Intel SGX"), CertificateRoleWrong),
    "N065-substring": (
        lambda c: c.named("x " + c.subject.rfc4514_string().split("CN=")[1]),
        CertificateRoleWrong,
    ),
    "organisation": (
        lambda c: replace(
            c,
            subject=x509.Name(
                [
                    intel_name("x", "Somebody").get_attributes_for_oid(a.oid)[0]
                    if a.oid == x509.NameOID.ORGANIZATION_NAME
                    else a
                    for a in c.subject
                ]
            ),
        ),
        CertificateNotIssued,
    ),
    "N069-version-1": (lambda c: replace(c, version=1), CertificateRoleWrong),
    "N069-sha384": (lambda c: replace(c, algorithm=hashes.SHA384()), CertificateMalformed),
    "N069-sha1": (lambda c: replace(c, algorithm=hashes.SHA1()), CertificateMalformed),  # noqa: S303
    "N069-outer-differs": (
        lambda c: replace(c, outer_algorithm=hashes.SHA384()),
        CertificateMalformed,
    ),
    "N069-inner-differs": (
        lambda c: replace(c, algorithm=hashes.SHA384(), outer_algorithm=hashes.SHA256()),
        CertificateRoleWrong,
    ),
    "N070-AKI-absent": (lambda c: c.without(x509.AuthorityKeyIdentifier), CertificateRoleWrong),
    "N070-AKI-empty": (lambda c: c.extended(authority_id(b"")), CertificateNotIssued),
    "N070-AKI-without-key": (lambda c: c.extended(authority_id(None)), CertificateNotIssued),
    "N070-AKI-other": (lambda c: c.extended(authority_id(b"\x01" * 20)), CertificateNotIssued),
    "N071-SKI-absent": (lambda c: c.without(x509.SubjectKeyIdentifier), CertificateRoleWrong),
    "N071-CRLDP-absent": (lambda c: c.without(x509.CRLDistributionPoints), CertificateRoleWrong),
    "N071-KU-absent": (lambda c: c.without(x509.KeyUsage), CertificateRoleWrong),
    "N071-BC-absent": (lambda c: c.without(x509.BasicConstraints), CertificateRoleWrong),
    "N071-unknown-critical": (stray, CertificateRoleWrong),
    "twice-the-same-extension": (
        lambda c: replace(c, extensions=(*c.extensions, c.extensions[0])),
        CertificateMalformed,
    ),
    "negative-serial": (lambda c: replace(c, serial=-5), CertificateMalformed),
}


@pytest.mark.parametrize("place", ["leaf", "authority"])
@pytest.mark.parametrize("case", ANY_ROLE)
def test_attacker_bends_one_property_of_a_certificate(case: str, place: str) -> None:
    """Everything else is valid and signed again, so the one property must be looked at."""
    hook, leaf = ANY_ROLE[case]
    bent = World.create(pck=hook) if place == "leaf" else World.create(platform_ca=hook)
    with refused(leaf, check=PCK_CHAIN):
        bent.verify()


def basic(ca: bool, length: int | None, *, critical: bool = True) -> CertificateHook:
    return lambda c: c.extended(x509.BasicConstraints(ca, length), critical=critical)


def usage(signs_certificates: bool, *, critical: bool = True) -> CertificateHook:
    return lambda c: c.extended(key_usage(signs_certificates=signs_certificates), critical=critical)


@pytest.mark.parametrize(
    "world_of",
    [
        pytest.param({"pck": basic(True, 0)}, id="N067-leaf-CA"),
        pytest.param({"pck": usage(True)}, id="N067-leaf-signs-certificates"),
        pytest.param({"pck": basic(False, None, critical=False)}, id="leaf-BC"),
        pytest.param({"pck": usage(False, critical=False)}, id="leaf-KU"),
        pytest.param({"platform_ca": basic(False, None)}, id="N067-authority-no-CA"),
        pytest.param({"platform_ca": usage(False)}, id="N067-authority-signs-data"),
        pytest.param({"platform_ca": basic(True, 1)}, id="N067-path-length-1"),
        pytest.param({"platform_ca": basic(True, None)}, id="N067-path-length-none"),
        pytest.param({"root": basic(False, None)}, id="root-no-CA"),
        pytest.param({"root": usage(False)}, id="root-signs-data"),
        pytest.param({"root": lambda c: c.named("Intel SGX Root CA 2")}, id="root-name"),
        pytest.param({"root": stray}, id="root-unknown-critical"),
    ],
)
def test_a_certificate_stands_where_its_role_forbids_it(world_of: dict[str, Any]) -> None:
    """Q14: every certificate of the hierarchy descends from the root; the role must not."""
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        World.create(**world_of).verify()


@pytest.mark.parametrize("place", ["root", "platform_ca"])
def test_key_identifiers_that_are_both_empty_do_not_match(place: str) -> None:
    """N070: elsewhere "" equalled "" and the signature of that link was never looked at."""

    def nameless(form: CertificateForm) -> CertificateForm:
        form = form.extended(x509.SubjectKeyIdentifier(b""))
        return form.extended(authority_id(b"")) if place == "root" else form

    with refused(CertificateNotIssued, check=PCK_CHAIN):
        hooks: dict[str, Any] = {place: nameless}
        World.create(**hooks).verify()


@pytest.mark.parametrize("length", [0, 1])
def test_either_edition_of_the_root_is_believed(length: int) -> None:
    """Genuine quotes carry roots of both path lengths, with the one key that counts."""
    World.create(root=basic(True, length)).verify()


def test_attacker_makes_a_root_certificate_for_intels_key() -> None:
    """The key is the believed one, but nobody who has it signed this edition."""
    with refused(CertificateNotIssued, check=PCK_CHAIN):
        World.create(root=lambda c: replace(c, signer=STRANGER)).verify()


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA"),
    ],
)
def test_leaf_has_a_key_of_another_kind(key: Any) -> None:
    """N069, Q15: only the named curve P-256 is read."""
    other = World.create(pck=lambda c: replace(c, key=key))
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        other.verify(quote=other.quote(qe_key=STRANGER))


def test_leaf_key_has_explicit_curve_parameters() -> None:
    """CVE-2020-0601: a curve with the attacker's own generator makes any public key theirs."""

    def explicit(raw: bytes) -> bytes:
        named = bytes.fromhex("06082a8648ce3d030107")
        return raw.replace(named, bytes.fromhex("06082a8648ce3d030108"))

    def alter(form: QuoteForm) -> QuoteForm:
        w = world()
        leaf = ssl.DER_cert_to_PEM_cert(explicit(w.platform.pck.der))
        return replace(
            form, certification_data=(leaf + w.platform.ca.pem + w.platform.root.pem).encode()
        )

    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        world().verify(quote=world().quote(form=alter))


LEAF, CA, ROOT = (c.pem for c in (world().platform.pck, world().platform.ca, world().platform.root))
SIGNER = world().intel.tcb_signer.pem
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def test_signature_that_is_no_whole_number_of_bytes() -> None:
    """Bits that one reader drops and another keeps: two texts of one certificate."""
    raw = world().platform.pck.der
    at = raw.rindex(b"\x00\x30", 0, len(raw) - 60)  # no unused bits; SEQUENCE of r and s
    bent = raw[:at] + b"\x01" + raw[at + 1 :]
    leaf = ssl.DER_cert_to_PEM_cert(bent)
    with refused(CertificateMalformed, check=PCK_CHAIN):
        world().verify(quote=chain(leaf + CA + ROOT))


def test_base64_with_stray_bits_is_no_second_spelling() -> None:
    """Two texts of one certificate would have two digests."""
    for spelled in ("MAA=", " M\tA\r\nA=\n"):
        assert split_pem(f"{BEGIN}{spelled}{END}", "chain") == [b"\x30\x00"]
    with refused(CertificateMalformed):
        split_pem(f"{BEGIN}MAB={END}", "chain")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(
            world().platform.pck.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1),
            id="version-2",
        ),
        pytest.param(
            der.sequence(
                der.sequence(bytes.fromhex("a003020102")), ECDSA_SHA256, der.bit_string(b"")
            ),
            id="hardly-anything",
        ),
    ],
)
def test_certificate_of_another_version_or_without_content(raw: bytes) -> None:
    """N069: what follows the version is not read as if it were the usual form."""
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        world().verify(quote=chain(ssl.DER_cert_to_PEM_cert(raw) + CA + ROOT))


def test_unknown_extension_that_is_not_critical_is_tolerated() -> None:
    World.create(pck=lambda c: c.extended(Extension("1.2.3.4", b"\x05\x00"))).verify()


def swapped(pem: str) -> str:
    return pem.replace(BEGIN, "@").replace(END, BEGIN).replace("@", END)


def chain(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return world().quote(form=lambda f: replace(f, certification_data=data))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="N032-empty"),
        pytest.param("\0" * 9, id="N032-NULs"),
        pytest.param("é" * 40, id="N032-not-ascii"),
        pytest.param(swapped(LEAF) + CA + ROOT, id="N033-swapped-1"),
        pytest.param(LEAF + swapped(CA) + ROOT, id="N033-swapped-2"),
        pytest.param(LEAF + CA + swapped(ROOT), id="N033-swapped-3"),
        pytest.param((LEAF + CA + ROOT).replace("-----B", "----B", 1), id="N033-dash"),
        pytest.param((LEAF + CA + ROOT).replace(BEGIN, "", 1), id="N033-no-begin"),
        pytest.param(LEAF + CA + ROOT.replace(END, ""), id="N033-no-end"),
        pytest.param(LEAF, id="N034-1"),
        pytest.param(LEAF + CA, id="N034-2"),
        pytest.param(CA + ROOT, id="N062-leaf-missing"),
        pytest.param(LEAF + CA + ROOT + ROOT, id="N034-4"),
        pytest.param(LEAF + LEAF + CA + ROOT, id="N034-leaf-twice"),
        pytest.param(LEAF + "text\n" + CA + ROOT, id="N035-text"),
        pytest.param(LEAF + "\0" + CA + ROOT, id="N035-NUL"),
        pytest.param(LEAF + CA + ROOT + "junk", id="N035-junk"),
        pytest.param(LEAF.replace("MII", "MI!", 1) + CA + ROOT, id="not-base64"),
        pytest.param(LEAF.replace("MII", "MIIA", 1) + CA + ROOT, id="not-DER"),
        pytest.param(f"{BEGIN}\n{END}\n" + CA + ROOT, id="empty-block"),
    ],
)
def test_attacker_sends_text_that_is_no_chain(text: str) -> None:
    """Q17: what one reader skips, another reads."""
    with refused(CertificateMalformed, check=PCK_CHAIN):
        world().verify(quote=chain(text))


@pytest.mark.parametrize(
    ("text", "leaf"),
    [
        pytest.param(ROOT + CA + LEAF, CertificateRoleWrong, id="N037-reversed"),
        pytest.param(ROOT + ROOT + ROOT, CertificateRoleWrong, id="N062-three-roots"),
        pytest.param(LEAF + CA + CA, CertificateRoleWrong, id="N062-root-missing"),
        pytest.param(LEAF + LEAF + ROOT, CertificateRoleWrong, id="N062-authority-missing"),
        pytest.param(SIGNER + CA + ROOT, CertificateRoleWrong, id="N068-signer-as-leaf"),
        pytest.param(LEAF + SIGNER + ROOT, CertificateRoleWrong, id="N068-signer-as-authority"),
        pytest.param(
            LEAF + world().intel.processor_ca.pem + ROOT, CertificateNotIssued, id="other-authority"
        ),
    ],
)
def test_attacker_reorders_or_reuses_genuine_certificates(
    text: str, leaf: type[RatlsError]
) -> None:
    """Q14: each certificate is genuine, none may stand here."""
    with refused(leaf, check=PCK_CHAIN):
        world().verify(quote=chain(text))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param((LEAF + CA + ROOT).replace("\n", "\r\n"), id="N036-CRLF"),
        pytest.param("\n" + LEAF + "\n\n" + CA + "  \n" + ROOT + "\n", id="N036-blank-lines"),
        pytest.param(LEAF + CA + ROOT + "\0\0", id="N036-NULs-at-the-end"),
        pytest.param(LEAF + ROOT + CA, id="root-before-authority"),
    ],
)
def test_genuine_producers_write_the_chain_in_their_own_way(text: str) -> None:
    """White space, trailing NULs, and the two issuers in either order occur in real quotes."""
    world().verify(quote=chain(text))


def test_attacker_issues_a_leaf_below_a_genuine_leaf() -> None:
    """N068: whoever owns one platform's PCK key would certify any other."""
    w = world()

    def below(form: CertificateForm) -> CertificateForm:
        pck = w.platform.pck
        form = form.extended(authority_id(pck.key_identifier))
        return replace(form, issuer=pck.subject, signer=pck.key)

    forged = w.intel.platform(pck=below)
    with refused(CertificateRoleWrong, check=PCK_CHAIN):
        w.verify(
            quote=forged.quote(
                form=lambda f: replace(
                    f, certification_data=(forged.pck.pem + LEAF + ROOT).encode()
                )
            )
        )


Sgx = Callable[[PckExtensionForm], bytes]


def wrong(suffix: str, value: bytes) -> Sgx:
    """The top-level element `suffix` holds another value."""
    return lambda e: e.encode(
        top=lambda t: [*t[: int(suffix) - 1], element(suffix, value), *t[int(suffix) :]]
    )


def in_tcb(number: int, value: bytes) -> Sgx:
    new = element(f"2.{number}", value)
    return lambda e: e.encode(tcb=lambda t: [*t[: number - 1], new, *t[number:]])


def form(**fields: Any) -> Sgx:
    return lambda e: replace(e, **fields).encode()


def _deep() -> bytes:
    value = b""
    for _ in range(2_000):
        value = der.sequence(value)
    return value


EXTENSIONS: dict[str, Sgx] = {
    "N074-empty": lambda _: der.sequence(),
    "N074-not-a-sequence": lambda _: der.octet_string(b"x"),
    "N074-nothing": lambda _: b"",
    "N075-4": lambda e: e.encode(top=lambda t: t[:4]),
    "N075-6": lambda e: e.encode(top=lambda t: t[:6]),
    "N075-8": lambda e: e.encode(top=lambda t: [*t, element("8", der.integer(0))]),
    "N075-5-from-platform-ca": lambda e: e.encode(top=lambda t: t[:5]),
    "N076-arc": lambda e: e.encode(
        top=lambda t: [
            der.sequence(der.oid("1.2.840.113741.1.14.1"), der.octet_string(e.ppid)),
            *t[1:],
        ]
    ),
    "N076-not-an-oid": lambda e: e.encode(
        top=lambda t: [der.sequence(der.integer(1), der.octet_string(e.ppid)), *t[1:]]
    ),
    "N076-doubled": lambda e: e.encode(top=lambda t: [*t[:6], t[3]]),
    "N076-doubled-besides": lambda e: e.encode(top=lambda t: [*t, t[3]]),
    "N076-no-value": lambda e: e.encode(top=lambda t: [der.sequence(der.oid(f"{OID}.1")), *t[1:]]),
    "N077-17": lambda e: e.encode(tcb=lambda t: t[:15] + t[16:]),
    "N077-19": lambda e: e.encode(tcb=lambda t: [*t, element("2.19", der.integer(1))]),
    "N077-doubled": lambda e: e.encode(tcb=lambda t: [*t[:15], t[0], *t[16:]]),
    "N078-256": in_tcb(3, der.integer(256)),
    "N078-negative": in_tcb(3, der.integer(-1)),
    "N078-three-bytes": in_tcb(3, der.integer(1 << 16)),
    "N078-not-minimal": in_tcb(3, bytes.fromhex("02020001")),
    "N078-empty": in_tcb(3, b"\x02\x00"),
    "N078-pcesvn": form(pce_svn=65536),
    "N079-ppid": wrong("1", der.integer(1)),
    "N079-tcb": wrong("2", der.octet_string(b"x")),
    "N079-pceid": wrong("3", der.integer(0)),
    "N079-fmspc": wrong("4", der.integer(0)),
    "N079-type": wrong("5", der.integer(0)),
    "N079-configuration": wrong("7", der.boolean(True)),
    "N079-component": in_tcb(3, der.octet_string(b"\x03")),
    "N079-cpusvn": in_tcb(18, der.integer(1)),
    "N080-ppid-15": form(ppid=bytes(15)),
    "N080-ppid-17": form(ppid=bytes(17)),
    "N080-cpusvn-15": form(cpu_svn=bytes(15)),
    "N080-pceid-3": form(pce_id=bytes(3)),
    "N080-fmspc-5": form(fmspc=bytes(5)),
    "N080-fmspc-7": form(fmspc=bytes(7)),
    "N080-piid-15": form(piid=bytes(15)),
    "N081-type-3": form(sgx_type=3),
    "N082-two-flags": lambda e: e.encode(configuration=lambda c: c[:2]),
    "N082-four-flags": lambda e: e.encode(
        configuration=lambda c: [*c, element("7.4", der.boolean(True))]
    ),
    "N082-flag-is-1": lambda e: e.encode(
        configuration=lambda c: [element("7.1", b"\x01\x01\x01"), *c[1:]]
    ),
    "N083-deep": lambda _: _deep(),
    "N083-indefinite": lambda e: b"\x30\x80" + e.encode()[4:] + b"\0\0",
    "N083-not-minimal": lambda e: b"\x30\x83\x00" + e.encode()[2:],
    "N083-trailing": lambda e: e.encode() + b"\0",
    "N083-long-tag": lambda e: b"\x3f\x81\x01" + e.encode()[1:],
}


@pytest.mark.parametrize("case", EXTENSIONS)
def test_attacker_bends_the_sgx_extension(case: str) -> None:
    """Q16: another reader truncated 256 to 0, or recursed until it fell over."""
    bent = World.create(sgx=EXTENSIONS[case])
    with refused(PckExtensionMalformed, check=PCK_CHAIN):
        bent.verify()


def test_leaf_has_no_sgx_extension() -> None:
    """N074: a platform that says nothing of its patch level."""

    def without(c: CertificateForm) -> CertificateForm:
        return replace(c, extensions=tuple(e for e in c.extensions if e.oid != OID))

    with refused(PckExtensionMalformed, check=PCK_CHAIN):
        World.create(pck=without).verify()


def test_processor_leaf_claims_a_platform_of_its_own() -> None:
    """N075: seven elements are the Platform CA's to grant."""

    def seven(e: PckExtensionForm) -> bytes:
        return replace(e, piid=bytes(16), configuration=(True, True, True)).encode()

    with refused(PckExtensionMalformed, check=PCK_CHAIN):
        World.create(processor=True, sgx=seven).verify()


def test_order_of_the_elements_does_not_matter() -> None:
    World.create(sgx=lambda e: e.encode(top=lambda t: t[::-1])).verify()


@given(st.binary(max_size=600))
def test_garbage_extension_is_a_typed_refusal(raw: bytes) -> None:
    count_refusal()
    with pytest.raises(PckExtensionMalformed):
        PckExtension.parse(raw)


@given(st.integers(0, 5000), st.integers(1, 255))
def test_one_changed_character_of_the_chain_is_a_typed_refusal(at: int, change: int) -> None:
    """N223: PEM, DER and names are other people's bytes until the signature holds."""
    count_refusal()
    genuine = world().platform.pck_chain
    at %= len(genuine)
    data = bytearray(genuine)
    data[at] ^= change
    try:
        world().verify(quote=chain(bytes(data)))
    except CertChainError:
        return
    # White space for white space changes nothing, and neither does the NUL at the end.
    assert genuine[at : at + 1] in (b"\n", b"\0")


# The kinds of platform that the SGX extension can name, and entries that are cut short.


KINDS = ["Standard", "Scalable", "ScalableWithIntegrity"]


def of_kind(number: int) -> World:
    return world().with_platform(sgx=lambda e: replace(e, sgx_type=number).encode())


@pytest.mark.parametrize(("number", "kind"), list(enumerate(KINDS)))
def test_kind_of_platform_is_named(number: int, kind: str) -> None:
    assert of_kind(number).verify().platform.sgx_type == kind


@pytest.mark.parametrize("number", [3, 255, -1])
def test_platform_is_of_no_kind_that_is_known(number: int) -> None:
    with refused(PckExtensionMalformed, check="pck-chain"):
        of_kind(number).verify()


def element_of(oid: str) -> bytes:
    return der.sequence(der.oid(oid), der.octet_string(bytes(16)))


def with_sixth(entry: bytes) -> World:
    return world().with_platform(
        sgx=lambda e: e.encode(top=lambda elements: [*elements[:5], entry, elements[6]])
    )


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(der.sequence(), id="nothing"),
        pytest.param(der.sequence(der.oid(OID)), id="no-number"),
        pytest.param(der.sequence(der.oid(f"{OID}.6")), id="no-value"),
        pytest.param(der.octet_string(bytes(16)), id="no-pair"),
        pytest.param(element_of(f"{OID[:-1]}2.6"), id="of-another-arc"),
        pytest.param(element_of("1.2.840.113741.1.14.1.6"), id="of-another-arc-further-up"),
    ],
)
def test_entry_is_cut_short_or_of_something_else(entry: bytes) -> None:
    """What is missing must not be looked for behind the end."""
    good, bad = with_sixth(element_of(f"{OID}.6")), with_sixth(entry)
    bites(World.verify, good, bad, PckExtensionMalformed, check="pck-chain")
