"""The PCK chain inside a quote, and what its leaf says about the platform.

The leaf's SGX extension (OID 1.2.840.113741.1.13.1) states identity and patch level; everything
that is decided about the platform rests on it. Layout: "SGX PCK Certificate and Certificate
Revocation List Profile Specification", revision 1.4, section 1.3.5; as a table in docs/dcap.md 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from verifier import der
from verifier.anchors import TrustAnchors
from verifier.certificate import (
    PCK_CA,
    PCK_LEAF,
    PLATFORM_CA,
    ROOT,
    Certificate,
    read_chain,
    require_anchor,
    require_issued_by,
    require_role,
)
from verifier.errors import CertChainError, CollateralMismatchError
from verifier.extensions import SGX

SGX_TYPES = ("Standard", "Scalable", "ScalableWithIntegrity")


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """Which machine this is, by Intel's names."""

    fmspc: bytes  #                  6: family, model, stepping, platform, custom SKU
    ppid: bytes  #                   16: this one processor
    pce_id: bytes  #                 2
    sgx_type: str  #                 one of SGX_TYPES
    piid: bytes | None  #            16: this one platform; this and below only from the Platform CA
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


@dataclass(frozen=True, slots=True, eq=False)
class PlatformTcb:
    """The patch level that the platform had when its PCK certificate was issued."""

    components: tuple[int, ...]  #  16 SVNs, 0..255
    pce_svn: int  #                 0..65535
    cpu_svn: bytes  #               16; never compared: only the components are


class PckExtensionMalformed(CertChainError):
    """The SGX extension of the PCK certificate is absent or not as Intel writes it."""

    code = "pck-extension-malformed"
    default_fix = "do not use it: the platform's identity and patch level cannot be read"


