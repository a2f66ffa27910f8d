"""Certificates of Intel's hierarchy, held to the exact profile of their place in it.

PCK leaves, PCK authorities and the TCB signer all descend from one root, so a valid signature is
not enough: what stops a PCK leaf from signing TCB info is its role. Each role fixes name, basic
constraints and key usage; each link is checked by name, key identifier and signature. Profile:
Intel's "SGX PCK Certificate and Certificate Revocation List Profile Specification", revision 1.4,
sections 1.2 and 1.3; in tables in docs/dcap.md 2.2. Links: docs/dcap.md 4.2.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec

from verifier import der, ecdsa, extensions
from verifier.anchors import INTEL_ROOT, TrustAnchors
from verifier.errors import CertChainError, Exit

_EXTENSIONS = 0xA3  # [3], the last field
_VERSION_3 = bytes.fromhex("a003020102")
_COMMON_NAME = bytes.fromhex("0603550403")  # OID 2.5.4.3, with tag and length
# AlgorithmIdentifier of ecdsa-with-SHA256, without parameters: RFC 5758, section 3.2.
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
# SubjectPublicKeyInfo of a point on the named curve P-256 (RFC 5480, section 2.1.1.1), up to
# x || y; its first length fixes the size of the whole. Comparing the bytes also refuses explicit
# curve parameters, with which CVE-2020-0601 forged keys.
_P256_SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")

_REQUIRED = {
    extensions.AUTHORITY_KEY_ID,
    extensions.CRL_DISTRIBUTION_POINTS,
    extensions.SUBJECT_KEY_ID,
    extensions.KEY_USAGE,
    extensions.BASIC_CONSTRAINTS,
}
_MUST_BE_CRITICAL = {extensions.BASIC_CONSTRAINTS, extensions.KEY_USAGE}
_KNOWN = _REQUIRED | {extensions.SGX}


@dataclass(frozen=True, slots=True)
class Role:
    """What a certificate must be for one place of a chain."""

    title: str
    common_names: tuple[str, ...]
    is_ca: bool
    path_lengths: tuple[int | None, ...]


# Intel's root exists in editions of both path lengths, and quotes carry either. Its key is pinned,
# so the length does not matter there; below the root it is exact.
ROOT = Role("root", ("Intel SGX Root CA",), True, (0, 1))
PROCESSOR_CA, PLATFORM_CA = "Intel SGX PCK Processor CA", "Intel SGX PCK Platform CA"
PCK_CA = Role("PCK authority", (PROCESSOR_CA, PLATFORM_CA), True, (0,))
PCK_LEAF = Role("PCK", ("Intel SGX PCK Certificate",), False, (None,))
TCB_SIGNER = Role("TCB signing", ("Intel SGX TCB Signing",), False, (None,))


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """A parsed certificate, in no role yet."""

    der: bytes
    common_name: str  #                 empty unless there is exactly one
    organisation: tuple[bytes, ...]  #  DER of the name's pairs but for its CN
    subject: bytes  #                   DER of the name, compared byte for byte
    issuer: bytes
    serial: int
    not_before: datetime  #             both belong to it: RFC 5280, section 4.1.2.5
    not_after: datetime
    key: ec.EllipticCurvePublicKey
    spki: bytes
    present: frozenset[bytes]  #        OIDs of its extensions
    critical: frozenset[bytes]  #       of those present
    constraints: tuple[bool, int | None] | None  # CA, path length
    usage: tuple[bool, bool, bool] | None  #       for signatures, certificates, CRLs
    key_id: bytes  #                    subjectKeyIdentifier; empty if absent, like the next
    issuer_key_id: bytes
    sgx: bytes | None  #                the value of Intel's SGX extension, DER
    tbs: bytes
    signature: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Certificate:
        """Read one certificate.

        Raises:
            CertificateMalformed: Unreadable DER.
            CertificateRoleWrong: An algorithm or a kind of key that Intel does not use.
        """
        return _INTEL_ROOT if raw == INTEL_ROOT else _parse(raw)

    def __eq__(self, other: object) -> bool:
        # By their bytes: a certificate that the cache dropped is parsed again, into another object.
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def serial_hex(self) -> str:
        return f"{self.serial:040x}"


class CertificateRoleWrong(CertChainError):
    """A certificate is well formed but does not have the profile of its place in the chain."""

    code = "certificate-role-wrong"
    default_fix = "do not use it: genuine chains have Intel's exact profile"


class CertificateMalformed(CertChainError):
    """A certificate, or the text of a chain of them, cannot be read."""

    code = "certificate-malformed"
    says = "{thing} is not {expected}: {found}"
    default_fix = "obtain the quote or the collateral again from its source"


@lru_cache(maxsize=256)  # pure: every chain repeats the same authorities
def _parse(raw: bytes) -> Certificate:
    try:
        tbs, signature = signed_parts(raw)
        fields = der.children(tbs)
        if len(fields) != 8 or fields[0] != _VERSION_3:
            raise CertificateRoleWrong(
                "certificate", expected="X.509 version 3", found="another version"
            )
        _, serial, algorithm, issuer, validity, subject, spki, last = fields
        if algorithm != ECDSA_SHA256:
            raise CertificateRoleWrong(
                "certificate", expected="ecdsa-with-SHA256 inside too", found="another algorithm"
            )
        if not spki.startswith(_P256_SPKI):
            raise CertificateRoleWrong(
                "certificate", expected="a P-256 key", found="another kind of key"
            )
        # Positive, of 20 bytes at most: RFC 5280, section 4.1.2.2. A negative number could be
        # listed as revoked under another spelling.
        number = der.integer(serial, low=1, high=2**160 - 1)
        not_before, not_after = map(der.time, der.children(validity))
        common_name, organisation = read_name(subject)
        (sequence,) = der.children(last, _EXTENSIONS)
        found = extensions.Extensions.read(sequence)
        return Certificate(
            der=raw,
            common_name=common_name,
            organisation=organisation,
            subject=subject,
            issuer=issuer,
            serial=number,
            not_before=not_before,
            not_after=not_after,
            key=ecdsa.public_key(spki[-64:]),
            spki=spki,
            present=frozenset(found.values),
            critical=found.critical,
            constraints=found.constraints,
            usage=found.usage,
            key_id=found.key_id,
            issuer_key_id=found.issuer_key_id,
            sgx=found.values.get(extensions.SGX),
            tbs=tbs,
            signature=signature,
        )
    except ValueError as error:
        raise CertificateMalformed(
            "certificate", expected="an X.509 certificate", found=str(error)
        ) from error


def signed_parts(raw: bytes) -> tuple[bytes, bytes]:
    """Split a certificate or CRL into what is signed and the signature (DER).

    DerError unless it is one SEQUENCE of exactly three whose outer algorithm is ecdsa-with-SHA256
    (RFC 5280, section 4.1.1.2 and section 5.1.1.2).
    """
    tbs, algorithm, signature = der.children(raw)
    if algorithm != ECDSA_SHA256:
        raise der.DerError("signature algorithm is not ecdsa-with-SHA256")
    bits = der.content(signature, der.BIT_STRING)
    if bits[:1] != b"\0":
        raise der.DerError("signature is not a whole number of bytes")
    return tbs, bits[1:]


def read_chain(text: bytes | str, count: int, thing: str) -> list[Certificate]:
    """Read PEM that holds exactly `count` certificates. They have no role yet.

    Raises:
        CertificateMalformed: Not PEM, other text in between, another number, unreadable DER.
        CertificateRoleWrong: An algorithm or a kind of key that Intel does not use.
    """
    blocks = split_pem(text, thing)
    if len(blocks) != count:
        raise CertificateMalformed(
            thing, expected=f"exactly {count} certificates", found=str(len(blocks))
        )
    try:
        return [Certificate.parse(raw) for raw in blocks]
    except CertChainError as refusal:  # not `placed`, which costs time where nothing is refused
        refusal.place(thing)
        raise


_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_WHITE = b" \t\r\n"
_BLANK_LINE = re.compile(rb"\n\r?\n")


def split_pem(text: bytes | str, thing: str) -> list[bytes]:
    """The DER of each certificate in PEM that holds nothing else (RFC 7468, section 5.1).

    Raises:
        CertificateMalformed: Something else is in it.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    before, *blocks = raw.split(_BEGIN)
    if before.strip(_WHITE) or not blocks:
        raise CertificateMalformed(thing, expected="PEM certificates", found="other text")
    try:
        return [_decode(block) for block in blocks]
    except ValueError as error:
        raise CertificateMalformed(
            thing, expected="PEM certificates and nothing else", found=str(error)
        ) from error


@lru_cache(maxsize=256)  # pure: every chain repeats the same authorities
def _decode(block: bytes) -> bytes:
    """The DER of one certificate, from what follows its first line. ValueError without it."""
    body, end, after = block.partition(_END)
    if not end or after.strip(_WHITE) or _BLANK_LINE.search(body):
        raise ValueError("other text")
    for white in (b"\n", b"\r", b" ", b"\t"):  # faster than translating a kilobyte
        body = body.replace(white, b"")
    decoded = binascii.a2b_base64(body)
    # Decoding skips what is no base64; encoding again shows whether there was any, or pad bits
    # that are set (RFC 4648, section 3.5).
    if binascii.b2a_base64(decoded, newline=False) != body:
        raise ValueError("another form of base64")
    return decoded


@lru_cache(maxsize=64)  # pure: of a million certificates, all but a few names are the same
def read_name(raw: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The common name, empty unless there is exactly one, and the DER of every other pair.

    Read here, byte for byte: a library that repairs or warns would compare what it made of it.
    """
    common, others = [], []
    for part in der.contents(raw, der.SET):
        # Of one pair; of two, the first of which is no common name, the second may be one.
        pair = der.content(part, der.SEQUENCE)
        if not pair.startswith(_COMMON_NAME):
            others.append(part)
            continue
        (value,) = der.elements(pair[len(_COMMON_NAME) :])
        if value[0] in (der.UTF8_STRING, der.PRINTABLE_STRING):
            common.append(der.content(value, value[0]).decode("utf-8"))
    return common[0] if len(common) == 1 else "", tuple(others)


_INTEL_ROOT = _parse(INTEL_ROOT)


def require_role(certificate: Certificate, role: Role) -> None:
    """Name, basic constraints, key usage and extensions are those of the role.

    More than RFC 5280, section 6.1.4, asks: Intel's profile is exact.

    Raises:
        CertificateRoleWrong: One of them is not.
    """

    def refuse(expected: str, found: str) -> CertificateRoleWrong:
        return CertificateRoleWrong(f"{role.title} certificate", expected=expected, found=found)

    # Equal, not `contains`: a name can be made to contain another.
    if certificate.common_name not in role.common_names:
        raise refuse(
            f"the name {' or '.join(role.common_names)}", certificate.common_name[:80] or "none"
        )
    if not certificate.present >= _REQUIRED:
        absent = min(_REQUIRED - certificate.present).hex()
        raise refuse(f"extension {absent}", "none")
    if not certificate.critical <= _KNOWN:
        unknown = min(certificate.critical - _KNOWN).hex()
        raise refuse("only known critical extensions", unknown)
    if not certificate.critical >= _MUST_BE_CRITICAL:
        raise refuse("critical basic constraints and key usage", "one that is not critical")
    if certificate.constraints not in [(role.is_ca, length) for length in role.path_lengths]:
        raise refuse(
            " or ".join(_constraints_text((role.is_ca, length)) for length in role.path_lengths),
            _constraints_text(certificate.constraints),
        )
    if certificate.usage != (not role.is_ca, role.is_ca, role.is_ca):
        raise refuse(
            "a key for " + ("certificates and CRLs" if role.is_ca else "signatures"),
            "another key usage",
        )


def _constraints_text(constraints: tuple[bool, int | None] | None) -> str:
    """Basic constraints in words."""
    match constraints:
        case True, None:
            return "a CA without path length"
        case True, length:
            return f"a CA with path length {length}"
        case False, None:
            return "no CA"
    return "no CA, but a path length"


class RootUntrusted(CertChainError):
    """The chain ends in a root with another key than the trusted one."""

    code = "root-untrusted"
    default_fix = "do not use it, unless it is a simulation that your policy names as its root"


@lru_cache(maxsize=64)
def require_anchor(root: Certificate, roots: TrustAnchors) -> None:
    """The root is self-signed by the one trusted key. Everything else rests on this.

    Raises:
        CertificateRoleWrong: Not a root at all.
        RootUntrusted: Another key, however alike the rest is.
        CertificateNotIssued: The trusted key did not sign this edition of the certificate.
    """
    require_role(root, ROOT)
    found = sha256(root.spki).digest()
    if found != roots.root_spki_sha256:
        raise RootUntrusted(
            "root key (SHA-256 of its SPKI)",
            expected=f"{roots.root_spki_sha256.hex()} ({roots.name})",
            found=found.hex(),
        )
    if root is not _INTEL_ROOT:
        require_issued_by(root, root)


class CertificateNotIssued(CertChainError):
    """A certificate was not issued by the one above it."""

    code = "certificate-not-issued"
    default_fix = "do not use it: the chain is forged or damaged"


@lru_cache(maxsize=256)  # pure, and what is refused is not remembered
def require_issued_by(certificate: Certificate, issuer: Certificate) -> None:
    """`issuer` issued `certificate`: names, key identifiers and signature are all checked.

    RFC 5280, section 6.1.3, without the times, which are judged later.

    Raises:
        CertificateNotIssued: One of them does not fit.
    """

    def refuse(expected: str, found: str) -> CertificateNotIssued:
        return CertificateNotIssued(certificate.common_name, expected=expected, found=found)

    if certificate.issuer != issuer.subject:
        raise refuse(f"{issuer.common_name} as issuer", "another name")
    # Empty identifiers once compared equal and skipped the signature of a link.
    wanted, found = issuer.key_id, certificate.issuer_key_id
    if not found or found != wanted:
        raise refuse(f"issuer key identifier {wanted.hex()}", found.hex() or "none")
    if certificate.organisation != issuer.organisation:
        raise refuse("the same organisation as its issuer", "another one")
    if not ecdsa.signed_der(issuer.key, certificate.signature, certificate.tbs):
        raise refuse(f"a valid signature by {issuer.common_name}", "an invalid one")


class IssuerChainMalformed(CertChainError):
    """The issuer chain of a list or a document is no text of two certificates."""

    code = "issuer-chain-malformed"
    exit_status = Exit.UNDECIDED  # no signature was reached: nothing is known to be forged
    says = "{thing} is not {expected}: {found}"
    default_fix = "obtain this collateral again, from a service that sends issuer chains"


@dataclass(frozen=True, slots=True)
class SignerChain:
    """A signer that the pinned root issued. Revocation and time are judged later."""

    signer: Certificate
    root: Certificate


@lru_cache(maxsize=64)  # pure: TCB info and QE identity come with the same chain
def authenticate_signer(pem: str, role: Role, roots: TrustAnchors) -> SignerChain:
    """Follow a chain of [signer, root] from the pinned root to a signer of this role.

    Raises:
        IssuerChainMalformed: It cannot be read; nothing was decided (5).
        CertChainError: The leaf that says which link does not hold.
    """
    try:
        signer, root = read_chain(pem, 2, f"{role.title} chain")
    except CertificateMalformed as refusal:
        raise IssuerChainMalformed(
            refusal.thing, expected=refusal.expected, found=refusal.found
        ) from refusal
    require_anchor(root, roots)
    require_role(signer, role)
    require_issued_by(signer, root)
    return SignerChain(signer, root)