@dataclass(frozen=True, slots=True)
class PckExtension:
    """The SGX extension: identity and patch level."""

    platform: PlatformIdentity
    tcb: PlatformTcb

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read the extension's value: 5 elements (Processor CA) or 7 (Platform CA), each once.

        Raises:
            PckExtensionMalformed: An element is missing, doubled, unknown, of another type or
                size, or something is left over.
        """
        try:
            return cls._parse(raw)
        except der.DerError as error:
            raise PckExtensionMalformed(
                "SGX extension of the PCK certificate",
                expected="Intel's form",
                found=f"another: {error}",
            ) from error

    @classmethod
    def _parse(cls, raw: bytes) -> Self:
        top = _by_number(raw, _TOP)
        if top.keys() not in _FORMS:
            raise der.DerError(f"elements {sorted(top)}, not 1 to 5 or 1 to 7")
        tcb = _by_number(top[2], _TCB)
        if len(tcb) != len(_TCB):
            raise der.DerError("TCB does not have exactly 16 components, PCESVN and CPUSVN")
        sgx_type = der.integer(top[5], high=len(SGX_TYPES) - 1, tag=der.ENUMERATED)
        configuration: dict[int, bool] = {}
        if 7 in top:
            flags = _by_number(top[7], _CONFIGURATION)
            if len(flags) != len(_CONFIGURATION):
                raise der.DerError("configuration does not have exactly three flags")
            configuration = {number: der.boolean(flag) for number, flag in flags.items()}
        platform = PlatformIdentity(
            fmspc=der.octet_string(top[4], 6),
            ppid=der.octet_string(top[1], 16),
            pce_id=der.octet_string(top[3], 2),
            sgx_type=SGX_TYPES[sgx_type],
            piid=der.octet_string(top[6], 16) if 6 in top else None,
            dynamic_platform=configuration.get(1),
            cached_keys=configuration.get(2),
            smt_enabled=configuration.get(3),
        )
        components = [_SVNS.get(tcb[number], -1) for number in range(1, 17)]
        if -1 in components:
            raise der.DerError("an SVN that is no integer from 0 to 255")
        pce_svn, cpu_svn = der.integer(tcb[17], high=65535), der.octet_string(tcb[18], 16)
        return cls(platform, PlatformTcb(tuple(components), pce_svn, cpu_svn))


def _by_number(sequence: bytes, known: dict[bytes, int]) -> dict[int, bytes]:
    """SEQUENCE OF {OID, value} as {n: value}, not read yet; no OID twice, none that is unknown."""
    found: dict[int, bytes] = {}
    size = len(min(known))
    for pair in der.contents(sequence, der.SEQUENCE):
        number = known.get(pair[:size])
        if number is None or number in found:
            raise der.DerError(f"unknown or repeated element {pair[:size].hex()}")
        found[number] = pair[size:]
    return found


def _numbered(count: int, *arc: int) -> dict[bytes, int]:
    """1 to `count`, by the OID SGX.arc.n, with tag and length."""
    oid = bytes((*SGX[2:], *arc))
    return {bytes((der.OID, len(oid) + 1, *oid, n)): n for n in range(1, count + 1)}


# By the one encoding that each has. Nothing is cut down to a byte: Intel's own reader once made
# 256 into 0.
_SVNS = {bytes((der.INTEGER, 1, n) if n < 0x80 else (der.INTEGER, 2, 0, n)): n for n in range(256)}
_TOP, _TCB, _CONFIGURATION = _numbered(7), _numbered(18, 2), _numbered(3, 7)
_FORMS = (set(range(1, 6)), set(range(1, 8)))  # of the Processor CA, of the Platform CA


class PckChainOfAnotherQuote(CollateralMismatchError):
    """The bundle holds the PCK chain of another quote than the one that is judged with it."""

    code = "pck-chain-of-another-quote"
    default_fix = (
        "use the bundle that came with this quote; for any quote of such platforms, set its member "
        "pck_certificate_chain to null"
    )


def require_own_chain(own: bytes, supplied: bytes | None) -> None:
    """A chain that came with the collateral is the one that is used for the quote, byte for byte.

    Two chains, one of which is checked and the other shown, would be two platforms.

    Raises:
        PckChainOfAnotherQuote: It is another (4).
    """
    if supplied is not None and supplied.rstrip(b"\0") != own:
        raise PckChainOfAnotherQuote(
            "collateral.pck_certificate_chain",
            expected="the chain in the quote",
            found="another text",
        )


@dataclass(frozen=True, slots=True, eq=False)
class PckChain:
    """A PCK chain that is checked up to the pinned root. Validity in time is judged later."""

    leaf: Certificate
    authority: Certificate
    root: Certificate
    extension: PckExtension
    summary: str  # for people


@lru_cache(maxsize=1024)  # pure: the same text under the same root gives the same chain
def authenticate_pck_chain(pem: bytes, roots: TrustAnchors) -> PckChain:
    """Follow the chain from the pinned root to the PCK leaf (RFC 5280, section 6.1).

    Raises:
        CertChainError: The leaf that says which link does not hold.
    """
    leaf, authority, root = read_chain(pem, 3, "PCK chain")
    # Old platforms wrote the root before the authority. That is harmless: each is checked for its
    # own place below. The leaf is always first.
    if authority.common_name in ROOT.common_names:
        authority, root = root, authority
    require_anchor(root, roots)
    require_role(authority, PCK_CA)
    require_issued_by(authority, root)
    require_role(leaf, PCK_LEAF)
    require_issued_by(leaf, authority)
    if leaf.sgx is None:
        raise PckExtensionMalformed("PCK certificate", expected="an SGX extension", found="none")
    extension = PckExtension.parse(leaf.sgx)
    from_platform_ca = authority.common_name == PLATFORM_CA
    if from_platform_ca != (extension.platform.piid is not None):
        raise PckExtensionMalformed(
            "SGX extension of the PCK certificate",
            expected=f"the form that {authority.common_name} issues",
            found="the form of Intel's other authority",
        )
    summary = f"PCK {leaf.serial_hex}, {authority.common_name}, {roots.name}"
    return PckChain(leaf, authority, root, extension, summary)
